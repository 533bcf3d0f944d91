"""Evaluation through a WebUI's API: what it draws, keeps, counts and says. Against a stand-in for one."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from nag_core.evaluate import __main__ as evaluate
from nag_core.evaluate import answer, client, pairs, scores
from nag_core.evaluate.pairs import Pair
from tests.standin import REPORT, StandIn, Worker, serving

ROOT = Path(__file__).parents[2]
SMALL = ["--width", "32", "--height", "32", "--patience", "0"]


@pytest.fixture
def webui(monkeypatch):
    monkeypatch.setattr(client, "PAUSES", (0.0,))
    with serving(StandIn()) as standin:
        yield standin


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No waiting for the disk; no models, whatever this machine has: their scores have their own tests."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(scores, "available", lambda choice: ([], ["CLIP score is missing: not installed"]))


@pytest.fixture
def run(webui, tmp_path):
    """Runs the command on two pairs and returns its exit code."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a pet | cat\na castle\n", encoding="utf-8")

    def command(*more, n=2, out="out"):
        given = ["--url", webui.url, "--prompts", str(prompts), "--n", str(n), "--out", str(tmp_path / out)]
        return evaluate.main([*given, *SMALL, *more])

    return command


def results(tmp_path, out="out"):
    return json.loads((tmp_path / out / "results.json").read_text(encoding="utf-8"))


def files(tmp_path, out="out"):
    return {path.relative_to(tmp_path / out).as_posix() for path in (tmp_path / out).rglob("*.*")}


def test_the_built_in_pairs_are_the_papers_table_10():
    assert len(pairs.TABLE_10) == 16
    assert pairs.TABLE_10[0] == Pair("A photo of a person", "Male")
    assert pairs.TABLE_10[9] == Pair("A photo from the 1960s", "Color")
    assert pairs.TABLE_10[-1] == Pair("A room with furniture", "Window")
    assert pairs.UNIVERSAL_NEGATIVE == "Low resolution, blurry"


def test_a_file_of_prompts_takes_the_universal_negative_where_it_gives_none(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeff# pets\na pet | cat \n\na [red|blue] castle\na house |\n", encoding="utf-8")
    universal = "Low resolution, blurry"
    expected = (Pair("a pet", "cat"), Pair("a [red|blue] castle", universal), Pair("a house", universal))
    assert pairs.read(file) == expected


def test_a_run_draws_every_pair_with_nag_off_on_and_cfg(run, webui, tmp_path, capsys):
    assert run("--scale", "4", "--alpha", "0.5", "--cfg", "5", "--scheduler", "Simple") == 0
    assert len(webui.jobs) == 2 * 2 * 3
    nag = {job["cfg_scale"]: job["alwayson_scripts"]["NAG"]["args"] for job in webui.jobs}
    assert nag[5] == [{"scale": 4, "alpha": 0.5, "enabled": False}]
    by_arm = [(job["cfg_scale"], job["alwayson_scripts"]["NAG"]["args"][0]["enabled"]) for job in webui.jobs]
    assert by_arm.count((1, False)) == by_arm.count((1, True)) == by_arm.count((5, False)) == 4
    assert {job["seed"] for job in webui.jobs} == {1, 2}
    assert {job["scheduler"] for job in webui.jobs} == {"Simple"}
    assert {(job["prompt"], job["negative_prompt"]) for job in webui.jobs} == {
        ("a pet", "cat"),
        ("a castle", "Low resolution, blurry"),
    }
    found = results(tmp_path)
    assert (found["asked"], found["drawn"], found["flagged"]) == (12, 12, [])
    assert found["nag_reports"] == {REPORT: 4}
    record = json.loads((tmp_path / "out/pictures/nag/01-2.json").read_text(encoding="utf-8"))
    assert (record["seed"], record["report"]) == (2, REPORT)
    assert "Seed: 2" in record["infotext"]
    said = capsys.readouterr().out
    assert "NAG was applied to 4 of 4 NAG pictures" in said
    assert "Not scored: CLIP score is missing: not installed." in said
    assert said.startswith((tmp_path / "out/results.md").read_text(encoding="utf-8"))
    # Three rows of pictures below the captions, a column for each pair; the first seed of each.
    sheet = Image.open(tmp_path / "out/sheet.png")
    assert sheet.size == (76 + 2 * 164, 68 + 3 * 164)
    for row, arm in enumerate(("off", "nag", "cfg")):
        for column in (0, 1):
            picture = Image.open(tmp_path / f"out/pictures/{arm}/{column:02d}-1.png")
            middle = (76 + column * 164 + 80, 68 + row * 164 + 80)
            assert sheet.getpixel(middle) == picture.getpixel((0, 0))


def test_the_differences_are_those_of_the_pictures(run, tmp_path):
    pytest.importorskip("scipy", reason="the ranges need scipy, which this extra lacks")
    assert run("--no-cfg", n=3) == 0
    changes = []
    for number in range(2):
        for seed in (1, 2, 3):
            off, on = (
                Image.open(tmp_path / f"out/pictures/{arm}/{number:02d}-{seed}.png").getpixel((0, 0))
                for arm in ("off", "nag")
            )
            changes.append(sum(abs(a - b) for a, b in zip(off, on, strict=True)) / 3)
    arms = results(tmp_path)["arms"]
    found = arms["nag"]["mean"]["change"]
    assert list(arms) == ["off", "nag"]
    assert "change" not in arms["off"]["mean"]
    assert found["mean"] == pytest.approx(sum(changes) / 6)
    # Student's t for five degrees of freedom.
    deviation = (sum((change - found["mean"]) ** 2 for change in changes) / 5) ** 0.5
    assert found["high"] - found["mean"] == pytest.approx(2.570582 * deviation / 6**0.5, rel=1e-6)


def test_a_webui_that_dies_in_the_middle_loses_nothing_and_the_run_goes_on(run, webui, tmp_path, capsys):
    assert run(out="whole") == 0
    webui.jobs.clear()
    webui.faults = [""] * 5 + ["drop"]
    assert run() == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"nag evaluate: the WebUI at {webui.url} does not answer: is it running")
    assert f"5 pictures are in {tmp_path / 'out'}: the same command goes on from there" in error
    assert not [name for name in files(tmp_path) if name.endswith(".part")]
    assert run() == 0
    assert len(webui.jobs) == 6 + 7, "what was there is not drawn again"
    assert results(tmp_path) == results(tmp_path, "whole")


