"""Which calls a start/end window picks, and how strong each of them is."""

import pytest

from nag_core.method.guidance import Method
from nag_core.passes.plan import Plan, Progress
from nag_core.settings.presets import Strength
from nag_core.settings.schedule import Curve, Window, parse_curve

WHOLE = Window()


def sampled(text, total, phi=4.0, window=WHOLE):
    plan = Plan(
        strength=Strength(phi, 2.5, 0.5), method=Method.NAG, progress=Progress, window=window,
        curve=parse_curve(text),
    )  # fmt: skip
    return [plan.phi(Progress(call, total)) for call in range(total)]


@pytest.mark.parametrize(
    ("start", "end", "total", "calls"),
    [
        (0, 1, 4, [0, 1, 2, 3]),
        (0, 0.25, 4, [0]),
        (0, 0.25, 8, [0, 1]),
        (0.5, 1, 5, [3, 4]),
        (0.1, 0.2, 30, [3, 4, 5]),
        (0.3, 0.35, 4, [1]),
        (0.9, 1, 1, [0]),
        (0.99, 1.0, 4, [3]),
        (0, 0.01, 4, [0]),
    ],
)
def test_calls(start, end, total, calls):
    assert list(Window(start, end).calls(total)) == calls


@pytest.mark.parametrize("total", [1, 2, 3, 7, 30, 101])
def test_any_window_that_is_not_empty_acts_on_at_least_one_call(total):
    steps = [i / 20 for i in range(21)]
    for start in steps:
        for end in steps:
            calls = Window(start, end).calls(total)
            assert (len(calls) > 0) == (end > start)
            assert all(0 <= call < total for call in calls)


def test_adjacent_windows_share_no_call_and_leave_none_out():
    for total in (3, 8, 25, 60):
        first, second = Window(0, 0.5).calls(total), Window(0.5, 1).calls(total)
        assert [*first, *second] == list(range(total))


def test_samplers_that_run_past_the_total_count_as_the_last_call():
    assert Window(0.5, 1).active(9, 4)
    assert not Window(0, 0.5).active(9, 4)


def test_an_empty_window_never_acts():
    assert Window(0.5, 0.5).empty
    assert not any(Window(0.7, 0.2).active(call, 10) for call in range(10))


@pytest.mark.parametrize("text", ["", "constant", " Constant "])
def test_a_constant_curve_is_the_scale_in_every_call(text):
    assert sampled(text, 5) == [4.0] * 5
    assert parse_curve(text) == Curve()


def test_the_falls_go_from_the_scale_towards_zero():
    assert sampled("linear", 4) == [4, 3, 2, 1]
    assert sampled("cosine", 4) == pytest.approx([4, 2 + 2**0.5, 2, 2 - 2**0.5])


@pytest.mark.parametrize("text", ["linear", "cosine"])
def test_a_fall_takes_place_within_start_and_end(text):
    """One call of it is the whole scale, and no call inside is wasted on a scale of 0."""
    inside = sampled(text, 12, window=Window(0.25, 0.75))
    assert inside == [0] * 3 + sampled(text, 6) + [0] * 3
    assert sampled(text, 4, window=Window(0, 0.25)) == [4, 0, 0, 0]


@pytest.mark.parametrize("text", ["0:4, 0.5:2, 1:0", "0:4 0.5:2;1:0", "1:0,0.5:2,0:4"])
def test_points_are_joined_by_straight_lines_and_take_the_place_of_the_scale(text):
    assert sampled(text, 8, phi=99) == [4, 3.5, 3, 2.5, 2, 1.5, 1, 0.5]


def test_the_first_and_the_last_point_hold_to_the_ends():
    assert sampled("0.5:2, 0.75:1", 8) == [2, 2, 2, 2, 2, 1.5, 1, 1]


def test_of_two_points_at_one_place_the_later_counts_from_there_on():
    assert sampled("0:4 0.3:4 0.3:0", 10) == [4, 4, 4, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("total", [1, 4, 10, 30, 101])
@pytest.mark.parametrize("end", [0.1, 0.25, 0.3, 0.5, 0.7])
def test_a_curve_that_drops_to_zero_equals_that_end(end, total):
    dropped = sampled(f"0:4 {end}:4 {end}:0", total)
    inside = [call for call, phi in enumerate(dropped) if phi]
    # A window keeps at least one call, a curve says exactly what it says.
    assert inside == list(Window(0, end).calls(total))
    assert all(phi in (0, 4) for phi in dropped)


def test_samplers_that_run_past_the_total_keep_the_last_calls_strength():
    assert parse_curve("linear").at(9, 4, WHOLE) == 0.25


def test_points_compose_with_start_and_end():
    assert sampled("0:4, 1:0", 4, window=Window(0.25, 0.75)) == [0, 3, 2, 0]


@pytest.mark.parametrize(
    "text",
    [
        "square",
        "0:4, x",
        "0.5",
        "0:4:2",
        ":",
        "0:nan",
        "0:inf",
        "2:1",
        "-0.1:1",
        "0:21",
        "0:-1",
        ",",
        "0:1 " * 65,
    ],
)
def test_what_is_no_curve_is_refused_with_what_is_allowed(text):
    with pytest.raises(ValueError, match="allowed are constant|places are 0 to 1"):
        parse_curve(text)


def test_a_curve_of_zeros_is_known_to_be_one():
    assert parse_curve("0:0, 1:0").zero
    assert not parse_curve("linear").zero
