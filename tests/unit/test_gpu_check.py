"""The check that waits for a GPU: here every part runs at toy size, and its judgements are seen to judge."""

import json
import re

import pytest
import torch

from nag_core.bench.check import attention, command, costs, graph, kernels, own_tests, steps
from nag_core.bench.check.part import Found
from nag_core.bench.models import CASES, TOY, Place
from nag_core.method import lean, lse_kernels
from tests import reference

PLACE = Place(torch.device("cpu"), torch.float32, TOY)
# Cut there by default; every other part takes seconds more.
AT_ENDS = ("machine", "sdxl", "tests")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def files(tmp_path):
    return tmp_path / "check.json", tmp_path / "check.md"


def read(files):
    return json.loads(files[0].read_text()), files[1].read_text()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the command itself is the check")
def test_every_part_runs_at_toy_size_and_says_that_nothing_is_proven(files, capsys):
    assert command.run(None, *map(str, files)) == 0
    result, text = read(files)
    assert list(result["parts"]) == list(command.PARTS)
    assert not any(part["wrong"] for part in result["parts"].values())
    assert result["proven"] is False
    assert "it proves nothing about a GPU" in text
    assert text == capsys.readouterr().out.rstrip("\n") + "\n"
    for name in ("sdxl", "flux-schnell", "flux-dev", "sd35-large", "sd15", "sana", "pixart", "wan"):
        part = result["parts"][name]
        variants = {row["variant"] for row in part["rows"]}
        assert {"baseline", "cfg", "official", "ours"} <= variants
        assert "A loop of four steps at End 0.25: " in part["text"]

    for name in costs.MODELS:
        rows = [row for row in result["parts"]["costs"]["rows"] if row["model"] == name]
        counts = {row["variant"]: row["launches"] for row in rows}
        assert counts["cfg"] == counts["baseline"] < counts["official"]
        assert counts["baseline"] < counts["ours"]


def stubs(monkeypatch, raising=None, error=KeyboardInterrupt):
    def part(name):
        def found(_place):
            if name == raising:
                raise error("no more")
            return Found({"number": 7}, f"the text of {name}")

        return found

    made = {name: part(name) for name in command.PARTS}
    monkeypatch.setattr(command, "PARTS", made)


@pytest.mark.parametrize(
    "cut",
    [pytest.param(name, marks=() if name in AT_ENDS else pytest.mark.slow) for name in command.PARTS],
)
def test_a_cut_in_any_part_leaves_those_before_it(files, monkeypatch, cut):
    stubs(monkeypatch, cut)
    with pytest.raises(KeyboardInterrupt):
        command.run(None, *map(str, files))
    before = list(command.PARTS)[: list(command.PARTS).index(cut)]
    if not before:
        assert not files[0].exists()
        return
    result, text = read(files)
    assert list(result["parts"]) == before
    assert all(f"the text of {name}" in text for name in before)


def test_a_part_that_fails_is_said_and_does_not_stop_the_others(files, monkeypatch, capsys):
    stubs(monkeypatch, "merge", RuntimeError)
    assert command.run(None, *map(str, files)) == 1
    result, text = read(files)
    assert list(result["parts"]) == list(command.PARTS)
    assert "**Wrong:** merge: RuntimeError: no more" in text
    assert "Traceback" in result["parts"]["merge"]["error"]
    assert re.search(r"merge: \d+ s; WRONG: RuntimeError: no more", capsys.readouterr().err)


def test_only_what_was_asked_for_and_nothing_after_the_time_is_up(files, monkeypatch):
    stubs(monkeypatch)
    command.run(["machine", "sana"], *map(str, files))
    assert list(read(files)[0]["parts"]) == ["machine", "sana"]
    monkeypatch.setattr(command, "BUDGET", -1.0)
    assert command.run(None, *map(str, files)) == 0
    assert {part["text"] for part in read(files)[0]["parts"].values()} == {"Left out: no time was left."}


