"""VSF on every guided path against its literal reference: one softmax over the keys of prompt and negatives,
in which the negatives' values are flipped and their logits lowered.
"""

import pytest
import torch

from nag_core.method import cross as cross_path
from nag_core.method import guidance, sign_flip
from nag_core.method import joint as joint_path
from nag_core.method.focus import EVERYWHERE, Focus
from nag_core.method.guidance import Method, guide
from nag_core.method.joint import joint_attention
from nag_core.method.layout import Layout
from nag_core.method.lse import log_sum_exp
from nag_core.method.lse_kernels import FLASH_CPU
from nag_core.method.merge import Part
from nag_core.method.negative import Entry
from nag_core.method.region import Spot
from nag_core.method.rows import Arrangement, Group
from nag_core.method.rule import Rule
from nag_core.settings.presets import Strength
from tests import diffusers_reference, joint_reference, reference
from tests.sessions import replan
from tests.unit import test_a1111 as a1111
from tests.unit import test_cross as unet
from tests.unit import test_cross_call as dit
from tests.unit import test_diffusers_models as library
from tests.unit import test_joint as joint
from tests.unit.test_joint import error, normal, session

HEADS, WIDTH = 2, 16
SCALE, OFFSET = 3.5, 0.7
# The second and third: offset 0, and one so large that nothing of the negative is left.
STRENGTHS = [(SCALE, OFFSET), (SCALE, 0.0), (SCALE, 1e3), (0.25, -1.0)]
WEIGHTS = (0.25, 0.75)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def rule(scale=SCALE, offset=OFFSET):
    counter = torch.zeros((), dtype=torch.int64)
    return Rule(scale, 2.5, 0.5, Method.VSF, counter, offset=offset)


def by_vsf(used, scale=SCALE, offset=OFFSET):
    """The session's rule; its tau and alpha are not read."""
    replan(used, method=Method.VSF, strength=Strength(scale, 1.0, 0.0, offset))
    used.phi = scale
    return used


def joined(*entries):
    """Several negatives, of unequal weights."""
    parts = tuple((one.tokens, weight) for one, weight in zip(entries, WEIGHTS, strict=False))
    return Entry(torch.cat([one.context for one in entries]), parts=parts if len(entries) > 1 else ())


def behind(first, one):
    """Where the negatives of an entry stand behind `first` tokens, and their weights."""
    return [(slice(first + at.start, first + at.stop), weight) for at, weight in one.spans]


def split(x):
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


@pytest.mark.parametrize("theirs", [False, True], ids=["attention", "someone else's replacer"])
@pytest.mark.parametrize("several", [1, 2])
@pytest.mark.parametrize("strength", STRENGTHS, ids=str)
def test_attn2_of_a_unet(strength, several, theirs):
    used = by_vsf(unet.session(), *strength)
    q, k, v = unet.tensors(4, dtype=torch.float64)
    module = unet.Attention(torch.float64)
    one = joined(*(unet.entry(5 + i, i, torch.float64) for i in range(several)))
    replaced = {"attn2": {unet.KEY: unet.host_attention}} if theirs else {}
    options = {"transformer_options": {"patches_replace": replaced}}
    found = unet.run(q, k, v, [one, None], [1, 0], module, options, used=used)
    plain = unet.host_attention(q, k, v, {"n_heads": unet.HEADS})
    both = [torch.cat((x[2:3], p(one.context[None])), 1) for x, p in ((k, module.to_k), (v, module.to_v))]
    wanted = reference.vsf(split(q[2:3]), *map(split, both), behind(k.shape[1], one), *strength)
    assert error(found[2:3], wanted) <= 1e-12
    assert torch.equal(found[[0, 1, 3]], plain[[0, 1, 3]])
    assert used.problems == []


def flipping(plain, negative, tokens):
    """An attention (B, N, C) that knows the negative's place behind the prompt's `tokens`."""

    def attended(q, k, v):
        if k.shape[1] != tokens + negative.tokens:
            return plain(q, k, v)
        return reference.vsf(*map(split, (q, k, v)), behind(tokens, negative), SCALE, OFFSET)

    return attended


@pytest.mark.parametrize("kind", [dit.WanModel, dit.WanImageModel, dit.Anima])
def test_the_cross_attention_of_a_dit(kind, monkeypatch, request):
    request.param = kind
    model, used = dit.model.__wrapped__(request, monkeypatch), by_vsf(session())
    entries = [dit.negative(model, 9, 5), dit.negative(model, 4, 6)]
    found, (x, context, picture) = dit.call(model, entries, [0], 2, used)
    plain = dit.attended
    for row, one in enumerate(entries):
        at = slice(row, row + 1)
        both = torch.cat((context[at], one.context[None]), 1)
        monkeypatch.setattr(dit, "attended", flipping(plain, one, context.shape[1]))
        assert error(found[at], model.literal(x[at], both, None, picture[at])) <= 1e-12
    assert used.problems == []


