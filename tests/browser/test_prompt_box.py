"""NAG's text boxes as the host's prompt boxes: the keys that change weights, and the token counter."""

import re

import pytest

# What the hosts' edit-attention.js asks of a box before Ctrl+Up and Ctrl+Down do anything.
HOSTS_BOXES = "*:is([id*='_toprow'] [id*='_prompt'], .prompt) textarea"
# A stand-in for the hosts' token-counters.js: two functions that wire a box, its counter and its button.
COUNTERS = """
    window.wired = [];
    window.setupTokenCounting = (box, counter, button) => {
        window.wired.push([box, counter, button]);
        document.getElementById(box).querySelector("textarea").addEventListener("input", () => {
            if (document.getElementById(counter).classList.contains("token-counter-visible")) {
                setTimeout(() => document.getElementById(button).click(), 100);
            }
        });
    };
    window.toggleTokenCountingVisibility = (box, counter) => {
        document.getElementById(counter).classList.add("token-counter-visible");
    };
    Object.defineProperty(window, "onOptionsChanged", {
        get: () => (callback) => setTimeout(callback, 2000), set: () => {},
    });
"""


@pytest.mark.parametrize("name", ["negative", "negatives"])
def test_the_hosts_keys_take_our_boxes_for_theirs(page, name):
    page.set("enabled", True)
    box = page.raw.locator(f"#script_txt2img_nag_{name} textarea")
    assert box.evaluate("(box, selector) => box.matches(selector)", HOSTS_BOXES)


def test_ctrl_up_and_down_change_weights_in_our_box(page):
    if not page.raw.evaluate("typeof keyupEditAttention === 'function'"):
        pytest.skip("the sandbox has no keys that change weights")
    page.open_accordion()
    box = page.raw.locator("#script_txt2img_nag_negative textarea")
    box.fill("red")
    box.press("Control+A")
    box.press("Control+ArrowUp")
    page.until(box.input_value, "(red:1.1)")
    box.press("Control+ArrowDown")
    page.until(box.input_value, "red")


@pytest.fixture
def counting(new_page, request):
    """The page of a host that counts tokens, with NAG open."""
    page = new_page()
    if not request.config.getoption("--webui-url"):
        page.raw.add_init_script(COUNTERS)
    page.open()
    # A busy host takes its time: what was looked at after a fixed one stood where gradio had put it.
    page.raw.wait_for_selector("#script_txt2img_nag_negative_counter.token-counter-visible", state="attached")
    page.open_accordion()
    return page


def counter_of(page, name):
    return page.raw.locator(f"#script_txt2img_nag_{name}_counter").first  # gradio 3 writes the id twice


@pytest.mark.parametrize("name", ["negative", "negatives"])
def test_a_counter_stands_in_its_own_box(counting, name):
    """That of several negatives stood above the first box of Advanced."""
    counter = counter_of(counting, name)
    assert counter.evaluate("one => one.parentElement.id") == f"script_txt2img_nag_{name}"


def test_the_counter_follows_what_is_typed(counting):
    box = counting.raw.locator("#script_txt2img_nag_negative textarea")
    counter = counter_of(counting, "negative")
    box.wait_for()
    counting.generate()  # loads the model whose tokens are counted
    box.type("red, blue square")
    # Meanwhile the host may show nothing there, or that it is counting.
    counting.until(lambda: bool(re.match(r"\s*([3-9]|\d\d)/", counter.text_content())), True)
