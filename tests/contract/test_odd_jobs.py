"""Odd jobs through the sandbox's API, in this process: no server error, nothing left changed."""

import base64
import io
import logging
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import Phase, given, settings
from PIL import Image

from tests.extras import often
from tests.literal import unsaid
from tests.odd_arguments import JOBS, patient

SMALL = {"prompt": "a circle", "seed": 1, "steps": 1, "width": 32, "height": 32, "sampler_name": "Euler"}


@pytest.fixture
def client(app, host):
    """The API, with the extension's running commentary off: a line a job."""
    level = logging.getLogger("nag").level
    logging.getLogger("nag").setLevel(logging.ERROR)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
    logging.getLogger("nag").setLevel(level)


def payload(nag=None, **more):
    return SMALL | more | ({} if nag is None else {"alwayson_scripts": {"NAG": {"args": nag}}})


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", often([100, 2000], 100))
def test_odd_argument_lists(client, host, script, count):
    """No server error, nothing left changed, and nothing that was not taken as it is written is unsaid."""
    before = state(client, host, script)
    sent = []

    @settings(
        patient, max_examples=count, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink]
    )
    @given(JOBS)
    def send(job):
        sent.append(job)
        response = client.post("/sdapi/v1/txt2img", json=payload(**job))
        assert response.status_code == 200, response.text[:500]
        used = client.get("/nag/v1/status").json()["settings"]
        picture = Image.open(io.BytesIO(base64.b64decode(response.json()["images"][0])))
        _, found, said = picture.info["parameters"].rpartition("NAG report: ")
        assert unsaid(job["nag"], used, said if found else "") == []

    send()
    assert len(sent) >= count
    assert state(client, host, script) == before


def state(client, host, script):
    """The host from inside: what the next job would find."""
    pictures = [
        client.post("/sdapi/v1/txt2img", json=payload(nag, cfg_scale=cfg)).json()["images"]
        for nag in (None, [{"scale": 4, "negative": "blue"}])
        for cfg in (1, 7)
    ]
    model = host.shared.sd_model
    return {
        "pictures": pictures,
        "settings": dict(host.shared.opts.data),
        "callbacks": {name: len(entries) for name, entries in host.script_callbacks.callback_map.items()},
        "options": repr(model.forge_objects_original.unet.model_options),
        "hooks": hooks(model.forge_objects.unet.model.diffusion_model),
        "jobs": len(script.jobs._jobs),
        "files": sorted(path.name for path in Path(host.paths.data_path).iterdir()),
        "defaults": client.get("/sdapi/v1/script-info").json(),
        "threads": torch.get_num_threads(),
    }


def hooks(network):
    """Names of modules that carry a hook or a forward of their own."""
    return [
        name
        for name, module in network.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    ]
