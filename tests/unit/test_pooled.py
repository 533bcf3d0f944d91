"""The authors' two streams beside the shared rule, on the sandbox's transformer and on its variant that reads
the pooled vector.
"""

import json

import pytest
import torch

pytest.importorskip("scipy", reason="the evaluation belongs to the sandbox's environment (webui4)")

from nag_core.evaluate.toy import pooled, pooled_report
from nag_core.evaluate.toy.draw import Seen
from nag_core.evaluate.toy.pairs import BUILT_IN
from nag_core.evaluate.toy.two_streams import velocity
from nag_core.method.guidance import Method
from nag_core.method.joint import joint_attention
from nag_core.method.layout import Layout
from nag_core.method.negative import Entry
from nag_core.method.rows import Arrangement, Group
from nag_core.method.rule import Rule
from nag_core.sandbox.model.load import load, weights_file
from nag_core.sandbox.model.miniature import POOLED
from nag_core.sandbox.model.mmdit import MMDiT, attention
from nag_core.sandbox.model.sampling import euler, obedience, seeded_noise

STRENGTH = (4.0, 2.5, 0.5)
TEXT, IMAGE = 5, 16


@pytest.fixture
def given():
    """Random weights in float64, two noises, a time, and tokens and vectors of two texts."""
    generator = torch.Generator().manual_seed(0)
    network = MMDiT().double()

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for weight in network.parameters():
        weight.data = normal(*weight.shape) / weight.shape[-1] ** 0.5
    positive, negative = ((normal(2, TEXT, 64), normal(2, 64)) for _ in range(2))
    return network, normal(2, 3, 16, 16), torch.full((2,), 0.7, dtype=torch.float64), positive, negative


def shared(network, x, t, positive, negative):
    """The extension's own joint attention, negative and prompt in one sequence under the prompt's vector."""
    group = Group(slice(0, 2), tuple(Entry(text) for text in negative[0]))
    rule = Rule(*STRENGTH, Method.NAG, torch.zeros((), dtype=torch.int64))

    def attend(q, k, v):
        layout, rows = Layout(TEXT, TEXT, IMAGE), Arrangement([group], None)
        return joint_attention(q, k, v, layout, rows, lambda q, k, v, _: attention(q, k, v), None, rule)

    network.attend = attend
    try:
        return network(x, t, torch.cat((negative[0], positive[0]), dim=1), positive[1])
    finally:
        network.attend = attention


def error(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@torch.no_grad()
def test_two_streams_are_the_shared_rule_where_the_pooled_vectors_are_equal(given):
    network, x, t, positive, negative = given
    wanted = shared(*given)
    equal = (negative[0], positive[1])
    assert error(velocity(network, x, t, positive, equal, STRENGTH), wanted) <= 1e-12
    assert error(velocity(network, x, t, positive, negative, STRENGTH), wanted) > 1e-3
    assert error(network(x, t, *positive), wanted) > 1e-2


@torch.no_grad()
def test_two_streams_are_no_guidance_at_alpha_0(given):
    network, x, t, positive, negative = given
    found = velocity(network, x, t, positive, negative, (4.0, 2.5, 0.0))
    assert error(found, network(x, t, *positive)) <= 1e-12


def test_the_variants_picture_is_that_of_the_pooled_vector_alone_and_the_shipped_ones_is_not():
    """Tokens of the empty text, the vector of another: the colour follows the vector."""
    drawn = {}
    for kind in ("mmdit", POOLED):
        model, noise = load(kind), seeded_noise(16, 5)
        texts = ("a red circle", "a blue circle")
        given = (model.conditions([""] * 16, [text] * 16) for text in texts)
        red, blue = (euler(model, one, noise, 4)[:, :, 14:18, 14:18].mean((2, 3)) for one in given)
        drawn[kind] = (red - blue).mean(0)
    assert drawn[POOLED][0] > 0.3 > -0.3 > drawn[POOLED][2]
    assert drawn["mmdit"].abs().max() < 0.1


@pytest.mark.slow
def test_the_variant_obeys_by_tokens_or_by_vector_and_is_small():
    model = load(POOLED)
    for left_out in ({}, {"tokens": False}, {"vector": False}):
        found = obedience(model, 4, 96, **left_out)
        assert found["valid"] >= 0.8, left_out
        assert found["obeyed"] >= 0.75, left_out
    assert obedience(load("mmdit"), 4, 96, tokens=False)["obeyed"] < 0.3
    assert weights_file(POOLED).stat().st_size < 2.5e6


class FakeSandbox:
    """The shared rule is good half as often as two streams, on the variant alone."""

    def __init__(self):
        self.kind, self.asked = None, []

    @classmethod
    def start(cls):
        return cls()

    def use(self, kind):
        self.kind = kind

    def see(self, row, pairs, n, seed):
        every = 2 if (row.method, self.kind) == ("nag", POOLED) else n
        bad = [i % every == 0 for i in range(n)]
        return Seen(bad, [True] * n, [True] * n, [0.0] * n, None)


@pytest.fixture
def result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pooled, "Sandbox", FakeSandbox)
    numbers = {"rho": {"mean": 0.4, "low": 0.3, "high": 0.5}, "apart": 0.1}
    numbers["obeyed"] = {"nothing": 0.9, "tokens": 0.8, "vector": 0.7}
    monkeypatch.setattr(pooled, "vectors", lambda kind, pairs: numbers)
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- pooled -->\n<!-- /pooled -->\nafter\n")
    arguments = ["--n", "32", "--json", str(tmp_path / "out.json"), "--readme", str(page)]
    assert pooled.main(arguments) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert page.read_text() == pooled_report.written(page.read_text(), found)
    return found


def test_where_the_shared_rule_is_worse_it_is_said(result):
    told = pooled_report.told(result)
    assert "- mmdit: ahead at none; behind at none; +0.0 points" in told
    behind = "1 step, α 0.25, 1 step, α 0.5, 4 steps, α 0.25, 4 steps, α 0.5"
    assert f"- mmdit-pooled: ahead at none; behind at {behind}; -46.9 points" in told
    assert set(result["weights"]) == {"mmdit", POOLED}


def test_the_tables_hold_both_models_and_both_rules(result):
    text = pooled_report.markdown(result)
    assert "| mmdit-pooled | 0.400 (0.300–0.500) | 0.1000 | 90 | 80 | 70 |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| mmdit-pooled, 4 steps, α 0.5 |")]
    assert "| **50** (34–66) | 50 / 100 / 100 | -47 (" in line
    assert len(result["rows"]) == 2 * 2 * (1 + 2 * 2)


@pytest.mark.slow
def test_the_distance_of_the_prompts_grows_from_the_shipped_model_to_the_variant():
    shipped, variant = (pooled.vectors(kind, BUILT_IN[:2]) for kind in ("mmdit", POOLED))
    assert shipped["rho"]["mean"] < 0.02
    assert variant["rho"]["mean"] > 10 * shipped["rho"]["mean"]
    assert variant["apart"] > 10 * shipped["apart"]
