"""Odd argument lists over HTTP: never a server error, and the WebUI answers afterwards as before.

The sandbox gets 30 here and more in tests/contract/test_odd_jobs.py, without a network in between.
"""

import pytest
from hypothesis import Phase, given, settings

from tests.live.client import ON
from tests.odd_arguments import JOBS, patient


@pytest.mark.timeout(7200)
def test_odd_arguments_are_no_server_error_and_change_nothing(webui, request):
    url, asked = map(request.config.getoption, ("--webui-url", "--fuzz"))
    count = asked or (1000 if url else 30)
    before = state(webui)
    sent = []

    @settings(patient, max_examples=count, derandomize=True, database=None, phases=[Phase.generate])
    @given(JOBS)
    def send(job):
        sent.append(job)
        response = webui.post("txt2img", webui.payload(**job, steps=1))
        assert response.status_code == 200, f"{job}: {response.text[:500]}"

    send()
    assert len(sent) >= count
    assert state(webui) == before


def state(webui):
    """What a client can see of the WebUI: pictures without and with NAG, its settings, our routes."""

    def answer(route):
        return webui.http.get(route).json()

    return {
        "off": webui.txt2img(cfg_scale=7).pngs,
        "on": webui.txt2img(ON).pngs,
        "settings": answer("/sdapi/v1/options"),
        "scripts": answer("/sdapi/v1/script-info"),
        "presets": answer("/nag/v1/presets"),
        "schema": answer("/nag/v1/schema"),
    }
