"""NAG on diffusers' own model classes, beside the method written out literally
(tests/diffusers_reference.py).
"""

import math
from types import SimpleNamespace

import pytest
import torch

from nag_core.hosts.diffusers.families import family_of
from nag_core.hosts.diffusers.joint import WidenedCall
from nag_core.hosts.diffusers.keys import MOST_SHARES, shares
from nag_core.hosts.diffusers.network import Arrived, Network
from nag_core.hosts.diffusers.prompts import FOREVER, entry, static
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.method import joint as joint_call
from nag_core.method.layout import Layout
from nag_core.method.negative import Scheduled, mixed
from nag_core.method.rows import Batch
from nag_core.passes.plan import Progress
from nag_core.settings.blocks import listing
from tests import sessions
from tests.diffusers_models import BATCH, CASES, SD15, WanI2V
from tests.diffusers_reference import Cross, Joint, Listed, Parallel, Prefix, image_positions_of_the_prompts
from tests.extras import needs_any_diffusers

pytestmark = needs_any_diffusers

STRENGTH = (4.0, 2.5, 0.5)
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6}
NAMES = list(CASES)
JOINT = [name for name in NAMES if CASES[name].joint]


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


class Given:
    """A source that guides the last two of four rows by the entries given, in all blocks or some."""

    def __init__(self, entries, phi=STRENGTH[0], blocks=None):
        self.entries, self.failures = tuple(entries), []
        self.session = sessions.made(
            (phi, *STRENGTH[1:]), static(entries), blocks, progress=lambda: Progress(0, 1)
        )

    def arrived(self, context):
        if self.session.begin_call() is None:
            return None
        return Arrived(self.session, Batch(self.entries), (1, 0))

    def failed(self, reason, error=None):
        self.failures.append(reason)
        self.session.stop(reason)


def texts(case, dtype):
    """Prompts (all rows), their mask, negatives of the last two rows, and their mask."""
    context, negative = case.context(BATCH, case.pos, 11), case.context(2, case.neg, 12)
    if case.listed:
        return [one.to(dtype) for one in context], None, [one.to(dtype) for one in negative], None
    context, negative = context.to(dtype), negative.to(dtype)
    if not case.masked:
        return context, None, negative, None
    return context, case.mask(BATCH, case.pos).to(dtype), negative, case.mask(2, case.neg).to(dtype)


def entries_of(model, negative, mask):
    family = family_of(model)
    return [entry(family, negative[i], None if mask is None else mask[i]) for i in range(len(negative))]


def guided(case, model, source, *given):
    """The model's output under NAG; the hooks are gone afterwards."""
    network = Network(model, source)
    try:
        return case.call(model, BATCH, *given)
    finally:
        network.remove()


def literal(case, model, dtype, negatives=None, chosen=None):
    """The reference's output; the model keeps its processors.

    negatives: (rows of the last two, their mask, weight) each, the case's own unless given. chosen: the
    modules that are guided, all unless given.
    """
    context, mask, negative, neg_mask = texts(case, dtype)
    negatives = negatives or [(negative, neg_mask, 1.0)]
    named = [(name, module) for name, module in model.named_modules() if hasattr(module, "processor")]
    if not case.joint:
        embed = family_of(model).embed
        each = [
            (embed(model, one), None if its is None else (1 - its)[:, None, None] * -10000.0, weight)
            for one, its, weight in negatives
        ]
        for name, module in named:
            over_text = name.endswith(".attn2") or getattr(module, "is_cross_attention", False)
            if over_text and (chosen is None or module in chosen):
                module.processor = Cross(each, 2, STRENGTH)
        return case.call(model, BATCH, context, mask)
    if case.listed:
        return literal_of_lists(case, model, context, negatives, chosen)
    width = max(case.pos, *(one.shape[1] for one, _, _ in negatives))

    def padded(x):
        return torch.cat([x, x.new_ones(len(x), width - x.shape[1], *x.shape[2:])], 1)

    rows = torch.cat([padded(context), *(padded(one) for one, _, _ in negatives)])
    masks = None if mask is None else torch.cat([padded(mask), *(padded(its) for _, its, _ in negatives)])
    lengths = [case.pos] * BATCH + [one.shape[1] for one, _, _ in negatives for _ in range(2)]
    places = [(BATCH + 2 * number, weight) for number, (_, _, weight) in enumerate(negatives)]
    groups = [(2 + image, [(row + image, weight) for row, weight in places]) for image in range(2)]
    for _, module in named:
        # A picture's rows have one image stream, guided or not.
        strength = STRENGTH if chosen is None or module in chosen else (0.0, *STRENGTH[1:])
        kind = Parallel if hasattr(module, "to_qkv_mlp_proj") else Joint
        kind = Prefix if family_of(model).prefix else kind
        module.processor = kind(lengths, groups, strength, case.image, case.image_first, case.target)
    return case.call(model, len(rows), rows, masks)[:BATCH]


