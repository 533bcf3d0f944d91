"""At CFG 1 Forge greys out the negative prompt; with NAG on it must be there to type in."""

import pytest

TOGGLES = 8
BOXES = [
    ("txt2img", "txt2img_cfg_scale", "txt2img_neg_prompt"),
    ("txt2img", "txt2img_hr_cfg", "hires_neg_prompt"),
    ("img2img", "img2img_cfg_scale", "img2img_neg_prompt"),
]


@pytest.fixture
def open_box(page):
    """The page with one of the boxes' scale slider in reach."""

    def reach(tab, scale):
        page.go_to(tab)
        if scale == "txt2img_hr_cfg":
            if not page.has(scale):
                pytest.skip("this WebUI's hires pass has no CFG of its own")
            page.raw.locator("#txt2img_hr .label-wrap > span").last.click()
            page.raw.locator("#txt2img_hr_cfg input[type=number]").wait_for()
            page.raw.wait_for_timeout(500)
            page.excuse_gradio_3()
        return page

    return reach


@pytest.mark.parametrize(("tab", "scale", "box"), BOXES, ids=[box for _, _, box in BOXES])
def test_ticking_nag_opens_the_box_and_unticking_greys_it_again(open_box, tab, scale, box):
    page = open_box(tab, scale)
    page.fill(scale, 5)
    page.until(lambda: page.editable(box), True)
    page.fill(scale, 1)
    usable_without = not page.is_gradio_4  # the hosts on gradio 3 never grey it
    page.until(lambda: page.editable(box), usable_without)
    for _ in range(TOGGLES):
        page.set("enabled", True)
        page.until(lambda: page.editable(box), True)
        page.set("enabled", False)
        page.until(lambda: page.editable(box), usable_without)
    page.settles(lambda: page.editable(box), usable_without)


@pytest.mark.parametrize(("tab", "scale", "box"), BOXES, ids=[box for _, _, box in BOXES])
def test_moving_cfg_to_1_with_nag_on_leaves_the_box_usable(open_box, tab, scale, box):
    page = open_box(tab, scale)
    page.set("enabled", True)
    for _ in range(TOGGLES):
        page.fill(scale, 5)
        page.raw.wait_for_timeout(150)
        page.fill(scale, 1)
    page.settles(lambda: page.editable(box), True)
    page.fill(scale, 5)
    page.set("enabled", False)
    page.settles(lambda: page.editable(box), True)


def test_what_is_typed_at_cfg_1_reaches_the_job(page):
    page.fill("txt2img_cfg_scale", 1)
    page.set("enabled", True)
    page.until(lambda: page.editable("txt2img_neg_prompt"), True)
    infotext = page.generate(neg_prompt="blue square")
    assert "Negative prompt: blue square" in infotext
    assert "2/2 steps" in infotext
