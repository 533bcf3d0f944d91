"""The one number: by CLIP's scores on real checkpoints, by the decoder on the toys, its choice unbiased."""

import json

import pytest

pytest.importorskip("scipy", reason="the evaluation belongs to the sandbox's environment (webui4)")

from nag_core.evaluate import good
from nag_core.evaluate.plan import CFG, NAG, OFF, Spot
from nag_core.evaluate.toy import best
from nag_core.evaluate.toy.draw import Seen


@pytest.mark.parametrize(
    ("prompt", "negative", "wanted"),
    [(20.0, 15.0, True), (19.6, 14.0, True), (19.4, 14.0, False), (25.0, 15.6, False), (20.0, 15.5, True)],
)
def test_good_by_clip_keeps_the_prompt_and_loses_the_negative(prompt, negative, wanted):
    off = {"clip_prompt": 20.0, "clip_negative": 16.0}
    assert good.is_good({"clip_prompt": prompt, "clip_negative": negative}, off) == wanted


def scores(shift, seeds=(1, 2, 3, 4)):
    """Off pictures of one pair whose negative's score alternates, and NAG's, lower by `shift`."""
    found = {}
    for seed in seeds:
        negative = 16.0 + seed % 2
        found[Spot(0, seed, OFF)] = {"clip_prompt": 20.0, "clip_negative": negative}
        found[Spot(0, seed, NAG)] = {"clip_prompt": 20.0, "clip_negative": negative - shift}
    return found


def test_the_share_stands_beside_what_another_seed_does():
    found = good.good(scores(2.0))
    assert found["arms"][NAG]["share"] == 1
    assert found["arms"][good.FLOOR]["share"] == 0.5
    assert found["arms"][NAG]["against_floor"]["points"] == 0.5
    assert good.good(scores(0.1))["arms"][NAG]["share"] == 0
    text = good.sentence(found, {NAG: "NAG, CFG 1"})
    assert "NAG, CFG 1 100 % (51–100 of 4), +50 points" in text
    assert text.endswith("off beside another seed (the floor) 50 % (15–85 of 4).")


def test_without_clip_or_a_partner_nothing_is_claimed():
    assert good.good({Spot(0, 1, OFF): {"change": 1.0}, Spot(0, 1, NAG): {"change": 2.0}}) == {}
    assert good.sentence({}, {}) == ""
    alone = good.good({**scores(2.0, (1,)), Spot(0, 2, CFG): {"clip_prompt": 1.0, "clip_negative": 1.0}})
    assert list(alone["arms"]) == [NAG]
    assert "against_floor" not in alone["arms"][NAG]


def test_good_on_the_toys_is_all_three():
    seen = Seen([False, True, False, False], [True, True, False, True], [True, True, True, False], [0] * 4, 1)
    assert seen.good == [True, False, False, False]


class FakeSandbox:
    """Of each rule one setting is lucky on the first half of the seeds, and all are alike on the other."""

    asked = []

    @classmethod
    def start(cls, weights):
        return cls()

    def see(self, row, pairs, n, seed):
        self.asked.append((row, n, seed))
        lucky = seed % 2 == 0 and row.phi == max(
            one["phi"] for one in best.SETTINGS.get(row.method, [{"phi": 0}])
        )
        bad = [i % (4 if lucky else 2) == 0 for i in range(n)]
        return Seen(bad, [True] * n, [True] * n, [0.0] * n, 1.0)


def test_the_best_is_chosen_on_one_half_of_the_seeds_and_counted_on_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nag_core.evaluate.toy.draw.Sandbox", FakeSandbox)
    path = tmp_path / "best.json"
    arguments = ["--n", "16", "--steps", "1", "--models", "unet", "--seed", "3", "--json", str(path)]
    assert best.main(arguments) == 0
    result = json.loads(path.read_text())
    assert [row["method"] for row in result["rows"]] == ["none", *best.SETTINGS]
    for row in result["rows"][1:]:
        settings = best.SETTINGS[row["method"]]
        assert row["phi"] == max(one["phi"] for one in settings)
        assert len(row["tried"]) == len(settings) == 3, "every rule gets as many"
        assert max(row["tried"]) == 0.75
        assert row["good"]["share"] == 0.5, "not the share that it was chosen for"
        assert ("against_nag" in row) == (row["method"] != "nag")
    assert {seed for row, _, seed in FakeSandbox.asked if row.method == "none"} == {7}
    assert {n for _, n, _ in FakeSandbox.asked} == {8}
    assert "| VSF | **50** (" in capsys.readouterr().out
    asked = len(FakeSandbox.asked)
    assert best.main([*arguments[:3], "1,2", *arguments[4:]]) == 0
    assert {row.steps for row, *_ in FakeSandbox.asked[asked:]} == {2}, "what was finished is not drawn again"
