"""What the pages say about settings and presets is what the code has, and a test executes each snippet."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

import nag_core
from nag_core.bench import __main__ as bench
from nag_core.bench import report
from nag_core.evaluate import values
from nag_core.passes.report import PassReport
from nag_core.settings import presets
from nag_core.settings.parse import FIELD, FIELDS
from tests.extras import needs_diffusers
from tests.readme import (
    BENCH,
    CORE,
    EVALUATE,
    NAMES,
    PAGES,
    README,
    TRANSLATED,
    WEBUI,
    prose,
    rows,
    run,
    snippet,
    snippets,
)  # fmt: skip

ROOT = Path(__file__).parents[2]
# Which test executes the snippet below a marker, in the order of the pages.
EXECUTED = {
    "run-command": "live/test_readme_commands.py::test_the_run_command_serves_and_the_curl_example_draws",
    "test-command": "live/test_readme_commands.py::test_the_test_command_runs_the_tests",
    "report-example": "unit/test_readme.py::test_the_report_reads_as_shown",
    "api-example": "live/test_readme.py::test_the_api_example_saves_a_guided_picture",
    "xyz-example": "live/test_readme.py::test_the_xyz_example_draws_a_grid",
    "xyz-json-example": "live/test_readme.py::test_the_plain_json_draws_a_grid",
    "library-example": "unit/test_diffusers_pipelines.py::test_the_library_example_draws_and_reports",
    "toy-command": "unit/test_readme.py::test_the_toy_command_is_one",
    "train-command": "unit/test_readme.py::test_the_train_command_makes_what_is_shipped",
    "best-command": "unit/test_readme.py::test_the_best_command_is_one",
    "pooled-command": "unit/test_readme.py::test_the_pooled_command_is_one",
    "evaluate-command": "live/test_evaluate.py::test_the_readme_command_evaluates",
    "bench-command": "unit/test_readme.py::test_the_bench_command_is_one",
    "gpu-check-command": "unit/test_readme.py::test_the_gpu_check_is_one",
    "before-a-commit": "unit/test_readme.py::test_the_commands_before_a_commit_pass",
    "index-entry": "unit/test_readme.py::test_the_entry_of_the_extension_index_is_one",
    "developer-commands": "live/test_readme.py::test_the_developer_commands_pass",
}
ROWS = rows(WEBUI)
LINK = re.compile(r"""(?:\]\(|src(?:set)?=")([^)"\s]+)[)"]""")


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
    keys = WEBUI.split("Keys: ")[1].split("\n\n")[0]
    for field in FIELDS:
        assert f"`{field.name}`" in keys


def test_the_cost_table_is_that_of_the_measured_numbers():
    result = json.loads((ROOT / ".github/assets/bench.json").read_text(encoding="utf-8"))
    assert report.written(BENCH, result) == BENCH
    assert report.in_two_lines(README, result) == README
    assert "CPU" in result["device"] or "no gpu" not in (README + BENCH).lower()


@needs_diffusers
@pytest.mark.parametrize("model", [pytest.param("sdxl", marks=pytest.mark.slow), "flux-schnell"])
def test_the_memory_table_is_counted(model):
    for line in report.memory_table(bench.extra_memory([model])).splitlines():
        assert f"{line}\n" in BENCH


def asked(command, module):
    """What the program's own parser makes of a page's command, which the environment's Python runs."""
    name = module.__name__.removesuffix(".__main__")
    program, arguments = command.strip().split(f" -m {name} ")
    assert program == ".venv/bin/python"
    return module._parser().parse_args(arguments.split())


def test_the_bench_command_is_one():
    """Its arguments as the bench's own parser takes them; test_bench.py runs a smaller one."""
    options = asked(snippet("bench-command"), bench)
    assert (options.json, options.plot, options.quick, options.models) == (
        "bench.json",
        "bench.png",
        False,
        [],
    )


def test_the_gpu_check_is_one():
    """The same; test_gpu_check.py runs it at toy size."""
    options = asked(snippet("gpu-check-command"), bench)
    assert (options.gpu_check, options.json, options.markdown) == (True, "gpu.json", "gpu.md")


@pytest.fixture
def best():
    return pytest.importorskip("nag_core.evaluate.toy.best", reason="belongs to the webui4 extra")


def test_the_best_command_is_one(best):
    options = asked(snippet("best-command"), best)
    assert (str(options.json), str(options.readme)) == (
        ".github/assets/best.json",
        "nag_core/evaluate/README.md",
    )


def test_who_was_ahead_is_what_was_counted(best):
    """The table, the sentences under it, and what the menu says of VSF."""
    result = json.loads((ROOT / ".github/assets/best.json").read_text(encoding="utf-8"))
    assert best.written(EVALUATE, result) == EVALUATE
    vsf = {(r["model"], r["steps"]): r["against_nag"] for r in result["rows"] if r["method"] == "vsf"}
    assert "VSF may be worth a try on UNets" in FIELD["method"].help
    assert all(found["high"] > 0 for (model, _), found in vsf.items() if model == "unet")
    assert "it was no better than NAG" in FIELD["method"].help
    assert all(found["points"] <= 0 for (model, _), found in vsf.items() if model == "mmdit")