def test_hooked_modules(monkeypatch):
    a1111.hypernetworks.__wrapped__(monkeypatch)
    negatives = [a1111.entry(5, 5), a1111.entry(8, 6)]
    denoiser, network, used, *_ = a1111.prepared(negatives, (1, 1))
    by_vsf(used)
    x, cond, uncond = a1111.tensors(2)
    found = denoiser(x, cond, uncond)

    def attended(self, x, context):
        q, (k, v) = self.to_q(x), self.kv(context)
        return flipping(dit.attended, one, cond.shape[1])(q, k, v)

    monkeypatch.setattr(a1111.CrossAttention, "attended", attended)
    for image, one in enumerate(negatives):
        at = slice(image, image + 1)
        both = torch.cat((cond[at], one.context[None]), 1)
        assert error(found[at], a1111.literal(network, x[at], both, None)) <= 1e-12
        assert error(found[2:][at], a1111.literal(network, x[at], uncond[at], None)) <= 1e-12
    assert used.problems == []


# Not Wan's I2V: it takes the last 512 tokens for the text, so that no plain call has both texts. See below.
CROSS = [name for name in library.NAMES if not library.CASES[name].joint and name != "wan-i2v"]


@pytest.mark.parametrize("name", CROSS)
def test_the_cross_attention_of_the_library(name, monkeypatch):
    """Its negatives may end in equal tokens, of which one is kept and counted."""
    case = library.CASES[name]
    model = case.model(torch.float64)
    context, mask, negative, neg_mask = library.texts(case, torch.float64)
    negative[:, -3:] = negative[:, -1:]
    source = library.Given(library.entries_of(model, negative, neg_mask))
    by_vsf(source.session)
    found = library.guided(case, model, source, context, mask)
    both = torch.cat((context[2:], negative), 1)
    masks = None if mask is None else torch.cat((mask[2:], neg_mask), 1)
    there = slice(context.shape[1], both.shape[1])
    plain = torch.nn.functional.scaled_dot_product_attention

    def attention(query, key, value, attn_mask=None, **more):
        if key.shape[2] != both.shape[1]:
            return plain(query, key, value, attn_mask=attn_mask, **more)
        out = reference.vsf(query, key, value, [(there, 1.0)], SCALE, OFFSET, attn_mask)
        return out.unflatten(-1, (query.shape[1], -1)).transpose(1, 2)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    twice = None if masks is None else torch.cat((masks, masks))
    wanted = case.call(model, library.BATCH, torch.cat((both, both)), twice)
    assert error(found[2:], wanted[2:]) <= 1e-10
    assert source.session.problems == []


def test_the_text_attention_of_wans_image_to_video(monkeypatch):
    """Its image attention, which comes first, is the plain one. In the reference the first rows are there for
    the negatives' keys and values alone, which know nothing of the picture.
    """
    case = library.CASES["wan-i2v"]
    model = case.model(torch.float64)
    context, _, negative, _ = library.texts(case, torch.float64)
    source = library.Given(library.entries_of(model, negative, None))
    by_vsf(source.session)
    found = library.guided(case, model, source, context, None)
    plain, tokens = torch.nn.functional.scaled_dot_product_attention, context.shape[1]

    def attention(query, key, value, attn_mask=None, **more):
        out = plain(query, key, value, attn_mask=attn_mask, **more)
        if key.shape[2] == tokens:
            both = [torch.cat((x[2:], x[:2]), 2) for x in (key, value)]
            flipped = reference.vsf(query[2:], *both, [(slice(tokens, None), 1.0)], SCALE, OFFSET)
            out[2:] = flipped.unflatten(-1, (query.shape[1], -1)).transpose(1, 2)
        return out

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    wanted = case.call(model, library.BATCH, torch.cat((negative, context[2:])))
    assert error(found[2:], wanted[2:]) <= 1e-10
    assert source.session.problems == []


