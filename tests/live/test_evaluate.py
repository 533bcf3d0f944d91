"""The evaluation command through a WebUI that really draws. What goes wrong: tests/unit/test_evaluate.py."""

import json

from nag_core.evaluate import __main__ as evaluate
from nag_core.evaluate import scores
from tests.live.client import NEGATIVE, PROMPT, Result
from tests.live.serving import ROOT
from tests.readme import at, run, snippet

SMALL = ["--width", "64", "--height", "64"]


def test_the_pictures_are_those_of_the_api_and_their_reports_are_read(webui, tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "available", lambda choice: ([], []))
    (tmp_path / "prompts.txt").write_text(f"{PROMPT} | {NEGATIVE}\n", encoding="utf-8")
    given = ["--url", str(webui.http.base_url), "--prompts", str(tmp_path / "prompts.txt"), *SMALL]
    given += ["--scheduler", webui.scheduler] if webui.scheduler else []
    given += ["--seeds", "1-2", "--batch-size", "2", "--scale", "4", "--out", str(tmp_path / "out")]
    assert evaluate.main(given) == 0
    results = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))
    assert (results["drawn"], results["flagged"]) == (6, [])
    assert list(results["nag_reports"].values()) == [2]
    assert "4/4 steps" in next(iter(results["nag_reports"]))
    assert results["arms"]["nag"]["mean"]["change"]["mean"] > 0
    for arm, nag in (("off", None), ("nag", [{"scale": 4}])):
        kept = [(tmp_path / f"out/pictures/{arm}/00-{seed}.png").read_bytes() for seed in (1, 2)]
        assert Result(kept).pixels == webui.txt2img(nag, batch_size=2).pixels[-2:]


def test_the_readme_command_evaluates(webui, tmp_path):
    """As printed but for the address, and cut down to one small pair; the last of two values counts."""
    (tmp_path / "prompts.txt").write_text(f"{PROMPT} | {NEGATIVE}\n", encoding="utf-8")
    command = at(snippet("evaluate-command"), webui.http.base_url).strip()
    command += f" --n 2 --width 64 --height 64 --prompts {tmp_path}/prompts.txt --out {tmp_path}/out"
    command += f" --scheduler {webui.scheduler}" if webui.scheduler else ""
    said = run(command, ROOT)
    assert "NAG was applied to 2 of 2 NAG pictures" in said
    assert (tmp_path / "out/sheet.png").stat().st_size > 1000
