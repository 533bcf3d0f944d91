"""What of a context is words and what padding, by family and by the hosts' own counts."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from nag_core.hosts import padding
from nag_core.hosts.padding import Count, words
from nag_core.settings.families import FAMILY


@pytest.mark.parametrize(
    ("family", "tokens", "count", "places"),
    [
        ("SD1.5", 77, Count(3), [range(5)]),
        ("SDXL", 77, Count(75), [range(77)]),
        # Two chunks: all of the first, whose own padding the count holds, and the words of the second.
        ("SD1.5", 154, Count(80), [range(77 + 7)]),
        ("SD1.5", 231, Count(3), [range(5)]),  # as long as its neighbour in the batch
        ("Flux", 256, Count(long=4), [range(5)]),
        ("Flux.2 Klein", 512, Count(long=20), [range(21)]),
        ("SD3.5", 77 + 256, Count(3, 4), [range(5), range(77, 82)]),
        ("SD3.5", 154 + 256, Count(80, 90), [range(84), range(154, 245)]),
        ("SD3.5", 77 + 300, Count(75, 299), [range(77), range(77, 377)]),
        ("Z-Image", 40, Count(), [range(40)]),
    ],
    ids=str,
)
def test_where_the_words_stand(family, tokens, count, places):
    found = words(family, tokens, count)
    assert [list(range(tokens)[place]) for place in found] == [list(place) for place in places]


@pytest.mark.parametrize(
    ("family", "tokens", "count"),
    [("unknown", 77, Count(3)), ("SD1.5", 78, Count(3)), ("SD1.5", 77, Count()), ("SD3.5", 100, Count(3, 4))],
    ids=str,
)
def test_what_is_not_known_stays_whole_and_is_said(family, tokens, count):
    said, context = [], torch.ones(tokens, 2)
    cut = padding.cutter(family, lambda _text: count, said.append)
    assert cut(context, "red") is context
    assert said == [padding.UNKNOWN]


def test_the_families_go_by_the_names_that_reports_and_presets_know():
    """Under another name a family's padding took part in VSF, and nothing was said."""
    assert {*padding.CLIP, *padding.LONG, *padding.BOTH} <= FAMILY.keys()


def test_zeros_at_the_end_are_padding_but_not_all_of_a_text():
    context = torch.ones(512, 2)
    context[7:] = 0
    assert len(padding.without(context, "Anima", Count())) == 7
    assert len(padding.without(context * 0, "Anima", Count())) == 512


def test_a_count_that_fails_costs_nothing_else():
    said, context = [], torch.ones(77, 2)
    cut = padding.of_webui(SimpleNamespace(get_prompt_lengths_on_ui=lambda _: 1 / 0), "SD1.5", said)
    assert cut(context, "red") is context
    assert said == [padding.UNKNOWN]


def lengths_of_model(text, cond_stage_model):
    return cond_stage_model.count, 75


@pytest.mark.parametrize("lengths", [lambda _text: (3, 75), lengths_of_model], ids=["A1111", "reForge"])
def test_the_count_of_webuis_that_count_in_a_module(lengths, monkeypatch):
    package, module = ModuleType("modules"), ModuleType("modules.sd_hijack")
    package.sd_hijack = module
    module.model_hijack = SimpleNamespace(get_prompt_lengths=lengths)
    monkeypatch.setitem(sys.modules, "modules", package)
    monkeypatch.setitem(sys.modules, "modules.sd_hijack", module)
    model = SimpleNamespace(cond_stage_model=SimpleNamespace(count=3))
    assert len(padding.of_webui(model, "SD1.5", [])(torch.ones(77, 2), "a red dog")) == 5


def test_forges_sd3_counts_by_each_encoder():
    engine = SimpleNamespace(process_texts=lambda texts: ([], 3))
    model = SimpleNamespace(get_prompt_lengths_on_ui=lambda _: (6, 255), text_processing_engine_l=engine)
    assert len(padding.of_webui(model, "SD3.5", [])(torch.ones(333, 2), "a red dog")) == 5 + 7