def flipped_within(self, q, k, v, mask, plain=diffusers_reference.Joint.attended):
    """Every picture's rows get one softmax over the prompt's tokens, the image's and the negative's; tokens
    of reference images keep the prompt's.
    """
    rows, self.groups = self.groups, []
    out = plain(self, q, k, v, mask)
    self.groups = rows
    if q.shape[2] == self.image:
        return out
    width, first = q.shape[2] - self.image, self.image if self.image_first else 0
    place = slice(0, self.image) if self.image_first else slice(width, None)

    def keys(x, row, seen=True):
        text = x[row : row + 1, :, first : first + self.lengths[row]]
        return torch.cat((text, x[row : row + 1, :, place]), 2) if seen else text

    for pos, ((neg, _),) in rows:
        both = [torch.cat((keys(x, pos), keys(x, neg, False)), 2) for x in (k, v)]
        there = [(slice(self.lengths[pos] + self.image, None), 1.0)]
        seen = None
        if mask is not None and mask.is_floating_point():  # the same for every query, by the keys of a row
            bias = mask.expand(len(q), 1, -1, q.shape[2])[:, :, :1]
            seen = torch.cat((keys(bias.mT, pos), keys(bias.mT, neg, False)), 2).mT
        target = q[pos : pos + 1, :, place][:, :, : self.target]
        z = out[pos, place].clone()
        z[: self.target] = reference.vsf(target, *both, there, SCALE, OFFSET, seen)
        out[[pos, neg], place] = z
    return out


def drawn_in_the_library(name, merged):
    """(case, model, source, what the model answers under VSF)"""
    case = library.CASES[name]
    model = case.model(torch.float64)
    context, mask, negative, neg_mask = library.texts(case, torch.float64)
    source = library.Given(library.entries_of(model, negative, neg_mask))
    by_vsf(source.session).may_merge = merged
    return case, model, source, library.guided(case, model, source, context, mask)


# Z-Image is below; Qwen-Image 2.1 comes with another diffusers than the pinned one.
ALONE = {"z-image", "z-image-long", "qwen-image-2.1"}


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "two calls"])
@pytest.mark.parametrize("name", [name for name in library.JOINT if name not in ALONE])
def test_the_joint_attention_of_the_library(name, merged, monkeypatch):
    case, model, source, found = drawn_in_the_library(name, merged)
    monkeypatch.setattr(diffusers_reference.Joint, "attended", flipped_within)
    assert error(found, library.literal(case, model, torch.float64)) <= 1e-12
    assert source.failures == source.session.problems == []


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "two calls"])
@pytest.mark.parametrize("name", ["z-image", "z-image-long"])
def test_the_joint_attention_of_z_image(name, merged, monkeypatch):
    """[image, text], where a mask tells how far a row's text goes. The negative's own pads are left out."""
    case, model, source, found = drawn_in_the_library(name, merged)
    _, _, negative, _ = library.texts(case, torch.float64)
    plain, last = diffusers_reference.softmax_attention, {}

    def attention(q, k, v, bias=None):
        last.update(q=q, k=k, v=v, bias=q.new_zeros(len(q), 1, 1, q.shape[2]) if bias is None else bias)
        return plain(q, k, v, bias)

    def flipped(self, out, place):
        for pos, ((neg, _),) in self.groups:
            own, other = ((last["bias"][row, 0, 0] == 0).nonzero()[:, 0] for row in (pos, neg))
            other = other[other >= self.image][: len(negative[neg - library.BATCH])]
            both = [torch.cat((x[pos][:, own], x[neg][:, other]), 1)[None] for x in (last["k"], last["v"])]
            there = [(slice(len(own), None), 1.0)]
            out[[pos, neg], place] = reference.vsf(last["q"][[pos], :, place], *both, there, SCALE, OFFSET)

    monkeypatch.setattr(diffusers_reference, "softmax_attention", attention)
    monkeypatch.setattr(diffusers_reference.Listed, "guide", flipped)
    assert error(found, library.literal(case, model, torch.float64)) <= 1e-12
    assert source.failures == source.session.problems == []


@pytest.mark.parametrize("lse", [True, False], ids=["lse", "two calls"])
@pytest.mark.parametrize("family", joint.FAMILIES)
def test_the_joint_attention_of_a_webui(family, lse, monkeypatch):
    kind, literal = joint.FAMILIES[family]
    network, tensors = joint.models.build(kind), joint.inputs(2, 7)
    entries, used = [joint.entry(5, 5), joint.entry(9, 6)], by_vsf(session())
    found = joint.call(network, tensors, entries, [0], used, lse=lse)
    plain, keys = joint_reference.joined, []

    def attended(text, image, angles):
        q, k, v = (torch.cat((one, other), 2) for one, other in zip(text, image, strict=True))
        if angles is not None:
            q, k = joint.models.rotate(q, angles), joint.models.rotate(k, angles)
        keys.append((q, k, v, text[0].shape[2]))
        return plain(text, image, angles)

    def flipped(z_pos, z_neg, strength):
        (q, k, v, first), (_, k_neg, v_neg, tokens) = keys[-2:]
        both = torch.cat((k, k_neg[:, :, :tokens]), 2), torch.cat((v, v_neg[:, :, :tokens]), 2)
        return reference.vsf(q[:, :, first:], *both, [(slice(k.shape[2], None), 1.0)], SCALE, OFFSET)

    monkeypatch.setattr(joint_reference, "joined", attended)
    monkeypatch.setattr(joint_reference, "guided", flipped)
    assert error(found, joint.expected(literal, network, tensors, entries)) <= 1e-12
    assert used.problems == []


