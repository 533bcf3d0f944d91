"""The scoring pass: what it keeps and makes anew, the numbers themselves, and what it says is missing."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from nag_core.evaluate import __main__ as evaluate
from nag_core.evaluate import clip, pixels, reward, scores
from nag_core.evaluate.answer import Picture
from nag_core.evaluate.pairs import Pair
from nag_core.evaluate.plan import CFG, NAG, OFF, Plan, Spot, runs
from nag_core.evaluate.statistics import interval
from nag_core.evaluate.store import Store

PLAN = Plan((Pair("a pet", "cat"), Pair("a house", "red")), (1, 2), width=8, height=8)


class Stub:
    """Scores by a picture's first pixel, and counts."""

    name = "imagereward"

    def __init__(self, identity="stub 1"):
        self.identity, self.asked = identity, []

    def score(self, picture, pair):
        self.asked.append(pair.prompt)
        return {"imagereward": picture.getpixel((0, 0))[0] / 10}


def png(red, tmp_path):
    Image.new("RGB", (8, 8), (red, 0, 0)).save(tmp_path / "one.png")
    return (tmp_path / "one.png").read_bytes()


def keep(store, spot, red, tmp_path, problems=()):
    store.keep(spot, Picture(png(red, tmp_path), spot.seed, "text"), Pair("", ""), list(problems))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A run whose off pictures are 100 to 103, NAG's 5 more, CFG's 20 more."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    store = Store(tmp_path / "out")
    store.begin(PLAN)
    for spot in PLAN.spots():
        red = 100 + 2 * spot.pair + spot.seed - 1 + {OFF: 0, NAG: 5, CFG: 20}[spot.arm]
        keep(store, spot, red, tmp_path)
    return store


@pytest.fixture
def score_only(store, monkeypatch, capsys):
    """Scores the run with these scorers; gives the exit code, the results and what was printed."""

    def command(*scorers, missing=()):
        monkeypatch.setattr(scores, "available", lambda choice: (list(scorers), list(missing)))
        code = evaluate.main(["--score-only", "--out", str(store.folder)])
        return code, json.loads((store.folder / "results.json").read_text()), capsys.readouterr().out

    return command


def test_scoring_needs_no_webui_and_the_differences_are_paired(score_only):
    code, found, said = score_only(Stub())
    assert code == 0
    assert found["arms"]["off"]["mean"]["imagereward"]["mean"] == pytest.approx(10.15)
    difference = found["arms"]["nag"]["difference"]["imagereward"]
    assert difference["mean"] == pytest.approx(0.5)
    assert difference["n"] == 4
    assert found["pairs"][1]["arms"]["nag"]["mean"]["imagereward"]["mean"] == pytest.approx(10.75)
    assert found["models"] == {"imagereward": "stub 1"}
    assert "Scores by stub 1." in said
    assert "| NAG, CFG 1 | 4 | +0.500" in said
    assert "| CFG 3, NAG off | 4 | +2.0" in said


def test_a_second_pass_gives_the_same_and_asks_no_model(score_only):
    first, again = Stub(), Stub()
    before = score_only(first)
    assert len(first.asked) == 12
    assert score_only(again) == before
    assert again.asked == []


def test_another_model_scores_all_anew(score_only):
    score_only(Stub())
    other = Stub("stub 2")
    assert score_only(other)[1]["models"] == {"imagereward": "stub 2"}
    assert len(other.asked) == 12


def test_scores_of_another_environment_stay(score_only):
    score_only(Stub())
    _, found, said = score_only(
        missing=["ImageReward is missing: not here", "CLIP score is missing: nor that"]
    )
    assert found["arms"]["nag"]["mean"]["imagereward"]["mean"] == pytest.approx(10.65)
    assert found["missing"] == ["CLIP score is missing: nor that"]
    assert "Not scored: CLIP score is missing: nor that." in said


def test_a_missing_package_that_another_score_is_named_after_is_still_said(score_only):
    """ImageReward's own import fails for want of a package named clip."""
    clip_scorer = Stub("a model")
    clip_scorer.name = "clip"
    sentence = "ImageReward is missing (No module named 'clip')"
    assert f"Not scored: {sentence}." in score_only(clip_scorer, missing=[sentence])[2]


