"""How much more a guided model call computes: counted on the real model classes at their true sizes (Flux by
default with a quarter of its blocks), without weights (meta device), batch 1, no CFG, 1024 x 1024.

Expected numbers: the operation model (its "LSE" column), checked against torch's own counter to 0.4 %.
"""

import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from nag_core.bench import measure, models
from nag_core.hosts.patcher.forge import Forge
from nag_core.hosts.patcher.joint import patch_model_call
from nag_core.method import fallback, lean, lse_kernels, merge
from nag_core.method import joint as joint_call
from nag_core.method.guidance import Method
from nag_core.method.joint import joint_attention
from nag_core.method.layout import Layout
from nag_core.method.negative import Entry
from nag_core.method.rows import Arrangement, Batch, Group
from nag_core.method.rule import Rule
from tests.extras import needs_diffusers
from tests.unit.test_joint import session

aten = torch.ops.aten
IMAGE = 4096
# torch counts no CPU attention unless told how.
FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
}


def slow(*case):
    """A case whose code another one runs, too: counting takes seconds."""
    return pytest.param(*case, marks=pytest.mark.slow)


def flops(function, *args, **kwargs):
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter, torch.inference_mode():
        function(*args, **kwargs)
    return counter.get_total_flops()


def meta(*shape):
    return torch.empty(*shape, device="meta", dtype=torch.bfloat16)


def entry(tokens, width):
    return Entry(meta(tokens, width))


@pytest.mark.parametrize("run", [torch.nn.functional.scaled_dot_product_attention, lse_kernels.FLASH_CPU.run])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_counter_itself_counts_4_nq_nk_d(run, device):
    q, k, v = (torch.empty(1, 3, tokens, 16, device=device) for tokens in (50, 70, 70))
    assert flops(run, q, k, v) == 4 * 50 * 70 * 3 * 16


def joint(q, k, v, tokens, text, image_first=False):
    """q, k, v (B, H, N, D) of a widened sequence; what our attention makes of it."""
    layout = Layout(tokens, text, IMAGE, image_first)
    rows = Arrangement([Group(slice(0, 1), (entry(tokens, 8),))], None)

    rule = Rule(4.0, 2.5, 0.25, Method.NAG, torch.zeros((), dtype=torch.int64, device="meta"))
    return joint_attention(q, k, v, layout, rows, None, lse_kernels.FLASH_CPU, rule)


@needs_diffusers
@pytest.mark.parametrize(
    ("name", "text", "extra", "blocks"),
    [
        ("Flux", 256, 6.94, 5), slow("Flux", 256, 6.94, 19), slow("Flux", 512, 13.09, 19),
        slow("Chroma", 256, 6.94, 19),
    ],
)  # fmt: skip
def test_flux_and_chroma(name, text, extra, blocks, monkeypatch):
    """256 tokens: schnell; 512: dev, with its guidance embedding. `blocks` double-stream blocks, twice as
    many single ones: a quarter of them (7.04 %) tells what all of them do (7.01 %).
    """
    from diffusers.models.transformers import transformer_chroma, transformer_flux

    depth = {"num_layers": blocks, "num_single_layers": 2 * blocks}
    with torch.device("meta"):
        if name == "Flux":
            model = transformer_flux.FluxTransformer2DModel(guidance_embeds=text == 512, **depth)
        else:
            model = transformer_chroma.ChromaTransformer2DModel(**depth)
    model.to(torch.bfloat16)

    def run(tokens):
        more = {} if name == "Chroma" else {"pooled_projections": meta(1, 768)}
        if text == 512:
            more["guidance"] = meta(1)
        return model(
            hidden_states=meta(1, IMAGE, 64), encoder_hidden_states=meta(1, tokens, 4096), timestep=meta(1),
            img_ids=meta(IMAGE, 3), txt_ids=meta(tokens, 3), **more,
        )  # fmt: skip

    base = flops(run, text)

    def guided(query, key, value, **_):
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        return joint(q, k, v, text, text).unflatten(-1, (q.shape[1], -1))

    for module in (transformer_flux, transformer_chroma):
        monkeypatch.setattr(module, "dispatch_attention_fn", guided, raising=False)
    assert 100 * (flops(run, 2 * text) / base - 1) == pytest.approx(extra, rel=0.025)


