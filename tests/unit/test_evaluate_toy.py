"""The toys' evaluation: its statistics, its pairs, its table, and what a killed run leaves behind."""

import json
import math
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("scipy", reason="the evaluation belongs to the sandbox's environment (webui4)")

import nag_core
from nag_core.evaluate import sheet, statistics
from nag_core.evaluate.errors import EvaluationError
from nag_core.evaluate.pairs import Pair, read
from nag_core.evaluate.toy import __main__ as command
from nag_core.evaluate.toy import pairs, plan, report, summary
from nag_core.evaluate.toy.draw import Seen, shares
from nag_core.evaluate.toy.store import Store


def test_intervals_are_wilsons():
    found = statistics.share([True] * 8 + [False] * 2)
    # By hand: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = 0.8, n = 10, z = 1.959964
    z, p, n = 1.959964, 0.8, 10
    centre, scale = p + z * z / (2 * n), 1 + z * z / n
    width = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert found["share"] == 0.8
    assert found["low"] == pytest.approx((centre - width) / scale, abs=1e-6)
    assert found["high"] == pytest.approx((centre + width) / scale, abs=1e-6)


def test_differences_are_paired_and_tested_exactly():
    base = [True] * 10 + [False] * 10
    values = [False] * 8 + [True] * 2 + [True] + [False] * 9  # 8 lost, 1 gained
    found = statistics.difference(values, base)
    assert found["points"] == pytest.approx(-7 / 20)
    # Two-sided binomial test of 1 against 8 at one half: 2 (C(9,0) + C(9,1)) / 2^9
    assert found["p"] == pytest.approx(2 * (1 + 9) / 512)
    assert found["low"] < found["points"] < found["high"] < 0
    assert statistics.difference(base, base) == {"points": 0, "low": 0, "high": 0, "p": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a circle", "line 1: expected `prompt | negative`"),
        ("a circle | red\n\na square | nonsense", "line 3: the negative 'nonsense' must name one attribute"),
        ("a circle | red, blue", "must name one attribute"),
        ("a | b | c", "expected `prompt | negative`"),
        ("# nothing\n", "has no pair"),
    ],
)
def test_a_bad_pairs_file_is_refused_with_the_line(tmp_path, text, message):
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    with pytest.raises(EvaluationError, match="pairs.txt") as caught:
        read(path, "", pairs.attribute)
    assert message in str(caught.value)


