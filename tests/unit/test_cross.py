"""Guided cross-attention against the literal reference, and who is guided in a batch."""

import pytest
import torch
from torch import nn

from nag_core.hosts.foreign import replaced_forward
from nag_core.hosts.ldm_unet import cross_attention_layers
from nag_core.hosts.patcher.provenance import Provenance
from nag_core.hosts.patcher.unet import Step, Unet, guided_unet, patch_attn2
from nag_core.method.negative import Entry, Negative
from nag_core.method.rows import Batch
from nag_core.passes.plan import Progress
from tests import reference, sessions

HEADS, DIM, CONTEXT = 2, 20, 12
KEY = ("input", 1, 0)


class Attention(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(3)
        self.to_q = nn.Linear(DIM, DIM, bias=False)
        self.to_k, self.to_v = (nn.Linear(CONTEXT, DIM, bias=False) for _ in range(2))
        self.to(dtype).requires_grad_(False)


def host_attention(q, k, v, extra):
    q, k, v = (x.unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2) for x in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def session(phi=4.0, tau=2.5, alpha=0.5):
    return sessions.made((phi, tau, alpha), attention=host_attention, attention_name="sdpa")


def entry(tokens=9, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return Entry(torch.randn(tokens, CONTEXT, generator=generator, dtype=torch.float64).to(dtype))


def tensors(rows, tokens=35, text=7, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def normal(n, width):
        return torch.randn(rows, n, width, generator=generator, dtype=torch.float64).to(dtype)

    return normal(tokens, DIM), normal(text, DIM), normal(text, DIM)


def run(q, k, v, entries, marks, module=None, options=None, tiled=False, regional=False, used=None):
    used = used or session()
    module = module or Attention(q.dtype)
    call = Step(used, Batch(tuple(entries), tiled, regional), "weights")
    patched = patch_attn2(options or {}, {KEY: module}, call)
    replace = patched["transformer_options"]["patches_replace"]["attn2"][KEY]
    return replace(q, k, v, {"n_heads": HEADS, "cond_or_uncond": list(marks)})


def expected(q, k, v, entries, rows, dtype=torch.float64, module=None):
    """Literal: plain attention everywhere, eq. 7-10 on `rows` {row: image}; all of it in `dtype`."""
    module = module or Attention(dtype)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    out = reference.attention(q, k, v, HEADS)
    for row, image in rows.items():
        one = slice(row, row + 1)
        context = entries[image].context.to(dtype)[None]
        neg = reference.attention(q[one], module.to_k(context), module.to_v(context), HEADS)
        if dtype is torch.float64:
            out[one] = reference.nag(out[one], neg, 4.0, 2.5, 0.5)[0]
        else:
            out[one] = reference.naive_nag(out[one], neg, 4.0, 2.5, 0.5)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tokens", [1, 35, 64, 111])
def test_result_is_within_twice_the_error_of_a_naive_implementation(dtype, tokens):
    q, k, v = tensors(2, tokens=tokens, dtype=dtype)
    entries, rows = [entry(dtype=dtype)], {1: 0}
    single, double = Attention(dtype), Attention(torch.float64)
    double.load_state_dict({name: weight.double() for name, weight in single.state_dict().items()})
    truth = expected(q, k, v, entries, rows, module=double)
    naive = (expected(q, k, v, entries, rows, dtype, single).double() - truth).abs().max()
    ours = (run(q, k, v, entries, [1, 0], module=single).double() - truth).abs().max()
    # Twenty numbers of a single token can come out well by luck: one rounding of the largest is the floor.
    assert ours <= 2 * max(naive, torch.finfo(dtype).eps * truth.abs().max())


def test_uncond_rows_are_untouched_bit_for_bit():
    q, k, v = tensors(6)
    plain = host_attention(q, k, v, {"n_heads": HEADS})
    out = run(q, k, v, [entry(), entry(seed=5)], [1, 0, 0])
    assert torch.equal(out[:2], plain[:2])
    assert not torch.isclose(out[2:], plain[2:]).all(dim=-1).any()


def test_every_cond_of_an_and_prompt_is_guided_with_its_images_negative():
    q, k, v = tensors(6, dtype=torch.float64)
    entries = [entry(dtype=torch.float64), entry(seed=5, dtype=torch.float64)]
    out = run(q, k, v, entries, [1, 0, 0])
    assert (out - expected(q, k, v, entries, {2: 0, 3: 1, 4: 0, 5: 1})).abs().max() < 1e-13


def test_per_image_negatives_of_different_lengths_need_no_padding():
    """PR #44 crashes above batch size 1; ComfyUI-NAG repeats the shorter text and skews it."""
    q, k, v = tensors(3, dtype=torch.float64)
    entries = [entry(77, dtype=torch.float64), entry(154, 5, torch.float64), entry(77, 6, torch.float64)]
    out = run(q, k, v, entries, [0])
    assert (out - expected(q, k, v, entries, {0: 0, 1: 1, 2: 2})).abs().max() < 1e-13


def test_a_row_guided_alone_equals_the_row_guided_in_a_batch():
    q, k, v = tensors(3)
    entries = [entry(), entry(20, 5), entry(9, 6)]
    whole = run(q, k, v, entries, [0])
    for image in range(3):
        one = slice(image, image + 1)
        alone = run(q[one], k[one], v[one], entries[one], [0])
        assert torch.allclose(alone, whole[one], rtol=0, atol=1e-6)


def test_images_with_an_empty_negative_stay_plain():
    q, k, v = tensors(2)
    out = run(q, k, v, [None, entry()], [0])
    plain = host_attention(q, k, v, {"n_heads": HEADS})
    assert torch.equal(out[0], plain[0])
    assert not torch.equal(out[1], plain[1])


def test_an_unknown_batch_layout_runs_plain_and_is_said_once():
    q, k, v = tensors(5)
    used = session()
    for _ in range(2):
        out = run(q, k, v, [entry(), entry()], [1, 0], used=used)
        assert torch.equal(out, host_attention(q, k, v, {"n_heads": HEADS}))
    assert len(used.problems) == 1


def test_tiles_of_multidiffusion_guide_the_right_rows():
    q, k, v = tensors(8, dtype=torch.float64)
    entries = [entry(dtype=torch.float64), entry(seed=5, dtype=torch.float64)]
    out = run(q, k, v, entries, [1, 0], tiled=True)
    assert (out - expected(q, k, v, entries, {2: 0, 3: 1, 6: 0, 7: 1})).abs().max() < 1e-13


def test_regions_need_one_common_negative():
    q, k, v = tensors(5, dtype=torch.float64)
    one = entry(dtype=torch.float64)
    out = run(q, k, v, [one], [1, 0], regional=True)
    assert (out - expected(q, k, v, [one], dict.fromkeys(range(1, 5), 0))).abs().max() < 1e-13
    used = session()
    q, k, v = tensors(7)
    run(q, k, v, [entry(), entry(seed=5)], [1, 0], regional=True, used=used)
    assert used.problems


@pytest.mark.parametrize("key", [KEY, KEY[:2]])
def test_a_replacer_that_is_already_there_runs_for_both_and_its_term_cancels(key):
    """IP-Adapter adds an image term to the text attention; it must not be extrapolated."""
    q, k, v = tensors(4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(9)
    image_term = torch.randn(4, 35, DIM, generator=generator, dtype=torch.float64)
    seen = []

    def adapter(q, k, v, extra):
        seen.append((q.shape[0], list(extra["cond_or_uncond"])))
        return host_attention(q, k, v, extra) + image_term

    entries = [entry(77, dtype=torch.float64), entry(20, 5, torch.float64)]
    options = {"transformer_options": {"patches_replace": {"attn2": {key: adapter}}}}
    out = run(q, k, v, entries, [1, 0], options=options)
    module = Attention(torch.float64)
    plain = reference.attention(q, k, v, HEADS) + image_term
    for row, image in ((2, 0), (3, 1)):
        one = slice(row, row + 1)
        context = entries[image].context[None]
        neg = reference.attention(q[one], module.to_k(context), module.to_v(context), HEADS) + image_term[one]
        assert (out[one] - reference.nag(plain[one], neg, 4.0, 2.5, 0.5)[0]).abs().max() < 1e-13
    assert torch.allclose(out[:2], plain[:2])
    assert seen == [(4, [1, 0])] * 3, (
        "one call for z+, one per length of negative, all in the arrangement it knows"
    )
    assert options["transformer_options"]["patches_replace"]["attn2"] == {key: adapter}


def test_what_a_replacer_hands_out_is_never_written_to():
    q, k, v = tensors(2)
    kept = torch.randn(2, 35, DIM)
    before = kept.clone()
    options = {"transformer_options": {"patches_replace": {"attn2": {KEY: lambda *args: kept}}}}
    run(q, k, v, [entry()], [1, 0], options=options)
    assert torch.equal(kept, before)


def test_a_replacer_that_changes_the_options_does_not_change_what_the_negative_sees():
    q, k, v = tensors(2)
    seen = []

    def rude(q, k, v, extra):
        seen.append(dict(extra))
        extra.update(cond_or_uncond=[], n_heads=1)
        return host_attention(q, k, v, {"n_heads": HEADS})

    options = {"transformer_options": {"patches_replace": {"attn2": {KEY: rude}}}}
    run(q, k, v, [entry()], [1, 0], options=options)
    assert seen[0] == seen[1] == {"n_heads": HEADS, "cond_or_uncond": [1, 0]}


def test_index_tensors_are_made_once_per_arrangement_not_per_layer():
    """Each one costs a blocking copy to the GPU."""
    batch = Batch((entry(), None, entry()))
    first = batch.arrangement(6, [1, 0], torch.device("cpu"))
    assert isinstance(first.groups[0].index, torch.Tensor)
    assert batch.arrangement(6, [1, 0], torch.device("cpu")) is first


def test_the_rows_that_nobody_guides_are_known_too():
    batch = Batch((entry(), None, entry()))
    assert batch.arrangement(6, [1, 0], torch.device("cpu")).rest.tolist() == [0, 1, 2, 4]
    assert Batch((entry(),)).arrangement(1, [0], torch.device("cpu")).rest is None


def test_a_closed_session_holds_nothing_of_the_job():
    used = session()
    used.negative = Negative((None,))
    used.close()
    assert used.negative.images == ()
    assert used.plan.progress() == Progress(0, 0)


def test_the_hosts_options_are_copied_not_changed():
    inner = {}
    options = {"transformer_options": {"patches_replace": {"attn2": inner}}, "other": 1}
    q, k, v = tensors(1)
    run(q, k, v, [entry()], [0], options=options)
    assert inner == {}
    assert options == {"transformer_options": {"patches_replace": {"attn2": {}}}, "other": 1}


def test_a_failure_of_ours_costs_the_guidance_not_the_picture():
    class Broken(Attention):
        def __init__(self):
            super().__init__(torch.float32)
            self.to_k = None

    q, k, v = tensors(2)
    used = session()
    out = run(q, k, v, [entry()], [1, 0], module=Broken(), used=used)
    assert torch.equal(out, host_attention(q, k, v, {"n_heads": HEADS}))
    assert "unguided" in next(iter(used.problems))


def test_keys_of_the_negative_are_projected_once_over_the_steps():
    module = Attention(torch.float32)
    calls = []
    module.to_k.register_forward_hook(lambda *_: calls.append(1))
    used = session()
    q, k, v = tensors(2)
    one = entry()
    for _ in range(4):
        run(q, k, v, [one], [1, 0], module=module, used=used)
    assert len(calls) == 1
    used.close()
    assert not used.cache.made


def test_a_closed_session_leaves_the_attention_alone():
    q, k, v = tensors(1)
    used = session()
    used.close()
    assert torch.equal(run(q, k, v, [entry()], [0], used=used), host_attention(q, k, v, {"n_heads": HEADS}))


def test_the_report_counts_layers_and_clipped_tokens():
    q, k, v = tensors(2, dtype=torch.float64)
    used = session(phi=20)
    one = entry(dtype=torch.float64)
    run(q, k, v, [one], [1, 0], used=used)
    assert set(used.layers) == {KEY}
    assert used.tokens == 35
    module = Attention(torch.float64)
    context = one.context[None]
    neg = reference.attention(q[1:], module.to_k(context), module.to_v(context), HEADS)
    _, clipped = reference.nag(reference.attention(q, k, v, HEADS)[1:], neg, 20, 2.5, 0.5)
    assert used.report().clipped_share == clipped / 35


def test_a_forward_put_on_the_module_by_someone_else_is_left_in_charge():
    """NegPiP; a replace on its block would silently switch it off. How it is guided: test_replaced.py."""
    module = Attention(torch.float32)
    module.forward = lambda *a, **k: None
    assert replaced_forward(module)
    unet, step = Unet(layers={KEY: module}), Step(session(), Batch((entry(),)), "w")
    patched = guided_unet({}, Provenance(), step, unet, Progress())
    assert patched["transformer_options"]["patches_replace"]["attn2"] == {}


def test_a_forward_left_behind_by_an_object_patch_is_harmless():
    module = Attention(torch.float32)
    module.forward = module.forward
    assert not replaced_forward(module)


def test_layers_are_enumerated_by_the_hosts_keys():
    from nag_core.sandbox.model.unet import UNet

    layers = cross_attention_layers(UNet())
    assert set(layers) == {
        ("input", 1, 0), ("input", 3, 0), ("middle", 0, 0),
        ("output", 0, 0), ("output", 1, 0), ("output", 2, 0), ("output", 3, 0),
    }  # fmt: skip
    assert cross_attention_layers(nn.Linear(2, 2)) == {}