@needs_diffusers
@pytest.mark.parametrize(
    ("size", "text", "extra"),
    [slow("Large", 154, 4.41), slow("Large", 333, 9.14), ("Medium", 154, 3.70), slow("Medium", 333, 7.74)],
)
def test_sd35(size, text, extra, monkeypatch):
    """Medium's attention among image tokens alone runs once, as in the plain model."""
    from diffusers.models import attention_processor
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    depth, dual = (38, ()) if size == "Large" else (24, tuple(range(13)))
    with torch.device("meta"):
        model = SD3Transformer2DModel(
            sample_size=128, num_layers=depth, num_attention_heads=depth, attention_head_dim=64,
            caption_projection_dim=64 * depth, joint_attention_dim=4096, pooled_projection_dim=2048,
            pos_embed_max_size=192, dual_attention_layers=dual, qk_norm="rms_norm", in_channels=16,
        )  # fmt: skip
    model.to(torch.bfloat16)

    def run(tokens):
        model(meta(1, 16, 128, 128), meta(1, tokens, 4096), meta(1, 2048), meta(1))

    base = flops(run, text)
    plain = torch.nn.functional.scaled_dot_product_attention

    class Functional:
        """torch.nn.functional with another attention."""

        def __getattr__(self, name):
            return getattr(torch.nn.functional, name)

        def scaled_dot_product_attention(self, q, k, v, **_):
            if q.shape[2] == IMAGE:
                return plain(q, k, v)
            return (
                joint(q, k, v, text, text, image_first=True).unflatten(-1, (q.shape[1], -1)).transpose(1, 2)
            )

    monkeypatch.setattr(attention_processor, "F", Functional())
    assert 100 * (flops(run, 2 * text) / base - 1) == pytest.approx(extra, rel=0.025)


@needs_diffusers
@pytest.mark.parametrize(("name", "extra"), [slow("pixart", 0.19), slow("sana", 0.15), ("wan", 0.04)])
def test_cross_attention_models_in_the_library(name, extra):
    """Through the library's own processors, negatives of 24 tokens among the pads, keys and values kept:
    PixArt and SANA whole, Wan (480 x 832, 81 frames) with a tenth of its blocks, which are all alike.
    """
    from nag_core.bench.library_models import CASES
    from nag_core.bench.models import GPU, Place

    steps = CASES[f"{name}-library"](Place(torch.device("meta"), torch.bfloat16, GPU)).steps()
    steps["ours"]()  # makes the negative's keys and values
    found = 100 * (flops(steps["ours"]) / flops(steps["baseline"]) - 1)
    print(f"{name}: +{found:.3f} %")
    assert found == pytest.approx(extra, abs=0.02)


FORGE = {
    "flux": ("backend.nn.flux", "IntegratedFluxTransformer2DModel", 256, 6.94),
    "sd3.5": ("backend.nn.mmditx", "MMDiTX", 333, 9.14),
}


@pytest.fixture
def checkout(request, monkeypatch):
    """A Forge checkout on the path; needs its own environment (and pytest in it)."""
    folder = request.config.getoption("--webui-dir")
    if not folder:
        pytest.skip("no --webui-dir: a Forge checkout, in whose environment pytest runs")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "argv", [sys.argv[0], "--always-cpu", "--attention-pytorch"])


@pytest.mark.parametrize("family", FORGE)
def test_forges_own_classes_through_the_hook(family, checkout, monkeypatch):
    module, name, text, extra = FORGE[family]
    kind = getattr(pytest.importorskip(module), name)
    with torch.device("meta"):
        if family == "flux":
            model = kind(16, 768, 4096, 3072, 4.0, 24, 19, 38, [16, 56, 56], 10000, True, False)
        else:
            embedder = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 2432}}
            model = kind(
                input_size=None, depth=38, in_channels=16, adm_in_channels=2048, qk_norm="rms",
                context_embedder_config=embedder, pos_embed_max_size=192, num_patches=192 * 192,
            )  # fmt: skip
    model.to(torch.bfloat16)
    pooled = meta(1, 768 if family == "flux" else 2048)

    def run(x, t, c_crossattn, **_):
        return model(x, t, context=c_crossattn, y=pooled)

    arguments = (meta(1, 16, 128, 128), meta(1), meta(1, text, 4096))
    base = flops(run, *arguments)
    monkeypatch.setattr(joint_call, "lse_kernel", lambda q: lse_kernels.FLASH_CPU)
    options = patch_model_call({}, Forge().joint_model(model), session(), Batch((entry(text, 4096),)))
    c = {"c_crossattn": arguments[2], "transformer_options": {"cond_or_uncond": [0]}}
    guided = flops(
        options["model_function_wrapper"], run, {"input": arguments[0], "timestep": arguments[1], "c": c}
    )
    assert 100 * (guided / base - 1) == pytest.approx(extra, rel=0.025)