def test_a_webui_that_comes_back_is_waited_for(run, webui, capsys):
    webui.faults = ["", "drop", "drop", ""]
    assert run("--patience", "60") == 0
    assert "does not answer" in capsys.readouterr().err


def test_a_killed_run_goes_on(run, webui, tmp_path):
    def hold(job):
        if job == 5:
            time.sleep(20)

    webui.before_job = hold
    given = ["--url", webui.url, "--prompts", str(tmp_path / "prompts.txt"), "--n", "2"]
    command = [sys.executable, "-m", "nag_core.evaluate", *given, "--out", str(tmp_path / "out"), *SMALL]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(webui.jobs) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    webui.before_job = None
    assert run() == 0
    assert len(webui.jobs) == 5 + 8
    assert results(tmp_path)["drawn"] == 12


def test_interrupting_leaves_a_folder_that_goes_on(run, webui, tmp_path, monkeypatch, capsys):
    whole = client.Client.draw

    def interrupted(self, payload):
        if len(webui.jobs) == 3:
            raise KeyboardInterrupt
        return whole(self, payload)

    with monkeypatch.context() as patch:
        patch.setattr(client.Client, "draw", interrupted)
        assert run() == 130
    assert "interrupted; 3 pictures are in" in capsys.readouterr().err
    assert run() == 0
    assert len(webui.jobs) == 12


def test_a_picture_whose_file_was_changed_or_lost_is_drawn_again(run, webui, tmp_path):
    assert run() == 0
    kept = tmp_path / "out/pictures"
    (kept / "off/00-1.png").write_bytes(b"half a pict")
    (kept / "nag/00-1.png").unlink()
    (kept / "nag/01-2.json").write_text("{", encoding="utf-8")
    (kept / "cfg/01-2.json").unlink()
    webui.jobs.clear()
    assert run() == 0
    assert len(webui.jobs) == 4
    assert results(tmp_path)["drawn"] == 12


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--steps", "8"], "steps: 4 there, 8 now"),
        (["--scale", "3"], 'nag: {} there, {"scale": 3.0} now'),
        (["--no-cfg"], "cfg: 3.0 there, null now"),
    ],
    ids=["steps", "nag", "arms"],
)
def test_a_changed_setting_is_refused_and_named(run, webui, tmp_path, capsys, more, named):
    assert run(n=1) == 0
    before = files(tmp_path), results(tmp_path)
    webui.jobs.clear()
    assert run(*more, n=1) == 2
    assert named in capsys.readouterr().err
    assert webui.jobs == []
    assert (files(tmp_path), results(tmp_path)) == before