def literal_of_lists(case, model, context, negatives, chosen):
    rows = [*context, *(one for both, _, _ in negatives for one in both)]
    places = [(BATCH + 2 * number, weight) for number, (_, _, weight) in enumerate(negatives)]
    groups = [(2 + image, [(row + image, weight) for row, weight in places]) for image in range(2)]
    for module in family_of(model).layers(model):
        strength = STRENGTH if chosen is None or module in chosen else (0.0, *STRENGTH[1:])
        module.processor = Listed([], groups, strength, case.image)
    image_positions_of_the_prompts(model, groups)
    return case.call(model, len(rows), rows)[:BATCH]


def state(model):
    """What tells a model from one that was never touched."""
    return {
        name: (
            type(module), sorted(vars(module)), len(module._forward_pre_hooks), len(module._forward_hooks),
            len(module._forward_hooks_always_called), type(getattr(module, "processor", None)),
            id(getattr(module, "processor", None)),
        )
        for name, module in model.named_modules()
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("name", NAMES)
def test_guided_rows_are_the_literal_reference_and_the_others_are_untouched(name, dtype):
    case = CASES[name]
    model = case.model(dtype)
    context, mask, negative, neg_mask = texts(case, dtype)
    plain, before = case.call(model, BATCH, context, mask), state(model)
    source = Given(entries_of(model, negative, neg_mask))
    found = guided(case, model, source, context, mask)
    assert source.failures == source.session.problems == []
    assert state(model) == before
    assert torch.equal(case.call(model, BATCH, context, mask), plain)
    wanted = literal(case, model, dtype)
    error = float((found - wanted).double().norm() / wanted.double().norm())
    effect = float((found - plain)[2:].norm() / plain[2:].norm())
    untouched = float((found - plain)[:2].abs().max())
    print(f"{name}, {dtype}: error {error:.1e}, effect {effect:.1e}, untouched rows {untouched:.1e}")
    assert error < TOLERANCE[dtype]
    assert effect > 1e-3
    assert untouched < TOLERANCE[dtype]


def compared(found, wanted, plain, dtype):
    error = float((found - wanted).double().norm() / wanted.double().norm())
    effect = float((found - plain)[2:].norm() / plain[2:].norm())
    assert error < TOLERANCE[dtype]
    assert effect > 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("name", NAMES)
def test_several_negatives_of_different_lengths_are_the_literal_reference(name, dtype):
    case = CASES[name]
    model, family = case.model(dtype), family_of(case.model(dtype))
    context, mask, negative, neg_mask = texts(case, dtype)
    # Wan's texts are always padded to one length.
    tokens = case.neg if name.startswith("wan") else case.neg - 2
    other = case.context(1, tokens, 13)
    other = [one.to(dtype) for one in other] if case.listed else other.to(dtype)
    other_mask = case.mask(1, tokens).to(dtype) if case.masked else None
    given = [(negative[:1], None if neg_mask is None else neg_mask[:1], 1.0), (other, other_mask, 3.0)]
    single = [
        (Scheduled(FOREVER, entry(family, one[0], None if its is None else its[0], of_several=True)),)
        for one, its, _ in given
    ]
    ((part,), _) = mixed(single, [weight for *_, weight in given], 2).images
    source = Given([part.entry, part.entry])
    plain = case.call(model, BATCH, context, mask)
    found = guided(case, model, source, context, mask)
    assert source.failures == source.session.problems == []
    both = [
        (
            [*one, *one] if case.listed else one.repeat(2, 1, 1),
            None if its is None else its.repeat(2, 1),
            weight,
        )
        for one, its, weight in given
    ]
    compared(found, literal(case, model, dtype, both), plain, dtype)


class OnlyCross(SD15):
    """As SD's x4 upscaler: on some levels the first attention of a block is over the text, too."""

    def build(self):
        return super().build(only_cross_attention=(True, False))


def test_a_unets_first_attention_is_guided_where_it_is_over_the_text():
    """It was left unguided, and the report was complete."""
    case = OnlyCross()
    model = case.model(torch.float64)
    context, _, negative, _ = texts(case, torch.float64)
    plain, source = case.call(model, BATCH, context), Given(entries_of(model, negative, None))
    found = guided(case, model, source, context)
    assert source.failures == source.session.problems == []
    firsts = [one for name, one in model.named_modules() if name.endswith("attn1") and one.is_cross_attention]
    seconds = [one for name, one in model.named_modules() if name.endswith("attn2")]
    assert firsts
    assert len(source.session.layers) == len(firsts) + len(seconds)
    assert set(family_of(model).blocks(model)) == set(family_of(model).layers(model)) > set(firsts)
    compared(found, literal(case, model, torch.float64), plain, torch.float64)


class DeepWanI2V(WanI2V):
    """So many layers that Python gives the ids of dead tensors out again."""

    layers = 12


@pytest.mark.parametrize("count", [2, 3])
def test_several_negatives_of_wans_image_to_video_are_embedded_once_and_not_mixed_up(count):
    """Each layer embedded views of their context, kept by the ids of views that were gone by the next layer:
    that took another negative's, and every layer's stayed until the end of the pass.
    """
    case = DeepWanI2V()
    model = case.model(torch.float64)
    family = family_of(model)
    context, mask, *_ = texts(case, torch.float64)
    given = [(case.context(1, 512, 20 + one), None, 1.0 + one) for one in range(count)]
    single = [(Scheduled(FOREVER, entry(family, one[0], None, of_several=True)),) for one, *_ in given]
    ((part,), _) = mixed(single, [weight for *_, weight in given], 2).images
    plain, source, embedded = case.call(model, BATCH, context, mask), Given([part.entry] * 2), []
    handle = model.condition_embedder.text_embedder.register_forward_hook(
        lambda _module, args, _out: embedded.append(args[0].shape[1])
    )
    found = guided(case, model, source, context, mask)
    handle.remove()
    assert source.failures == source.session.problems == []
    assert embedded == [512, 512 * count], "the prompt, and all negatives together"
    wanted = literal(case, model, torch.float64, [(one.repeat(2, 1, 1), *more) for one, *more in given])
    compared(found, wanted, plain, torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_chosen_blocks_are_guided(name):
    case = CASES[name]
    model = case.model(torch.float64)
    context, mask, negative, neg_mask = texts(case, torch.float64)
    blocks = family_of(model).blocks(model)
    chosen = frozenset(list(blocks.values())[:1])
    source = Given(entries_of(model, negative, neg_mask), blocks=chosen)
    plain = case.call(model, BATCH, context, mask)
    found = guided(case, model, source, context, mask)
    assert source.failures == source.session.problems == []
    modules = {module for module, block in blocks.items() if block in chosen}
    assert len(source.session.layers) == len(modules) < len(blocks)
    compared(found, literal(case, model, torch.float64, chosen=modules), plain, torch.float64)


@pytest.mark.parametrize(
    ("kinds", "layers", "wanted"),
    [
        ("CCCD", 16, "input.1-2, input.4-5, input.7-8, middle.0, output.3-11"),
        ("DCC", 11, "input.4-5, input.7-8, middle.0, output.0-5"),
    ],
    ids=["SD1.5", "SDXL"],
)
def test_a_unets_blocks_have_the_numbers_that_webuis_give_them(kinds, layers, wanted):
    """hosts.md: the ids that were seen in the WebUIs. Here with one transformer block each."""
    from diffusers import UNet2DConditionModel

    down = ["CrossAttnDownBlock2D" if kind == "C" else "DownBlock2D" for kind in kinds]
    up = ["CrossAttnUpBlock2D" if kind == "C" else "UpBlock2D" for kind in reversed(kinds)]
    model = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,) * len(kinds), layers_per_block=2, norm_num_groups=4,
        down_block_types=down, up_block_types=up, cross_attention_dim=8, attention_head_dim=2,
    )  # fmt: skip
    blocks = family_of(model).blocks(model)
    assert set(blocks) == set(family_of(model).layers(model))
    assert len(blocks) == layers
    assert listing(sorted(blocks.values())) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_phi_zero_changes_no_bit_with_the_negative_riding_along(name):
    case = CASES[name]
    model = case.model(torch.float32)
    context, mask, negative, neg_mask = texts(case, torch.float32)
    source = Given(entries_of(model, negative, neg_mask), phi=0.0)
    source.session.may_merge = False  # merged parts round differently from the undivided attention
    found = guided(case, model, source, context, mask)
    assert source.failures == source.session.problems == []
    assert torch.equal(found, case.call(model, BATCH, context, mask))


