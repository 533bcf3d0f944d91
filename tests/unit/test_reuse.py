"""How a context is recognised: by where it came from, never by its values."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch

from nag_core.hosts.patcher.provenance import Origin, Provenance, marks_of, told_apart, traced
from nag_core.hosts.patcher.reuse import KeyValueReuse
from nag_core.hosts.patcher.texts import may_change
from nag_core.hosts.patcher.unet import Unet
from tests.unit.test_cross import session

P, N = 0, 1


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
    (prompt,), (negative,) = traced(conds(1.0), P, provenance), traced(conds(2.0), N, provenance)
    joined = context(negative, prompt)
    assert provenance.of(joined) == (Origin(N), Origin(P))
    assert provenance.of(joined.clone()) is None
    assert provenance.of(None) is None


def test_the_parts_of_an_and_prompt_are_told_apart_where_memory_is_short_and_they_run_one_by_one():
    provenance = Provenance()
    one, other = traced(conds(1.0, 2.0), P, provenance)
    assert provenance.of(context(one)) != provenance.of(context(other))


def test_a_context_with_a_part_of_unknown_origin_is_unknown():
    provenance = Provenance()
    (ours,), (theirs,) = traced(conds(1.0), P, provenance), conds(2.0)
    assert provenance.of(context(ours, theirs)) is None


def test_the_hosts_conditions_are_copied_not_changed():
    given = conds(1.0)
    before = given[0]["model_conds"]["c_crossattn"]
    copies = traced(given, P, Provenance())
    assert given[0]["model_conds"]["c_crossattn"] is before
    assert type(before) is Condition
    assert copies[0]["strength"] == 1
    assert traced(None, N, Provenance()) is None


def test_a_copy_into_which_somebody_put_another_text_has_no_name():
    provenance = Provenance()
    (prompt,) = traced(conds(1.0), P, provenance)
    other = copy.copy(prompt["model_conds"]["c_crossattn"])
    other.cond = other.cond * 2
    assert provenance.of(context({"model_conds": {"c_crossattn": other}})) is None
    assert provenance.of(context(prompt)) is not None


def marked(options, context, marks):
    """The marks that the network's layers go by, in a call with this context."""
    seen = []

    def apply(x, timestep, **c):
        seen.append((marks_of(c["transformer_options"]), c["transformer_options"]["cond_or_uncond"]))

    c = {"c_crossattn": context, "transformer_options": {"cond_or_uncond": marks}}
    options["model_function_wrapper"](apply, {"input": None, "timestep": None, "c": c})
    ((ours, hosts),) = seen
    assert hosts == marks, "the host's own stay for others"
    return ours


def test_rows_are_whose_context_they_have_whatever_place_they_are_computed_in():
    """SAG has the uncond computed in the prompt's place."""
    (prompt,), (negative,), options, _ = told_apart((conds(1.0), conds(2.0), {}))
    assert marked(options, context(negative), [0]) == [1]
    assert marked(options, context(prompt), [1]) == [0]
    assert marked(options, context(negative, prompt), [1, 0]) == [1, 0]


def test_the_hosts_marks_stand_where_a_context_is_of_unknown_origin():
    (prompt,), _, options, _ = told_apart((conds(1.0), conds(2.0), {}))
    assert marked(options, context(prompt).clone(), [1]) == [1]
    assert marked(options, None, [0]) == [0]


def test_a_wrapper_that_takes_the_context_apart_hands_the_marks_on():
    """MultiDiffusion's tiles."""
    tiles = {}

    def wrapper(apply, arguments):
        c = arguments["c"]
        return apply(None, None, **{**c, "c_crossattn": c["c_crossattn"].repeat(2, 1, 1)})

    tiles["model_function_wrapper"] = wrapper
    _, (negative,), options, _ = told_apart((conds(1.0), conds(2.0), tiles))
    assert marked(options, context(negative), [0]) == [1]
    assert tiles == {"model_function_wrapper": wrapper}


def test_conditions_of_another_kind_are_left_as_they_are():
    given = ([{"cross_attn": None}], None, {})
    *same, provenance = told_apart(given)
    assert all(one is other for one, other in zip(same, given, strict=True))
    assert provenance.known == []


