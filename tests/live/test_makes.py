"""The sandbox in every make: functions of a host that take other arguments than those NAG was written for.

Forge Neo had dropped one, and NAG applied to no job there. The first make is the one all other tests run on.
"""

import pytest

from nag_core.sandbox.makes import FORGE, MAKES, NEO, WRAPPED
from tests.extras import often
from tests.live import test_xyz
from tests.live.client import WebUI
from tests.live.serving import ROOT, sandbox

PLOT_ARGUMENTS = {FORGE: 18, NEO: 19, WRAPPED: 21}
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}


@pytest.fixture(scope="module", params=often(MAKES[1:], NEO))
def made(request, tmp_path_factory):
    """(make, WebUI)"""
    if request.config.getoption("--webui-url"):
        pytest.skip("makes are the sandbox's; a live WebUI has the functions it has")
    with sandbox(
        tmp_path_factory.mktemp(request.param), ROOT / "scripts", flags=("--make", request.param)
    ) as url:
        yield request.param, WebUI(url)


def test_nag_guides_and_another_negative_guides_elsewhere(made):
    _, webui = made
    off, red, blue = (
        webui.txt2img(nag, negative_prompt=text)
        for nag, text in ((None, "red"), ([{"scale": 4}], "red"), ([{"scale": 4}], "blue"))
    )
    assert "× 4/4 steps" in red.report()
    assert len({off.pixels[0], red.pixels[0], blue.pixels[0]}) == 3


def test_the_same_pictures_as_the_first_make_draws(made, webui):
    jobs = (
        {"nag": [{"scale": 4}]},
        {"nag": [{"scale": 4, "negative": "[red:blue square:0.5]"}], "cfg_scale": 3},
        {"nag": [{"scale": 4}], "negative_prompt": "[red:blue:1.5]", **HIRES},
    )
    for job in jobs:
        one, other = (ui.txt2img(**job) for ui in (made[1], webui))
        assert one.pixels == other.pixels
        assert one.report() == other.report()
        assert "not applied" not in one.report()


def test_an_axis_of_the_plot_reaches_the_job(made):
    make, webui = made
    assert len(test_xyz.plot_args(webui, {}, "txt2img")) == PLOT_ARGUMENTS[make]
    (off, on), _ = test_xyz.plot(webui, {"[NAG] Enabled": "off,on"})
    assert off == test_xyz.pixels(webui)
    assert on == test_xyz.pixels(webui, [{}]) != off
