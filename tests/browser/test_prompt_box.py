"""NAG's text boxes as the host's prompt boxes: the keys that change weights, and the token counter."""

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


def test_the_counter_follows_what_is_typed(new_page, request):
    page = new_page()
    if not request.config.getoption("--webui-url"):
        page.raw.add_init_script(COUNTERS)
    page.open()
    page.raw.wait_for_timeout(2500)
    page.open_accordion()
    box = page.raw.locator("#script_txt2img_nag_negative textarea")
    counter = page.raw.locator("#script_txt2img_nag_negative_counter")
    box.wait_for()
    box.type("red, blue square")
    before = counter.text_content()
    page.until(lambda: counter.text_content() not in ("", before, "0/75"), True)
    shown = counter.text_content().strip()
    assert int(shown.split("/")[0]) > 2
