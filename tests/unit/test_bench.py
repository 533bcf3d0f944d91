"""The bench compares computations that give the same result, and its numbers are what they say."""

import json

import pytest
import torch

from nag_core.bench import measure, report
from nag_core.bench.published import published_nag
from nag_core.bench.rows import Effort
from tests import reference
from tests.extras import needs_diffusers, often
from tests.readme import BENCH


def test_the_published_operations_are_the_rule():
    pos, neg = torch.randn(2, 1, 7, 20, dtype=torch.float64)
    wanted, _ = reference.nag(pos, neg, 4.0, 2.5, 0.25)
    assert torch.allclose(published_nag(pos, neg, 4.0, 2.5, 0.25), wanted, rtol=1e-12)


def case_of(name, size="quick"):
    from nag_core.bench.__main__ import CASES
    from nag_core.bench.models import Place

    torch.manual_seed(0)
    with torch.inference_mode():
        return CASES[name](Place(torch.device("cpu"), torch.float32, size))


def pictures(case):
    """Of the first row, by variant."""
    with torch.inference_mode():
        outs = {variant: step() for variant, step in case.steps().items()}
    return {variant: (out if isinstance(out, torch.Tensor) else out[0])[:1] for variant, out in outs.items()}


@needs_diffusers
@pytest.mark.parametrize(
    "name",
    often(
        ["flux-schnell", "flux-dev", "chroma", "sd35-large", "sana", "pixart", "wan",
         "sana-library", "pixart-library", "wan-library", "sd15", "sdxl", "sdxl-library"],
        "flux-schnell", "wan", "pixart-library",
    ),
)  # fmt: skip
def test_ours_gives_what_official_style_gives(name):
    """In the bench both prompts share the pooled vector, so the two rules are one: a variant that is fast
    because it leaves something out would show here.
    """
    found = pictures(case_of(name))
    plain, official = found["baseline"], found["official"]
    effect = (official - plain).norm()
    assert effect > 5e-4 * plain.norm()
    assert torch.equal(found["baseline again"], plain)
    for variant, picture in found.items():
        if variant.startswith(("ours", "first")):
            assert (picture - official).norm() < 1e-3 * effect, variant


@needs_diffusers
@pytest.mark.parametrize(
    "name", often(["flux-schnell-library", "sd35-large-library"], "flux-schnell-library")
)
def test_ours_through_the_hooks_of_a_joint_model_steers_away_from_the_negative_alone(name):
    """There is no official-style variant to compare with: away from the prompt itself it goes nowhere."""
    case = case_of(name)
    found = pictures(case)
    effect = (found["ours"] - found["baseline"]).norm()
    assert effect > 5e-4 * found["baseline"].norm()
    assert torch.equal(found["first"], found["ours"])
    case.texts = case.texts[:1].repeat(2, 1, 1)
    same = pictures(case)
    assert (same["ours"] - found["baseline"]).norm() < 5e-3 * effect


@pytest.mark.parametrize("name", ["wan", "pixart", "sana"])
def test_official_style_embeds_both_texts_in_every_step(name):
    """As the published code does; embedding them once made it too cheap on Wan."""
    case, rows = case_of(name, "toy"), []
    network = case.network.network
    network.text_in.register_forward_pre_hook(lambda _module, given: rows.append(len(given[0])))
    with torch.inference_mode():
        steps = case.steps()
        rows.clear()
        for variant in ("official", "baseline", "ours"):
            steps[variant]()
    assert rows == [2, 1, 1]


def timed(costs, noise, least=3, most=20):
    """Rounds that are taken where ours costs one of `costs` in turn, and the second baseline of `noise`."""
    from nag_core.bench import rows

    clocks = {"baseline": [1.0], "baseline again": noise, "ours": costs}
    turns = dict.fromkeys(clocks, 0)

    def seconds(name):
        turns[name] += 1
        return clocks[name][turns[name] % len(clocks[name])]

    times = rows._timed({name: name for name in clocks}, seconds, Effort(least, most, 1000.0), rows.silent)
    assert len({len(one) for one in times.values()}) == 1
    return len(times["ours"])