def test_a_folder_that_0_1_left_half_done_goes_on(run, webui, tmp_path):
    """Eight of its twelve pictures are drawn, and scored with a model that is not here; its reports are
    sentences and nothing else.
    """
    shutil.copytree(ROOT / "tests/payloads/half-done/evaluation", tmp_path / "out")
    assert run() == 0
    assert [(job["prompt"], job["seed"], job["cfg_scale"]) for job in webui.jobs] == [
        ("a castle", seed, cfg) for cfg in (1, 3) for seed in (1, 2)
    ]
    found = results(tmp_path)
    assert (found["drawn"], found["flagged"], found["nag_reports"]) == (12, [], {REPORT: 4})
    assert found["models"] == {"clip": "ViT-L-14 openai (open_clip 2.24.0)"}
    assert [arm["mean"]["clip_prompt"]["n"] for arm in found["arms"].values()] == [4, 2, 2]
    assert "patch_spread" not in found["arms"]["off"]["mean"], "a score that 0.1 had, and nobody has now"
    assert run(out="whole") == 0
    for arm, whole in results(tmp_path, "whole")["arms"].items():
        assert found["arms"][arm]["mean"] | whole["mean"] == found["arms"][arm]["mean"]


def test_another_checkpoint_is_another_run(run, webui, capsys):
    assert run(n=1) == 0
    webui.model = "other.safetensors"
    assert run(n=1) == 2
    assert 'model: "tiny.safetensors" there, "other.safetensors" now' in capsys.readouterr().err


def test_more_seeds_go_on_in_the_same_folder(run, webui, tmp_path):
    assert run(n=1) == 0
    webui.jobs.clear()
    assert run("--seeds", "1-2,7") == 0
    assert sorted({job["seed"] for job in webui.jobs}) == [2, 7]
    assert results(tmp_path)["drawn"] == 18


def test_batches_ask_for_consecutive_seeds_together(run, webui, tmp_path):
    assert run("--batch-size", "2", "--seeds", "1-3,9", "--no-cfg") == 0
    asked = [(job["seed"], job["batch_size"]) for job in webui.jobs]
    assert asked == [(1, 2), (3, 1), (9, 1)] * 4
    assert results(tmp_path)["drawn"] == 16


# Behind stable-diffusion-webui-distributed.


