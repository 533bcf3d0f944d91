"""The A1111 adapter on a small UNet whose attention modules and CFG denoiser have the host's outside."""

import gc
import sys
import weakref
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from nag_core.hosts import which
from nag_core.hosts.a1111.host import A1111
from nag_core.hosts.compiled import RUNS_UNCOMPILED
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.method.guidance import Method
from nag_core.method.negative import Entry, Negative, Scheduled
from nag_core.passes.plan import Progress
from nag_core.settings.schedule import Window
from tests import reference
from tests.sessions import replan
from tests.unit.test_compiled import counting
from tests.unit.test_joint import STRENGTH, error, normal, session

WIDTH, CONTEXT, HEADS = 16, 12, 2


class CrossAttention(nn.Module):
    """Projections, attention, `to_out` as a Sequential whose parts some optimisations call one by one."""

    def __init__(self):
        super().__init__()
        self.heads = HEADS
        self.to_q = nn.Linear(WIDTH, WIDTH)
        self.to_k, self.to_v = nn.Linear(CONTEXT, WIDTH), nn.Linear(CONTEXT, WIDTH)
        self.to_out = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Identity())

    def attended(self, x, context):
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (self.to_q(x), *self.kv(context)))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    def kv(self, context):
        return self.to_k(context), self.to_v(context)

    def forward(self, x, context):
        project, drop = self.to_out
        return drop(project(self.attended(x, context)))


class UNet(nn.Module):
    """Three blocks with one transformer block each, under the names LDM has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)

        def block():
            inner = nn.Module()
            inner.attn2 = CrossAttention()
            transformer = nn.Module()
            transformer.transformer_blocks = nn.ModuleList([inner])
            return nn.ModuleList([transformer])

        self.input_blocks = nn.ModuleList([block()])
        self.middle_block = block()
        self.output_blocks = nn.ModuleList([block()])
        self.double().requires_grad_(False)

    def inner(self):
        blocks = *self.input_blocks, self.middle_block, *self.output_blocks
        return [block[0].transformer_blocks[0] for block in blocks]

    def attentions(self):
        return [m for m in self.modules() if isinstance(m, CrossAttention)]

    def forward(self, x, timesteps, context):
        for inner in self.inner():
            x = x + inner.attn2(x, context)
        return x


class Denoiser(nn.Module):
    """The order of rows and calls of A1111's CFG denoiser: each prompt part of image 0, of image 1 ..., then
    the uncond of each image; in one call, or in parts where the texts' lengths differ or the user says so.
    """

    def __init__(self, network, parts, callback, at_once=True):
        super().__init__()
        self.step, self.total_steps, self.parts, self.at_once = 0, 4, parts, at_once
        self.callback, self.fails = callback, False
        self.denoised = lambda: None  # what extensions do behind the host's own call
        cond = SimpleNamespace(batch=[[0] * count for count in parts])
        self.sampler = SimpleNamespace(sampler_extra_args={"cond": cond})
        object.__setattr__(self, "inner_model", nn.Identity())
        object.__setattr__(self, "network", network)

    def forward(self, x, cond, uncond):
        self.callback()
        rows = torch.cat([x.repeat_interleave(torch.tensor(self.parts), 0), x])
        if self.at_once and cond.shape[1] == uncond.shape[1]:
            out = self.network(rows, None, torch.cat([cond, uncond]))
        else:
            size = len(x)
            parts = rows[: len(cond)].split(size), cond.split(size)
            pieces = list(zip(*parts, strict=True))
            out = torch.cat([self.network(a, None, b) for a, b in [*pieces, (rows[len(cond) :], uncond)]])
        self.denoised()
        if self.fails:
            raise RuntimeError("no room")
        self.step += 1
        return out


@pytest.fixture(autouse=True)
def hypernetworks(monkeypatch):
    """The host's functions that the adapter calls; no hypernetwork is loaded."""
    hypernetwork = SimpleNamespace(apply_hypernetworks=lambda loaded, context, layer=None: (context, context))
    shared = SimpleNamespace(loaded_hypernetworks=[], opts=SimpleNamespace(upcast_attn=False))
    package = ModuleType("modules")
    package.__path__, package.shared = [], shared
    monkeypatch.setitem(sys.modules, "modules", package)
    monkeypatch.setitem(sys.modules, "modules.shared", shared)
    folder = ModuleType("modules.hypernetworks")
    folder.hypernetwork = hypernetwork
    monkeypatch.setitem(sys.modules, "modules.hypernetworks", folder)
    monkeypatch.setitem(sys.modules, "modules.hypernetworks.hypernetwork", hypernetwork)
    return hypernetwork


