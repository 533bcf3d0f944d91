"""What one model call under joint NAG leaves behind, and what happens where a host is not as expected."""

import weakref
from dataclasses import replace

import pytest
import torch

from nag_core.hosts.patcher import joint as joint_host
from nag_core.hosts.patcher.joint import patch_model_call
from nag_core.method import joint as joint_call
from nag_core.method.guidance import Method
from nag_core.method.joint import joint_attention
from nag_core.method.layout import Layout
from nag_core.method.lse_kernels import Kernel, lse_kernel
from nag_core.method.rows import Arrangement, Batch, Group
from nag_core.method.rule import Rule
from nag_core.settings.presets import Strength
from tests import joint_models as models
from tests import joint_reference as literal
from tests.sessions import replan
from tests.unit.test_joint import call, described, entry, error, expected, inputs, normal, session


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
    found = call(network, tensors, [entry(5, 5)], [0], used)
    assert torch.equal(found, network(*tensors))
    assert used.report().sentence() == (
        "not applied: off from call 1 on: 4 of 5 blocks attended as they are known to; "
        "this WebUI or an extension changed them"
    )
    assert used.begin_call() is None  # and it is not tried again in this pass


def test_a_sequence_of_unexpected_length_costs_the_guidance_not_the_picture():
    """Register tokens, or a patch size that NAG does not know."""
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()
    found = call(network, tensors, [entry(5, 5)], [0], used, joint=replace(described(network), patch=1))
    assert torch.equal(found, network(*tensors))
    assert used.problems == ["off from call 0 on: an attention over 24 tokens, expected 60"]


def test_an_error_in_our_attention_costs_the_guidance_not_the_picture(monkeypatch):
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()

    def out_of_memory(*args):
        raise torch.cuda.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(Rule, "guide", out_of_memory)
    found = call(network, tensors, [entry(5, 5)], [0], used)
    assert torch.equal(found, network(*tensors))
    assert used.problems == [
        "off from call 0 on: OutOfMemoryError in the joint attention: tried to allocate 9 GiB"
    ]


def test_memory_that_is_too_short_for_the_longer_sequence_costs_the_guidance_not_the_picture():
    """Anywhere in the host's forward; without the negative's tokens it may well fit."""
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()

    def only_short(x, timestep, context, y, **_):
        if context.shape[1] > 7:
            raise torch.cuda.OutOfMemoryError("no room")
        return network(x, timestep, context, y)

    assert torch.equal(call(network, tensors, [entry(5, 5)], [0], used, run=only_short), network(*tensors))
    assert used.problems == ["off from call 0 on: out of memory with the negative's tokens"]


def test_a_call_whose_preparation_fails_is_made_plain():
    """A foreign wrapper that drops the transformer options, for example."""
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()

    def forgetful(apply_model, arguments):
        c = {key: value for key, value in arguments["c"].items() if key != "transformer_options"}
        return apply_model(arguments["input"], arguments["timestep"], **c)

    options = {"model_function_wrapper": forgetful}
    found = call(network, tensors, [entry(5, 5)], [0], used, options=options)
    assert torch.equal(found, network(*tensors))
    said = "another extension's wrapper around the model call drops its transformer_options"
    assert used.problems == [f"off from call 0 on: {said}"]


def test_the_hosts_own_error_reaches_the_host_and_nothing_stays_replaced():
    network, tensors = models.build(models.FluxLike), inputs(1, 7)

    class HostError(Exception):
        pass

    def interrupt(*args):
        raise HostError

    network.single_blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(HostError):
        call(network, tensors, [entry(5, 5)], [0])


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
    wrong = replace(described(network), patch=1)
    call(network, tensors, [entry(5, 5)], [0], joint=wrong, run=greedy, control=control)
    assert seen == [(2, 1), (2, 1)]


def test_controlnet_of_any_make_reaches_the_model_as_it_is():
    network, tensors = models.build(models.FluxLike), inputs(1, 7)
    seen = []

    def run(*args, control=None, **more):
        seen.append(control)
        return network(*args, **more)

    for control in ({"input": [1], "middle": None}, [1, 2], None, 7):
        call(network, tensors, [entry(5, 5)], [0], run=run, control=control)
        assert seen.pop() == control


