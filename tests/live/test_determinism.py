"""The same request gives the same bytes: again, beside another client, and whatever ran before."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.client import ON, WebUI
from tests.live.fingerprint import guided_job
from tests.live.serving import ROOT, sandbox


@pytest.mark.parametrize("cfg", [1, 7])
@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M"])
def test_the_same_request_twice_gives_the_same_bytes(webui, cfg, sampler):
    job = {"nag": ON, "cfg_scale": cfg, "sampler_name": webui.sampler(sampler)}
    assert webui.txt2img(**job).pngs == webui.txt2img(**job).pngs


def test_two_clients_at_once_get_what_each_would_get_alone(webui):
    """Their jobs differ in everything a job of the other could leak into."""
    jobs = [
        {"nag": [{"scale": 3, "negative": "blue square"}], "seed": 11, "cfg_scale": 1},
        {"nag": [{"scale": 9, "end": 0.5}], "seed": 22, "cfg_scale": 7, "batch_size": 2},
        {"nag": None, "seed": 33, "cfg_scale": 7},
    ]
    alone = [webui.txt2img(**job).pngs for job in jobs]
    with ThreadPoolExecutor(len(jobs)) as clients:
        runs = [clients.submit(webui.txt2img, **job) for _ in range(4) for job in jobs]
        together = [run.result().pngs for run in runs]
    assert together == alone * 4


def test_a_first_guided_job_is_as_good_as_a_later_one(webui, request, tmp_path):
    """NAG first enabled in job 5 of a WebUI's life, or in job 1 (the sandbox of this run starts with one)."""
    file = request.config.getoption("--first-job")
    if file:
        assert guided_job(webui) == json.loads(Path(file).read_text())
        return
    if request.config.getoption("--webui-url"):
        pytest.skip("needs --first-job, made by tests/live/fingerprint.py as the first job of this WebUI")
    with sandbox(tmp_path, ROOT / "scripts") as url:
        fresh = WebUI(url)
        for cfg in (1, 2, 3, 4):
            fresh.txt2img(cfg_scale=cfg)
        assert guided_job(fresh) == webui.first_job
