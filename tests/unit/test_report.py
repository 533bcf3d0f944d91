"""The sentence users read after a job."""

import pytest
import torch

from nag_core.method.negative import Counts
from nag_core.passes import report
from nag_core.passes.plan import Progress
from nag_core.settings.presets import Strength
from nag_core.settings.schedule import Window, parse_curve
from tests import sessions
from tests.sessions import replan

WHOLE = Window()


def session(total=4, window=WHOLE):
    calls = iter(range(100))
    progress = lambda: Progress(next(calls), total)  # noqa: E731
    return sessions.made((4, 2.5, 0.5), window=window, progress=progress, attention_name="attention_pytorch")


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


def test_a_strength_of_0_in_the_only_step_of_the_window_is_the_reason():
    used = session(window=Window(0, 0.25))
    replan(used, curve=parse_curve("0:0, 1:4"))
    for _ in range(4):
        assert used.begin_call() is None
    reason = "the strength over the steps is 0 in every step of the window"
    assert used.report().sentence() == f"not applied: {reason}"


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
    used.counts = Counts(3, 2)
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


def run_through(used, guided=4, layers=70):
    """The four calls of a pass, of which NAG comes to the first `guided`."""
    for call in range(4):
        if used.begin_call() is not None and call < guided:
            for layer in range(layers):
                counted(used, layer, 100, 12)
    return used.report()


def test_a_pass_guided_wherever_it_was_asked_for_is_complete():
    for window in (Window(), Window(0.0, 0.5)):
        made = run_through(session(window=window))
        assert (made.guided_calls, made.due_calls) == (len(window.calls(4)),) * 2
        assert made.complete
        aside = report.aside("hires pass", "hires is set to First pass", due=False)
        assert report.verdict([made, aside]) == "fully"


def test_a_stop_after_guided_calls_is_a_part():
    used = session()
    used.begin_call()
    counted(used, "layer", 100, 12)
    used.off("no room")
    made = run_through(used)
    assert report.verdict([made]) == "partly (1 of 5 calls)"
    assert "off from call 1 on: no room" in made.sentence()


def test_a_layer_or_an_image_left_out_is_a_part_and_a_remark_is_not():
    used = session()
    used.problem("the flash kernel refused these shapes", partly=False)
    assert run_through(used).complete
    used = session()
    used.problem("the mask does not fit some layers")
    assert report.verdict([run_through(used)]) == "partly (4 of 4 calls, not everywhere)"
    used = session()
    used.counts = Counts(3, 2, alike=1)
    assert not run_through(used).complete
    used.counts = Counts(3, 2)  # the third one's negative is empty: nothing was asked for it
    assert used.report().complete


def test_a_pass_that_stood_aside_makes_a_part_of_a_job_and_alone_none():
    aside = report.aside("hires pass", "this model has no attention")
    assert report.verdict([run_through(session()), aside]).startswith("partly")
    assert report.verdict([aside]) == "no"
    assert report.verdict([run_through(session(), guided=0)]) == "no"


def test_calls_in_which_no_image_has_a_negative_are_not_owed():
    used = session()
    for call in range(4):
        used.begin_call()
        if used.batch((None,) if call < 2 else (object(),)) is not None:
            counted(used, "layer", 100, 12)
    made = used.report()
    assert (made.guided_calls, made.due_calls, made.complete) == (2, 2, True)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([("", 70)], "70 layers"),
        ([("", 1)], "1 layer"),
        ([("joint", 1)], "1 joint block"),
        ([("double", 1), ("single", 38)], "1 double + 38 single blocks"),
        ([("double", 19), ("single", 1)], "19 double + 1 single block"),
        ([("", 2), ("joint", 3)], "2 layers + 3 joint blocks"),
    ],
)
def test_layers_and_blocks_are_counted_in_words(layers, said):
    done = report.PassReport("", layers=tuple(layers), guided_calls=4, total_calls=4)
    assert done.sentence().startswith(f"{said} × 4/4 steps")