def prepared(entries, parts, at_once=True):
    """A pass of as many images with NAG installed: (denoiser, network, session, p, sd_model)."""
    host, network, used = A1111(), UNet(), session()
    used.negative = Negative(tuple(None if one is None else (Scheduled(9, one),) for one in entries))
    replan(used, attention=host.attention)
    sd_model = SimpleNamespace(model=SimpleNamespace(diffusion_model=network))
    p = SimpleNamespace(sampler=SimpleNamespace())
    denoiser = Denoiser(network, parts, lambda: host.begin_call(p, sd_model, used), at_once)
    p.sampler.model_wrap_cfg = denoiser
    replan(used, progress=lambda: Progress(denoiser.step, denoiser.total_steps))
    host.install(p, sd_model, used)
    return denoiser, network, used, p, sd_model


def entry(tokens, seed):
    return Entry(normal(tokens, CONTEXT, seed=seed))


def tensors(images):
    """Latent tokens, prompt and uncond of so many images."""
    return normal(images, 6, WIDTH, seed=1), *(normal(images, 7, CONTEXT, seed=seed) for seed in (2, 3))


def literal(network, x, context, negative):
    """One row by the equations alone; None: as without NAG."""
    for attention in network.attentions():
        z = attention.attended(x, context)
        if negative is not None:
            z = reference.nag(z, attention.attended(x, negative.context[None]), *STRENGTH)[0]
        x = x + attention.to_out(z)
    return x


def hooks(network):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


@pytest.mark.parametrize("at_once", [True, False], ids=["one call", "calls apart"])
@pytest.mark.parametrize("uncond_tokens", [7, 9])
@pytest.mark.parametrize("parts", [(1, 1), (2, 1), (1, 3)], ids=str)
def test_every_prompt_part_of_every_image_is_guided_and_the_uncond_is_not(parts, uncond_tokens, at_once):
    negatives = [entry(5, 5), entry(8, 6)]
    denoiser, network, used, *_ = prepared(negatives, parts, at_once)
    x = normal(2, 6, WIDTH, seed=1)
    cond, uncond = normal(sum(parts), 7, CONTEXT, seed=2), normal(2, uncond_tokens, CONTEXT, seed=3)
    found = denoiser(x, cond, uncond)
    images = [image for image, count in enumerate(parts) for _ in range(count)]
    wanted = [literal(network, x[i][None], cond[row][None], negatives[i]) for row, i in enumerate(images)]
    wanted += [literal(network, x[i][None], uncond[i][None], None) for i in range(2)]
    assert error(found, torch.cat(wanted)) <= 1e-12
    assert used.problems == []
    assert len(used.layers) == 3


def test_an_image_without_a_negative_is_drawn_as_without_nag():
    denoiser, network, *_ = prepared([None, entry(5, 5)], (1, 1))
    x, cond, uncond = (
        normal(2, 6, WIDTH, seed=1),
        normal(2, 7, CONTEXT, seed=2),
        normal(2, 7, CONTEXT, seed=3),
    )
    found = denoiser(x, cond, uncond)
    assert error(found[:1], literal(network, x[:1], cond[:1], None)) <= 1e-12
    assert error(found[1:2], literal(network, x[1:], cond[1:], entry(5, 5))) <= 1e-12


