"""Reference images in a joint sequence: keys as all the image's, but guided themselves never."""

import pytest
import torch

from nag_core.method.focus import NOWHERE, Focus
from nag_core.method.guidance import Method
from nag_core.method.joint import joint_attention
from nag_core.method.layout import Layout
from nag_core.method.lse_kernels import lse_kernel
from nag_core.method.negative import Entry
from nag_core.method.region import Spot
from nag_core.method.rows import Arrangement, Group
from nag_core.method.rule import Rule
from nag_core.passes import report
from tests import reference

STRENGTH = (4.0, 2.5, 0.5)
HEADS, WIDTH, TARGET = 2, 16, 12
PLACES = {"behind": (0, 6), "in front": (5, 0), "both": (5, 6)}


def normal(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def over(q, k, v, queries, keys, mask=None):
    """Explicit softmax of some queries over some keys, (B, queries, H*D)."""
    logits = q[:, :, queries] @ k[:, :, keys].transpose(-1, -2) / WIDTH**0.5
    if mask is not None:
        logits = logits + mask[..., queries, :][..., keys]
    return (torch.softmax(logits, dim=-1) @ v[:, :, keys]).transpose(1, 2).flatten(2)


def plain(q, k, v, mask):
    return over(q, k, v, list(range(q.shape[2])), list(range(k.shape[2])), mask)


def given(place, rows=3, dtype=torch.float64, negatives=(5,)):
    """q, k, v, the layout, and an arrangement whose first row is not guided."""
    before, behind = PLACES[place]
    layout = Layout(sum(negatives), 7, before + TARGET + behind, before=before, behind=behind)
    tensors = tuple(normal(rows, HEADS, layout.total, WIDTH, seed=i, dtype=dtype) for i in range(3))
    parts = tuple((tokens, 1 / len(negatives)) for tokens in negatives) if len(negatives) > 1 else ()
    entry = Entry(torch.zeros(sum(negatives), 1), parts=parts)
    return tensors, layout, Arrangement([Group(slice(1, rows), (entry,) * (rows - 1))], slice(0, 1))


def expected(q, k, v, layout, rows, mask=None):
    """Prompt and references over prompt and image; the target guided away from negative and image."""
    of = list(range(layout.total))
    pos, image, target = of[layout.pos_part], of[layout.image_part], of[layout.target_part]
    negs = [of[part] for part in layout.neg_parts(rows.groups[0])]
    out = torch.zeros(q.shape[0], layout.total, HEADS * WIDTH, dtype=torch.float64)
    out[:, pos + image] = over(q, k, v, pos + image, pos + image, mask)
    z_pos, z_neg = out[1:, target], 0
    for neg in negs:
        out[1:, neg] = over(q, k, v, neg, neg + image, mask)[1:]
        z_neg = z_neg + over(q, k, v, target, neg + image, mask)[1:] / len(negs)
    out[1:, target] = reference.nag(z_pos, z_neg, *STRENGTH)[0]
    return out


def rule(**more):
    return Rule(*STRENGTH, Method.NAG, torch.zeros((), dtype=torch.int64), **more)


def error(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("negatives", [(5,), (5, 3)], ids=["one", "two"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("merged", [True, False], ids=["merged", "two calls"])
@pytest.mark.parametrize("place", PLACES)
def test_only_the_target_is_guided(place, merged, masked, negatives):
    tensors, layout, rows = given(place, negatives=negatives)
    mask = normal(1, 1, layout.total, layout.total, seed=9) if masked else None
    kernel = lse_kernel(tensors[0]) if merged else None
    found = joint_attention(*tensors, layout, rows, plain, kernel, rule(), mask)
    assert error(found, expected(*tensors, layout, rows, mask)) <= 1e-12


@pytest.mark.parametrize("name", ["lean", "triton_kernels"])
@pytest.mark.parametrize("place", PLACES)
def test_a_fused_merge_counts_the_targets_tokens_alone(place, name, monkeypatch):
    """As a GPU has it; Triton's in its interpreter."""
    fused = pytest.importorskip(f"nag_core.method.{name}", reason="Triton is not installed (webui4, Linux)")
    tensors, layout, rows = given(place, dtype=torch.float32)
    kernel, counted = lse_kernel(tensors[0]), []
    for best in (None, fused):
        monkeypatch.setattr(Rule, "fused", lambda _self, _like, best=best: best)
        one = rule()
        found = joint_attention(*tensors, layout, rows, plain, kernel, one)
        assert error(found, expected(*(x.double() for x in tensors), layout, rows)) <= 1e-6
        counted.append(int(one.counter))
    assert counted[0] == counted[1] > 0


@pytest.mark.parametrize("method", [Method.VSF, Method.ORTHOGONAL], ids=lambda method: method.value)
@pytest.mark.parametrize("place", PLACES)
def test_the_other_rules_leave_references_alone_by_either_path(place, method):
    tensors, layout, rows = given(place)
    other = Rule(2.0, 1.0, 1.0, method, torch.zeros((), dtype=torch.int64), offset=0.5)
    merged = joint_attention(*tensors, layout, rows, plain, lse_kernel(tensors[0]), other)
    called = joint_attention(*tensors, layout, rows, plain, None, other)
    off = joint_attention(*tensors, layout, rows, plain, None, other, focus=NOWHERE)
    assert error(merged, called) <= 1e-12
    for part in layout.reference_parts:
        assert torch.equal(called[:, part], off[:, part])
    target = layout.target_part
    assert error(called[1:, target], off[1:, target]) > 1e-3


@pytest.mark.parametrize("place", PLACES)
def test_references_have_the_bits_of_an_attention_without_nag(place):
    tensors, layout, rows = given(place, dtype=torch.float32)
    found = joint_attention(*tensors, layout, rows, plain, None, rule())
    off = joint_attention(*tensors, layout, rows, plain, None, rule(), focus=NOWHERE)
    for part in layout.reference_parts:
        assert torch.equal(found[:, part], off[:, part])
    assert not torch.equal(found[1:, layout.target_part], off[1:, layout.target_part])
    assert torch.equal(found[0, layout.unguided_part], off[0, layout.unguided_part])


@pytest.mark.parametrize("place", PLACES)
def test_a_mask_of_the_picture_counts_from_the_target_on(place):
    tensors, layout, rows = given(place)
    spot = Spot(torch.tensor([0, 3, 11]), None)
    found = joint_attention(*tensors, layout, rows, plain, None, rule(), focus=Focus(spot=spot))
    guided = joint_attention(*tensors, layout, rows, plain, None, rule())
    off = joint_attention(*tensors, layout, rows, plain, None, rule(), focus=NOWHERE)
    inside = layout.target_part.start + spot.index
    assert error(found[:, inside], guided[:, inside]) < 1e-13
    others = [i for i in range(layout.total) if i not in inside.tolist() and i >= layout.neg]
    assert torch.equal(found[:, others], off[:, others])


def test_an_image_in_front_of_the_text_has_no_references():
    with pytest.raises(ValueError, match="reference images and the image before the text"):
        Layout(5, 7, 12, image_first=True, behind=4)


def test_the_report_names_the_share_of_the_image_that_is_guided():
    done = report.PassReport("", layers=(("joint", 2),), guided_calls=4, total_calls=4, picture=(20, 50))
    assert "40 % of the image tokens (the rest are reference images)" in done.sentence()
    done = report.PassReport("", layers=(("joint", 2),), guided_calls=4, total_calls=4, picture=(20, 20))
    assert "reference" not in done.sentence()
