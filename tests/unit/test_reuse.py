"""How a context is recognised: by where it came from, never by its values."""

import torch

from nag_core.reuse import Provenance, traced


class Condition:
    """The shape of the hosts' condition classes; `_copy_with` as theirs."""

    def __init__(self, cond):
        self.cond = cond

    def process_cond(self, batch_size, device, **kwargs):
        return self.__class__(self.cond[:batch_size].to(device))

    def concat(self, others):
        return torch.cat([self.cond, *(one.cond for one in others)])


def conds(*values):
    return [
        {"strength": 1, "model_conds": {"c_crossattn": Condition(torch.full((1, 3, 4), value))}}
        for value in values
    ]


def context(*chosen):
    """What the host makes of them for one model call."""
    first, *others = (one["model_conds"]["c_crossattn"].process_cond(1, "cpu") for one in chosen)
    return first.concat(others)


def test_a_joined_context_is_known_by_its_texts_and_only_that_tensor():
    provenance = Provenance()
    (prompt,), (negative,) = traced(conds(1.0), "p", provenance), traced(conds(2.0), "n", provenance)
    joined = context(negative, prompt)
    assert provenance.of(joined) == (("n", 0), ("p", 0))
    assert provenance.of(joined.clone()) is None
    assert provenance.of(None) is None


def test_the_parts_of_an_and_prompt_are_told_apart_where_memory_is_short_and_they_run_one_by_one():
    provenance = Provenance()
    one, other = traced(conds(1.0, 2.0), "p", provenance)
    assert provenance.of(context(one)) != provenance.of(context(other))


def test_a_context_with_a_part_of_unknown_origin_is_unknown():
    provenance = Provenance()
    (ours,), (theirs,) = traced(conds(1.0), "p", provenance), conds(2.0)
    assert provenance.of(context(ours, theirs)) is None


def test_the_hosts_conditions_are_copied_not_changed():
    given = conds(1.0)
    before = given[0]["model_conds"]["c_crossattn"]
    copies = traced(given, "p", Provenance())
    assert given[0]["model_conds"]["c_crossattn"] is before
    assert type(before) is Condition
    assert copies[0]["strength"] == 1
    assert traced(None, "n", Provenance()) is None