def test_nothing_is_on_the_network_between_calls_nor_after_one_that_failed():
    """An interrupt is raised before the call begins, an error in its middle; then the job is over."""
    denoiser, network, *_ = prepared([entry(5, 5)], (1,))
    x, cond, uncond = (
        normal(1, 6, WIDTH, seed=1),
        normal(1, 7, CONTEXT, seed=2),
        normal(1, 7, CONTEXT, seed=3),
    )
    assert hooks(network) == 0
    during = []
    network.attentions()[0].to_v.register_forward_hook(lambda *_: during.append(hooks(network)))
    own = hooks(network)
    denoiser(x, cond, uncond)
    assert max(during) > own
    assert hooks(network) == own
    denoiser.fails = True
    with pytest.raises(RuntimeError, match="no room"):
        denoiser(x, cond, uncond)
    assert hooks(network) == own


def test_what_an_interrupt_in_the_middle_of_a_call_leaves_there_goes_with_the_pass(graphs):
    """torch runs no hook after what is no Exception, as the host's own interrupt is none: ours stayed on the
    network.
    """
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    whole(network, counting(graphs))

    def interrupt():
        raise KeyboardInterrupt

    denoiser.denoised = interrupt
    with pytest.raises(KeyboardInterrupt):
        denoiser(*tensors(1))
    used.close()
    assert hooks(network) == 0
    network(*tensors(1)[:1], None, tensors(1)[1])
    assert graphs.ran, "the whole process ran uncompiled from then on"


def test_keys_and_values_of_the_negative_are_made_once_for_the_pass():
    denoiser, network, *_ = prepared([entry(5, 5)], (1,))
    x, cond, uncond = (
        normal(1, 6, WIDTH, seed=1),
        normal(1, 7, CONTEXT, seed=2),
        normal(1, 7, CONTEXT, seed=3),
    )
    widths = []
    network.attentions()[1].to_k.register_forward_hook(lambda _, __, out: widths.append(tuple(out.shape[:2])))
    for _ in range(3):
        denoiser(x, cond, uncond)
    assert widths == [(2, 7), (1, 5), (2, 7), (2, 7)]


def test_a_lora_whose_strength_changes_over_the_steps_changes_the_negatives_keys(monkeypatch):
    """As loractl has it: the host merges it anew in each step, and the first step's keys were used on."""
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    lora = SimpleNamespace(name="style", te_multiplier=1.0, unet_multiplier=0.0, dyn_dim=None)
    monkeypatch.setitem(sys.modules, "networks", SimpleNamespace(loaded_networks=[lora]))
    x, cond, uncond = tensors(1)
    before = {layer: layer.to_k.weight.clone() for layer in network.attentions()}
    for strength in (0.0, 0.5, 0.5, 1.0):
        lora.unet_multiplier = strength
        for layer, weight in before.items():
            layer.to_k.weight.copy_(weight * (1 + strength))
        found = denoiser(x, cond, uncond)
        assert error(found[:1], literal(network, x, cond, entry(5, 5))) <= 1e-12
    assert used.problems == []


def test_hypernetworks_change_the_negative_as_they_change_the_prompt(hypernetworks):
    hypernetworks.apply_hypernetworks = lambda loaded, context, layer=None: (context * 2, context * 3)
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    attention = network.attentions()[0]
    made = []
    attention.to_k.register_forward_hook(lambda _, given, __: made.append(given[0]))
    attention.to_v.register_forward_hook(lambda _, given, __: made.append(given[0]))
    denoiser(normal(1, 6, WIDTH, seed=1), *(normal(1, 7, CONTEXT, seed=seed) for seed in (2, 3)))
    context = entry(5, 5).context[None]
    assert torch.equal(made[2], context * 2)
    assert torch.equal(made[3], context * 3)