def test_a_killed_pass_keeps_what_it_has(score_only):
    class Killed(Stub):
        def score(self, *given):
            if len(self.asked) == 8:
                raise KeyboardInterrupt
            return super().score(*given)

    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        score_only(Killed())
    rest = Stub()
    assert score_only(rest)[0] == 0
    assert rest.asked == ["a house"] * 6


def test_a_picture_drawn_anew_is_scored_anew_with_those_that_lean_on_it(score_only, store, tmp_path):
    score_only(Stub())
    keep(store, Spot(0, 2, OFF), 200, tmp_path)
    again = Stub()
    _, found, _ = score_only(again)
    assert len(again.asked) == 3, "the off picture, and the two that are compared with it"
    assert found["arms"]["off"]["mean"]["imagereward"]["mean"] == pytest.approx(10.15 + 9.9 / 4)


def test_a_picture_that_does_not_count_is_in_no_mean_and_no_difference(score_only, store, tmp_path):
    keep(store, Spot(0, 1, OFF), 250, tmp_path, problems=["drawn with Steps 2 instead of 4"])
    code, found, said = score_only(Stub())
    assert code == 3
    assert found["arms"]["off"]["n"] == 3
    assert found["arms"]["nag"]["mean"]["imagereward"]["n"] == 4
    assert found["arms"]["nag"]["difference"]["imagereward"]["n"] == 3
    assert found["arms"]["nag"]["difference"]["imagereward"]["mean"] == pytest.approx(0.5)
    assert "drawn with Steps 2 instead of 4" in said


def test_a_run_that_is_not_finished_says_so(score_only, store):
    (store.folder / "pictures/nag/01-2.json").unlink()
    assert "**1 of 12 pictures are not drawn yet.**" in score_only(Stub())[2]


def test_the_sheet_shows_what_is_not_drawn_and_what_does_not_count(score_only, store, tmp_path):
    (store.folder / "pictures/nag/01-1.json").unlink()
    keep(store, Spot(0, 1, OFF), 250, tmp_path, problems=["drawn with Steps 2 instead of 4"])
    score_only(Stub())
    sheet = Image.open(store.folder / "sheet.png")
    assert sheet.getpixel((76 + 164 + 80, 68 + 164 + 80)) == (0xDD, 0xDD, 0xDD)
    assert sheet.getpixel((76, 68 + 80)) == (0xD0, 0, 0)
    assert sheet.getpixel((76 + 80, 68 + 80)) == (250, 0, 0)


def test_a_single_picture_has_no_range():
    assert interval([3.0]) == {"n": 1, "mean": 3.0, "low": None, "high": None}


def test_without_scipy_the_means_stand_and_the_missing_ranges_are_said(score_only, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    _, found, said = score_only(Stub())
    assert found["arms"]["off"]["mean"]["imagereward"]["low"] is None
    assert "No 95 % ranges: they need two pictures and the package scipy." in said


def test_pixel_numbers_are_what_they_say():
    off = Image.new("RGB", (4, 2), (255, 0, 128))
    on = off.copy()
    on.putpixel((0, 0), (245, 10, 138))
    found = pixels.measured(on, off)
    assert found["change"] == pytest.approx(30 / 24)
    assert found["clipped"] == pytest.approx(100 * 14 / 24)
    assert found["saturation"] == pytest.approx((7 * 255 + 244) / 8, abs=0.2)
    assert found["brightness"] == pytest.approx((7 * 90.84 + 94.85) / 8, abs=1)
    assert "change" not in pixels.measured(off, None)
    assert "change" not in pixels.measured(off, Image.new("RGB", (2, 2)))


def test_runs_are_consecutive_and_no_longer_than_a_batch():
    assert runs([9, 1, 2, 3, 5, 6], 2) == [(1, 2), (3, 1), (5, 2), (9, 1)]
    assert runs([], 4) == []


# CLIP and ImageReward, with the packages' interfaces stood in for.


class Model(torch.nn.Module):
    """Embeds a picture as its mean colour and a text as one of three directions."""

    def encode_image(self, batch):
        return batch.mean((-2, -1))

    def encode_text(self, tokens):
        return torch.eye(3)[tokens]


def tensor(picture):
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, 3).permute(2, 0, 1).float()