def test_the_pooled_command_is_one():
    pooled = pytest.importorskip("nag_core.evaluate.toy.pooled", reason="belongs to the webui4 extra")
    options = asked(snippet("pooled-command"), pooled)
    assert (str(options.json), str(options.readme)) == (
        ".github/assets/pooled.json",
        "nag_core/evaluate/README.md",
    )


def test_what_one_image_stream_costs_is_what_was_counted_with_the_shipped_weights():
    load = pytest.importorskip("nag_core.sandbox.model.load", reason="belongs to the webui4 extra")
    report = importlib.import_module("nag_core.evaluate.toy.pooled_report")
    result = json.loads((ROOT / ".github/assets/pooled.json").read_text(encoding="utf-8"))
    assert report.written(EVALUATE, result) == EVALUATE
    for kind, digest in result["weights"].items():
        path = load.weights_file(kind)
        assert digest == load.sha256(path)
        assert digest in EVALUATE
        assert load.made_by(path) == f"python -m nag_core.sandbox.train --model {kind} --seed 0"
        assert f"`python -m nag_core.sandbox.train --model {kind}`" in EVALUATE or kind == "mmdit"
    assert all(row["applied"] == 1 for row in result["rows"] if row["method"] == "nag")
    apart = f"they differ by {100 * result['models']['mmdit-pooled']['apart']:.0f} % of it"
    assert f"{apart}, and nowhere did the shared rule\ndraw fewer good pictures by more than chance" in CORE
    beside = [row["beside_two_streams"] for row in result["rows"] if row["method"] == "nag"]
    assert all(found["points"] >= 0 or found["p"] > 0.05 for found in beside)


def test_the_toy_command_is_one():
    """Its arguments as the evaluation's own parser takes them; test_evaluate.py runs smaller ones."""
    evaluate = pytest.importorskip("nag_core.evaluate.toy.__main__", reason="belongs to the webui4 extra")
    options = asked(snippet("toy-command"), evaluate)
    assert (options.n, options.seed, options.steps, options.sweeps) == (256, 0, [1, 2, 4, 25], True)


def test_the_train_command_makes_what_is_shipped():
    load = pytest.importorskip("nag_core.sandbox.model.load", reason="belongs to the webui4 extra")
    assert snippet("train-command") == ".venv/bin/python -m nag_core.sandbox.train\n"
    for kind in ("unet", "mmdit"):
        path = load.weights_file(kind)
        assert load.made_by(path) == f"python -m nag_core.sandbox.train --model {kind} --seed 0"
        assert load.sha256(path) in EVALUATE


def test_the_evaluation_table_is_that_of_the_measured_numbers_of_the_shipped_weights():
    load = pytest.importorskip("nag_core.sandbox.model.load", reason="belongs to the webui4 extra")
    evaluation = importlib.import_module("nag_core.evaluate.toy.report")
    assets = ROOT / ".github/assets"
    results = [
        json.loads((assets / name).read_text(encoding="utf-8"))
        for name in ("evaluation.json", "evaluation-unet-seed-1.json")
    ]
    assert evaluation.written(EVALUATE, results) == EVALUATE
    assert (assets / "evaluation.md").read_text(encoding="utf-8") == evaluation.markdown(results[0]) + "\n"
    for kind, digest in results[0]["weights"].items():
        assert digest == load.sha256(load.weights_file(kind))


def test_what_the_evaluation_shows_is_what_was_counted():
    """The sentences about good pictures under the tables."""
    result = json.loads((ROOT / ".github/assets/evaluation.json").read_text(encoding="utf-8"))
    rows = {(r["model"], r["steps"], r["method"]): r for r in result["rows"] if r["sweep"] is None}

    def good(model, steps, *methods):
        return [f"{100 * rows[model, steps, method]['good']:.0f}" for method in methods]

    text = " ".join(EVALUATE.split())
    ways = ("none", "cfg", "nag")
    one = "{} % of the UNet's pictures are good without guidance, {} % with CFG 3 and {} % with NAG".format
    assert one(*good("unet", 1, *ways)) in text
    assert "on the transformer it is {}, {} and {} %".format(*good("mmdit", 1, *ways)) in text
    four = "At four steps it is {}, {} and {} % (UNet), {}, {} and {} % (transformer)".format
    assert four(*good("unet", 4, *ways), *good("mmdit", 4, *ways)) in text
    pairs = [good(model, steps, "no-refinement", "nag") for model in ("unet", "mmdit") for steps in (1, 4)]
    (a, b), (c, d), (e, f), (g, h) = pairs
    assert f"({a} % where NAG has {b} at one step, {c} where it has {d} at four)" in text
    assert f"On the transformer it is the other way round: {e} and {f} %, {g} and {h} %" in text
    for steps in (1, 2, 4):
        bare, nag = (rows["unet", steps, method]["good"] for method in ("no-refinement", "nag"))
        assert bare > nag


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
    assert [marker for marker, _ in snippets(*NAMES)] == list(EXECUTED)


