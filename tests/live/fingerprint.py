"""Hashes of the PNG bytes a WebUI draws for some fixed jobs.

    python -m tests.live.fingerprint http://127.0.0.1:7860 [checkpoint [scheduler]] > without.json

Run it on a WebUI without the extension; `pytest tests/live --webui-url ... --fingerprint without.json` then
holds the same WebUI with the extension installed and NAG off to the same bytes.

With `--first-job` behind it: of one guided job. Run as the very first job of a WebUI with the extension, it
gives the file for `pytest tests/live --first-job`, which draws the same after all the others.
"""

from __future__ import annotations

import hashlib
import json
import sys

from tests.live.client import WebUI

JOBS = {
    "cfg 1": {},
    "cfg 7": {"cfg_scale": 7},
    "batch": {"cfg_scale": 7, "batch_size": 3, "width": 128},
    "and": {"cfg_scale": 7, "prompt": "a circle AND a square"},
    "two calls a step": {"sampler_name": "Heun"},
}


FIRST = {"nag": [{"enabled": True, "scale": 4}], "cfg_scale": 1}


def fingerprint(webui: WebUI) -> dict[str, list[str]]:
    """SHA-256 of every PNG file, infotext included, by job name."""
    return {name: _hashes(webui, job) for name, job in JOBS.items()}


def guided_job(webui: WebUI) -> list[str]:
    """The same of one job with NAG on."""
    return _hashes(webui, FIRST)


def _hashes(webui: WebUI, job: dict) -> list[str]:
    return [hashlib.sha256(png).hexdigest() for png in webui.txt2img(**job).pngs]


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--first-job"]
    made = guided_job if "--first-job" in sys.argv else fingerprint
    print(json.dumps(made(WebUI(*arguments)), indent=1))