def test_more_rows_than_the_denoiser_has_are_left_alone_and_said():
    """Tiles of an extension: nobody can tell which row is whose."""
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    rows, context = normal(6, 6, WIDTH, seed=1), normal(6, 7, CONTEXT, seed=2)
    denoiser.callback()
    found = network(rows, None, context)
    denoiser.nag_installed.stack.close()
    assert torch.equal(found, network(rows, None, context))
    assert used.problems == ["a batch layout nobody knows; there the attention ran unguided"]


@pytest.mark.parametrize("at_once", [True, False], ids=["one call", "calls apart"])
@pytest.mark.parametrize("images", [1, 2])
def test_another_extensions_call_of_the_uncond_alone_is_left_alone_and_said(images, at_once):
    """SAG's, behind the host's own: its rows passed for the prompt's, and were guided silently."""
    denoiser, network, used, *_ = prepared([entry(5, 5)] * images, (1,) * images, at_once)
    x, cond, uncond = tensors(images)
    plain, found = network(x, None, uncond), []
    denoiser.denoised = lambda: found.append(network(x, None, uncond))
    own = denoiser(x, cond, uncond)
    assert torch.equal(found[0], plain)
    wanted = [literal(network, x[i][None], cond[i][None], entry(5, 5)) for i in range(images)]
    assert error(own, torch.cat([*wanted, plain])) <= 1e-12
    assert used.complete
    assert used.report().problems == ("another extension's own call of the model is left unguided",)


def test_another_extensions_call_of_all_rows_is_guided_as_the_hosts_own():
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    (x, cond, uncond), found = tensors(1), []
    denoiser.denoised = lambda: found.append(
        network(torch.cat([x, x]), None, torch.cat([cond, uncond])),
    )
    assert torch.equal(denoiser(x, cond, uncond), found[0])
    assert used.problems == []


def test_a_sampler_that_another_extension_took_over_is_left_to_it():
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    denoiser.inner_model.forward = lambda *_: None
    x, cond, uncond = (
        normal(1, 6, WIDTH, seed=1),
        normal(1, 7, CONTEXT, seed=2),
        normal(1, 7, CONTEXT, seed=3),
    )
    found = denoiser(x, cond, uncond)
    assert error(found[:1], literal(network, x, cond, None)) <= 1e-12
    assert "another extension took the sampler's model call over" in used.problems[0]


def test_a_model_that_edits_a_picture_is_left_alone():
    """InstructPix2Pix: its third row, without the picture, would pass for the next prompt."""
    denoiser, network, used, _, sd_model = prepared([entry(5, 5)], (1,))
    sd_model.cond_stage_key = "edit"
    x, cond, uncond = (
        normal(1, 6, WIDTH, seed=1),
        normal(1, 7, CONTEXT, seed=2),
        normal(1, 7, CONTEXT, seed=3),
    )
    assert error(denoiser(x, cond, uncond)[:1], literal(network, x, cond, None)) <= 1e-12
    assert "InstructPix2Pix" in used.problems[0]


@pytest.mark.parametrize("method", Method)
def test_keys_are_kept_for_rules_that_read_them_alone(method):
    """They were for every rule: a property asked of its class is always true."""
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    replan(used, method=method)
    layer, hooked = network.attentions()[0], []
    network.register_forward_pre_hook(lambda *_: hooked.append(len(layer.to_k._forward_hooks)))
    denoiser(*tensors(1))
    assert hooked == [method is Method.VSF]


