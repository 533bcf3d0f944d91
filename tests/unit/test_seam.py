"""The seam for rules that need log-sum-exps, with a rule whose result is known: one softmax over the keys of
prompt and negative. So every guided path must give what the plain attention gives over both texts.
"""

import pytest
import torch

from nag_core.method import cross as cross_path
from nag_core.method import joint as joint_path
from nag_core.method.focus import EVERYWHERE, Focus
from nag_core.method.joint import joint_attention
from nag_core.method.layout import Layout
from nag_core.method.lse import log_sum_exp
from nag_core.method.merge import FLASH_CPU
from nag_core.method.negative import Entry
from nag_core.method.region import Spot
from nag_core.method.rows import Arrangement, Group
from nag_core.method.rule import Rule
from tests.sessions import replan
from tests.unit import test_a1111 as a1111
from tests.unit import test_cross as unet
from tests.unit import test_cross_call as dit
from tests.unit import test_diffusers_models as library
from tests.unit.test_joint import error, normal, session

HEADS, WIDTH = 2, 16


class Union(Rule):
    """w z+ + (1 - w) z-, w = sigmoid(l+ - l-) for each head."""

    needs_lse = True

    def combined(self, pos, neg, dtype=None):
        w = torch.sigmoid(pos.lse - neg.lse).transpose(1, 2).unsqueeze(-1)
        z_pos, z_neg = (part.out.unflatten(-1, (pos.lse.shape[1], -1)) for part in (pos, neg))
        return (w * z_pos + (1 - w) * z_neg).flatten(2).to(dtype or pos.out.dtype)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def joined(*entries):
    """Several negatives of equal weights: the one softmax is over all of them."""
    parts = tuple((one.tokens, 1 / len(entries)) for one in entries)
    return Entry(torch.cat([one.context for one in entries]), parts=parts if len(entries) > 1 else ())


@pytest.mark.parametrize("theirs", [False, True], ids=["attention", "someone else's replacer"])
@pytest.mark.parametrize("several", [1, 2])
def test_attn2_of_a_unet(several, theirs):
    used = unet.session()
    replan(used, rule=Union)
    q, k, v = unet.tensors(4, dtype=torch.float64)
    module = unet.Attention(torch.float64)
    one = joined(*(unet.entry(5 + i, i, torch.float64) for i in range(several)))
    replaced = {"attn2": {unet.KEY: unet.host_attention}} if theirs else {}
    options = {"transformer_options": {"patches_replace": replaced}}
    found = unet.run(q, k, v, [one, None], [1, 0], module, options, used=used)
    plain = unet.host_attention(q, k, v, {"n_heads": unet.HEADS})
    both = [torch.cat((x[2:3], p(one.context[None])), 1) for x, p in ((k, module.to_k), (v, module.to_v))]
    wanted = unet.host_attention(q[2:3], *both, {"n_heads": unet.HEADS})
    assert error(found[2:3], wanted) <= 1e-12
    assert torch.equal(found[[0, 1, 3]], plain[[0, 1, 3]])
    assert used.problems == []


@pytest.mark.parametrize("kind", [dit.WanModel, dit.WanImageModel, dit.Anima])
def test_the_cross_attention_of_a_dit(kind, monkeypatch, request):
    request.param = kind
    model, used = dit.model.__wrapped__(request, monkeypatch), session()
    replan(used, rule=Union)
    entries = [dit.negative(model, 9, 5), dit.negative(model, 4, 6)]
    found, (x, context, picture) = dit.call(model, entries, [0], 2, used)
    for row, one in enumerate(entries):
        at = slice(row, row + 1)
        both = torch.cat((context[at], one.context[None]), 1)
        assert error(found[at], model.literal(x[at], both, None, picture[at])) <= 1e-12
    assert used.problems == []


def test_hooked_modules(monkeypatch):
    a1111.hypernetworks.__wrapped__(monkeypatch)
    negatives = [a1111.entry(5, 5), a1111.entry(8, 6)]
    denoiser, network, used, *_ = a1111.prepared(negatives, (1, 1))
    replan(used, rule=Union)
    x, cond, uncond = a1111.tensors(2)
    found = denoiser(x, cond, uncond)
    for image, one in enumerate(negatives):
        at = slice(image, image + 1)
        both = torch.cat((cond[at], one.context[None]), 1)
        assert error(found[at], a1111.literal(network, x[at], both, None)) <= 1e-12
        assert error(found[2:][at], a1111.literal(network, x[at], uncond[at], None)) <= 1e-12
    assert used.problems == []


