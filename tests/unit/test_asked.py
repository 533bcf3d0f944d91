"""A host's functions are asked what they take, behind whatever stands in front of them."""

import functools

import pytest

from nag_core.hosts import asked
from nag_core.hosts.unsupported import UnsupportedHost


def three(prompts, base_steps, hires_steps=None):
    return "three", prompts, base_steps, hires_steps


def four(prompts, base_steps, hires_steps=None, use_old_scheduling=False):
    return "four", prompts, base_steps, hires_steps, use_old_scheduling


def bare(function):
    """As extensions put it in front: without functools.wraps."""

    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def polite(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("wrapped", [lambda f: f, bare, polite, lambda f: bare(polite(bare(f)))])
@pytest.mark.parametrize("function", [three, four])
def test_what_only_some_hosts_take_is_passed_only_there(function, wrapped):
    found = asked.call(wrapped(function), ["a"], 4, hires_steps=2, where_taken={"use_old_scheduling": True})
    assert found == (("three", ["a"], 4, 2) if function is three else ("four", ["a"], 4, 2, True))


def test_a_parameter_that_is_gone_is_one_readable_sentence_and_nothing_is_called():
    def shorter(prompts):
        raise AssertionError("called")

    with pytest.raises(asked.HostChanged, match=r"another shorter\(\) than NAG knows \(too many positional"):
        asked.call(shorter, ["a"], 4)
    assert issubclass(asked.HostChanged, UnsupportedHost), "which a job reports as its reason to stand aside"


def test_a_parameter_that_is_new_and_needed_is_said_too():
    with pytest.raises(asked.HostChanged, match="missing a required argument: 'base_steps'"):
        asked.call(three, ["a"])


def test_an_attribute_that_is_gone_names_its_owner():
    with pytest.raises(asked.HostChanged, match=r"has no Host\.encode, which NAG needs"):
        asked.attribute(type("Host", (), {})(), "encode")


def test_an_error_of_the_host_itself_stays_what_it_is():
    def failing(prompts):
        raise TypeError("the host's own")

    with pytest.raises(TypeError, match="the host's own"):
        asked.call(failing, ["a"])


class Job:
    def caching(self, function, prompts, steps):
        return self, function, prompts, steps


def test_a_method_behind_a_wrapper_on_its_class_is_asked_without_its_instance(monkeypatch):
    inner = Job.caching

    def caching(*args, **kwargs):
        return inner(*args, **kwargs)

    monkeypatch.setattr(Job, "caching", caching)
    job = Job()
    assert asked.call(job.caching, 1, 2, 3, where_taken={"more": 0}) == (job, 1, 2, 3)
    with pytest.raises(asked.HostChanged):
        asked.call(job.caching, 1, 2, 3, 4)


def test_a_guess_at_what_a_wrapper_calls_refuses_nothing():
    """An extension's wrapper may close over a helper, and call what it wraps by other ways."""
    store = {"the one": four}

    def install(log):
        def wrapper(*args, **kwargs):
            log("called")
            return store["the one"](*args, **kwargs)

        return wrapper

    def helper(word):
        said.append(word)

    said = []
    found = asked.call(install(helper), ["a"], 4, where_taken={"use_old_scheduling": True})
    assert found == ("four", ["a"], 4, None, False)
    assert said == ["called"]


def test_a_wrapper_over_the_function_of_its_own_name_is_refused_as_that_is():
    def over(inner):
        def three(*args, **kwargs):
            return inner(*args, **kwargs)

        return three

    with pytest.raises(asked.HostChanged, match="too many positional"):
        asked.call(over(three), 1, 2, 3, 4)


def test_a_partial_of_a_wrapper_is_asked_what_the_wrapper_calls():
    found = asked.call(functools.partial(bare(four), ["a"]), 4, where_taken={"use_old_scheduling": True})
    assert found == ("four", ["a"], 4, None, True)


def test_a_wrapper_that_hides_what_it_calls_gets_what_every_host_takes():
    functions = {"the one": three}

    def wrapper(*args, **kwargs):
        return functions["the one"](*args, **kwargs)

    found = asked.call(wrapper, ["a"], 4, where_taken={"use_old_scheduling": True})
    assert found == ("three", ["a"], 4, None)


def test_a_function_that_names_its_parameters_and_takes_more_is_asked_itself():
    def open_one(prompts, use_old_scheduling=False, **more):
        return prompts, use_old_scheduling, more

    assert asked.call(open_one, 1, where_taken={"use_old_scheduling": True, "other": 2}) == (1, True, {})


def test_builtins_that_do_not_say_are_called_as_they_are():
    assert asked.call(max, 1, 2, where_taken={"nothing": 3}) == 2
