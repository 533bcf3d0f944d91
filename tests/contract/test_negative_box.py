"""The wiring of the host's negative boxes: once for the page, whatever the order of its sections."""

from types import SimpleNamespace

import pytest


@pytest.fixture
def box(host):
    from nag_core.webui import negative_box

    return negative_box


class Script:
    """What `watch` needs of a script; `make` stands for the host that makes a component."""

    def __init__(self):
        self.controls, self.callbacks = None, []

    def on_after_component(self, callback, *, elem_id):
        self.callbacks.append((elem_id, callback))

    def make(self, component):
        for elem_id, callback in self.callbacks:
            if elem_id == component.elem_id:
                callback(SimpleNamespace(component=component))
        return component


def page(box, order, tab="txt2img"):
    """The events of a page whose sections are made in this order, as (triggers, outputs) by elem_id."""
    import gradio as gr

    script = Script()
    box.watch(script, tab == "img2img")
    with gr.Blocks() as demo:
        for name in order:
            if name == "nag":
                script.controls = [gr.Checkbox(elem_id="nag")]
            elif name.endswith("prompt"):
                script.make(gr.Textbox(elem_id=name))
            elif name.endswith("gallery"):
                script.make(gr.Gallery(elem_id=name))
            else:
                script.make(gr.Slider(1, 30, elem_id=name))
    events = [fn.get_config() for fn in demo.fns.values()]
    name_of = {number: block.elem_id for number, block in demo.blocks.items()}
    wired = [
        (
            [name_of.get(number) for number, _ in event["targets"]],
            [name_of[number] for number in event["outputs"]],
        )
        for event in events
    ]
    return demo, [(targets, outputs) for targets, outputs in wired if outputs]


MAIN = ("txt2img_neg_prompt", "txt2img_cfg_scale", "nag")
HIRES = ("txt2img_hr_cfg", "hires_neg_prompt")


@pytest.mark.parametrize(
    "order", [(*MAIN, *HIRES), (*reversed(MAIN), *HIRES), ("nag", *HIRES, *MAIN[:2])], ids=str
)
def test_both_boxes_are_wired_once_whatever_the_order_of_the_sections(box, order):
    _, events = page(box, (*order, "txt2img_gallery"))
    for name in ("txt2img_neg_prompt", "hires_neg_prompt"):
        own = [targets for targets, outputs in events if outputs == [name]]
        assert len(own) == 2
        assert ["nag"] in own


def test_img2img_has_its_own_box(box):
    order = ("img2img_neg_prompt", "img2img_cfg_scale", "nag", "hires_neg_prompt", "img2img_gallery")
    _, events = page(box, order, "img2img")
    assert [outputs for _, outputs in events] == [["img2img_neg_prompt"]] * 2


@pytest.mark.parametrize("missing", [*MAIN, "txt2img_gallery"])
def test_a_page_that_lacks_a_part_is_left_alone(box, missing):
    order = [name for name in (*MAIN, "txt2img_gallery") if name != missing]
    assert page(box, order)[1] == []


@pytest.mark.parametrize(
    ("on", "cfg", "interactive"),
    [(True, 1, True), (False, 1, False), (False, 7, True), (False, 0.8, True), (None, 1.0, False)],
)
def test_the_box_is_greyed_only_at_cfg_1_without_nag(box, on, cfg, interactive):
    """A change of CFG is the host's to answer; ours lifts that only while NAG is on."""
    demo, _ = page(box, (*MAIN, "txt2img_gallery"))
    ticked, scaled = [fn for fn in demo.fns.values() if fn.outputs]
    assert ticked.fn(on, cfg)["interactive"] is interactive
    assert scaled.fn(on).get("interactive") is (True if on else None)


def test_hosts_that_grey_nothing_are_not_touched(box, monkeypatch):
    monkeypatch.setattr(box.forge, "probe", lambda: None)
    script = Script()
    box.watch(script, False)
    assert script.callbacks == []


def test_the_script_watches_once_though_the_host_asks_often_where_it_is_shown(host, script):
    caught = host.scripts.scripts_txt2img.on_after_component_elem_id["txt2img_neg_prompt"]
    assert len([owner for _, owner in caught if owner is script]) == 1


# The keys and the counter that the host's own prompt boxes have


@pytest.mark.parametrize("name", ["negative", "negatives"])
def test_the_boxes_carry_the_class_that_the_hosts_keys_look_for(script, name):
    """Ctrl+Up and Ctrl+Down change weights in what is `.prompt textarea` (the hosts' edit-attention.js)."""
    from tests.contract.test_settings_and_routes import Page

    page = Page(script)
    assert "prompt" in page.control(name).elem_classes
    boxes = [page.prefix + one for one in ("negative", "negatives")]
    others = [control for control in page.arguments if control.elem_id not in boxes]
    assert not any("prompt" in (control.elem_classes or []) for control in others)


@pytest.mark.parametrize("text", ["", "red", "red, blue square " * 30, "[red:blue:0.5]", None])
def test_the_counter_is_the_hosts_own_of_its_negative_box(job, script, text):
    from modules.ui import update_negative_prompt_token_counter

    from tests.contract.test_settings_and_routes import Page

    job()
    wanted = update_negative_prompt_token_counter(text or "", 20, [])
    assert Page(script).event("negative_count", "click")(text) == wanted


@pytest.mark.parametrize(
    ("text", "longest"),
    [("red", "red"), ("red\nred, blue square :: 2\nblue", "red, blue square"), ("", ""),
     ("red :: x", "red :: x"), ("a :: 0.5\n" + "b " * 90, "b " * 90)],
)  # fmt: skip
def test_of_several_negatives_the_longest_is_counted_without_its_weight(job, script, text, longest):
    from tests.contract.test_settings_and_routes import Page

    job()
    page = Page(script)
    wanted = page.event("negative_count", "click")(longest.strip())
    assert page.event("negatives_count", "click")(text) == wanted
