"""Which calls a start/end window picks."""

import pytest

from nag_core.schedule import Window


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