@pytest.mark.parametrize("name", NAMES)
def test_each_image_has_its_own_negative_of_any_length(name):
    """As if it were the only one of that length: the batch holds a long one, a short one, or none."""
    case = CASES[name]
    model = case.model(torch.float64)
    context, mask, negative, neg_mask = texts(case, torch.float64)
    one, two = entries_of(model, negative, neg_mask)
    cut = -3 if name != "wan-i2v" else -1  # which fills what is missing with the last token
    short = type(two)(two.context[:cut], two.repeats, None if two.mask is None else two.mask[:cut])
    given = (context, mask)
    mixed = guided(case, model, Given([one, short]), *given)
    for row, alone in ((2, Given([one, one])), (3, Given([short, short]))):
        found = guided(case, model, alone, *given)
        assert torch.allclose(mixed[row], found[row], rtol=0, atol=1e-12)
    with_none = guided(case, model, Given([None, short]), *given)
    plain = case.call(model, BATCH, *given)
    assert torch.allclose(with_none[:3], plain[:3], rtol=0, atol=1e-12)
    assert torch.allclose(with_none[3], mixed[3], rtol=0, atol=1e-12)
    assert (mixed[3] - plain[3]).norm() > 1e-3 * plain[3].norm()


@pytest.mark.parametrize("name", ["pixart", "sana", "wan", "wan-i2v"])
def test_pads_are_no_keys(name, monkeypatch):
    """PixArt's and SANA's are left out, Wan's are one key together."""
    from nag_core.hosts.diffusers import cross as cross_call

    seen = []

    def watched(k, v, repeats, dim):
        seen.append((k.shape[dim], repeats))
        return original(k, v, repeats, dim)

    original = cross_call.weighted_keys
    monkeypatch.setattr(cross_call, "weighted_keys", watched)
    case = CASES[name]
    model = case.model(torch.float64)
    context, mask, negative, neg_mask = texts(case, torch.float64)
    guided(case, model, Given(entries_of(model, negative, neg_mask)), context, mask)
    wanted = {(2, 1), (3, 1)} if case.masked else {(5, case.neg - 4), (6, case.neg - 5)}
    assert set(seen) == wanted