# Not Wan's I2V: it takes the last 512 tokens for the text, so that no plain call has both texts.
CROSS = [name for name in library.NAMES if not library.CASES[name].joint and name != "wan-i2v"]


@pytest.mark.parametrize("name", CROSS)
def test_the_cross_attention_of_the_library(name):
    """Its negatives may end in equal tokens, of which one is kept and counted."""
    case = library.CASES[name]
    model = case.model(torch.float64)
    context, mask, negative, neg_mask = library.texts(case, torch.float64)
    negative[:, -3:] = negative[:, -1:]
    source = library.Given(library.entries_of(model, negative, neg_mask))
    replan(source.session, rule=Union)
    found = library.guided(case, model, source, context, mask)
    both = torch.cat((context[2:], negative), 1)
    masks = None if mask is None else torch.cat((mask[2:], neg_mask), 1)
    wanted = case.call(
        model, library.BATCH, torch.cat((both, both)), None if masks is None else torch.cat((masks, masks))
    )
    assert error(found[2:], wanted[2:]) <= 1e-10
    assert source.session.problems == []


def softmax(q, k, v, mask=None):
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return ((logits if mask is None else logits + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)


def union_of(q, k, v, layout, negs, mask=None):
    """The prompt over itself and the image, each negative over itself and the image, the image over all."""
    pos, image = layout.pos_part, layout.image_part

    def over(queries, keys):
        of = list(range(layout.total))
        rows, columns = of[queries], [i for part in keys for i in of[part]]
        seen = None if mask is None else mask[..., rows, :][..., columns]
        return softmax(q[:, :, queries], k[:, :, columns], v[:, :, columns], seen)

    out = torch.zeros(q.shape[0], layout.total, HEADS * WIDTH, dtype=q.dtype)
    out[:, pos], out[:, image] = over(pos, (pos, image)), over(image, (pos, image, *negs))
    for neg in negs:
        out[:, neg] = over(neg, (neg, image))
    return out


@pytest.mark.parametrize("kernel", [FLASH_CPU, None], ids=["merged", "two calls"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("several", [1, 2])
@pytest.mark.parametrize("image_first", [False, True])
def test_joint_attention(kernel, masked, several, image_first):
    lengths = (5, 3)[:several]
    layout = Layout(sum(lengths), 7, 12, image_first)
    q, k, v = (normal(2, HEADS, layout.total, WIDTH, seed=i) for i in range(3))
    one = joined(*(Entry(torch.zeros(tokens, 1)) for tokens in lengths))
    group = Group(slice(None), (one, one))
    mask = normal(1, 1, layout.total, layout.total, seed=9) if masked else None
    rule = Union(4.0, 2.5, 0.5, None, torch.zeros((), dtype=torch.int64))
    found = joint_attention(
        q, k, v, layout, Arrangement([group], None), softmax, kernel, rule, mask, EVERYWHERE
    )
    assert error(found, union_of(q, k, v, layout, layout.neg_parts(group), mask)) <= 1e-12


def test_joint_attention_in_a_spot():
    layout, spot = Layout(5, 7, 12), Spot(torch.tensor([0, 3, 11]), None)
    q, k, v = (normal(1, HEADS, layout.total, WIDTH, seed=i) for i in range(3))
    group = Group(slice(None), (Entry(torch.zeros(5, 1)),))
    mask = normal(1, 1, layout.total, layout.total, seed=9)
    rule = Union(4.0, 2.5, 0.5, None, torch.zeros((), dtype=torch.int64))
    rows = Arrangement([group], None)
    found = joint_attention(q, k, v, layout, rows, softmax, FLASH_CPU, rule, mask, Focus(spot=spot))
    wanted = union_of(q, k, v, layout, layout.neg_parts(group), mask)
    inside = layout.image_part.start + spot.index
    assert error(found[:, inside], wanted[:, inside]) <= 1e-12
    assert error(found[:, layout.pos_part], wanted[:, layout.pos_part]) <= 1e-12


def test_a_rule_that_asks_for_none_works_none_out(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a log-sum-exp was worked out")

    for module in (cross_path, joint_path):
        monkeypatch.setattr(module, "log_sum_exp", fail)
    used = unet.session()
    q, k, v = unet.tensors(2)
    unet.run(q, k, v, [unet.entry()], [1, 0], used=used)
    assert (used.problems, len(used.layers)) == ([], 1)


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
