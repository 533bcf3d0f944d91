"""Cross-attention of DiTs (Wan, Anima) on stand-ins of their outside, against two attentions written out."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from nag_core.hosts.patcher.cross import patch_cross_call
from nag_core.hosts.patcher.neo import Neo
from nag_core.hosts.patcher.unet import Step
from nag_core.method.negative import Entry
from nag_core.method.rows import Batch
from tests import reference
from tests.unit.test_joint import STRENGTH, error, normal, session

WIDTH, CONTEXT, HEADS = 16, 12, 2


def attended(q, k, v):
    """(B, N, C) each, softmax attention written out."""
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    return ((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)


def attention_function(q, k, v, heads, mask=None, skip_reshape=False, **_):
    if skip_reshape:
        q, k, v = (x.transpose(1, 2).flatten(2) for x in (q, k, v))
    return attended(q, k, v)


class WanCross(nn.Module):
    """Wan's; with `image` I2V's, which attends to an image first."""

    def __init__(self, image=False):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        if image:
            self.k_img, self.v_img = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, context, picture):
        host, q, more = sys.modules["backend.nn.wan"], self.norm_q(self.q(x)), 0
        if hasattr(self, "k_img"):
            more = host.attention_function(q, self.k_img(picture), self.v_img(picture), heads=HEADS)
        out = host.attention_function(q, self.norm_k(self.k(context)), self.v(context), heads=HEADS)
        return self.o(out + more)

    def literal(self, x, context, negative, picture):
        q, more = self.norm_q(self.q(x)), 0
        z = [attended(q, self.norm_k(self.k(c)), self.v(c)) for c in (context, negative) if c is not None]
        if hasattr(self, "k_img"):
            more = attended(q, self.k_img(picture), self.v_img(picture))
        return self.o((z[0] if negative is None else reference.nag(*z, *STRENGTH)[0]) + more)


class AnimaCross(nn.Module):
    """Keys are normed head by head, and the attention gets the heads split."""

    n_heads = HEADS

    def __init__(self):
        super().__init__()
        self.q_proj, self.output_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k_proj, self.v_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.q_norm, self.k_norm = nn.RMSNorm(WIDTH // HEADS), nn.RMSNorm(WIDTH // HEADS)

    def heads(self, x):
        return x.unflatten(-1, (HEADS, -1))

    def forward(self, x, context, picture):
        host = sys.modules["backend.nn.anima"]
        q, k = self.q_norm(self.heads(self.q_proj(x))), self.k_norm(self.heads(self.k_proj(context)))
        parts = (t.transpose(1, 2) for t in (q, k, self.heads(self.v_proj(context))))
        return self.output_proj(host.attention_function(*parts, HEADS, skip_reshape=True))

    def literal(self, x, context, negative, picture):
        q = self.q_norm(self.heads(self.q_proj(x))).flatten(2)

        def seen(c):
            return attended(q, self.k_norm(self.heads(self.k_proj(c))).flatten(2), self.v_proj(c))

        z = seen(context)
        if negative is not None:
            z = reference.nag(z, seen(negative), *STRENGTH)[0]
        return self.output_proj(z)


class Model(nn.Module):
    """Blocks of self-attention through the same function, and cross-attention."""

    def __init__(self, cross, module):
        super().__init__()
        torch.manual_seed(1)
        self.module = module
        self.text_embedding = nn.Linear(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList()
        for _ in range(3):
            block = nn.Module()
            block.cross_attn = cross()
            self.blocks.append(block)
        self.double().requires_grad_(False)

    def forward(self, x, timestep, context, picture, **_):
        text = self.text_embedding(context)
        for block in self.blocks:
            x = x + sys.modules[self.module].attention_function(x, x, x, HEADS)
            x = x + block.cross_attn(x, text, picture)
        return x

    def literal(self, x, context, negative, picture):
        text, bad = (None if c is None else self.text_embedding(c) for c in (context, negative))
        for block in self.blocks:
            x = x + attended(x, x, x)
            x = x + block.cross_attn.literal(x, text, bad, picture)
        return x


class WanModel(Model):
    def __init__(self):
        super().__init__(WanCross, "backend.nn.wan")


class WanImageModel(WanModel):
    def __init__(self):
        Model.__init__(self, lambda: WanCross(image=True), "backend.nn.wan")


class Anima(Model):
    def __init__(self):
        super().__init__(AnimaCross, "backend.nn.anima")


@pytest.fixture(params=[WanModel, WanImageModel, Anima])
def model(request, monkeypatch):
    module = ModuleType("backend.nn")
    module.attention_function = attention_function
    made = request.param()
    monkeypatch.setitem(sys.modules, made.module, module)
    if request.param is Anima:
        # Anima's text comes embedded already.
        made.text_embedding = nn.Identity()
    return made


def texts(model, rows, tokens, seed):
    width = WIDTH if isinstance(model, Anima) else CONTEXT
    return normal(rows, tokens, width, seed=seed)


def negative(model, tokens, seed):
    return Entry(texts(model, 1, tokens, seed)[0])


def call(model, entries, marks, rows, used, tokens=7):
    x, picture = normal(rows, 6, WIDTH, seed=1), normal(rows, 4, WIDTH, seed=3)
    context = texts(model, rows, tokens, 2)
    options = patch_cross_call({}, Neo().cross_model(model), Step(used, Batch(tuple(entries)), "w"))

    def apply_model(x, timestep, c_crossattn, transformer_options, **more):
        return model(x, timestep, c_crossattn, picture)

    c = {"c_crossattn": context, "transformer_options": {"cond_or_uncond": marks}}
    found = options["model_function_wrapper"](apply_model, {"input": x, "timestep": None, "c": c})
    return found, (x, context, picture)


def expected(model, tensors, entries):
    rows = []
    for i, one in enumerate(entries):
        x, context, picture = (tensor[i : i + 1] for tensor in tensors)
        rows.append(model.literal(x, context, None if one is None else one.context[None], picture))
    return torch.cat(rows)


@pytest.mark.parametrize("lengths", [(7, 7), (5, 9)], ids=str)
def test_two_images_equal_two_attentions_written_out(model, lengths):
    entries, used = [negative(model, lengths[1], seed) for seed in (5, 6)], session()
    found, tensors = call(model, entries, [0], 2, used, lengths[0])
    assert error(found, expected(model, tensors, entries)) <= 1e-12
    assert error(found, expected(model, tensors, [None, None])) > 1e-2
    assert (used.problems, len(used.layers)) == ([], 3)


def test_uncond_rows_and_images_without_a_negative_stay_as_they_are(model):
    entries, used = [negative(model, 9, 5), None, negative(model, 4, 6)], session()
    found, tensors = call(model, entries, [1, 0], 6, used)
    assert error(found, expected(model, tensors, [None, None, None, *entries])) <= 1e-12
    assert used.problems == []


def test_keys_and_values_are_made_once_for_the_pass_and_the_text_is_embedded_once(model):
    entries, used, embedded = [negative(model, 9, 5)], session(), []
    model.text_embedding.register_forward_hook(lambda _, given, __: embedded.append(given[0].shape[1]))
    for _ in range(2):
        call(model, entries, [0], 1, used)
    own = [] if isinstance(model, Anima) else [9]
    assert embedded == [7, *own, 7]
    assert len(used.cache.made) == 3


def test_nothing_stays_behind_also_after_an_error(model):
    def left():
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
        hooks = sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
        return hooks, sys.modules[model.module].attention_function

    before, entries = left(), [negative(model, 9, 5)]
    call(model, entries, [0], 1, session())
    assert left() == before
    handle = model.blocks[1].cross_attn.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(model, entries, [0], 1, session())
    handle.remove()
    assert left() == before


def test_an_error_of_ours_costs_the_guidance_not_the_picture(model, monkeypatch):
    used, entries = session(), [negative(model, 9, 5)]
    monkeypatch.setattr(type(used), "rule", lambda *_: 1 / 0)
    found, tensors = call(model, entries, [0], 1, used)
    assert error(found, expected(model, tensors, [None])) <= 1e-12
    assert used.problems == ["ZeroDivisionError in some layers, which ran unguided"]


def test_a_batch_nobody_knows_runs_plain_and_is_said(model):
    used = session()
    found, tensors = call(model, [negative(model, 9, 5)], [1, 0], 3, used)
    assert error(found, expected(model, tensors, [None, None, None])) <= 1e-12
    assert used.problems == ["a batch layout nobody knows; there the model ran unguided"]
