"""The X/Y/Z plot by the page: its fields come with the choice of the script, NAG's axes among them."""

import pytest


def choose(page, elem_id, option):
    page.raw.locator(f"#{elem_id} input:visible").first.click()
    page.raw.get_by_role("option", name=option, exact=True).click()


def test_the_plot_shows_its_fields_and_nags_axes(page):
    if not page.is_gradio_4:
        pytest.skip("gradio 3 has its options in a list of another make")
    axis = page.raw.locator("[id$=_x_type]:visible")
    assert axis.count() == 0, "nothing of the plot before it is chosen"
    choose(page, "script_list", "X/Y/Z plot")
    axis.first.wait_for()
    choose(page, axis.first.get_attribute("id"), "[NAG] Scale")
    page.until(lambda: axis.locator("input").first.input_value(), "[NAG] Scale")
    assert not page.raw.get_by_text("Error", exact=True).count()
