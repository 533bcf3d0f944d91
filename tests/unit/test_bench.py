"""The bench compares computations that give the same result, and its numbers are what they say."""

import json

import pytest
import torch

from nag_core.bench import measure, report
from nag_core.bench.published import published_nag
from nag_core.bench.rows import Effort
from tests import reference
from tests.extras import needs_diffusers


def test_the_published_operations_are_the_rule():
    pos, neg = torch.randn(2, 1, 7, 20, dtype=torch.float64)
    wanted, _ = reference.nag(pos, neg, 4.0, 2.5, 0.25)
    assert torch.allclose(published_nag(pos, neg, 4.0, 2.5, 0.25), wanted, rtol=1e-12)


@needs_diffusers
@pytest.mark.parametrize(
    "name",
    ["flux-schnell", "flux-dev", "chroma", "sd35-large", "sana", "pixart", "wan",
     "sana-library", "pixart-library", "wan-library",
     pytest.param("sd15", marks=pytest.mark.slow), pytest.param("sdxl", marks=pytest.mark.slow)],
)  # fmt: skip
def test_ours_gives_what_official_style_gives(name):
    """In the bench both prompts share the pooled vector, so the two rules are one: a variant that is fast
    because it leaves something out would show here.
    """
    from nag_core.bench.__main__ import CASES
    from nag_core.bench.models import QUICK, Place

    torch.manual_seed(0)
    with torch.inference_mode():
        case = CASES[name](Place(torch.device("cpu"), torch.float32, QUICK))
        outs = {variant: step() for variant, step in case.steps().items()}
    found = {variant: (out if isinstance(out, torch.Tensor) else out[0])[:1] for variant, out in outs.items()}
    plain, official = found["baseline"], found["official"]
    effect = (official - plain).norm()
    assert effect > 5e-4 * plain.norm()
    assert torch.equal(found["baseline again"], plain)
    for variant, picture in found.items():
        if variant.startswith(("ours", "first")):
            assert (picture - official).norm() < 1e-3 * effect, variant


def test_overheads_are_paired_by_round():
    """A machine that turns slower in the middle slows both alike."""
    base = [1.0, 1.0, 2.0, 2.0, 2.0]
    found = measure.overhead([1.1, 1.1, 2.2, 2.2, 2.4], base)
    assert found.overhead == pytest.approx(0.1)
    assert found.low <= found.overhead <= found.high <= 0.2


def test_every_variant_takes_every_place_in_the_order():
    order = []
    steps = {name: (lambda name=name: order.append(name)) for name in "abc"}

    def seconds(step):
        step()
        return 1.0

    times = measure.interleaved(steps, seconds, 3, lambda: None)
    assert "".join(order) == "abcbcacab"
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_peak_memory_is_of_tensors_alive_at_the_same_time():
    kept = []

    def step():
        for _ in range(5):
            torch.zeros(1000) + 1
        kept.append(torch.zeros(500) + 1)

    assert measure.peak_bytes(step) == 2 * 4000
    assert measure.peak_bytes(lambda: torch.zeros(1000).view(10, 100).add_(1)) == 4000


def rows(model):
    def row(variant, overhead):
        return {"model": model, "variant": variant, "overhead": overhead, "low": overhead - 0.01,
                "high": overhead + 0.01, "peak_bytes": 2**20 * (1 + (variant == "ours"))}  # fmt: skip

    return [row("baseline", 0.0), row("cfg", 1.0), row("official", 0.87), row("ours", 0.09)]


RESULT = {
    "device": "a GPU",
    "dtype": "bfloat16",
    "torch": "2.13.0",
    "sizes": "true sizes",
    "rounds": "20 rounds",
}


def test_the_table_shows_noise_target_and_paper_beside_ours(tmp_path):
    result = {**RESULT, "rows": rows("flux-schnell") + rows("sd15")}
    table = report.table(json.loads(json.dumps(result)))
    assert (
        "| flux-schnell | -1.0 % to +1.0 % | +100.0 % (+99.0 % to +101.0 %) | +87.0 % (+86.0 % to +88.0 %) "
        "| +9.0 % (+8.0 % to +10.0 %) | +2.2 % | +1.0 MiB | ≤ +11.0 % | +87.0 % |" in table
    )
    on_cpu = report.table({**result, "device": "CPU (x86_64)"})
    assert "target" not in on_cpu, "nothing to compare with at reduced sizes"
    assert report.heading(result) == "a GPU; bfloat16; PyTorch 2.13.0; true sizes; 20 rounds"
    report.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


@needs_diffusers
def test_the_command_writes_what_it_says(tmp_path, monkeypatch, capsys):
    from nag_core.bench import __main__ as bench

    monkeypatch.setitem(bench.EFFORT, "quick", Effort(2, 2, 8.0))
    threads = torch.get_num_threads()
    try:
        assert (
            bench.main(["--quick", "flux-schnell", "--device", "cpu", "--json", str(tmp_path / "b.json")])
            == 0
        )
    finally:
        torch.set_num_threads(threads)
    result = json.loads((tmp_path / "b.json").read_text())
    variants = [row["variant"] for row in result["rows"]]
    assert variants == ["baseline", "cfg", "official", "ours", "ours-no LSE merge"]
    assert all(row["low"] <= row["overhead"] <= row["high"] for row in result["rows"])
    assert "CPU" in result["device"]
    assert "| flux-schnell |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no such model: nonsense"):
        bench.main(["nonsense"])