def like_negpip(layer, images):
    """A forward that attends to more words, whose values count negative; prompt and uncond one after the
    other where they come together. (forward, its attention, its calls)
    """
    calls = []

    def attended(x, context):
        text = torch.cat([context, 2 * context[:, :3]], 1)
        q, k, v = layer.to_q(x), *layer.kv(text)
        v[:, -3:] *= -1
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
        return ((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def forward(x, context=None, **_):
        calls.append(len(x))
        halves = zip(x.chunk(2), context.chunk(2), strict=True) if len(x) == 2 * images else [(x, context)]
        return torch.cat([layer.to_out(attended(*half)) for half in halves])

    forward.__code__ = forward.__code__.replace(co_filename="/extensions/sd-webui-negpip/scripts/negpip.py")
    return forward, attended, calls


@pytest.mark.parametrize("at_once", [True, False], ids=["one call", "calls apart"])
def test_negpips_own_forward_is_guided(at_once):
    """NAG left every layer with it alone."""
    negatives = [entry(5, 5), entry(8, 6)]
    denoiser, network, used, *_ = prepared(negatives, (1, 1), at_once)
    layers, (x, cond, uncond) = network.attentions(), tensors(2)
    theirs = [like_negpip(layer, 2) for layer in layers]
    for layer, (forward, _, _) in zip(layers, theirs, strict=True):
        layer.forward = forward
    found, own = denoiser(x, cond, uncond), hooks(network)
    rows = [(x[i : i + 1], cond[i : i + 1], negatives[i]) for i in range(2)]
    rows += [(x[i : i + 1], uncond[i : i + 1], None) for i in range(2)]
    wanted = []
    for row, text, negative in rows:
        out = row
        for layer, (_, attended, _) in zip(layers, theirs, strict=True):
            z = attended(out, text)
            if negative is not None:
                z = reference.nag(z, layer.attended(out, negative.context[None]), *STRENGTH)[0]
            out = out + layer.to_out(z)
        wanted.append(out)
    assert error(found, torch.cat(wanted)) <= 1e-12
    assert (used.problems, len(used.layers), own) == ([], 3, 0)
    assert all(calls == ([4] if at_once else [2, 2]) for *_, calls in theirs), "it counts its calls"


def test_another_extensions_call_beside_negpip_is_no_layout_that_nobody_knows():
    """With SAG's call the report said that NegPiP's layers had rows nobody knows, and no "fully"."""
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    for layer in network.attentions():
        layer.forward = like_negpip(layer, 1)[0]
    x, cond, uncond = tensors(1)
    plain, found = network(x, None, uncond), []
    denoiser.denoised = lambda: found.append(network(x, None, uncond))
    denoiser(x, cond, uncond)
    assert torch.equal(found[0], plain)
    assert used.complete
    assert used.report().problems == ("another extension's own call of the model is left unguided",)


def test_attention_that_another_extension_replaced_is_left_to_it():
    """Its own term (IP-Adapter's) would be in z+, and not in z-."""
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    for attention in network.attentions():
        attention.forward = lambda x, context: x
    denoiser(normal(1, 6, WIDTH, seed=1), *(normal(1, 7, CONTEXT, seed=seed) for seed in (2, 3)))
    assert used.layers == {}
    assert used.problems == [
        "another extension replaced the forward of some attention layers; those are unguided"
    ]


def whole(network, backend):
    network.compile(backend=backend)


def modules_in_place(network, backend):
    for layer in network.attentions():
        layer.compile(backend=backend)


def modules_wrapped(network, backend):
    for inner in network.inner():
        inner.attn2 = torch.compile(inner.attn2, backend=backend)


def forwards(network, backend):
    for layer in network.attentions():
        layer.forward = torch.compile(layer.forward, backend=backend)


@pytest.fixture
def graphs():
    """Counts what torch.compile has made and run."""
    torch._dynamo.reset()
    yield SimpleNamespace(made=0, ran=0)
    torch._dynamo.reset()


@pytest.mark.parametrize("compile_", [whole, modules_in_place, modules_wrapped, forwards])
def test_a_compiled_network_is_guided_as_it_was_written_and_its_graphs_stay_what_they_were(graphs, compile_):
    """Code made without NAG ran on, unguided; code made under NAG would have gone on guiding."""
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    compile_(network, counting(graphs))
    x, cond, uncond = tensors(1)
    rows = torch.cat([x, x]), None, torch.cat([cond, uncond])
    plain, made, ran = network(*rows), graphs.made, graphs.ran
    found = denoiser(x, cond, uncond)
    wanted = literal(network, x, cond, entry(5, 5)), literal(network, x, uncond, None)
    assert error(found, torch.cat(wanted)) <= 1e-12
    assert used.report().problems == (RUNS_UNCOMPILED,)
    assert len(used.layers) == 3
    assert torch.equal(network(*rows), plain)
    assert (graphs.made, graphs.ran) == (made, 2 * ran)


def test_a_compiled_network_is_left_alone_by_a_pytorch_that_cannot_run_it_uncompiled(graphs, monkeypatch):
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    whole(network, counting(graphs))
    monkeypatch.delattr(torch.compiler, "set_stance")
    x, cond, uncond = tensors(1)
    assert error(denoiser(x, cond, uncond)[:1], literal(network, x, cond, None)) <= 1e-12
    assert "this PyTorch cannot run it uncompiled" in used.problems[0]
    assert not used.report().bypassed


def test_an_error_of_ours_costs_the_guidance_not_the_picture(monkeypatch):
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    replan(used, attention=lambda *_: 1 / 0)
    x, cond, uncond = (
        normal(1, 6, WIDTH, seed=1),
        normal(1, 7, CONTEXT, seed=2),
        normal(1, 7, CONTEXT, seed=3),
    )
    assert error(denoiser(x, cond, uncond)[:1], literal(network, x, cond, None)) <= 1e-12
    assert used.problems == ["ZeroDivisionError in some layers, which ran unguided"]


def test_a_second_install_replaces_the_first_and_a_refiner_is_noticed():
    denoiser, network, used, p, sd_model = prepared([entry(5, 5)], (1,))
    host = A1111()
    assert host.installed(p, sd_model, used)
    other = session()
    host.install(p, sd_model, other)
    assert not host.installed(p, sd_model, used)
    assert host.installed(p, sd_model, other)
    assert len(denoiser._forward_hooks) == 1
    refiner = SimpleNamespace(model=SimpleNamespace(diffusion_model=UNet()))
    assert not host.installed(p, refiner, other)


def test_the_model_before_a_refiner_is_not_held_until_the_pass_is_closed():
    denoiser, network, used, p, sd_model = prepared([entry(5, 5)], (1,))
    denoiser(*tensors(1))
    held = weakref.ref(network)
    denoiser.network = sd_model.model.diffusion_model = UNet()
    A1111().install(p, sd_model, used)
    del network
    gc.collect()
    assert held() is None


def test_outside_the_window_nothing_is_hooked():
    denoiser, network, used, *_ = prepared([entry(5, 5)], (1,))
    replan(used, window=Window(0.0, 0.25))
    x, cond, uncond = (
        normal(1, 6, WIDTH, seed=1),
        normal(1, 7, CONTEXT, seed=2),
        normal(1, 7, CONTEXT, seed=3),
    )
    first = denoiser(x, cond, uncond)
    assert error(denoiser(x, cond, uncond)[:1], literal(network, x, cond, None)) <= 1e-12
    assert error(first[:1], literal(network, x, cond, entry(5, 5))) <= 1e-12


def test_the_report_names_whose_attention_the_negative_has():
    assert A1111().attention_name == "torch attention for the negative"


def test_a_model_without_a_network_is_unsupported():
    with pytest.raises(UnsupportedHost, match="no diffusion network"):
        A1111().network(SimpleNamespace())


def test_a1111_is_recognised_by_its_own_modules(monkeypatch):
    other = ("backend", "ldm_patched")
    for name in (*other, *(name for name in sys.modules if name.split(".")[0] in other)):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("sd_samplers_cfg_denoiser", "sd_hijack_optimizations", "sd_hijack_unet"):
        module = ModuleType(f"modules.{name}")
        module.__spec__ = SimpleNamespace(name=module.__name__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    assert isinstance(which.detect(), A1111)
