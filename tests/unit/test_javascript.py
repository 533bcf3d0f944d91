"""What javascript/ may cost a page. What it does is tested in tests/browser."""

import re
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[2] / "javascript").glob("*"))


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
    for reaching in ("fetch(", "XMLHttpRequest", "http:", "https:", "window.", "var "):
        assert reaching not in code


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_script_finds_elements_by_our_own_ids_only(file):
    text = file.read_text(encoding="utf-8")
    assert re.findall(r"getElementById\((.*?)\)", text) == ["`script_${tab}_nag_${name}`"]
    assert "gradioApp().querySelector" not in text
