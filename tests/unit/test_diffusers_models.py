"""NAG on diffusers' own model classes beside the method written out literally (tests/diffusers_reference.py)."""

import pytest
import torch

from tests.extras import needs_diffusers

pytestmark = needs_diffusers

if not pytestmark.args[0]:
    from nag_core.attention.rows import Batch
    from nag_core.guidance import Method
    from nag_core.hosts.diffusers.applied import _no_attention
    from nag_core.hosts.diffusers.network import Arrived, Network
    from nag_core.hosts.diffusers.prompts import entry, static
    from nag_core.presets import Strength
    from nag_core.schedule import Window
    from nag_core.session import Progress, Session
    from tests.diffusers_models import BATCH, CASES
    from tests.diffusers_reference import Cross, Joint

STRENGTH = (4.0, 2.5, 0.5)
# Flux's and Chroma's own rotation is in fp32, whatever the model is in.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-5}
ROTATED = 1e-6


class Given:
    """A source that guides the last two of four rows by the entries given."""

    def __init__(self, entries, phi=STRENGTH[0], marks=(1, 0)):
        self.entries, self.marks, self.failures = tuple(entries), marks, []
        strength = Strength(phi, *STRENGTH[1:])
        self.session = Session(
            strength, Method.NAG, Window(), static(entries), lambda: Progress(0, 1), _no_attention, ""
        )

    def arrived(self, context):
        self.session.begin_call()
        return Arrived(self.session, Batch(self.entries), self.marks)

    def failed(self, reason, error=None):
        self.failures.append(reason)


def texts(case, dtype):
    """Prompts (all rows), their mask, negatives of the last two rows, and their mask."""
    context, negative = case.context(BATCH, case.pos, 11).to(dtype), case.context(2, case.neg, 12).to(dtype)
    if not case.masked:
        return context, None, negative, None
    return context, case.mask(BATCH, case.pos).to(dtype), negative, case.mask(2, case.neg).to(dtype)


def entries_of(network_or_family, negative, mask):
    family = network_or_family
    return [entry(family, negative[i], None if mask is None else mask[i]) for i in range(2)]


def literal(case, model, dtype):
    context, mask, negative, neg_mask = texts(case, dtype)
    if not case.joint:
        from nag_core.hosts.diffusers.families import family_of

        embedded = family_of(model).embed(model, negative)
        bias = None if neg_mask is None else (1 - neg_mask)[:, None, None] * -10000.0
        for name, module in model.named_modules():
            if name.endswith(".attn2"):
                module.processor = Cross(embedded, bias, 2, STRENGTH)
        return case.call(model, BATCH, context, mask)
    width = max(case.pos, case.neg)

    def padded(x, tokens):
        return torch.cat([x, x.new_ones(len(x), width - tokens, *x.shape[2:])], 1)

    rows = torch.cat([padded(context, case.pos), padded(negative, case.neg)])
    joined = None if mask is None else torch.cat([mask, neg_mask])
    image = 16 if "SD3" in type(case).__name__ else 20
    processor = Joint([case.pos] * 4 + [case.neg] * 2, [(2, 4), (3, 5)], STRENGTH, image, image == 16)
    for name, module in model.named_modules():
        if name.endswith((".attn", ".attn2")) and "blocks" in name:
            module.processor = processor
    return case.call(model, BATCH + 2, rows, joined)[:BATCH]


def state(model):
    """What tells a model from one that was never touched."""
    modules = dict(model.named_modules())
    return {
        name: (type(module), sorted(vars(module)), len(module._forward_pre_hooks), len(module._forward_hooks),
               len(module._forward_hooks_always_called), type(getattr(module, "processor", None)),
               id(getattr(module, "processor", None)))
        for name, module in modules.items()
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("name", ["sd15", "sdxl", "pixart", "sana", "wan", "wan-i2v", "flux", "chroma", "sd3",
                                  "qwen-image"])  # fmt: skip
@torch.no_grad()
def test_guided_rows_are_the_literal_reference_and_the_others_are_untouched(name, dtype):
    case = CASES[name]
    model = case.model(dtype)
    context, mask, negative, neg_mask = texts(case, dtype)
    plain = case.call(model, BATCH, context, mask)
    before = state(model)
    network = Network(model, given := Given([None, None]))
    given.__init__(entries_of(network.family, negative, neg_mask))
    found = case.call(model, BATCH, context, mask)
    network.remove()
    assert given.failures == given.session.problems == []
    assert state(model) == before
    assert torch.equal(case.call(model, BATCH, context, mask), plain)
    wanted = literal(case, model, dtype)
    error = (found - wanted).double().norm() / wanted.double().norm()
    effect = (found - plain)[2:].norm() / plain[2:].norm()
    print(f"{name} {dtype}: error {error:.1e}, effect {effect:.1e}, untouched {(found - plain)[:2].abs().max():.1e}")
    assert error < max(TOLERANCE[dtype], ROTATED if name in ("flux", "chroma") else 0)
    assert effect > 1e-3
    assert torch.allclose(found[:2], plain[:2], rtol=0, atol=TOLERANCE[dtype])
