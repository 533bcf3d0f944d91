"""The sandbox's host inside the test process, so that a test can look at the unet, the script and the job.

Its `modules` and `backend` are on sys.path for these tests only; nothing of nag_core imports them by itself.
"""

import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def app(request):
    """The sandbox's FastAPI application, without its page."""
    if request.config.getoption("--webui-dir"):
        pytest.skip("with --webui-dir the `modules` of this process are that WebUI's, not the sandbox's")
    from nag_core.sandbox.app import create_app

    return create_app({"nowebui": True})


@pytest.fixture(scope="session")
def checkout(request, tmp_path_factory):
    """The `modules` package of the WebUI at --webui-dir, with our script loaded."""
    folder = request.config.getoption("--webui-dir")
    if not folder:
        pytest.skip("needs --webui-dir, a WebUI's checkout in whose environment pytest runs")
    from tests.contract.checkout import boot

    return boot(Path(folder).resolve(), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def runner(checkout):
    """That WebUI's script runner, its scripts' controls built."""
    from tests.contract.checkout import build_scripts

    return build_scripts(checkout)


@pytest.fixture(scope="session")
def host(app):
    import modules.processing
    import modules.scripts

    yield modules
    for name in [name for name in sys.modules if name.split(".")[0] in ("modules", "backend")]:
        del sys.modules[name]


@pytest.fixture
def script(host):
    (found,) = [s for s in host.scripts.scripts_txt2img.alwayson_scripts if s.title() == "NAG"]
    yield found
    found.jobs._jobs.clear()


@pytest.fixture
def options(host):
    """`options(nag_comments=False)` changes settings until the test ends."""
    before = dict(host.shared.opts.data)
    yield lambda **values: host.shared.opts.data.update(values)
    host.shared.opts.data.clear()
    host.shared.opts.data.update(before)


@pytest.fixture
def prepared(host, script):
    """`with prepared(nag_args, **fields) as p`: a small txt2img job with the scripts' default arguments."""

    @contextmanager
    def prepare(nag=(), **fields):
        runner = host.scripts.scripts_txt2img
        fields = {
            "prompt": "a circle", "negative_prompt": "red", "seed": 1, "steps": 4,
            "width": 128, "height": 128, "cfg_scale": 1, "sampler_name": "Euler", "do_not_save_grid": True,
            **fields,
        }  # fmt: skip
        with closing(host.processing.StableDiffusionProcessingTxt2Img(**fields)) as p:
            p.scripts = runner
            values = [0, *(control.value for control in runner.inputs[1:])]
            values[script.args_from : script.args_from + len(nag)] = nag
            p.script_args = tuple(values)
            yield p

    return prepare


@pytest.fixture
def job(host, prepared):
    """`job(nag_args, **fields)` runs a txt2img and returns (p, processed)."""

    def run(nag=(), **fields):
        with prepared(nag, **fields) as p:
            return p, host.processing.process_images(p)

    return run