def counted(dtype, shape=(1, 256, 1280), method=Method.NAG):
    """Operations and bytes an element of the rule over z+."""
    pos, neg = torch.randn(2, *shape).to(dtype)
    counter = torch.zeros((), dtype=torch.int64)
    count, moved = measure.operations(lambda: lean.guide(pos, neg, (4.0, 2.5, 0.5), method, counter, out=pos))
    return count, moved / pos.numel()


def test_the_counter_of_bytes_itself():
    x = torch.zeros(100)
    assert measure.operations(lambda: x + x[:1]) == (1, 4 * (100 + 1 + 100))
    assert measure.operations(lambda: x.add_(1)) == (1, 4 * 200)
    assert measure.operations(lambda: x.copy_(x[:1].expand(100))) == (1, 4 * (1 + 100))
    assert measure.operations(lambda: torch.add(x, x, out=torch.empty(100))) == (1, 4 * 300)
    assert measure.operations(lambda: torch.empty(100).view(10, 10)[2:]) == (0, 0)
    assert measure.operations(lambda: torch.zeros(100)) == (1, 400)


@pytest.mark.parametrize(
    "method", [one for one in Method if one not in fallback.APART], ids=lambda method: method.value
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_rule_without_a_fused_kernel_takes_14_operations_and_44_bytes_an_element(dtype, method):
    """The published operations take 14 and 52, the rule as guidance.py has it 28 and 130."""
    count, moved = counted(dtype, method=method)
    assert count <= (14 if method.normalises else 5)
    assert moved < 44.1


def test_merging_and_guiding_take_23_operations_and_78_bytes_an_element():
    """Of the picture, whose tokens are 8 times those of each text here; apart it is 57 and 215."""
    text, image, heads, width = 64, 1024, 8, 128
    total = 2 * text + image

    def part(tokens):
        out = torch.randn(1, tokens, heads, width).bfloat16().transpose(1, 2)
        return merge.Part(out, torch.randn(1, heads, tokens))

    taken, out = (
        [part(total), part(total - text), part(total)],
        torch.empty(1, total, heads * width).bfloat16(),
    )
    spans, counter = (text, 2 * text, 0, text, text, total), torch.zeros((), dtype=torch.int64)
    given = (out, spans, (4.0, 2.5, 0.5), Method.NAG, counter)
    count, moved = measure.operations(lambda: lean.merge_and_guide(*taken, *given))
    assert count <= 23
    assert moved / (image * heads * width) < 78.5


# Operations of a whole step, in eager mode and without a fused kernel, beyond those of the unguided step:
# what Flux (19 double and 38 single blocks) and SDXL (70 layers) may take.
EXTRA = {"flux-schnell": 4550 - 3049, "sdxl": 3120 - 1853}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flux-schnell", "sdxl"])
def test_a_step_without_fused_kernels(name):
    place = models.Place(torch.device("meta"), torch.bfloat16, models.FULL)
    with torch.inference_mode():
        steps = models.CASES[name](place).steps()
        for variant in ("baseline", "official", "ours"):
            steps[variant]()  # keys and values are made
        found = {variant: measure.operations(steps[variant]) for variant in ("baseline", "official", "ours")}
        peaks = {variant: measure.peak_bytes(steps[variant]) for variant in ("official", "ours")}
    print(name, found, peaks)
    assert found["ours"][0] - found["baseline"][0] <= EXTRA[name]


@pytest.mark.parametrize("lse", [True, False], ids=["parts", "two calls"])
def test_sd35_without_fused_kernels_holds_no_more_than_official_style(lse):
    """At its true size in bf16, with a few of its blocks: the peak is that of one."""
    with torch.inference_mode():
        steps = models.CASES["sd35-large"](
            models.Place(torch.device("meta"), torch.bfloat16, models.GPU)
        ).steps()
        ours, official = (
            measure.peak_bytes(steps[name]) for name in ("ours" if lse else "ours-no LSE merge", "official")
        )
    assert ours <= official
