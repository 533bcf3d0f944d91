"""The sentence users read after a job."""

import torch

from nag_core.method.guidance import Method
from nag_core.method.negative import Negative
from nag_core.passes import report
from nag_core.passes.session import Progress, Session
from nag_core.settings.presets import Strength
from nag_core.settings.schedule import Window

WHOLE = Window()


def session(total=4, window=WHOLE):
    calls = iter(range(100))
    return Session(
        Strength(4, 2.5, 0.5), Method.NAG, window, Negative(()), lambda: Progress(next(calls), total), None,
        "attention_pytorch",
    )  # fmt: skip


def counted(used, layer, tokens, clipped):
    """As an attention layer does it."""
    used.count(layer, tokens)
    used.rule(torch.device("cpu")).counter.add_(clipped)


def test_what_was_applied():
    used = session()
    for _ in range(4):
        used.begin_call()
        for layer in range(70):
            counted(used, layer, 100, 12)
    sentence = used.report().sentence()
    assert sentence == "70 layers × 4/4 steps, 12 % of tokens clipped by τ, attention_pytorch"


def test_the_counters_stay_readable_after_the_pass():
    used = session()
    used.begin_call()
    counted(used, "layer", 4, 1)
    used.close()
    used.close()
    assert used.report().clipped_share == 0.25


def test_why_nothing_was_applied():
    assert report.aside("first pass", "scale φ is 0").sentence() == "not applied: scale φ is 0"


def test_a_pass_interrupted_before_its_window():
    used = session(total=4, window=Window(0.5, 1))
    assert used.begin_call() is None
    assert "no step inside the window" in used.report().sentence()


def test_problems_are_part_of_the_sentence_once():
    used = session()
    used.begin_call()
    used.problem("a batch layout nobody knows")
    used.problem("a batch layout nobody knows")
    assert used.report().sentence() == "not applied: a batch layout nobody knows"


def test_a_flood_of_different_problems_is_held():
    used = session()
    for number in range(50):
        used.problem(f"problem {number}")
    assert len(used.problems) < 10


def test_a_call_counts_as_guided_only_when_a_layer_was():
    used = session()
    for guided in (True, False, True):
        used.begin_call()
        for _ in range(2 * guided):
            counted(used, "layer", 4, 0)
    assert "× 2/3 steps" in used.report().sentence()


def test_a_strength_that_is_not_the_recorded_one_is_said():
    used = session()
    used.begin_call()
    counted(used, "layer", 4, 0)
    assert "φ" not in used.report().sentence(Strength(4, 2.5, 0.5))
    assert "φ 4 τ 2.5 α 0.5" in used.report().sentence(Strength(2, 2.5, 0.5))


def test_a_pass_is_freed_even_when_its_device_has_failed():
    class Broken:
        def cpu(self):
            raise RuntimeError("CUDA error: device-side assert triggered")

    used = session()
    used.counters = {torch.device("cpu"): Broken()}
    used.close()
    assert used.closed
    assert used.report().clipped_share is None


def test_calls_that_never_came_to_nag_are_not_called_calls_outside_of_the_window():
    """Another extension overwrote the single slot of the model function wrapper."""
    used = session()
    used.begin_call()
    used.armed += 1
    assert "another extension took the attention or the model call over" in used.report().sentence()
    counted(used, "layer", 4, 0)
    assert "another extension" not in used.report().sentence()


def test_images_left_out_are_named():
    used = session()
    used.images, used.guided_images = 3, 2
    used.begin_call()
    counted(used, "layer", 4, 0)
    assert "2 of 3 images" in used.report().sentence()


def test_several_passes_are_named():
    reports = [report.aside("first pass", "a"), report.aside("hires pass", "b")]
    assert report.summary(reports) == "first pass: not applied: a; hires pass: not applied: b"


def test_shares_never_read_0_or_100_percent_for_what_is_not():
    for clipped, text in ((0, "0 %"), (1, "under 1 %"), (999, "over 99 %"), (1000, "100 %")):
        used = session()
        used.begin_call()
        counted(used, "layer", 1000, clipped)
        assert f", {text} of tokens" in used.report().sentence()