@pytest.mark.parametrize("name", PAGES)
def test_no_code_hides_in_another_kind_of_block(name):
    for line in prose(name).splitlines():
        assert not line.startswith(("    ", "\t")), f"an indented block cannot be marked: {line}"
        assert not line.lstrip(" >").startswith(("```", "~~~", "<pre")), f"not found as a snippet: {line}"


@pytest.mark.parametrize("marker", EXECUTED)
def test_the_test_of_a_snippet_takes_it_from_the_readme(marker):
    file, name = EXECUTED[marker].split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    (function,) = [node for node in tree.body if getattr(node, "name", None) == name]
    assert f"snippet('{marker}')" in [ast.unparse(node) for node in ast.walk(function)]


@pytest.mark.slow
def test_the_commands_before_a_commit_pass():
    """With the Python that runs the tests, and one file of them."""
    commands = snippet("before-a-commit").replace(".venv/bin/python", "python")
    assert "passed" in run(commands, ROOT, PYTEST_ADDOPTS="-p no:cacheprovider tests/unit/test_schedule.py")


def test_the_entry_of_the_extension_index_is_one():
    entry = json.loads(snippet("index-entry"))
    assert list(entry) == ["name", "url", "description", "tags"]
    assert set(entry["tags"]) <= {"script", "tab", "dropdown", "UI related", "prompting", "manipulations"}


def test_the_newest_version_of_the_changelog_is_this_one_with_its_date():
    (newest, *_) = re.findall(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert newest[0] == nag_core.__version__


@pytest.mark.parametrize("form", ["bug.yml", "values.yml"])
def test_the_forms_of_issues_ask_for_what_a_report_needs(form):
    yaml = pytest.importorskip("yaml")
    asked = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / form).read_text(encoding="utf-8"))["body"]
    needed = {one["id"]: one["attributes"] for one in asked if one.get("validations", {}).get("required")}
    assert {"host", "version", "model", "report"} <= set(needed)
    assert "`NAG report`" in needed["report"]["description"]


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_page_in_another_language_has_the_readmes_commands_values_and_links(name):
    page = PAGES[name]
    assert len(page.splitlines()) <= 60
    assert values.written(page) == page
    assert snippets(name)
    assert set(snippets(name)) <= set(snippets("README.md"))
    inside = {reached(name, link) for link in LINK.findall(page) if "://" not in link}
    own = {reached("README.md", link) for link in LINK.findall(README) if "://" not in link}
    assert {target.partition("#")[0] for target in inside} <= {one.partition("#")[0] for one in own} | {
        "README.md"
    }
    assert {link for link in LINK.findall(page) if "://" in link} <= set(LINK.findall(README))


def test_the_report_reads_as_shown():
    report = PassReport(
        "first pass", layers=(("", 70),), guided_calls=4, total_calls=4, clipped_share=0.12,
        attention="attention_pytorch",
    )  # fmt: skip
    assert snippet("report-example") == f"NAG: {report.sentence()}\n"


def test_the_readme_can_be_read_in_a_minute_and_ends_where_the_rest_is():
    assert len(README.splitlines()) <= 160
    linked = {link.partition("#")[0] for link in LINK.findall(README)}
    assert {*NAMES[1:], *TRANSLATED} <= linked


def test_what_the_readme_says_may_seem_wrong_stands_in_the_whole_table():
    few = README.partition("## When something seems wrong\n")[2].partition("\n\n[All")[0]
    found = [line for line in few.splitlines() if line.startswith("| ")]
    assert len(found) == 1 + 6
    assert set(found) <= set(WEBUI.splitlines())


def reached(name, link):
    """Where a link of the page leads, from the root."""
    path, _, anchor = link.partition("#")
    target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
    return target.relative_to(ROOT).as_posix() + (f"#{anchor}" if anchor else "")


def anchors(page):
    """What GitHub calls the page's headings in addresses."""
    names = re.findall(r"^#+ (.+)$", re.sub(r"(?ms)^```.*?^```$", "", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}


@pytest.mark.parametrize("name", PAGES)
def test_links_inside_lead_somewhere(name):
    for link in LINK.findall(prose(name)):
        if "://" in link:
            continue
        target, _, anchor = reached(name, link).partition("#")
        assert (ROOT / target).is_file(), link
        if anchor:
            assert anchor in anchors(PAGES[target]), link


def test_every_picture_of_the_accordion_is_shown():
    shown = {reached(name, link) for name in PAGES for link in LINK.findall(PAGES[name]) if "://" not in link}
    taken = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(".github/assets/accordion-*.png")}
    assert len(taken) == 6 + 6 + 2
    assert taken <= shown


def test_no_page_is_forgotten_here():
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in (".", "nag_core", "tests", ".github/readme")
        for path in (ROOT / folder).glob("*.md" if folder == "." else "**/README*.md")
    }
    assert found == {*PAGES}