@pytest.mark.parametrize("name", ["wan", "wan-i2v"])
def test_another_attention_backend_gets_all_pads_and_no_bias(name, monkeypatch):
    from diffusers.models.transformers import transformer_wan

    case = CASES[name]
    model = case.model(torch.float64)
    context, mask, negative, neg_mask = texts(case, torch.float64)
    wanted = guided(case, model, Given(entries_of(model, negative, neg_mask)), context, mask)
    keys = set()

    def own(query, key, value, attn_mask=None, **_):
        assert attn_mask is None
        keys.add(key.shape[1])
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    monkeypatch.setattr(transformer_wan, "dispatch_attention_fn", own)
    found = guided(case, model, Given(entries_of(model, negative, neg_mask)), context, mask)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
    assert case.neg in keys


@pytest.mark.parametrize("name", NAMES)
def test_an_error_or_an_interrupt_in_the_model_leaves_nothing_behind(name):
    case = CASES[name]
    model = case.model(torch.float32)
    context, mask, negative, neg_mask = texts(case, torch.float32)
    plain, before = case.call(model, BATCH, context, mask), state(model)
    for kind in (RuntimeError, KeyboardInterrupt):
        network = Network(model, Given(entries_of(model, negative, neg_mask)))
        last = list(network.layers)[-1]

        def fail(*_, kind=kind):
            raise kind("stop")

        handle = last.register_forward_hook(fail)
        with pytest.raises(kind):
            case.call(model, BATCH, context, mask)
        handle.remove()
        network.remove()
        assert state(model) == before
        assert torch.equal(case.call(model, BATCH, context, mask), plain)


