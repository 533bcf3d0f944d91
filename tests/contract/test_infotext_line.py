"""The parameter line of a picture in the sandbox's grammar, which is that of the hosts."""

import pytest
from hypothesis import given

from tests.infotext_line import TEXTS, assert_survives
from tests.odd_arguments import TEXTS as ODD_TEXTS
from tests.odd_arguments import patient


@pytest.fixture
def utils(host):
    from modules import infotext_utils

    return infotext_utils


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back(utils, text):
    """ "3x4" was lost (hosts take it for a size), and so were quotes and blanks around a text."""
    assert_survives(utils, text, hires="Hires only", hires_scale=7, method="NASA", start=0.1, end=0.9)


@patient
@given(text=ODD_TEXTS)
def test_any_text_comes_back(utils, text):
    assert_survives(utils, text.replace("\r", ""))
