"""Weights in the negative where the model's text encoder reads them as words, as some of Neo's do."""

import pytest

ON = {"enabled": True, "scale": 4}
SAID = "weights in the negative are read as words by this model's text encoder"


@pytest.fixture
def as_words(host, monkeypatch):
    import modules.prompt_parser

    monkeypatch.setattr(modules.prompt_parser, "parse_prompt_attention", lambda text: [[text, 1.0]])


def report(drawn):
    return drawn[0].extra_generation_params["NAG report"]


@pytest.mark.parametrize("cfg", [1, 4])
@pytest.mark.parametrize("box", ["main", "own"])
def test_they_are_said_once_with_the_lines_to_copy(job, as_words, box, cfg):
    text = "(red:1.3), blue"
    given = {"negative_prompt": text} if box == "main" else {}
    nag = {**ON, "negative": text} if box == "own" else ON
    found = report(job([nag], cfg_scale=cfg, n_iter=2, **given))
    assert found.count(SAID) == 1
    assert found.endswith(f"{SAID}; as several negatives: red :: 1.3\\nblue")
    assert "4/4 steps" in found


@pytest.mark.parametrize("copied_from", ["report", "infotext"])
def test_the_lines_are_those_that_the_box_takes(job, as_words, copied_from):
    drawn = job([{**ON, "negative": "(red:1.3), blue"}])
    said = report(drawn) if copied_from == "report" else drawn[1].infotexts[0]
    lines = said.partition("as several negatives: ")[2].partition('"')[0]
    found = report(job([{**ON, "negatives": lines}]))
    assert "2 negatives of " in found
    assert lines.endswith("nblue")
    assert SAID not in found


def test_a_line_of_several_is_multiplied_out(job, as_words):
    found = report(job([{**ON, "negatives": "(red:1.5) :: 2\nblue"}]))
    assert found.endswith(f"{SAID}; as several negatives: red :: 3\\nblue")


def test_prompt_editing_leaves_no_lines_to_copy(job, as_words):
    assert report(job([{**ON, "negative": "[(red:1.3):blue:0.5]"}])).endswith(SAID)


@pytest.mark.parametrize("negative", ["red", "[red:blue:0.5]", "(red)"])
def test_without_weights_nothing_is_tried_or_said(job, as_words, negative, monkeypatch):
    from nag_core.hosts import encoding

    monkeypatch.setattr(encoding, "unread_weights", lambda *_: 1 / 0)
    assert SAID not in report(job([{**ON, "negative": negative}]))


def test_that_they_have_no_effect_is_said_too(job, host, monkeypatch):
    """An encoder that parses them and does no more, or the option "Ignore"."""
    import modules.prompt_parser

    parse = modules.prompt_parser.parse_prompt_attention
    ignoring = lambda text: [["".join(part for part, _ in parse(text)), 1.0]]  # noqa: E731
    monkeypatch.setattr(modules.prompt_parser, "parse_prompt_attention", ignoring)
    _, said, lines = report(job([{**ON, "negative": "(red:1.3)"}])).partition("weights in the negative ")
    assert said
    assert lines == "have no effect in this model's text encoder; as several negatives: red :: 1.3"


def test_where_they_are_read_nothing_is_said(job):
    assert SAID not in report(job([{**ON, "negative": "(red:1.3), blue"}]))


def test_that_it_cannot_be_tried_costs_nothing(job, as_words, monkeypatch):
    from nag_core.hosts import encoding

    monkeypatch.setattr(encoding, "unread_weights", lambda *_: 1 / 0)
    found = report(job([{**ON, "negative": "(red:1.3)"}]))
    assert "4/4 steps" in found
    assert SAID not in found
