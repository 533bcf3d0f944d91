"""The user's own presets by hand: saved, listed, chosen after a reload, renamed, deleted."""

import pytest

# Every message shows a name as it was typed, whatever a page would make of it.
NAME, OTHER = "Of a test <i>1", "Of a test & 2"
VALUES = {"scale": 3.5, "tau": 3, "alpha": 0.25, "end": 0.5}
STORED = "tau 3, alpha 0.25, end 0.5."
LINE = "φ 3.5 · 0–0.5"


class Presets:
    """The dropdown and the controls below it, in the tab that the page means."""

    def __init__(self, page):
        self.page = page

    @property
    def listed(self):
        """What the dropdown offers."""
        box = self.page.id("preset")
        self.page.raw.click(f"{box} input")
        options = self.page.raw.locator(f"{box} li")
        options.first.wait_for()
        names = options.evaluate_all("items => items.map((item) => item.getAttribute('aria-label'))")
        self.page.raw.press(f"{box} input", "Escape")
        self.page.raw.locator(f"{box} input").blur()
        options.first.wait_for(state="detached")
        return names

    @property
    def message(self):
        return self.page.raw.inner_text(self.page.id("preset_message")).strip()

    def press(self, button, message, name=None):
        """Types a name, presses one of the three buttons, and waits for what is answered."""
        box = self.page.id("preset_name")
        if name is not None:
            self.page.raw.fill(f"{box} textarea, {box} input", name)
        self.page.raw.click(self.page.id(f"preset_{button}"))
        self.page.until(lambda: self.message, message)

    def choose(self, name):
        self.page.set("preset", name)
        self.page.until(lambda: self.page.get("preset"), name)


def fresh(page, tab="txt2img"):
    """The presets of the page loaded anew, its accordion open."""
    page.tab = "txt2img"
    page.open()
    page.go_to(tab)
    page.open_accordion()
    page.until(lambda: page.get("preset"), "Auto")
    return Presets(page)


@pytest.fixture
def presets(page):
    """An open accordion in which NAME has just been saved; nothing of it is left in the WebUI afterwards."""
    page.open_accordion()
    made = Presets(page)
    for name, value in VALUES.items():
        page.set(name, value)
    page.until(lambda: page.values("preset", *VALUES), {"preset": "Custom", **VALUES})
    try:
        made.press("save", f"Saved “{NAME}”: scale 3.5, {STORED}", name=NAME)
        yield made
    finally:
        left = fresh(page)
        for name in {NAME, OTHER} & set(left.listed):
            left.choose(name)
            page.raw.click(page.id("preset_delete"))
            page.until(lambda: page.get("preset"), "Custom")


def test_a_saved_preset_is_chosen_listed_and_used(page, presets):
    page.until(lambda: page.summary, f"{NAME} · {LINE}")
    assert page.get("preset") == NAME
    assert presets.listed.count(NAME) == 1
    assert page.raw.input_value(f"{page.id('preset_name')} :is(textarea, input)") == ""
    infotext = page.generate(neg_prompt="red", cfg_scale=1)
    assert "NAG scale: 3.5" in infotext
    assert "NAG end: 0.5" in infotext
    assert "1/2 steps" in infotext


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_after_a_reload_it_fills_the_sliders_and_the_line(page, presets, tab):
    presets = fresh(page, tab)
    assert presets.listed[-1] == NAME
    presets.choose("Few-step")
    page.until(lambda: page.get("end"), 0.25)
    presets.choose(NAME)
    page.until(lambda: page.values(*VALUES), VALUES)
    page.until(lambda: page.summary, f"{NAME} · {LINE}")
    presets.choose("SD3.5")
    page.until(lambda: page.values(*VALUES), {"scale": 4, "tau": 2.5, "alpha": 0.125, "end": 1})


def test_without_a_name_the_chosen_one_is_written_over(page, presets):
    page.set("scale", 6)
    page.until(lambda: page.get("preset"), "Custom")
    presets.press("save", "Not done: a preset needs a name.")
    presets.choose(NAME)
    page.until(lambda: page.get("scale"), 3.5)
    presets.press("save", f"Saved “{NAME}”: scale 3.5, {STORED}")
    page.set("scale", 6)
    page.until(lambda: page.get("preset"), "Custom")
    presets.press("save", f"Saved “{NAME}”: scale 6, {STORED}", name=NAME)
    fresh(page).choose(NAME)
    page.until(lambda: page.get("scale"), 6)


def test_renamed_it_is_listed_under_the_new_name_alone(page, presets):
    presets.press("rename", f"“{NAME}” is now “{OTHER}”.", name=OTHER)
    page.until(lambda: page.summary, f"{OTHER} · {LINE}")
    for seen in (presets, fresh(page)):
        assert OTHER in seen.listed
        assert NAME not in seen.listed
    seen.choose(OTHER)
    page.until(lambda: page.values(*VALUES), VALUES)


def test_deleted_it_leaves_its_values_below_and_is_gone_from_a_fresh_page(page, presets):
    gone = f"Deleted “{NAME}”. Its values are still below: saving them brings it back."
    presets.press("delete", gone)
    page.until(lambda: page.values("preset", *VALUES), {"preset": "Custom", **VALUES})
    page.until(lambda: page.summary, f"Custom · {LINE}")
    assert NAME not in presets.listed
    presets.press("delete", "Not done: there is no preset of yours named 'Custom'.")
    assert NAME not in fresh(page).listed


def test_one_that_another_window_has_deleted_is_said_to_be_missing(page, presets, new_page):
    second = new_page()
    theirs = fresh(second)
    theirs.choose(NAME)
    second.raw.click(second.id("preset_delete"))
    second.until(lambda: second.get("preset"), "Custom")
    missing = f"Not done: there is no preset of yours named '{NAME}'."
    presets.press("delete", missing)
    presets.press("rename", missing, name=OTHER)
    page.until(lambda: page.values("preset", *VALUES), {"preset": NAME, **VALUES})


def test_a_built_in_name_is_refused(page, presets):
    presets.press("save", "Not done: 'auto' is the name of a built-in preset.", name="auto")
    presets.press("rename", "Not done: 'SDXL' is the name of a built-in preset.", name="SDXL")
    assert presets.listed.count("SDXL") == 1
    assert page.get("preset") == NAME