def test_pairs_are_read_with_comments_and_grounds(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("# unwanted\na red circle on gray | framed\n\n a square |on tan \n")
    found = read(path, "", pairs.attribute)
    assert found == (Pair("a red circle on gray", "framed"), Pair("a square", "on tan"))
    assert [pairs.attribute(pair) for pair in found] == ["framed", "tan"]


def test_a_missing_pairs_file_ends_the_command_with_one_line(tmp_path, capsys):
    assert command.main(["--pairs", str(tmp_path / "none.txt"), "--json", str(tmp_path / "out.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--n", "0"], ["--steps", "1,x"], ["--models", "dit"], ["--weights", "unet"]]
)
def test_bad_options_are_refused(arguments):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2


def test_fewer_pictures_than_pairs_are_refused(capsys):
    assert command.main(["--n", "3"]) == 2
    assert "less than one picture" in capsys.readouterr().err


def test_pictures_are_spread_evenly():
    assert shares(10, 4) == [3, 3, 2, 2]


def test_every_method_stands_in_the_plan_and_asks_for_what_it_says():
    rows = {row.method: row for row in plan.rows(["unet"], [1], sweeps=False)}
    assert list(rows) == list(report.NAMES)
    assert rows["none"].nag() == rows["cfg"].nag() == {"enabled": False}
    assert rows["none"].cfg == rows["nag"].cfg == 1
    assert rows["cfg"].cfg == rows["nag+cfg"].cfg == rows["cfg"].phi == 3
    asked = rows["nag"].nag()
    assert (asked["method"], asked["scale"], asked["tau"], asked["alpha"]) == ("NAG", 4, 2.5, 0.5)
    assert rows["no-normalisation"].nag()["method"] == "No normalisation"


ROW = plan.Row("unet", "nag", 1, 4.0, 2.5, 0.5, 1.0)
SEEN = Seen([True, False], [True, True], [False, True], [0.3, 0.1], 1.0)


def test_a_killed_run_goes_on_with_the_rows_it_finished(tmp_path):
    depends_on = ({"unet": "a hash"}, {"n": 2})
    store = Store(tmp_path / "out.json", *depends_on)
    store.add(ROW, SEEN)
    with store.path.open("a") as file:
        file.write('["half a li')  # killed while it wrote
    again = Store(tmp_path / "out.json", *depends_on)
    assert again.get(ROW)["error"] == [0.3, 0.1]
    other = plan.Row("unet", "nag", 1, 8.0, 2.5, 0.5, 1.0)
    assert again.get(other) is None
    again.add(other, SEEN)
    third = Store(tmp_path / "out.json", *depends_on)
    assert third.get(other) == third.get(ROW)
    # Other settings or weights, other numbers.
    assert Store(tmp_path / "out.json", {"unet": "a hash"}, {"n": 4}).get(ROW) is None
    assert Store(tmp_path / "out.json", {"unet": "another"}, {"n": 2}).get(ROW) is None


def test_more_columns_than_fit_go_on_below_and_every_band_has_its_labels():
    def square(red):
        return Image.new("RGB", (8, 8), (red, 0, 0))

    look = sheet.Look(cell=8, gap=2, left=30, top=20, size=12, line=15, between=5)
    rows = [("one", [[square(10 * n), square(10 * n + 1)] for n in range(3)])]
    page = sheet.sheet([[("a", "black")]] * 3, rows, look, columns=2)
    assert page.size == (30 + 2 * 25, 2 * 30)
    for n, at in enumerate([(30, 20), (55, 20), (30, 50)]):
        assert page.getpixel(at) == (10 * n, 0, 0)
        assert page.getpixel((at[0] + 10, at[1])) == (10 * n + 1, 0, 0)
    upper, lower = (page.crop((0, y, 30, y + 30)).tobytes() for y in (0, 30))
    assert upper == lower != Image.new("RGB", (30, 30), "white").tobytes()


class FakeSandbox:
    """Draws nothing; `calls` of it are counted, and it can be killed."""

    calls = 0
    killed_after = None

    @classmethod
    def start(cls, weights):
        return cls()

    def see(self, row, pairs, n, seed):
        type(self).calls += 1
        if self.calls == self.killed_after:
            raise KeyboardInterrupt
        seen = [(i + len(row.method)) % 3 == 0 for i in range(n)]
        return Seen(
            seen, seen, [not value for value in seen], [0.1] * n, 1.0 if row.nag()["enabled"] else None
        )


def test_interrupting_the_command_and_giving_it_again_yields_the_unbroken_result(tmp_path, monkeypatch):
    monkeypatch.setattr("nag_core.evaluate.toy.draw.Sandbox", FakeSandbox)
    monkeypatch.setattr(FakeSandbox, "calls", 0)
    arguments = ["--n", "16", "--steps", "1", "--models", "unet"]
    assert command.main([*arguments, "--json", str(tmp_path / "whole.json")]) == 0
    whole = FakeSandbox.calls

    monkeypatch.setattr(FakeSandbox, "calls", 0)
    monkeypatch.setattr(FakeSandbox, "killed_after", 4)
    broken = [*arguments, "--json", str(tmp_path / "broken.json")]
    assert command.main(broken) == 130
    assert not (tmp_path / "broken.json").exists()
    monkeypatch.setattr(FakeSandbox, "killed_after", None)
    assert command.main(broken) == 0
    assert FakeSandbox.calls == 1 + whole  # only the row that was under way was drawn twice
    assert (tmp_path / "broken.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_a_run_that_0_1_left_half_done_goes_on(tmp_path, monkeypatch):
    """Three of its seven rows are there, and the half of a line that it was writing."""
    monkeypatch.setattr("nag_core.evaluate.toy.draw.Sandbox", FakeSandbox)
    monkeypatch.setattr(FakeSandbox, "calls", 0)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    monkeypatch.setattr(nag_core, "__version__", "0.1.0")
    monkeypatch.setattr(command, "sha256", lambda path: "e49d7b1e")
    shutil.copy(Path(__file__).parents[1] / "payloads/half-done/toy.json.part", tmp_path)
    arguments = ["--n", "8", "--steps", "1", "--models", "unet", "--json"]
    assert command.main([*arguments, str(tmp_path / "toy.json")]) == 0
    assert FakeSandbox.calls == 4
    assert command.main([*arguments, str(tmp_path / "whole.json")]) == 0
    assert FakeSandbox.calls == 4 + 7
    assert (tmp_path / "toy.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_the_results_hold_what_the_table_needs_and_the_table_says_where_others_do_better(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("nag_core.evaluate.toy.draw.Sandbox", FakeSandbox)
    path = tmp_path / "out.json"
    assert command.main(["--n", "16", "--steps", "1,4", "--models", "unet", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert [(row["method"], row["steps"]) for row in result["rows"]] == [
        (method, steps) for steps in (1, 4) for method in report.NAMES
    ]
    for row in result["rows"]:
        assert {
            "model",
            "phi",
            "alpha",
            "n",
            "good",
            "unwanted",
            "honoured",
            "valid",
            "rmse",
            "applied",
        } <= set(row)
        assert ("against_none" in row) == (row["method"] != "none")
    text = report.markdown(result)
    assert "CFG 3" in text
    assert "NAG φ 4 τ 2.5 α 0.5" in text


def _row(method, good, applied=1.0):
    row = plan.Row("unet", method, 1, 4.0).settings()
    interval = {name: [0, 1] for name in summary.MEASURES}
    shown = {"unwanted": 0.4, "honoured": 0.5, "valid": 0.6, "rmse": 0.1, "n": 8, "applied": applied}
    shown["good"] = good
    return row | shown | {"interval": interval}


def test_a_method_that_beats_nag_is_named():
    said = "more pictures are good than with NAG: NASA."
    assert said in report.markdown({"rows": [_row("nag", 0.4), _row("nasa", 0.5)]})
    assert "than with NAG" not in report.markdown({"rows": [_row("nag", 0.4), _row("nasa", 0.4)]})


def test_pictures_that_nag_was_not_applied_to_are_shown_as_such():
    assert "**not applied** to 25 %" in report.markdown({"rows": [_row("nag", 0.4, applied=0.75)]})


def test_missing_weights_are_one_line(tmp_path, capsys):
    missing = tmp_path / "none.safetensors"
    code = command.main(["--weights", f"unet={missing}", "--json", str(tmp_path / "out.json")])
    assert code == 2
    assert "none.safetensors" in capsys.readouterr().err


def test_options_collect_the_weights_of_both_models():
    options = command._parser().parse_args(["--weights", "unet=a", "--weights", "mmdit=b"])
    assert isinstance(options, Namespace)
    assert options.weights == {"unet": Path("a"), "mmdit": Path("b")}
