"""What one model call under joint NAG leaves behind, and what happens where a host is not as expected."""

from dataclasses import replace

import pytest
import torch

from nag_core.attention.joint import Layout, joint_attention
from nag_core.attention.model_call import patch_model_call
from nag_core.attention.rows import Arrangement, Batch, Group
from nag_core.guidance import Method
from nag_core.kernels import Rule
from nag_core.merge import lse_kernel
from tests import joint_models as models
from tests import joint_reference as literal
from tests.unit.test_joint import FLUX, SD3, call, entry, error, expected, inputs, normal, session


@pytest.fixture(autouse=True)
def the_models_attention_is_restored():
    before = models.attention, models.attention_function
    yield
    assert (models.attention, models.attention_function) == before


def test_a_block_that_no_longer_looks_its_attention_up_costs_the_guidance_not_the_picture(monkeypatch):
    """Such a block would read the negative as a part of the prompt; the call is made again without it."""
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()
    own = models.attention_function
    block = network.single_blocks[1]

    def forward(x, vec, pe):
        q, k, v, mlp = block.heads(x, vec)
        out = own(models.rotate(q, pe), models.rotate(k, pe), v, models.HEADS, skip_reshape=True)
        return block.out(x, out, mlp, vec)

    monkeypatch.setattr(block, "forward", forward)
    used.begin_call()
    found = call(network, FLUX, tensors, [entry(5, 5)], [0], used)
    assert torch.equal(found, network(*tensors))
    assert used.report().sentence() == (
        "not applied: off from step 1 on: 4 joint attentions, expected 5; this WebUI changed"
    )
    assert used.begin_call() is None  # and it is not tried again in this pass


def test_a_sequence_of_unexpected_length_costs_the_guidance_not_the_picture():
    """Register tokens, or a patch size that NAG does not know."""
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()
    found = call(network, replace(FLUX, patch=1), tensors, [entry(5, 5)], [0], used)
    assert torch.equal(found, network(*tensors))
    assert used.problems == ["off from step 0 on: an attention over 24 tokens, expected 60"]


def test_an_error_in_our_attention_costs_the_guidance_not_the_picture(monkeypatch):
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()

    def out_of_memory(*args):
        raise torch.cuda.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(Rule, "guide", out_of_memory)
    found = call(network, FLUX, tensors, [entry(5, 5)], [0], used)
    assert torch.equal(found, network(*tensors))
    assert used.problems == [
        "off from step 0 on: OutOfMemoryError in the joint attention: tried to allocate 9 GiB"
    ]


def test_memory_that_is_too_short_for_the_longer_sequence_costs_the_guidance_not_the_picture():
    """Anywhere in the host's forward; without the negative's tokens it may well fit."""
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()

    def only_short(x, timestep, context, y, **_):
        if context.shape[1] > 7:
            raise torch.cuda.OutOfMemoryError("no room")
        return network(x, timestep, context, y)

    assert torch.equal(call(only_short, FLUX, tensors, [entry(5, 5)], [0], used), network(*tensors))
    assert used.problems == ["off from step 0 on: out of memory with the negative's tokens"]


def test_a_call_whose_preparation_fails_is_made_plain():
    """A foreign wrapper that drops the transformer options, for example."""
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()

    def forgetful(apply_model, arguments):
        c = {key: value for key, value in arguments["c"].items() if key != "transformer_options"}
        return apply_model(arguments["input"], arguments["timestep"], **c)

    options = {"model_function_wrapper": forgetful}
    found = call(network, FLUX, tensors, [entry(5, 5)], [0], used, options=options)
    assert torch.equal(found, network(*tensors))
    assert used.problems == ["off from step 0 on: KeyError: 'transformer_options'"]


def test_the_hosts_own_error_reaches_the_host_and_nothing_stays_replaced():
    network, tensors = models.build(models.FluxLike), inputs(1, 7)

    class HostError(Exception):
        pass

    def interrupt(*args):
        raise HostError

    network.single_blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(HostError):
        call(network, FLUX, tensors, [entry(5, 5)], [0])


def test_a_repeated_call_finds_the_controlnet_lists_full():
    """UNet-style forwards pop them."""
    tensors, seen = inputs(1, 7), []
    network = models.build(models.FluxLike)

    def greedy(*args, control=None, **more):
        seen.append((len(control["input"]), len(control["list"])))
        control["input"].clear()
        control["list"].clear()
        return network(*args, **more)

    control = {"input": [1, 2], "list": [3]}
    call(greedy, replace(FLUX, patch=1), tensors, [entry(5, 5)], [0], control=control)
    assert seen == [(2, 1), (2, 1)]


def test_layers_that_the_user_skips_are_not_missed():
    network, tensors, used = models.build(models.Sd3Like), inputs(1, 7), session()
    options = {"skip_layers": [1]}
    call(network, SD3, tensors, [entry(5, 5)], [0], used, transformer_options=options)
    assert used.problems == []
    assert set(used.layers) == {("joint", 0), ("joint", 2)}


def test_an_unknown_batch_layout_runs_plain_and_is_said():
    network, tensors, used = models.build(models.FluxLike), inputs(3, 7), session()
    found = call(network, FLUX, tensors, [entry(5, 5)], [1, 0], used)
    assert torch.equal(found, network(*tensors))
    assert used.problems == ["a batch layout nobody knows; there the model ran unguided"]


def test_a_call_with_uncond_rows_only_is_the_hosts_own():
    """Hosts split cond and uncond when memory is short; the context must not grow then."""
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()
    assert torch.equal(call(network, FLUX, tensors, [entry(5, 5)], [1], used), network(*tensors))
    assert used.problems == []