@pytest.mark.parametrize("name", JOINT)
def test_a_text_that_cannot_be_widened_costs_the_guidance_not_the_picture(name, monkeypatch):
    case = CASES[name]
    model = case.model(torch.float32)
    context, mask, negative, neg_mask = texts(case, torch.float32)
    plain, before = case.call(model, BATCH, context, mask), state(model)
    place = "zimage.slot_width" if case.listed else "joint.with_negative"
    place = "prefix._keys_and_values" if family_of(model).prefix else place
    monkeypatch.setattr(f"nag_core.hosts.diffusers.{place}", lambda *_: 1 / 0)
    source = Given(entries_of(model, negative, neg_mask))
    assert torch.equal(guided(case, model, source, context, mask), plain)
    assert source.failures == ["ZeroDivisionError: division by zero"]
    assert state(model) == before


@pytest.mark.parametrize("name", [name for name in JOINT if name != "qwen-image-2.1"])
def test_a_joint_call_that_fails_is_made_again_without_nag(name, monkeypatch):
    case = CASES[name]
    model = case.model(torch.float32)
    context, mask, negative, neg_mask = texts(case, torch.float32)
    plain = case.call(model, BATCH, context, mask)
    monkeypatch.setattr(joint_call, "joint_attention", lambda *_: 1 / 0)
    source = Given(entries_of(model, negative, neg_mask))
    assert torch.equal(guided(case, model, source, context, mask), plain)
    (reason,) = source.failures
    assert reason.startswith("ZeroDivisionError")


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_a_block_whose_attention_went_elsewhere_makes_the_call_worthless(name):
    """A processor that is replaced while NAG is applied is reached at the next call."""
    case = CASES[name]
    model = case.model(torch.float32)
    context, mask, negative, neg_mask = texts(case, torch.float32)
    plain = case.call(model, BATCH, context, mask)
    source = Given(entries_of(model, negative, neg_mask))
    network = Network(model, source)
    module = next(iter(network.layers))
    processor, other = module.processor, type(module.processor)()
    hook = model.register_forward_pre_hook(lambda *_: setattr(module, "processor", other))
    assert torch.equal(case.call(model, BATCH, context, mask), plain)
    assert "blocks attended as they are known to" in source.failures[0]
    hook.remove()
    module.processor = processor
    network.remove()


