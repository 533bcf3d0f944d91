"""Command line flags as scripts read them; the sandbox's own parser fills them in before anything loads."""

from argparse import Namespace

cmd_opts = Namespace(
    api=True,
    api_auth=None,
    nowebui=False,
    port=7860,
    server_name="127.0.0.1",
    data_dir=None,
    scripts_dir=None,
    make="forge",
    no_prompt_history=False,
    weights={},
)