def test_a_wrapper_that_was_there_sees_the_plain_call_around_ours():
    """MultiDiffusion cuts the latent into tiles there: ours must see the tiles."""
    network, tensors = models.build(models.FluxLike), inputs(1, 7)
    seen = []

    def theirs(apply_model, arguments):
        seen.append(arguments["c"]["c_crossattn"].shape[1])
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"]) + 1

    options = {"model_function_wrapper": theirs}
    one = entry(5, 5)
    found = call(network, FLUX, tensors, [one], [0], options=options)
    assert seen == [7]
    assert error(found - 1, expected(literal.flux, network, tensors, [one])) <= 1e-12
    assert options == {"model_function_wrapper": theirs}


def test_the_job_after_its_end_is_the_hosts_own():
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()
    used.close()
    assert torch.equal(call(network, FLUX, tensors, [entry(5, 5)], [0], used), network(*tensors))


def test_the_negatives_context_is_brought_to_the_device_once():
    network, tensors, used = models.build(models.FluxLike), inputs(2, 7), session()
    entries = [entry(5, 5), entry(5, 6)]
    for _ in range(3):
        call(network, FLUX, tensors, entries, [0], used)
    assert len(used.cache.contexts) == 2


def test_options_are_copied_not_changed():
    options = {"transformer_options": {}}
    patched = patch_model_call(options, FLUX, session(), Batch((entry(5, 5),)))
    assert "model_function_wrapper" not in options
    assert patched["transformer_options"] is options["transformer_options"]


def rule(phi=4.0, tau=2.5, alpha=0.5):
    return Rule(phi, tau, alpha, Method.NAG, torch.zeros((), dtype=torch.int64))


def sequences(layout, rows=1):
    return [normal(rows, 2, layout.total, 16, seed=seed) for seed in (1, 2, 3)]


def plain(q, k, v, mask):
    return models.attention_function(q, k, v, q.shape[1], mask, skip_reshape=True)


EVERY_ROW = Arrangement([Group(slice(0, 1), (entry(5, 5),))], None)


@pytest.mark.parametrize("lse", [True, False], ids=["lse", "two calls"])
def test_the_image_may_stand_first(lse):
    """diffusers' SD3 has [image, text]: the same result, in that order."""
    first, last = Layout(5, 7, 12, image_first=True), Layout(5, 7, 12)
    q, k, v = sequences(last)
    order = torch.tensor([*range(12, 24), *range(5, 12), *range(5)])
    kernel, one, other = lse_kernel(q) if lse else None, rule(), rule()
    found = joint_attention(*(x[:, :, order] for x in (q, k, v)), first, EVERY_ROW, plain, kernel, one)
    wanted = joint_attention(q, k, v, last, EVERY_ROW, plain, kernel, other)
    assert error(found, wanted[:, order]) <= 1e-13
    assert one.counter == other.counter > 0


@pytest.mark.parametrize("shape", [(1, 1, 1, 24), (1, 1, 24, 24), (1, 2, 24, 24)], ids=str)
@pytest.mark.parametrize("boolean", [True, False], ids=["boolean", "additive"])
def test_a_mask_of_the_host_is_kept_among_the_tokens_that_see_each_other(shape, boolean):
    """Tokens 3 (negative), 6 (prompt) and 20 (image) are masked out as keys: as if they were not there."""
    layout = Layout(5, 7, 12)
    q, k, v = sequences(layout)
    hidden = torch.zeros(shape, dtype=torch.bool)
    hidden[..., [3, 6, 20]] = True
    mask = ~hidden if boolean else torch.zeros(shape, dtype=q.dtype).masked_fill(hidden, -torch.inf)
    found = joint_attention(q, k, v, layout, EVERY_ROW, plain, lse_kernel(q), rule(), mask)
    keys = torch.tensor([i for i in range(24) if i not in (3, 6, 20)])
    pos, neg, image = (keys[(keys >= a) & (keys < b)] for a, b in ((5, 12), (0, 5), (12, 24)))

    def attend(queries, *parts):
        seen = torch.cat(parts)
        return plain(q[:, :, queries], k[:, :, seen], v[:, :, seen], None)

    assert error(found[:, 5:12], attend(slice(5, 12), pos, image)) <= 1e-13
    assert error(found[:, :5], attend(slice(0, 5), neg, image)) <= 1e-13
    wanted = literal.guided(
        attend(slice(12, 24), pos, image), attend(slice(12, 24), neg, image), (4, 2.5, 0.5)
    )
    assert error(found[:, 12:], wanted) <= 1e-13


def test_long_pictures_are_worked_on_in_pieces(monkeypatch):
    layout = Layout(5, 7, 120)
    q, k, v = sequences(layout)
    one, other = rule(), rule()
    wanted = joint_attention(q, k, v, layout, EVERY_ROW, plain, lse_kernel(q), one)
    monkeypatch.setattr("nag_core.attention.joint.CHUNK", 32 * 7)
    found = joint_attention(q, k, v, layout, EVERY_ROW, plain, lse_kernel(q), other)
    assert error(found, wanted) <= 1e-15
    assert one.counter == other.counter > 0


def test_values_at_the_limit_of_fp16_stay_finite():
    """z~ leaves fp16's range long before the result does."""
    layout = Layout(5, 7, 12)
    q, k, v = (x.half() for x in sequences(layout))
    v = v.sign() * 60000
    found = joint_attention(q, k, v, layout, EVERY_ROW, plain, lse_kernel(q), rule(9, 10, 1))
    assert torch.isfinite(found).all()