class Foreign:
    """A processor that attends by itself."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return hidden_states


@pytest.mark.parametrize("name", ["sd15", "pixart"])
def test_a_processor_that_nag_cannot_reach_into_is_named(name):
    case = CASES[name]
    model = case.model(torch.float32)
    model.set_attn_processor(Foreign())
    before = state(model)
    with pytest.raises(UnsupportedHost, match="the attention processor Foreign"):
        Network(model, Given([None, None]))
    assert state(model) == before


def test_a_model_of_no_known_family_is_refused():
    with pytest.raises(UnsupportedHost, match="Linear"):
        Network(torch.nn.Linear(2, 2), Given([None, None]))


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sana", "wan", "flux"])
def test_fused_projections_give_the_same(name):
    case = CASES[name]
    model = case.model(torch.float64)
    context, mask, negative, neg_mask = texts(case, torch.float64)
    wanted = guided(case, model, Given(entries_of(model, negative, neg_mask)), context, mask)
    if hasattr(model, "fuse_qkv_projections"):
        model.fuse_qkv_projections()
    else:
        pytest.skip("this version cannot fuse this model")
    source = Given(entries_of(model, negative, neg_mask))
    found = guided(case, model, source, context, mask)
    assert source.failures == source.session.problems == []
    assert torch.allclose(found, wanted, rtol=0, atol=1e-11)


def test_one_processor_may_serve_all_layers():
    from diffusers.models.attention_processor import AttnProcessor2_0

    case = CASES["sd15"]
    model = case.model(torch.float64)
    context, mask, negative, neg_mask = texts(case, torch.float64)
    wanted = guided(case, model, Given(entries_of(model, negative, neg_mask)), context)
    model.set_attn_processor(AttnProcessor2_0())
    assert torch.equal(guided(case, model, Given(entries_of(model, negative, neg_mask)), context), wanted)


def with_image_prompt(case, model):
    """Gives the model IP-Adapter's processors and an image prompt. Returns what sets its scale."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    torch.manual_seed(0)
    image = case.context(BATCH, 3, 13)

    def beside_the_text(_module, args, kwargs):
        return (args[0], (kwargs["encoder_hidden_states"], [image])), {}

    layers = [module for name, module in model.named_modules() if name.endswith(".attn2")]
    for layer in layers:
        layer.processor = IPAdapterAttnProcessor2_0(layer.inner_dim, case.text, num_tokens=(3,), scale=0.0)
        layer.processor.double()
        layer.register_forward_pre_hook(beside_the_text, with_kwargs=True)

    def scaled(scale):
        for layer in layers:
            layer.processor.scale = [scale]

    return scaled


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("count", [2, 7, 77, 223, 300])
def test_keys_of_16_bits_weigh_as_much_as_those_they_stand_for(count, dtype):
    logits = shares(count, dtype)
    assert len(logits) <= MOST_SHARES
    assert torch.equal(torch.tensor(logits).to(dtype).double(), torch.tensor(logits, dtype=torch.float64))
    assert count * (1 - 1e-4) <= sum(map(math.exp, logits)) <= count * (1 + 1e-9)


@pytest.mark.parametrize(("queries", "keys"), [(24, 3), (12, 24)])
def test_an_attention_over_other_tokens_on_one_side_is_the_models_own(queries, keys):
    """Of all tokens over an image prompt, say."""
    call = WidenedCall(None, None, SimpleNamespace(layout=Layout(5, 7, 12)))
    attention = SimpleNamespace(token_dim=2, plain=lambda q, k, v, mask: q + k.shape[2])
    q, k = torch.zeros(1, 2, queries, 8), torch.zeros(1, 2, keys, 8)
    assert torch.equal(call.attend(attention, q, k, k, None), q + keys)
    assert not call.broken


def test_only_the_text_is_guided_beside_an_image_prompt():
    """IP-Adapter's processors attend to the text, then to the image: its part stays as it is."""
    case = CASES["sd15"]
    model = case.model(torch.float64)
    context, _, negative, _ = texts(case, torch.float64)
    scaled = with_image_prompt(case, model)

    def call(scale, source=None):
        scaled(scale)
        return case.call(model, BATCH, context) if source is None else guided(case, model, source, context)

    entries = entries_of(model, negative, None)
    source = Given(entries)
    with_both = call(1.0, source)
    assert source.failures == source.session.problems == []
    reference = CASES["sd15"].model(torch.float64)
    wanted = guided(case, reference, Given(entries), context)
    assert torch.allclose(call(0.0, Given(entries)), wanted, rtol=0, atol=1e-12)
    plain = call(1.0)
    assert (with_both - plain)[2:].norm() > 1e-3 * plain.norm()
    assert torch.equal(with_both[:2], plain[:2])