class Network(torch.nn.Module):
    """A network of one attn2, of which it answers with the keys."""

    def __init__(self):
        super().__init__()
        self.attn2 = torch.nn.Module()
        self.attn2.to_k, self.attn2.to_v = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, *, context):
        return self.attn2.to_k(context)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().requires_grad_(False)


@pytest.fixture
def kept(network):
    reuse = KeyValueReuse()
    reuse.prepare({"one": network.attn2})
    return reuse


def step(network, kept, context, texts="p"):
    with kept.during(network, texts, context.shape):
        return network(context=context)


def test_a_second_step_with_the_same_text_gets_the_first_ones_keys(network, kept):
    first = step(network, kept, torch.ones(1, 3, 4))
    assert step(network, kept, torch.ones(1, 3, 4)) is first
    assert step(network, kept, torch.ones(1, 3, 4), texts="other") is not first


def test_keys_are_kept_apart_by_dtype_and_shape(network, kept):
    step(network, kept, torch.ones(1, 3, 4))
    network.double()
    assert step(network, kept, torch.ones(1, 3, 4, dtype=torch.float64)).dtype is torch.float64
    assert step(network.float(), kept, torch.ones(2, 3, 4)).shape == (2, 3, 4)


def test_a_context_that_someone_elses_hook_changes_is_computed(network, kept):
    steps = []

    def louder(module, args, kwargs):
        steps.append(1)
        return args, {"context": kwargs["context"] * len(steps)}

    network.register_forward_pre_hook(louder, with_kwargs=True)
    one = torch.ones(1, 3, 4)
    step(network, kept, one)
    assert torch.equal(step(network, kept, one), torch.nn.functional.linear(2 * one, *parameters(network)))


def parameters(network):
    return network.attn2.to_k.weight, network.attn2.to_k.bias


def test_only_the_first_network_call_of_a_model_call_counts_and_only_with_the_whole_context(network, kept):
    rows = torch.stack([torch.ones(3, 4), torch.full((3, 4), 2.0)])
    wanted = torch.nn.functional.linear(rows, *parameters(network))
    for _ in range(2):
        with kept.during(network, "p", rows.shape):
            halves = [network(context=rows[i : i + 1]) for i in range(2)]
        assert torch.allclose(torch.cat(halves), wanted)
        with kept.during(network, "q", rows[:1].shape):
            halves = [network(context=rows[i : i + 1]) for i in range(2)]
        assert torch.allclose(torch.cat(halves), wanted)


def test_a_forward_that_someone_puts_there_later_is_used_and_stays(network, kept):
    step(network, kept, torch.ones(1, 3, 4))
    network.attn2.to_k.forward = theirs = lambda x: x * 0
    assert (step(network, kept, torch.ones(1, 3, 4)) == 0).all()
    assert network.attn2.to_k.forward is theirs


def test_a_forward_put_there_in_the_middle_of_a_call_stays(network, kept):
    with kept.during(network, "p", torch.Size((1, 3, 4))):
        network.attn2.to_k.forward = theirs = lambda x: x * 0
    assert network.attn2.to_k.forward is theirs


def test_nothing_is_held_between_calls_but_the_kept_keys_and_nothing_after_the_pass(network, kept):
    step(network, kept, torch.ones(1, 3, 4))
    assert kept.context is None
    used = session()
    unet = Unet(lambda step: ("p", "n"), reuse=kept)
    used.at_close.append(unet.clear)
    used.close()
    assert (len(kept.kept), kept.made, unet.texts) == (0, {}, None)


def test_a_host_that_does_not_tell_its_listeners_is_not_trusted(monkeypatch):
    callbacks = SimpleNamespace(callback_map={})
    monkeypatch.setitem(sys.modules, "modules", SimpleNamespace(script_callbacks=callbacks))
    assert may_change({})
    ours = SimpleNamespace(script="/extensions/sd-webui-nag/scripts/nag_guidance.py")
    callbacks.callback_map["callbacks_cfg_denoiser"] = [ours]
    assert not may_change({})
    assert may_change({"sampler_calc_cond_batch_function": print})
    assert may_change({"transformer_options": {"patches_replace": {"attn2": {("middle", 0): print}}}})