def colours(tmp_path, webui, out="out"):
    """The seeds whose picture is not the one that this seed gives."""
    wrong = []
    for path in sorted((tmp_path / out / "pictures").rglob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        job = {
            "prompt": record["prompt"],
            "negative_prompt": record["negative"],
            "cfg_scale": 3 if record["arm"] == "cfg" else 1,
            "width": 32,
            "height": 32,
            "alwayson_scripts": {"NAG": {"args": [{"enabled": record["arm"] == "nag"}]}},
        }
        with Image.open(path.with_suffix(".png")) as picture:
            colour = webui.draw(job, record["seed"]).getpixel((0, 0))
            wrong += [] if picture.getpixel((0, 0)) == colour else [path.name]
    return wrong


@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
@pytest.mark.parametrize("grid", [False, True], ids=["no grid", "grid first"])
@pytest.mark.parametrize("spare", [0, 2], ids=["as asked", "more than asked"])
def test_a_split_batch_is_told_by_seed(run, webui, tmp_path, backwards, grid, spare):
    webui.workers = [Worker(2), Worker(1, "attic"), Worker(1, "cellar")]
    webui.backwards, webui.grid, webui.spare = backwards, grid, spare
    assert run("--batch-size", "4", n=4) == 0
    assert len(webui.jobs) == 6
    assert colours(tmp_path, webui) == []
    workers = results(tmp_path)["drawn_with"]["Worker Label"]
    assert workers == {"": 12, "attic": 6, "cellar": 6}


def test_a_thin_client_whose_pictures_carry_no_text_is_told_by_the_list_of_seeds(run, webui, tmp_path):
    webui.workers = [Worker(1, "attic"), Worker(1, "cellar")]
    webui.text_inside, webui.grid = False, True
    assert run("--batch-size", "2") == 0
    assert colours(tmp_path, webui) == []
    assert results(tmp_path)["nag_reports"] == {REPORT: 4}


def test_a_worker_without_the_extension_is_found_out_and_does_not_count(run, webui, tmp_path, capsys):
    """The text inside its pictures is the main WebUI's and claims NAG."""
    webui.workers = [Worker(1), Worker(1, "attic", has_nag=False)]
    assert run("--batch-size", "2") == 3
    found = results(tmp_path)
    assert [one["picture"] for one in found["flagged"]] == [
        "pictures/nag/00-2.png",
        "pictures/nag/01-2.png",
    ]
    assert found["flagged"][0]["problems"][0].startswith("no NAG report (worker attic)")
    assert found["nag_reports"] == {REPORT: 2, "no report": 2}
    assert (found["arms"]["nag"]["n"], found["arms"]["off"]["n"]) == (2, 4)
    said = capsys.readouterr().out
    assert "NAG was applied to 2 of 4 NAG pictures" in said
    assert "**2 pictures do not count:**" in said
    # With the extension installed there, --again draws those two and no others.
    webui.jobs.clear()
    webui.workers = []
    assert run("--batch-size", "2") == 3
    assert webui.jobs == []
    assert run("--batch-size", "2", "--again") == 0
    assert [(job["seed"], job["batch_size"]) for job in webui.jobs] == [(2, 1), (2, 1)]
    assert colours(tmp_path, webui) == []


def test_a_worker_whose_own_text_was_lost_is_not_believed(run, webui, tmp_path):
    """Where the texts are shifted by one, as the extension's count of a grid can do."""
    webui.workers = [Worker(1), Worker(2, "attic", has_nag=False)]
    webui.shifted_texts = True
    assert run("--batch-size", "3", "--no-cfg", n=3) == 3
    problems = {one["picture"]: one["problems"] for one in results(tmp_path)["flagged"]}
    assert "no NAG report (worker attic)" in problems["pictures/nag/00-2.png"][0]
    assert problems["pictures/nag/00-3.png"][0].startswith("not confirmed")


def test_a_batch_that_comes_back_short_is_asked_for_again(run, webui, tmp_path):
    webui.workers = [Worker(1)]
    assert run("--batch-size", "3", "--no-cfg", n=3) == 0
    asked = [(job["seed"], job["batch_size"]) for job in webui.jobs]
    assert asked == [(1, 3), (2, 2), (3, 1)] * 4
    assert results(tmp_path)["drawn"] == 12


def test_a_worker_that_draws_with_fewer_steps_does_not_count(run, webui, tmp_path):
    webui.workers = [Worker(1), Worker(1, "attic", steps=2)]
    assert run("--batch-size", "2", "--no-cfg") == 3
    (problem,) = results(tmp_path)["flagged"][0]["problems"]
    assert problem == "drawn with Steps 2 instead of 4 (worker attic)"


def test_p3_a_worker_with_other_values_or_another_model_does_not_count(run, webui, tmp_path, capsys):
    """Auto's values, where a preset is not known there; NAG was applied all the same."""
    webui.workers = [Worker(1), Worker(1, "attic", scale=9), Worker(1, "cellar", model="large")]
    assert run("--batch-size", "3", "--no-cfg", n=3) == 3
    problems = {one["picture"]: one["problems"] for one in results(tmp_path)["flagged"]}
    other_model = ["drawn with model large instead of tiny (worker cellar)"]
    assert problems == {
        "pictures/nag/00-2.png": ["drawn with NAG scale 9 instead of 2 (worker attic)"],
        "pictures/nag/01-2.png": ["drawn with NAG scale 9 instead of 2 (worker attic)"],
        **{f"pictures/{arm}/0{pair}-3.png": other_model for arm in ("off", "nag") for pair in (0, 1)},
    }
    assert (results(tmp_path)["arms"]["nag"]["n"], results(tmp_path)["arms"]["off"]["n"]) == (2, 4)
    assert "NAG was applied to 2 of 6 NAG pictures" in capsys.readouterr().out
    # Drawn by machines that agree, they count.
    webui.jobs.clear()
    webui.workers = []
    assert run("--batch-size", "3", "--no-cfg", "--again", n=3) == 0
    assert sorted((job["seed"], job["batch_size"]) for job in webui.jobs) == [(2, 2)] * 2 + [(3, 1)] * 2


def test_p3_where_workers_draw_everything_they_are_held_to_what_most_say(run, webui, tmp_path):
    webui.workers = [Worker(1, "attic", scale=9), Worker(2, "cellar")]
    assert run("--batch-size", "3", "--no-cfg", n=3) == 3
    found = {one["picture"] for one in results(tmp_path)["flagged"]}
    assert found == {"pictures/nag/00-1.png", "pictures/nag/01-1.png"}


# NAG that was not.


@pytest.mark.parametrize(
    "report",
    [
        "not applied: the negative prompt is empty",
        "not applied: a, b",
        "16 layers × 1/4 steps, attention_pytorch, off from call 2 on: out of memory with the negative",
        "7 layers × 4/4 steps, attention_pytorch, OutOfMemoryError in some layers, which ran unguided",
    ],
)
def test_a_nag_that_stood_aside_is_never_counted(run, webui, tmp_path, capsys, report):
    webui.report = report
    assert run() == 3
    found = results(tmp_path)
    assert [one["problems"] for one in found["flagged"]] == [[report]] * 4
    assert found["arms"]["nag"] == {"n": 0, "mean": {}, "difference": {}}
    assert "NAG was applied to 0 of 4 NAG pictures" in capsys.readouterr().out


def test_a_nag_that_was_on_in_an_off_picture_is_said(run, webui, tmp_path, monkeypatch):
    monkeypatch.setattr(
        webui,
        "infotext",
        lambda *args: StandIn.infotext(webui, *args) + ", NAG scale: 2, NAG report: 7 layers",
    )
    assert run("--no-cfg", n=1) == 3
    problems = {one["arm"]: one["problems"][0] for one in results(tmp_path)["flagged"]}
    assert problems == {"off": "NAG was on although it was asked to be off"}


# What can go wrong, one by one.


def said(capsys):
    """The one line of the failure."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines[-1].startswith("nag evaluate: ")
    assert not [line for line in lines if "Traceback" in line]
    return lines[-1]


def test_a_failure_that_passes_is_overcome(run, webui, tmp_path):
    webui.faults = ["500", "not json", "", "broken picture", "other seeds", ""]
    assert run() == 0
    assert colours(tmp_path, webui) == []


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("500", "the WebUI failed on txt2img (500: CUDA out of memory); its own log says more"),
        ("not json", "answered txt2img with something that is not JSON"),
        ("broken picture", "a picture cannot be decoded, 3 times in a row"),
        ("other seeds", "the WebUI drew other seeds than 1 to 1, 3 times in a row"),
        ("422", "the WebUI refused txt2img (422: CUDA out of memory)"),
        ("404", "the WebUI refused txt2img (404: CUDA out of memory)"),
    ],
)
def test_a_failure_that_stays_ends_in_one_line(run, webui, capsys, fault, text):
    webui.faults = [fault] * 3
    assert run() == 1
    assert text in said(capsys)


def test_pictures_of_another_size_end_in_one_line(run, webui, capsys, monkeypatch):
    monkeypatch.setattr(webui, "draw", lambda job, seed, nag: Image.new("RGB", (16, 24)))
    assert run() == 1
    assert "pictures came in 16x24 instead of 32x32" in said(capsys)


def test_pictures_of_another_format_are_kept_as_png(run, webui, tmp_path):
    webui.kind = "JPEG"
    assert run("--no-cfg", n=1) == 0
    with Image.open(tmp_path / "out/pictures/off/00-1.png") as picture:
        assert picture.format == "PNG"


def test_a_wrong_password_says_so_and_the_right_one_works(run, webui, tmp_path, capsys):
    webui.auth = "me:secret"
    assert run() == 1
    assert "refuses the name or password" in said(capsys)
    assert run("--auth", "me:wrong") == 1
    assert run("--auth", "me:secret", n=1) == 0
    for name in files(tmp_path):
        assert b"secret" not in (tmp_path / "out" / name).read_bytes()


def test_a_webui_without_the_extension_is_told_at_once(run, webui, capsys):
    webui.scripts = ["Refiner"]
    assert run() == 1
    assert "has no NAG: install the extension there first" in said(capsys)
    assert webui.jobs == []


def test_an_address_where_nobody_is_ends_in_one_line(tmp_path, capsys):
    given = ["--url", "http://127.0.0.1:9", "--out", str(tmp_path / "out"), *SMALL]
    assert evaluate.main(given) == 1
    assert "the WebUI at http://127.0.0.1:9 does not answer: is it running, with --api?" in said(capsys)
    assert not (tmp_path / "out").exists()


def test_an_address_of_something_else_ends_in_one_line(run, webui, capsys):
    assert run("--url", f"{webui.url}/elsewhere") == 1
    assert "start the WebUI with --api" in said(capsys)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file or directory"),
        (b"", "has no pair"),
        (b"# nothing\n\n", "has no pair"),
        (b"a pet | cat\n | dog\n", "line 2: no prompt before the bar"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
    ],
    ids=["missing", "empty", "comments only", "no prompt", "not text"],
)
def test_a_bad_file_of_prompts_ends_in_one_line(webui, tmp_path, capsys, content, text):
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    given = ["--url", webui.url, "--prompts", str(file), "--out", str(tmp_path / "out"), *SMALL]
    assert evaluate.main(given) == 2
    assert text in said(capsys)
    assert webui.jobs == []


@pytest.mark.parametrize(
    "given",
    [
        "--url ftp://host", "--url http://", "--n 0", "--n x", "--seeds 4-1", "--seeds 1,,2", "--seeds -1",
        "--steps 0", "--width 500.5", "--width 500", "--scale 21", "--scale nan", "--tau 0.5", "--alpha 2",
        "--cfg 0", "--cfg inf", "--auth nobody", "--timeout 0", "--patience -1", "--batch-size 0",
        "--nonsense",
    ],
)  # fmt: skip
def test_a_bad_argument_ends_in_one_line_before_anything_is_asked(tmp_path, capsys, given):
    try:
        code = evaluate.main(["--out", str(tmp_path / "out"), *given.split()])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert len(said(capsys)) < 200
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_in_one_line_and_leaves_whole_files(run, webui, tmp_path, monkeypatch, capsys):
    synced = os.fsync
    count = iter(range(100))

    def full(handle):
        if next(count) == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run() == 1
    error = said(capsys)
    assert "No space left on device; what was written before is whole" in error
    assert not [name for name in files(tmp_path) if name.endswith(".part")]
    assert run() == 0
    assert results(tmp_path)["drawn"] == 12


def test_a_folder_of_something_else_is_left_alone(run, webui, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work", encoding="utf-8")
    assert run() == 2
    assert "is in use for something else" in said(capsys)
    assert files(tmp_path) == {"thesis.txt"}


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_damaged_settings_end_in_one_line(run, tmp_path, capsys, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/settings.json").write_text(text, encoding="utf-8")
    assert evaluate.main(["--score-only", "--out", str(tmp_path / "out")]) == 2
    assert "is damaged" in said(capsys)
    assert run() == 2


def test_scoring_a_folder_without_a_run_ends_in_one_line(tmp_path, capsys):
    assert evaluate.main(["--score-only", "--out", str(tmp_path / "nothing")]) == 2
    assert "holds no run" in said(capsys)


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        # As 0.1 wrote it, the sentence only.
        ('NAG report: "70 layers × 4/4 steps, 12 % of tokens clipped by τ, attention_pytorch"', True),
        ('NAG report: "7 layers × 1/4 steps, sdpa, off from call 2 on: out of memory"', False),
        ("NAG report: not applied: the negative prompt is empty", False),
        ('NAG report: "7 layers × 4/4 steps, sdpa, TypeError in some layers, which ran unguided"', False),
        # Since then in a key of its own, whatever the sentence says.
        ("NAG applied: fully, NAG report: off from call 2 on a holiday", True),
        ("NAG applied: partly (3 of 4 calls), NAG report: 7 layers", False),
        ('NAG applied: "partly (4 of 4 calls, not everywhere)", NAG report: 7 layers', False),
        ("NAG applied: no, NAG report: 7 layers", False),
    ],
)
def test_pictures_of_every_release_say_whether_they_count(said, counts):
    text = f"a circle\nSteps: 4, CFG scale: 1, Seed: 1, NAG scale: 2, {said}"
    assert answer.applied(answer.parameters(text)) is counts