@pytest.mark.parametrize("of_keys", [True, False], ids=["(rows, keys)", "(rows, 1, 1, keys)"])
def test_a_mask_of_the_keys_may_have_two_dimensions(of_keys):
    """As Qwen-Image's has in diffusers 0.36 to 0.38, where it ran unguided."""
    case = CASES["qwen-image"]
    model = case.model(torch.float64)
    context, mask, negative, neg_mask = texts(case, torch.float64)
    wanted = guided(case, model, Given(entries_of(model, negative, neg_mask)), context, mask)
    source = Given(entries_of(model, negative, neg_mask))
    network = Network(model, source)
    attend = network.swaps.attend

    def handed_a_mask(attention, q, k, v, _mask):
        seen = torch.ones(len(q), k.shape[1], dtype=torch.bool)
        return attend(attention, q, k, v, seen if of_keys else seen[:, None, None])

    network.swaps.attend = handed_a_mask
    try:
        found = case.call(model, BATCH, context, mask)
    finally:
        network.remove()
    assert source.failures == source.session.problems == []
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)


def test_an_attention_that_fails_beside_a_text_of_its_own_costs_that_layers_guidance(monkeypatch):
    case = CASES["qwen-image-2.1"]
    model = case.model(torch.float32)
    context, mask, negative, neg_mask = texts(case, torch.float32)
    plain = case.call(model, BATCH, context, mask)
    monkeypatch.setattr("nag_core.method.cross.guide", lambda *_: 1 / 0)
    source = Given(entries_of(model, negative, neg_mask))
    assert torch.equal(guided(case, model, source, context, mask), plain)
    assert source.session.problems == ["ZeroDivisionError in some layers, which ran unguided"]


def test_qwen_image_21s_steps_with_kept_keys_are_those_without():
    """The pipeline keeps the prompt's over the steps; the negative's are made once either way."""
    from nag_core.hosts.diffusers import prefix

    case = CASES["qwen-image-2.1"]
    model = case.model(torch.float64)
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache

    context, _, negative, _ = texts(case, torch.float64)
    made, original = [], prefix._keys_and_values
    prefix._keys_and_values = lambda *given: made.append(1) or original(*given)
    try:
        found = {}
        for kept in (False, True):
            source, store = Given(entries_of(model, negative, None)), QwenImage21KVCache(2)
            source.session.plan = sessions.made(STRENGTH, progress=lambda: Progress(0, 2)).plan
            network = Network(model, source)
            for number, time in enumerate((0.9, 0.4)):
                mode = {"kv_cache": store, "kv_cache_mode": ("extract", "cached")[number]} if kept else {}
                found[kept, time] = case.call(model, BATCH, context, time=time, **mode)
            network.remove()
            assert source.failures == source.session.problems == []
            assert source.session.guided_calls == 2
    finally:
        prefix._keys_and_values = original
    assert len(made) == 4, "two texts, once in each of two passes"
    for time in (0.9, 0.4):
        plain = case.call(model, BATCH, context, time=time)
        assert torch.allclose(found[True, time], found[False, time], rtol=0, atol=1e-10)
        assert torch.allclose(found[True, time][:2], plain[:2], rtol=0, atol=1e-10)
        assert (found[True, time] - plain)[2:].norm() > 1e-3 * plain[2:].norm()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("flex", "0 of 2 blocks attended as they are known to"),
        ("references", "reference images are within the text here"),
        ("time", "the text depends on the time step here"),
    ],
)
def test_what_is_not_known_of_qwen_image_21_is_left_alone(change, reason):
    case = CASES["qwen-image-2.1"]
    model = case.model(torch.float32)
    context, _, negative, _ = texts(case, torch.float32)
    if change == "flex":
        from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21FlexAttnProcessor

        model.set_attn_processor(QwenImage21FlexAttnProcessor())
    if change == "time":
        model.register_to_config(causal_condition=False)

    def call():
        if change != "references":
            return case.call(model, BATCH, context)
        image = torch.zeros(BATCH, case.pos + 5, dtype=torch.bool)
        image[:, 3] = image[:, case.pos :] = True
        latents = case.per_image(BATCH, (case.image + 4, 4), 1, context)
        time = torch.full((BATCH,), 0.5)
        return model(latents, context, time, [[(1, 2, 2), (1, 4, 5)]] * BATCH, image, return_dict=False)[0]

    plain = call()
    source = Given(entries_of(model, negative, None))
    network = Network(model, source)
    found = call()
    network.remove()
    assert torch.equal(found, plain)
    (said,) = source.failures
    assert reason in said