@pytest.mark.parametrize("network", [models.Sd3Like, models.FluxLike])
def test_layers_that_the_user_skips_are_not_missed(network):
    """Only SD3's forward obeys the option; Flux's runs every block whatever it says."""
    network, tensors, used = models.build(network), inputs(1, 7), session()
    call(network, tensors, [entry(5, 5)], [0], used, transformer_options={"skip_layers": [1]})
    assert used.problems == []
    skips = isinstance(network, models.Sd3Like)
    assert len(used.layers) == (2 if skips else 5)
    assert ("joint", 1) not in used.layers


def test_a_block_cache_that_answers_for_most_blocks_is_left_to_it():
    """The block cache extensions run the first block only when little has changed; calling the model once
    more in that step would break their books.
    """
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()
    ran = []

    def cached(x, timestep, context, y, **_):
        img, txt, vec = network.tokens(x), network.txt_in(context), network.vector(timestep, y)
        pe = models.positions(x.shape[2] // 2, x.shape[3] // 2, txt.shape[1], torch.float64)
        ran.append(1)
        return network.picture(network.double_blocks[0](img, txt, vec, pe)[0], x)

    call(network, tensors, [entry(5, 5)], [0], used, run=cached)
    assert ran == [1]
    assert used.problems == []
    assert list(used.layers) == [("double", 0)]
    call(network, tensors, [entry(5, 5)], [0], used, run=lambda x, *_, **__: x)
    assert used.problems == [], "nor does it matter when no block runs at all"


def test_the_attention_of_one_block_is_free_when_the_next_one_runs(monkeypatch):
    """Kept until the end of the call they would take 1.6 GB on Flux at 1024 x 1024."""
    network, tensors = models.build(models.FluxLike), inputs(1, 7)
    alive, most = [], []
    original = joint_call.joint_attention

    def watched(*args):
        out = original(*args)
        alive.append(weakref.ref(out))
        most.append(sum(one() is not None for one in alive))
        return out

    monkeypatch.setattr(joint_call, "joint_attention", watched)
    call(network, tensors, [entry(5, 5)], [0])
    assert len(alive) == 5
    assert max(most) <= 2


def test_a_kernel_that_refuses_the_real_shapes_is_replaced_by_two_calls(monkeypatch):
    """Kernels are probed on small tensors."""
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()
    tried = []

    def refuse(q, k, v):
        tried.append(1)
        raise RuntimeError("no valid execution plans built")

    monkeypatch.setattr(joint_call, "lse_kernel", lambda q: Kernel("cuDNN", refuse))
    found = call(network, tensors, [entry(5, 5)], [0], used)
    assert error(found, expected(literal.flux, network, tensors, [entry(5, 5)])) <= 1e-12
    assert tried == [1], "and not tried again in this pass"
    assert used.problems == ["the cuDNN kernel refused these shapes"]
    assert used.path == "two calls (attention_function)"


def test_nothing_of_the_failed_call_is_held_while_it_is_made_again():
    network, tensors, held = models.build(models.FluxLike), inputs(1, 7), []

    def run(x, timestep, context, y, **_):
        if context.shape[1] > 7:
            held.append(weakref.ref(context))
            raise torch.cuda.OutOfMemoryError("no room")
        assert held[0]() is None
        return network(x, timestep, context, y)

    call(network, tensors, [entry(5, 5)], [0], run=run)
    assert held


def test_after_a_failure_the_other_tiles_of_the_step_run_plain_at_once():
    """MultiDiffusion makes several calls in one denoiser call."""
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()
    widths = []

    def theirs(apply_model, arguments):
        tiles = [apply_model(arguments["input"], arguments["timestep"], **arguments["c"]) for _ in range(3)]
        return tiles[0]

    def short_of_memory(x, timestep, context, y, **_):
        widths.append(context.shape[1])
        if context.shape[1] > 7:
            raise torch.cuda.OutOfMemoryError("no room")
        return network(x, timestep, context, y)

    options = {"model_function_wrapper": theirs}
    call(network, tensors, [entry(5, 5)], [0], used, options=options, run=short_of_memory)
    assert widths == [12, 7, 7, 7]


def test_odd_latents_are_counted_as_the_hosts_pad_them():
    """A width of 1000 pixels is 125 latent columns: 63 tokens."""
    x = torch.zeros(1, 4, 5, 7)
    rows = Batch((entry(5, 5),)).arrangement(1, [0], x.device)
    flux, text = described(models.build(models.FluxLike)), torch.zeros(1, 9, 12)
    assert joint_host._layout(x, text, rows, replace(flux, patch=2), {}) == Layout(5, 9, 12)
    assert joint_host._layout(x, text, rows, replace(flux, patch=1), {}) == Layout(5, 9, 35)


def test_the_share_of_clipped_tokens_is_that_of_all_rows():
    network, tensors, used = models.build(models.FluxLike), inputs(2, 7), session()
    replan(used, strength=Strength(20.0, 1.0, 1.0))
    used.begin_call()
    call(network, tensors, [entry(5, 5), entry(5, 6)], [0], used)
    assert used.tokens == 2 * 12 * 5
    assert 0.9 < used.report().clipped_share <= 1


def test_an_unknown_batch_layout_runs_plain_and_is_said():
    network, tensors, used = models.build(models.FluxLike), inputs(3, 7), session()
    found = call(network, tensors, [entry(5, 5)], [1, 0], used)
    assert torch.equal(found, network(*tensors))
    assert used.problems == ["a batch layout nobody knows; there the model ran unguided"]
    assert not used.stopped, "the next call may have a known one"


def test_a_call_with_uncond_rows_only_is_the_hosts_own():
    """Hosts split cond and uncond when memory is short; the context must not grow then."""
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()
    assert torch.equal(call(network, tensors, [entry(5, 5)], [1], used), network(*tensors))
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
    found = call(network, tensors, [one], [0], options=options)
    assert seen == [7]
    assert error(found - 1, expected(literal.flux, network, tensors, [one])) <= 1e-12
    assert options == {"model_function_wrapper": theirs}


def test_the_job_after_its_end_is_the_hosts_own():
    network, tensors, used = models.build(models.FluxLike), inputs(1, 7), session()
    used.close()
    assert torch.equal(call(network, tensors, [entry(5, 5)], [0], used), network(*tensors))


def test_the_negatives_context_is_brought_to_the_device_once():
    network, tensors, used = models.build(models.FluxLike), inputs(2, 7), session()
    entries = [entry(5, 5), entry(5, 6)]
    call(network, tensors, entries, [0], used)
    first = dict(used.cache.contexts)
    call(network, tensors, entries, [0], used)
    assert len(first) == 2
    assert all(used.cache.contexts[key] is tensor for key, tensor in first.items())


def test_options_are_copied_not_changed():
    options = {"transformer_options": {}}
    patched = patch_model_call(
        options, described(models.build(models.FluxLike)), session(), Batch((entry(5, 5),))
    )
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


@pytest.mark.parametrize(("slot", "rest"), [(5, None), (8, None), (5, slice(1, 2))], ids=str)
def test_places_that_nobody_fills_hold_no_leftovers_of_the_memory(monkeypatch, slot, rest):
    """A layer that scales by its largest input would see them."""
    layout = Layout(slot, 7, 12)
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(
        torch.Tensor, "new_empty", lambda x, *args, **kw: empty(x, *args, **kw).fill_(torch.nan)
    )
    rows = Arrangement([Group(slice(0, 1), (entry(5, 5),))], rest)
    q, k, v = sequences(layout, rows=2 if rest else 1)
    assert joint_attention(q, k, v, layout, rows, plain, lse_kernel(q), rule()).isfinite().all()


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
    monkeypatch.setattr("nag_core.method.guidance.CPU_CHUNK", 32 * 7)
    pieces = []
    original = Rule.guide
    monkeypatch.setattr(Rule, "guide", lambda *args: pieces.append(args[1].shape[1]) or original(*args))
    found = joint_attention(q, k, v, layout, EVERY_ROW, plain, lse_kernel(q), other)
    assert pieces == [7] * 17 + [1]
    assert error(found, wanted) <= 1e-15
    assert one.counter == other.counter > 0


def test_values_at_the_limit_of_fp16_stay_finite():
    """z~ leaves fp16's range long before the result does."""
    layout = Layout(5, 7, 12)
    q, k, v = (x.half() for x in sequences(layout))
    v = v.sign() * 60000
    found = joint_attention(q, k, v, layout, EVERY_ROW, plain, lse_kernel(q), rule(9, 10, 1))
    assert torch.isfinite(found).all()