def test_rounds_go_on_until_the_ranges_are_narrower_than_the_effect():
    assert timed([1.5], [1.0]) == 3, "a large effect on a quiet machine is known after the least rounds"
    assert timed([1.01], [1.0]) == 3
    assert timed([1.0, 1.02], [1.0]) == 20, "its own range is as wide as it is"
    assert timed([1.02], [0.9, 1.0, 1.1]) == 20, "the machine's noise is wider"
    assert 3 < timed([1.2, 1.0, 1.5, *[1.2] * 20], [1.0]) < 20, "known after some rounds more"


def test_a_model_whose_noise_hides_the_effect_is_named():
    quiet, noisy = rows("flux-schnell"), rows("sd15")
    noisy[0]["high"] = 0.1
    assert report.doubts({"rows": quiet}) == ""
    assert report.doubts({"rows": quiet + noisy}).startswith(
        "Noise (A/A) is as large as what ours costs for sd15: "
    )
    readme = "text\n<!-- bench -->\nold\n<!-- /bench -->\nmore\n"
    for made, named in ((quiet, False), (quiet + noisy, True)):
        written = report.written(readme, {**RESULT, "rows": made})
        assert ("Noise (A/A) is" in written) == named
        assert written.endswith("<!-- /bench -->\nmore\n")


def test_what_it_comes_to_is_said_in_two_lines():
    result = {**RESULT, "rows": rows("sd15") + rows("flux-schnell-library")}
    ours = next(row for row in result["rows"] if row["variant"] == "ours")
    ours["overhead"] = -0.01
    made = report.in_two_lines("<!-- cost -->\n<!-- /cost -->\n", result)
    assert "-1.0 % (sd15) to -1.0 % (sd15); CFG in its place +100.0 % to +100.0 %.\n" in made
    assert ("no GPU has run it yet" in made) == RESULT["device"].startswith("CPU")


def test_a_model_without_official_style_has_an_empty_cell_and_no_bar(tmp_path):
    made = [row for row in rows("flux-schnell-library") if row["variant"] != "official"]
    result = {**RESULT, "rows": made + rows("sd15")}
    assert "| +100.0 % (+99.0 % to +101.0 %) |  | +9.0 % (+8.0 % to +10.0 %) |" in report.table(result)
    report.plot(result, tmp_path / "plot.png")


@pytest.mark.slow
def test_what_is_counted_at_true_size():
    """SD1.5's 16 layers: with a fused kernel each makes one launch and an attention more, and two projections
    less; without, 13 launches beyond that. A kernel moves 6 bytes of each element, the operations 44.
    """
    from nag_core.bench import counts
    from nag_core.bench.models import CASES

    found = counts.counted(CASES["sd15"])
    unguided, fused, apart = (found[name] for name in ("baseline", "ours, fused", "ours, not fused"))
    assert fused.launches == unguided.launches
    assert apart.launches - fused.launches == 16 * 13
    elements = 5 * (4096 * 320 + 1024 * 640 + 256 * 1280) + 64 * 1280
    assert apart.bytes - fused.bytes == pytest.approx(38 * elements, rel=0.01)
    assert found["official"].launches > apart.launches
    assert found["official"].bytes > apart.bytes
    assert "| sd15 | 654 | 910 | 654 | 862 | 4.1 GB | +0.7 GB | +0.1 GB | +0.5 GB |" in report.counts_table(
        {"sd15": found}
    )


@pytest.mark.parametrize(
    "name",
    often(
        ["sd15", "sdxl", "flux-schnell", "flux-dev", "chroma", "sd35-large", "sana", "pixart", "wan"], "sana"
    ),
)
def test_the_counts_of_the_page_are_counted(name):
    from nag_core.bench import counts
    from nag_core.bench.models import CASES

    for line in report.counts_table({name: counts.counted(CASES[name])}).splitlines():
        assert f"{line}\n" in BENCH


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


@pytest.mark.slow
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
