"""What the README says about settings and presets is what the code has, and a test executes each snippet."""

import ast
import importlib
import json
from pathlib import Path

import pytest

from nag_core.bench import __main__ as bench
from nag_core.bench import report
from nag_core.evaluate import values
from nag_core.passes.report import PassReport
from nag_core.settings import presets
from nag_core.settings.parse import FIELD, FIELDS
from tests.extras import needs_diffusers
from tests.readme import README, prose, snippet, snippets

ROOT = Path(__file__).parents[2]
# Which test executes the snippet below a marker, in the README's order.
EXECUTED = {
    "run-command": "live/test_readme_commands.py::test_the_run_command_serves_and_the_curl_example_draws",
    "test-command": "live/test_readme_commands.py::test_the_test_command_runs_the_tests",
    "report-example": "unit/test_readme.py::test_the_report_reads_as_shown",
    "api-example": "live/test_readme.py::test_the_api_example_saves_a_guided_picture",
    "xyz-example": "live/test_readme.py::test_the_xyz_example_draws_a_grid",
    "xyz-json-example": "live/test_readme.py::test_the_plain_json_draws_a_grid",
    "library-example": "unit/test_diffusers_pipelines.py::test_the_library_example_draws_and_reports",
    "bench-command": "unit/test_readme.py::test_the_bench_command_is_one",
    "gpu-check-command": "unit/test_readme.py::test_the_gpu_check_is_one",
    "toy-command": "unit/test_readme.py::test_the_toy_command_is_one",
    "best-command": "unit/test_readme.py::test_the_best_command_is_one",
    "train-command": "unit/test_readme.py::test_the_train_command_makes_what_is_shipped",
    "evaluate-command": "live/test_evaluate.py::test_the_readme_command_evaluates",
    "developer-commands": "live/test_readme.py::test_the_developer_commands_pass",
}
ROWS = {
    cells[0]: cells[1:]
    for cells in ([cell.strip() for cell in line.strip("| ").split("|")] for line in README.splitlines())
    if len(cells) >= 4
}


@pytest.mark.parametrize(
    "field", [f for f in FIELDS if f.name not in ("enabled", "start", "end")], ids=lambda f: f.name
)
def test_every_setting_stands_in_the_table_with_its_range(field):
    assert field.label in ROWS
    if field.kind == "float":
        assert ROWS[field.label][0] == f"{field.minimum:g}–{field.maximum:g}"


def test_start_and_end_share_a_row():
    assert ROWS["Start, End"][0] == "0–1"


def test_the_preset_values_and_their_sources_are_the_codes():
    assert values.written(README) == README
    for row in presets.COMMUNITY.values():
        assert f"[{row.source}]({row.address})" in README


def test_every_setting_of_the_dict_form_is_named():
    keys = README.split("Keys: ")[1].split("\n\n")[0]
    for field in FIELDS:
        assert f"`{field.name}`" in keys


def test_the_cost_table_is_that_of_the_measured_numbers():
    result = json.loads((ROOT / ".github/assets/bench.json").read_text(encoding="utf-8"))
    assert report.written(README, result) == README
    assert "CPU" in result["device"] or "no gpu" not in README.lower()


@needs_diffusers
@pytest.mark.parametrize("model", [pytest.param("sdxl", marks=pytest.mark.slow), "flux-schnell"])
def test_the_memory_table_is_counted(model):
    for line in report.memory_table(bench.extra_memory([model])).splitlines():
        assert f"{line}\n" in README


def test_the_bench_command_is_one():
    """Its arguments as the bench's own parser takes them; test_bench.py runs a smaller one."""
    program, arguments = snippet("bench-command").strip().split(" -m nag_core.bench ")
    options = bench._parser().parse_args(arguments.split())
    assert program == ".venv/bin/python"
    assert (options.json, options.plot, options.quick, options.models) == (
        "bench.json",
        "bench.png",
        False,
        [],
    )


def test_the_gpu_check_is_one():
    """The same; test_gpu_check.py runs it at toy size."""
    program, arguments = snippet("gpu-check-command").strip().split(" -m nag_core.bench ")
    options = bench._parser().parse_args(arguments.split())
    assert program == ".venv/bin/python"
    assert (options.gpu_check, options.json, options.markdown) == (True, "gpu.json", "gpu.md")


@pytest.fixture
def best():
    return pytest.importorskip("nag_core.evaluate.toy.best", reason="belongs to the webui4 extra")


def test_the_best_command_is_one(best):
    program, arguments = snippet("best-command").strip().split(" -m nag_core.evaluate.toy.best ")
    options = best._parser().parse_args(arguments.split())
    assert program == ".venv/bin/python"
    assert (str(options.json), str(options.readme)) == (".github/assets/best.json", "README.md")