def softmax(q, k, v, mask=None):
    return reference.vsf(q, k, v, [], 0.0, 0.0, mask)


def expected(q, k, v, layout, group, strength, mask=None):
    """The prompt over itself and the image, each negative over itself and the image, the image over all but
    the negatives' padding.
    """
    pos, image, of = layout.pos_part, layout.image_part, list(range(layout.total))

    def over(queries, keys, negatives=()):
        columns = [i for part in (*keys, *negatives) for i in of[part]]
        seen = None if mask is None else mask[..., of[queries], :][..., columns]
        first = len(columns) - sum(part.stop - part.start for part in negatives)
        flips = behind(first, group.entries[0]) if negatives else []
        return reference.vsf(q[:, :, queries], k[:, :, columns], v[:, :, columns], flips, *strength, seen)

    out = torch.zeros(q.shape[0], layout.total, HEADS * WIDTH, dtype=torch.float64)
    out[:, pos], out[:, image] = over(pos, (pos, image)), over(image, (pos, image), layout.bare_parts(group))
    for neg in layout.neg_parts(group):
        out[:, neg] = over(neg, (neg, image))
    return out


def sequence(lengths, image_first=False, pad=1, rows=2):
    """(q, k, v), layout and rows of a joint sequence with negatives of these lengths."""
    layout = Layout(sum(-(-n // pad) * pad for n in lengths), 7, 12, image_first, pad)
    tensors = tuple(normal(rows, HEADS, layout.total, WIDTH, seed=i) for i in range(3))
    one = joined(*(Entry(torch.zeros(tokens, 1)) for tokens in lengths))
    return tensors, layout, Group(slice(None), (one,) * rows)


@pytest.mark.parametrize("kernel", [FLASH_CPU, None], ids=["merged", "two calls"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("lengths", [(5,), (5, 3)])
@pytest.mark.parametrize("image_first", [False, True])
@pytest.mark.parametrize("pad", [1, 4])
def test_joint_attention(kernel, masked, lengths, image_first, pad):
    """Where the model pads each text, the negative's padding is no key of the image."""
    given, layout, group = sequence(lengths, image_first, pad)
    mask = normal(1, 1, layout.total, layout.total, seed=9) if masked else None
    for strength in STRENGTHS:
        rows = Arrangement([group], None)
        found = joint_attention(*given, layout, rows, softmax, kernel, rule(*strength), mask, EVERYWHERE)
        assert error(found, expected(*given, layout, group, strength, mask)) <= 1e-12


def test_joint_attention_in_a_spot():
    given, layout, group = sequence((5,), rows=1)
    spot = Spot(torch.tensor([0, 3, 11]), None)
    mask = normal(1, 1, layout.total, layout.total, seed=9)
    rows = Arrangement([group], None)
    found = joint_attention(*given, layout, rows, softmax, FLASH_CPU, rule(), mask, Focus(spot=spot))
    wanted = expected(*given, layout, group, (SCALE, OFFSET), mask)
    inside = layout.image_part.start + spot.index
    assert error(found[:, inside], wanted[:, inside]) <= 1e-12
    assert error(found[:, layout.pos_part], wanted[:, layout.pos_part]) <= 1e-12


@pytest.mark.parametrize("kernel", [FLASH_CPU, None], ids=["merged", "two calls"])
def test_scale_0_changes_no_bit(kernel):
    given, layout, group = sequence((5,))
    rows, own = Arrangement([group], None), layout.unguided_part

    def attended(strength):
        return joint_attention(*given, layout, rows, softmax, kernel, strength, None, EVERYWHERE)[:, own]

    off = Rule(0.0, 2.5, 0.5, Method.NAG, torch.zeros((), dtype=torch.int64))
    assert torch.equal(attended(rule(0.0)), attended(off))
    assert torch.equal(rule(0.0).combined(Part(given[0]), Part(given[1])), given[0])
    assert not torch.equal(attended(rule()), attended(off))


def test_a_rule_that_asks_for_none_works_none_out(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a log-sum-exp was worked out")

    for module in (cross_path, joint_path):
        monkeypatch.setattr(module, "log_sum_exp", fail)
    used = unet.session()
    q, k, v = unet.tensors(2)
    unet.run(q, k, v, [unet.entry()], [1, 0], used=used)
    assert (used.problems, len(used.layers)) == ([], 1)


def test_two_outputs_alone_are_not_enough():
    with pytest.raises(ValueError, match="VSF"):
        guide(torch.ones(1, 1, 2), torch.ones(1, 1, 2), 4, 2.5, 0.5, Method.VSF)


def parts(dtype, tokens=33, texts=(9, 5), width=20):
    """q, k, v of both texts and the negative's place; z+ and z- as an attention in this dtype gives them."""
    q, k, v = (
        normal(2, HEADS, n, width, seed=i).to(dtype) for i, n in enumerate((tokens, *(sum(texts),) * 2))
    )
    made = []
    for at in (slice(texts[0]), slice(texts[0], None)):
        logits = q @ k[:, :, at].transpose(-1, -2) / width**0.5
        out = (logits.softmax(-1) @ v[:, :, at]).transpose(1, 2).flatten(2)
        made.append(Part(out, log_sum_exp(q, k[:, :, at])))
    return (q, k, v, slice(texts[0], None)), made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_error_is_at_most_twice_that_of_a_naive_implementation(dtype):
    (q, k, v, there), both = parts(dtype)
    for strength in STRENGTHS:
        truth = reference.vsf(q, k, v, [(there, 1.0)], *strength)
        naive = (reference.naive_vsf(q, k, v, there, *strength).double() - truth).abs().max()
        found = sign_flip.flip(*both, *strength)
        assert found.dtype is dtype
        assert (found.double() - truth).abs().max() <= 2 * naive


def test_large_pictures_are_worked_on_in_parts_with_the_same_result(monkeypatch):
    _, both = parts(torch.float16)
    whole = sign_flip.flip(*both, SCALE, OFFSET)
    monkeypatch.setattr(guidance, "CPU_CHUNK", 200)
    assert torch.equal(sign_flip.flip(*both, SCALE, OFFSET), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_huge_values_and_weights_far_apart_stay_finite(dtype):
    limit = torch.finfo(dtype).max
    values = torch.tensor([0.0, 1.0, limit / 2, limit, -limit], dtype=dtype)
    z_pos, z_neg = torch.cartesian_prod(values, values).unbind(-1)
    z_pos, z_neg = (one[None, :, None].expand(-1, -1, 8).contiguous() for one in (z_pos, z_neg))
    lse = torch.zeros(1, 2, z_pos.shape[1])
    for gap in (-1e4, 0.0, 1e4):
        out = sign_flip.flip(Part(z_pos, lse + gap), Part(z_neg, lse), 20.0, 0.1)
        assert torch.isfinite(out).all()
    assert torch.equal(sign_flip.flip(Part(z_pos, lse), Part(z_neg, lse), 20.0, 1e4), z_pos)


@pytest.mark.parametrize("boolean", [False, True])
def test_log_sum_exps_in_pieces_with_a_mask_and_repeats(monkeypatch, boolean):
    q, k = normal(2, HEADS, 9, WIDTH, seed=1), normal(2, HEADS, 5, WIDTH, seed=2)
    mask = normal(1, 1, 9, 5, seed=3)
    seen = mask > -0.5 if boolean else mask
    bias = torch.zeros_like(mask).masked_fill(~seen, -torch.inf) if boolean else mask
    logits = q @ k.transpose(-1, -2) / WIDTH**0.5 + bias
    wanted = torch.cat((logits, logits[..., -1:].expand(-1, -1, -1, 3)), -1).logsumexp(-1)
    assert error(log_sum_exp(q, k, seen, repeats=4), wanted) <= 1e-14
    monkeypatch.setattr("nag_core.method.lse.LOGITS", 2 * HEADS * 5 * 4)
    assert error(log_sum_exp(q, k, seen, repeats=4), wanted) <= 1e-14


def test_log_sum_exps_of_a_large_picture_hold_no_more_than_64_mb_of_logits(monkeypatch):
    held = []
    original = torch.Tensor.logsumexp
    monkeypatch.setattr(torch.Tensor, "logsumexp", lambda x, dim: held.append(x.nbytes) or original(x, dim))
    q = normal(1, 1, 4200, 1, seed=1).float()
    assert log_sum_exp(q, q).shape == (1, 1, 4200)
    assert max(held) <= 64 * 2**20 < sum(held)
