"""Hashes of the PNG bytes a WebUI draws for some fixed jobs.

    python -m tests.live.fingerprint http://127.0.0.1:7860 [checkpoint [scheduler]] > without.json

Run it on a WebUI without the extension; `pytest tests/live --webui-url ... --fingerprint without.json` then
holds the same WebUI with the extension installed and NAG off to the same bytes.
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


def fingerprint(webui: WebUI) -> dict[str, list[str]]:
    """SHA-256 of every PNG file, infotext included, by job name."""
    return {
        name: [hashlib.sha256(png).hexdigest() for png in webui.txt2img(**job).pngs]
        for name, job in JOBS.items()
    }


if __name__ == "__main__":
    print(json.dumps(fingerprint(WebUI(*sys.argv[1:4])), indent=1))
