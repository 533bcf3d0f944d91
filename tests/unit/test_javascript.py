"""What javascript/ may cost a page. What it does is tested in tests/browser."""

import re
from pathlib import Path

import pytest

from nag_core.settings import strength
from nag_core.settings.fields import METHODS
from nag_core.settings.presets import STRENGTHS

FILES = sorted((Path(__file__).parents[2] / "javascript").glob("*"))
# Our own route, and what it wants to know of the page.
ASKS = {"nag_auto.js": ["./nag/v1/auto"]}
READS = {"nag_auto.js": ["`${tab}_${name}`"]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_script_is_small_closed_and_idle(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    assert max(map(len, text.splitlines())) <= 110
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).strip()
    assert code.startswith("(() => {")
    assert code.endswith("})();")
    for costly in ("onUiUpdate", "MutationObserver", "setInterval", "requestAnimationFrame"):
        assert not re.search(rf"\b{costly}\b", code)
    for reaching in ("XMLHttpRequest", "http:", "https:", "window.", "var "):
        assert reaching not in code
    assert re.findall(r"fetch\(`?(.*?)[`?]", code) == ASKS.get(file.name, [])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_script_finds_elements_by_our_own_ids_only(file):
    text = file.read_text(encoding="utf-8")
    own = ["`script_${tab}_nag_${name}`"]
    assert re.findall(r"getElementById\((.*?)\)", text) == own + READS.get(file.name, [])
    assert "gradioApp().querySelector" not in text


def methods(name, text):
    """The list of words behind a name."""
    (listed,) = re.findall(rf"\b{name}(?: =|:) \[(.*?)\]", text)
    return set(re.findall('"(.*?)"', listed))


def test_the_page_knows_what_each_method_reads():
    texts = {file.name: file.read_text(encoding="utf-8") for file in FILES}
    readers = {
        name: {method for method, read in strength.READS.items() if name in read} for name in STRENGTHS
    }
    assert methods("READ_ALPHA", texts["nag.js"]) == readers["alpha"]
    for name in ("tau", "alpha"):
        for field in (name, f"hires_{name}"):
            assert methods(field, texts["nag_dim.js"]) == readers[name], field
    assert readers["scale"] == set(METHODS), "nothing is dimmed there"
