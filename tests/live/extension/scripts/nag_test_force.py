"""Test-only: with NAG_TEST_FORCE=1 in the environment every job of the WebUI runs with NAG on.

For running a host's own test suite against itself with the extension forced on: nothing may change for it.
"""

import os

from modules import scripts

ARGUMENTS = {"enabled": True, "scale": 4, "negative": "blurry"}


class Force(scripts.Script):
    """Rewrites the first NAG argument before any script reads its own."""

    def title(self):
        return "NAG test force"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def before_process(self, p, *args):
        if os.environ.get("NAG_TEST_FORCE") != "1":
            return
        for script in p.scripts.alwayson_scripts:
            if script.title() == "NAG":
                values = list(p.script_args)
                values[script.args_from] = ARGUMENTS
                p.script_args = type(p.script_args)(values)