def test_who_was_ahead_is_what_was_counted(best):
    """The table, the sentences under it, and what the menu says of VSF."""
    result = json.loads((ROOT / ".github/assets/best.json").read_text(encoding="utf-8"))
    assert best.written(README, result) == README
    vsf = {(r["model"], r["steps"]): r["against_nag"] for r in result["rows"] if r["method"] == "vsf"}
    assert "VSF may be worth a try on UNets" in FIELD["method"].help
    assert all(found["high"] > 0 for (model, _), found in vsf.items() if model == "unet")
    assert "it was no better than NAG" in FIELD["method"].help
    assert all(found["points"] <= 0 for (model, _), found in vsf.items() if model == "mmdit")


def test_the_toy_command_is_one():
    """Its arguments as the evaluation's own parser takes them; test_evaluate.py runs smaller ones."""
    evaluate = pytest.importorskip("nag_core.evaluate.toy.__main__", reason="belongs to the webui4 extra")
    program, arguments = snippet("toy-command").strip().split(" -m nag_core.evaluate.toy ")
    options = evaluate._parser().parse_args(arguments.split())
    assert program == ".venv/bin/python"
    assert (options.n, options.seed, options.steps, options.sweeps) == (256, 0, [1, 2, 4, 25], True)


def test_the_train_command_makes_what_is_shipped():
    load = pytest.importorskip("nag_core.sandbox.model.load", reason="belongs to the webui4 extra")
    assert snippet("train-command") == ".venv/bin/python -m nag_core.sandbox.train\n"
    for kind in ("unet", "mmdit"):
        path = load.weights_file(kind)
        assert load.made_by(path) == f"python -m nag_core.sandbox.train --model {kind} --seed 0"
        assert load.sha256(path) in README


def test_the_evaluation_table_is_that_of_the_measured_numbers_of_the_shipped_weights():
    load = pytest.importorskip("nag_core.sandbox.model.load", reason="belongs to the webui4 extra")
    evaluation = importlib.import_module("nag_core.evaluate.toy.report")
    assets = ROOT / ".github/assets"
    results = [
        json.loads((assets / name).read_text(encoding="utf-8"))
        for name in ("evaluation.json", "evaluation-unet-seed-1.json")
    ]
    assert evaluation.written(README, results) == README
    assert (assets / "evaluation.md").read_text(encoding="utf-8") == evaluation.markdown(results[0]) + "\n"
    for kind, digest in results[0]["weights"].items():
        assert digest == load.sha256(load.weights_file(kind))


@pytest.mark.parametrize("name", ["evaluation.json", "evaluation-unet-seed-1.json"])
def test_the_measured_numbers_reach_the_goal_on_both_trainings_of_the_unet(name):
    result = json.loads((ROOT / ".github/assets" / name).read_text(encoding="utf-8"))
    found = [row for row in result["rows"] if (row["model"], row["steps"], row["sweep"]) == ("unet", 1, None)]
    none, cfg, nag = (next(row for row in found if row["method"] == way) for way in ("none", "cfg", "nag"))
    assert (cfg["cfg"], nag["phi"], nag["alpha"]) == (3, 4, 0.5)
    assert nag["valid"] >= none["valid"] - 0.15
    assert nag["valid"] >= cfg["valid"] + 0.25
    assert nag["against_none"]["unwanted"]["points"] <= -0.08
    assert nag["against_none"]["unwanted"]["p"] < 0.01


def test_every_block_of_code_has_a_marker_that_a_test_executes():
    assert [marker for marker, _ in snippets()] == list(EXECUTED)


def test_no_code_hides_in_another_kind_of_block():
    for line in prose().splitlines():
        assert not line.startswith(("    ", "\t")), f"an indented block cannot be marked: {line}"
        assert not line.lstrip(" >").startswith(("```", "~~~", "<pre")), f"not found as a snippet: {line}"


@pytest.mark.parametrize("marker", EXECUTED)
def test_the_test_of_a_snippet_takes_it_from_the_readme(marker):
    file, name = EXECUTED[marker].split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    (function,) = [node for node in tree.body if getattr(node, "name", None) == name]
    assert f"snippet('{marker}')" in [ast.unparse(node) for node in ast.walk(function)]


def test_the_report_reads_as_shown():
    report = PassReport(
        "first pass", layers=(("", 70),), guided_calls=4, total_calls=4, clipped_share=0.12,
        attention="attention_pytorch",
    )  # fmt: skip
    assert snippet("report-example") == f"NAG: {report.sentence()}\n"