@pytest.fixture
def open_clip(monkeypatch, tmp_path):
    known = {"hf_hub": "someone/model/"}
    module = SimpleNamespace(
        __version__="9",
        pretrained=SimpleNamespace(get_pretrained_cfg=lambda model, tag: known if tag == "openai" else {}),
        create_model_and_transforms=lambda model, pretrained, device: (Model(), None, tensor),
        get_tokenizer=lambda model: lambda texts: torch.tensor([{"red": 0, "green": 1}[t] for t in texts]),
    )
    monkeypatch.setitem(sys.modules, "open_clip", module)
    (tmp_path / "weights.pt").write_bytes(b"")
    return module


def unit(*colour):
    return torch.nn.functional.normalize(torch.tensor(colour, dtype=torch.float64), dim=0)


def test_clip_score_is_its_definition(open_clip, tmp_path):
    scorer = clip.ClipScorer(scores.Choice(clip_weights=str(tmp_path / "weights.pt"), device="cpu"))
    assert scorer.identity == "ViT-L-14 weights.pt (open_clip 9)"
    picture = Image.new("RGB", (10, 4), (100, 50, 0))
    picture.paste((0, 80, 60), (5, 0, 10, 4))
    found = scorer.score(picture, Pair("red", "green"))
    whole = unit(50, 65, 30)
    assert found["clip_prompt"] == pytest.approx(100 * whole[0].item(), rel=1e-5)
    assert found["clip_negative"] == pytest.approx(100 * whole[1].item(), rel=1e-5)
    assert list(found) == ["clip_prompt", "clip_negative"]


def test_weights_that_are_not_in_the_cache_are_never_fetched(open_clip, monkeypatch):
    def fetched(*args, **more):
        pytest.fail("the model was asked for")

    open_clip.create_model_and_transforms = fetched
    hub = SimpleNamespace(try_to_load_from_cache=lambda repository, name: None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(scores.MissingScorerError, match="weights openai of ViT-L-14 are not in this machine"):
        clip.ClipScorer(scores.Choice())
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    hub.try_to_load_from_cache = lambda repository, name: "/a/file" if repository == "someone/model" else None
    with pytest.raises(pytest.fail.Exception, match="the model was asked for"):
        clip.ClipScorer(scores.Choice())


def test_weights_that_do_not_load_are_a_sentence(open_clip, tmp_path):
    def broken(*args, **more):
        raise RuntimeError("invalid header")

    open_clip.create_model_and_transforms = broken
    with pytest.raises(scores.MissingScorerError, match=r"does not load .*weights\.pt \(invalid header\)"):
        clip.ClipScorer(scores.Choice(clip_weights=str(tmp_path / "weights.pt")))


def test_imagereward_takes_the_prompt_and_files_of_this_machine_only(monkeypatch, tmp_path):
    asked = []

    def load(weights, **more):
        asked.append((weights, more))
        return SimpleNamespace(score=lambda prompt, picture: len(prompt) + picture.width)

    monkeypatch.setitem(sys.modules, "ImageReward", SimpleNamespace(load=load))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with pytest.raises(scores.MissingScorerError, match=r"ImageReward\.pt or med_config\.json is not in"):
        reward.RewardScorer(scores.Choice())
    assert asked == []
    folder = tmp_path / ".cache/ImageReward"
    folder.mkdir(parents=True)
    for name in ("ImageReward.pt", "med_config.json"):
        (folder / name).write_bytes(b"")
    scorer = reward.RewardScorer(scores.Choice())
    assert scorer.score(Image.new("RGB", (8, 8)), Pair("four", "")) == {"imagereward": 12.0}
    assert asked == [(str(folder / "ImageReward.pt"), {"med_config": str(folder / "med_config.json")})]


def test_a_package_that_fails_in_its_own_way_is_a_sentence(monkeypatch):
    """torchvision of another build than torch: open_clip's import raises RuntimeError."""

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "open_clip":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(scores.MissingScorerError, match="RuntimeError: operator torchvision::nms does not"):
        clip.ClipScorer(scores.Choice())


def test_packages_that_are_not_installed_are_a_sentence_each(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    found, missing = scores.available(scores.Choice())
    assert found == []
    assert missing[0].startswith("CLIP score is missing")
    assert missing[1].startswith("ImageReward is missing")
    assert all("pip install -e" in sentence for sentence in missing)