def test_a_device_that_failed_ends_this_process_work_and_not_the_tests(files, monkeypatch):
    stubs(monkeypatch)
    answers = iter([True, False])
    monkeypatch.setattr(command, "_usable", lambda _place: next(answers, False))
    assert command.run(None, *map(str, files)) == 1
    parts = read(files)[0]["parts"]
    assert parts["kernels"]["wrong"] == ["the device failed"]
    said = {name: part["text"] for name, part in parts.items()}
    assert said["machine"] == "the text of machine"
    assert said["tests"] == "the text of tests"
    left_out = [name for name in parts if "the device failed in kernels" in said[name]]
    assert left_out == [name for name in list(command.PARTS)[2:] if name != "tests"]


def test_what_the_tests_said_before_their_time_was_up_is_kept(monkeypatch):
    monkeypatch.setattr(own_tests, "SECONDS", 0.2)
    found = own_tests.found(PLACE)
    assert found.wrong == ["pytest took more than 0.2 s"]


def test_why_a_step_cannot_be_captured_is_said():
    def step():
        return torch.ones(1)

    if torch.cuda.is_available():
        pytest.skip("there is a GPU: it would be captured")
    kept, why = graph.captured(step)
    assert kept is step
    assert why


def test_a_variant_that_computes_something_else_is_wrong():
    class Case:
        def steps(self):
            right = torch.ones(2, 3)
            return {
                "official": lambda: right, "ours": lambda: (right,), "cfg": lambda: right / 0,
                "ours-no fused kernels": lambda: right * 1.1, "first": lambda: right * 0,
            }  # fmt: skip

    assert steps._agreement(Case()) == [
        "cfg is not finite", "ours-no fused kernels is 1.0e-01 off", "first is 1.0e+00 off",
    ]  # fmt: skip


def test_what_is_said_of_a_gpus_steps(monkeypatch):
    """The parts of the report that need one, with a graph and a clock that stand in."""
    monkeypatch.setattr(steps, "captured", lambda step: (step, ""))
    monkeypatch.setattr(steps.measure, "enqueued", lambda _step: 1e3)
    case = CASES["flux-schnell"](PLACE)
    made, refused = steps._as_graphs("flux-schnell", case, PLACE.device, steps.AT_TOY_SIZE)
    assert refused == {}
    variants = [row["variant"] for row in made]
    assert variants == ["baseline", "cfg", "official", "ours", "ours-no LSE merge"]
    text = steps._overheads(made)
    assert "| noise (A/A) | " in text
    assert "| ours-no LSE merge | " in text
    assert steps._ordered_text(steps._ordered(case), made).endswith(f": {', '.join(variants)}.")
    assert steps._ordered_text(dict.fromkeys(variants, 0.0), made) == ""
    assert steps._depth("flux-schnell").startswith("4 + 8 of 19 + 38 blocks")
    for overhead, said in ((0.05, "met."), (0.5, "**missed**.")):
        for row in made:
            row.update(overhead=overhead, low=0.0, high=0.0)
        assert steps._target("flux-schnell", made) == f"Target ≤ 11 %: {said}"
    monkeypatch.setattr(steps, "captured", lambda step: (step, "no"))
    made, refused = steps._as_graphs("flux-schnell", case, PLACE.device, steps.AT_TOY_SIZE)
    assert made == []
    assert set(refused.values()) == {"no"}


@pytest.mark.parametrize("dtype", kernels.DTYPES, ids=str)
def test_the_yardstick_is_the_reference(dtype):
    pos, neg = torch.randn(2, 1, 9, 40, generator=torch.Generator().manual_seed(3)).to(dtype)
    wanted, clipped = reference.nag(pos, neg, 4.0, 2.5, 0.5)
    found, count = kernels.exact(pos, neg, 4.0, 2.5, 0.5)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert count == clipped


@pytest.mark.slow
def test_every_implementation_is_beside_the_rule_as_it_is_written(monkeypatch):
    triton = pytest.importorskip("nag_core.method.triton_kernels", reason="Triton is not installed")
    monkeypatch.setattr(kernels, "modules", lambda *_: {"Triton": triton, "few": lean, "none": "not here"})
    # Triton's interpreter takes a minute and a half for the shapes of the check itself.
    monkeypatch.setattr(kernels, "SHAPES", {"SDXL": ((4096, 640), (6, 40))})
    monkeypatch.setattr(kernels, "JOINT", {"SD3.5-L": ((38, 64, 333, 4096), (3, 16, 3, 5))})
    made, merged = kernels.found(PLACE), kernels.merged(PLACE)
    assert made.wrong == merged.wrong == []
    assert {row["path"] for row in made.data["rows"]} == {"as written", "Triton", "few"}
    assert {row["path"] for row in merged.data["rows"]} == {"Triton", "few"}
    assert "| few | " in made.text


