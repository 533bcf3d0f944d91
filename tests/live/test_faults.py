"""What goes wrong around a job, and what changes between two: nothing of it reaches the next picture."""

import pytest

from tests.live.client import ON, Result
from tests.live.soak_left import grown

JOBS, LOOK, GROWTH = 200, 10, 10  # jobs, jobs between two looks at the memory, MiB


def test_out_of_memory_inside_our_attention_costs_the_guidance_not_the_picture(webui):
    # A picture of some size: in the smallest one two guided steps can be too little to see.
    size = {"width": 256, "height": 256}
    off, on = webui.txt2img(**size), webui.txt2img(ON, **size)
    short = webui.payload(ON, **size)
    short["alwayson_scripts"]["NAG test faults"] = {"args": [-1, 2]}
    response = webui.post("txt2img", short)
    if response.status_code == 422:
        pytest.skip("this WebUI has no fault script: copy tests/live/extension into its extensions")
    result = Result.of(response)
    assert "OutOfMemoryError" in result.report()
    assert result.pixels not in (off.pixels, on.pixels), "two of four steps were guided"
    assert webui.txt2img(**size).pngs == off.pngs
    assert webui.txt2img(ON, **size).pngs == on.pngs


@pytest.mark.parametrize("nag", [None, ON], ids=["off", "on"])
def test_another_model_between_two_jobs(webui, request, nag):
    other = request.config.getoption("--refiner")
    if not other:
        pytest.skip("needs --refiner, a second checkpoint of the WebUI")
    settings = {"sd_model_checkpoint": other}
    alone = webui.txt2img(ON)
    elsewhere = webui.txt2img(nag, override_settings=settings)
    assert webui.txt2img(ON).pngs == alone.pngs
    assert webui.txt2img(nag, override_settings=settings).pngs == elsewhere.pngs
    assert elsewhere.pixels != alone.pixels
    assert nag is None or "4/4 steps" in elsewhere.report()


def test_another_lora_between_two_jobs(webui, request):
    lora = request.config.getoption("--lora")
    if not lora:
        pytest.skip("needs --lora, the name of a LoRA that changes the cross-attention's keys")
    weights = (1, 0.5, 0, -1)
    drawn = [webui.txt2img(ON, prompt=f"a circle <lora:{lora}:{weight}>").pixels for weight in weights]
    assert len({one[0] for one in drawn}) == len(weights)
    again = [webui.txt2img(ON, prompt=f"a circle <lora:{lora}:{w}>").pixels for w in reversed(weights)]
    assert again == drawn[::-1]


@pytest.mark.timeout(3600)
def test_two_hundred_jobs_on_and_off_leave_no_trace_and_no_memory(webui):
    """In turn, with another negative each time: what a job keeps by its text would pile up.

    A fresh Forge Neo with Flux goes up and down by 17 MiB without NAG, too.
    """
    first = {nag is None: webui.txt2img(nag, steps=1).pngs for nag in (None, ON)}
    levels = []
    for index in range(JOBS):
        nag = None if index % 2 else [{"enabled": True, "scale": 4, "negative": f"blue square, {index}"}]
        webui.txt2img(nag, steps=1, width=64, height=64)
        if index % LOOK == LOOK - 1:
            levels.append(webui.resident())
    assert grown(levels) < GROWTH, levels
    assert {nag is None: webui.txt2img(nag, steps=1).pngs for nag in (None, ON)} == first