def test_an_implementation_that_should_be_there_and_is_not_is_wrong(monkeypatch):
    assert kernels.missing(PLACE) == [], "on a CPU there are no fused kernels to miss"
    found = {"Triton": "not here: No module", "CUDA": "RuntimeError: NVRTC", "PyTorch operations": lean}
    monkeypatch.setattr(kernels, "modules", lambda *_: found)
    monkeypatch.setattr(kernels, "DTYPES", (torch.float16,))
    wrong = "not here: No module; RuntimeError: NVRTC"
    assert kernels.missing(PLACE) == [
        "CUDA, float16: RuntimeError: NVRTC", f"no fused kernels for float16: {wrong}"
    ]  # fmt: skip
    found["CUDA"] = lean
    assert kernels.missing(PLACE) == []


def test_what_raises_at_a_shape_is_said_in_its_row(monkeypatch):
    class Raising:
        def guide(self, *_):
            raise RuntimeError("out of resources\nmore")

        merge_and_guide = guide

    monkeypatch.setattr(kernels, "modules", lambda *_: {"kernels": Raising()})
    for part in (kernels.found(PLACE), kernels.merged(PLACE)):
        rows = [row for row in part.data["rows"] if row["path"] == "kernels"]
        assert {row["wrong"] for row in rows} == {"RuntimeError: out of resources"}
        assert len(part.wrong) == len(rows)


class Wrong:
    """Kernels that give another result; `off` is how far it is off."""

    def __init__(self, off):
        self.off = off

    def guide(self, pos, neg, strength, method, counter, out=None):
        made, clipped = kernels.exact(pos, neg, *strength)
        counter += clipped
        return (made * self.off).to(pos.dtype)

    def merge_and_guide(self, image, pos, neg, out, *_):
        out.fill_(self.off)


@pytest.mark.parametrize("off", [0.9, float("nan")])
def test_a_kernel_that_gives_other_numbers_is_wrong_everywhere(monkeypatch, off):
    monkeypatch.setattr(kernels, "modules", lambda *_: {"kernels": Wrong(off)})
    for part in (kernels.found(PLACE), kernels.merged(PLACE)):
        assert len(part.wrong) == len([row for row in part.data["rows"] if row["path"] == "kernels"])
    monkeypatch.setattr(kernels, "modules", lambda *_: {"kernels": Wrong(1.0)})
    assert kernels.found(PLACE).wrong == []


def test_a_miscounted_token_is_wrong(monkeypatch):
    class Miscounting(Wrong):
        def guide(self, *args):
            args[-1].add_(5)
            return super().guide(*args)

    monkeypatch.setattr(kernels, "modules", lambda *_: {"kernels": Miscounting(1.0)})
    assert all("tokens clipped" in one for one in kernels.found(PLACE).wrong)
    assert len(kernels.found(PLACE).wrong) == len(kernels.SHAPES) * len(kernels.DTYPES) * 2


def test_an_attention_kernel_that_is_taken_and_fails_is_wrong(monkeypatch):
    good = attention.found(PLACE)
    assert good.wrong == []
    assert all(row["taken"] and row["error"] < 1e-4 for row in good.data["rows"])

    def too_large(q, k, v):
        return lse_kernels.FLASH_CPU.run(q, k, 1.1 * v)

    broken = lse_kernels.Kernel("broken", too_large)
    monkeypatch.setattr(attention, "FLASH_CPU", broken)
    monkeypatch.setattr(attention, "lse_kernel", lambda _q: broken)
    found = attention.found(PLACE)
    assert len(found.wrong) == len(attention.SHAPES)
    assert all("broken is taken and failed (error 1.0e-01)" in one for one in found.wrong)
    monkeypatch.setattr(attention, "lse_kernel", lambda _q: None)
    assert all("no kernel with a log-sum-exp works" in one for one in attention.found(PLACE).wrong)
