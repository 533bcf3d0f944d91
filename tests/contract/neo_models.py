"""Forge Neo's own networks at toy size with random weights, and NAG written out literally on them: branches
of the host's own forward in lock-step, one for the prompt and one for each negative, which exchange their
image tokens after every attention. Shares no code with nag_core.
"""

from __future__ import annotations

import importlib
import threading
from typing import NamedTuple

import torch

from tests import reference

CONTEXT = 12


class Kind(NamedTuple):
    """How to build a family and what its attention calls look like. `image`: tokens of the 8 x 8 latent;
    0 where it changes from layer to layer; `hooked`: by attn2 replaces; `multiple`: what texts are padded to;
    `shared`: how the negative's branch gets the image positions of the prompt's, where those depend on the
    text's length.
    """

    module: str
    network: str
    arguments: dict
    image: int = 16
    image_first: bool = False
    multiple: int = 1
    heads_split: bool = True
    context: int = CONTEXT
    video: bool = False
    pooled: bool = False
    cross: bool = False
    hooked: bool = False
    shared: str = ""


_FLUX = {
    "in_channels": 4, "out_channels": 4, "vec_in_dim": 10, "context_in_dim": CONTEXT, "hidden_size": 32,
    "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 3, "axes_dim": [4, 6, 6],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip
_KLEIN = {
    **_FLUX, "vec_in_dim": None, "guidance_embed": False, "axes_dim": [4, 4, 4, 4], "theta": 2000,
    "txt_ids_dims": [3], "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "patch_size": 1,
    "qkv_bias": False,
}  # fmt: skip
_CHROMA = {
    "in_channels": 16, "out_channels": 16, "context_in_dim": CONTEXT, "hidden_size": 32, "mlp_ratio": 2.0,
    "num_heads": 2, "depth": 2, "depth_single_blocks": 3, "axes_dim": [4, 6, 6], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "in_dim": 64, "out_dim": 32, "hidden_dim": 32, "n_layers": 2,
    "txt_ids_dims": [], "vec_in_dim": 0,
}  # fmt: skip
_LUMINA = {
    "patch_size": 2, "in_channels": 4, "dim": 256, "n_layers": 2, "n_refiner_layers": 2, "n_heads": 4,
    "n_kv_heads": 2, "multiple_of": 8, "ffn_dim_multiplier": 1.0, "qk_norm": True, "cap_feat_dim": CONTEXT,
    "axes_dims": (16, 24, 24), "axes_lens": (300, 512, 512),
}  # fmt: skip
_SD15 = {
    "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
    "context_dim": CONTEXT, "num_heads": 2, "use_spatial_transformer": True,
}  # fmt: skip
_WAN = {
    "in_dim": 4, "dim": 48, "ffn_dim": 64, "freq_dim": 32, "text_dim": CONTEXT, "out_dim": 4, "num_heads": 2,
    "num_layers": 3,
}  # fmt: skip
KINDS = {
    "SD1.5": Kind("unet", "IntegratedUNet2DConditionModel", _SD15, image=0, cross=True, hooked=True),
    "Flux.1": Kind("flux", "IntegratedFluxTransformer2DModel", _FLUX, pooled=True),
    "Flux.2 Klein": Kind("flux", "IntegratedFluxTransformer2DModel", _KLEIN, image=64),
    "Chroma": Kind("chroma", "IntegratedChromaTransformer2DModel", _CHROMA),
    "Qwen-Image": Kind(
        "qwen", "QwenImageTransformer2DModel",
        {"in_channels": 16, "out_channels": 4, "num_layers": 3, "attention_head_dim": 16,
         "num_attention_heads": 2, "joint_attention_dim": CONTEXT, "axes_dims_rope": (4, 6, 6)},
        heads_split=False, video=True,
    ),
    "Z-Image": Kind(
        "lumina", "NextDiT", {**_LUMINA, "z_image_modulation": True, "pad_tokens_multiple": 32}, image=32,
        multiple=32, shared="rope_embedder",
    ),
    "Lumina 2": Kind("lumina", "NextDiT", _LUMINA, shared="rope_embedder"),
    "Krea 2": Kind(
        "krea", "SingleStreamDiT",
        {"features": 64, "tdim": 32, "txtdim": 16, "heads": 2, "kvheads": 1, "multiplier": 2, "layers": 3,
         "channels": 4, "txtlayers": 3, "txtheads": 2, "txtkvheads": 2},
        context=48, video=True,
    ),
    "Ernie": Kind(
        "ernie", "ErnieImageModel",
        {"hidden_size": 64, "num_attention_heads": 2, "num_layers": 3, "ffn_hidden_size": 64,
         "in_channels": 4, "out_channels": 4,
         "text_in_dim": CONTEXT, "rope_axes_dim": (8, 12, 12)},
        image=64, image_first=True, heads_split=False, shared="rope options",
    ),
    "Wan t2v": Kind("wan", "WanModel", _WAN, heads_split=False, video=True, cross=True),
    "Wan i2v": Kind(
        "wan", "WanModel", {**_WAN, "model_type": "i2v"}, heads_split=False, video=True, cross=True
    ),
    "Anima": Kind(
        "anima", "Anima",
        {"in_channels": 4, "out_channels": 4, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64,
         "crossattn_emb_channels": CONTEXT, "adaln_lora_dim": 16, "num_blocks": 3, "num_heads": 2},
        video=True, cross=True,
    ),
}  # fmt: skip


def build(kind, dtype=torch.float32):
    """A seeded network; weights large enough that attention shapes the result."""
    arguments = {
        key: list(value) if isinstance(value, list) else value for key, value in kind.arguments.items()
    }
    network = getattr(importlib.import_module(f"backend.nn.{kind.module}"), kind.network)(**arguments)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in network.named_parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        scale = 0.3 if parameter.dim() < 2 else 1.5 * parameter.shape[-1] ** -0.5
        parameter.data = values * scale + (1 if parameter.dim() < 2 and "norm" in name else 0)
    return network.to(dtype).requires_grad_(False).eval()


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def inputs(kind, rows, tokens):
    """Latent, timestep, context and more keywords per row."""
    size = (1, 8, 8) if kind.video else (8, 8)
    more = {}
    if kind.pooled:
        more = {"y": normal(rows, 10, seed=4), "guidance": normal(rows, seed=5).abs()}
    if kind.arguments.get("model_type") == "i2v":
        more = {"clip_fea": normal(rows, 3, 1280, seed=6)}
    context = normal(rows, tokens, kind.context, seed=3)
    return normal(rows, 4, *size, seed=1), torch.linspace(0.2, 0.8, rows), context, more


def run(kind, network, x, timestep, context, **more):
    """The network as the host's KModel calls it."""
    context = context[:, None] if kind.module == "krea" else context
    more.setdefault("transformer_options", {})
    return network(x, timestep, context=context, **more)


class Asked(NamedTuple):
    """What NAG is asked for. strength: phi, tau, alpha. weights: one for each negative. blocks: the numbers
    of those that are guided, in the order they run. where: how much of each image token is.
    """

    strength: tuple[float, float, float]
    weights: tuple[float, ...] = (1.0,)
    blocks: frozenset[int] | None = None
    where: torch.Tensor | None = None


class _Branches:
    """The exchange between the branches' threads."""

    def __init__(self, kind, network, original, texts, asked):
        self.kind, self.network, self.original, self.asked = kind, network, original, asked
        self.lengths = {
            name: -(-text.shape[1] // kind.multiple) * kind.multiple for name, text in texts.items()
        }
        self.barrier = threading.Barrier(len(texts), timeout=60)
        self.handed, self.passed = {}, dict.fromkeys(texts, 0)

    def attention(self, q, k, v, heads, *args, **kwargs):
        out = self.original(q, k, v, heads, *args, **kwargs)
        me = threading.current_thread().name
        part = self.image_part(q.shape[-2], k.shape[-2], self.lengths[me])
        if part is None:
            return out
        self.handed[me] = out[:, part].clone()
        self.barrier.wait()
        out[:, part] = self.together(self.passed[me])
        self.passed[me] += 1
        self.barrier.wait()
        return out

    def together(self, block):
        z_pos, *z_negs = (self.handed[name] for name in self.lengths)
        if self.asked.blocks is not None and block not in self.asked.blocks:
            return z_pos
        guided = reference.weighted_nag(z_pos, z_negs, self.asked.weights, *self.asked.strength)
        if self.asked.where is None:
            return guided
        where = self.asked.where[:, None]
        return where * guided + (1 - where) * z_pos

    def image_part(self, queries, keys, text):
        if self.kind.cross:
            return (
                slice(None)
                if keys == text and queries in (self.kind.image, queries * self.kind.hooked)
                else None
            )
        if queries != text + self.kind.image:
            return None
        return slice(0, self.kind.image) if self.kind.image_first else slice(text, None)


def literal(kind, network, x, timestep, pos, negs, asked, **more):
    """One guided picture (batch of 1) under the rule of one image stream; pos, each neg (1, tokens,
    channels).
    """
    home = vars(
        importlib.import_module("backend.nn.flux" if kind.module == "chroma" else f"backend.nn.{kind.module}")
    )
    original = home["attention_function"]
    texts = {"pos": pos, **{f"neg {number}": neg for number, neg in enumerate(negs)}}
    branches = _Branches(kind, network, original, texts, asked)
    found = {}

    def branch(name, context):
        try:
            found[name] = run(kind, network, x, timestep, context, **more, **_options(kind, branches, name))
        except BaseException:
            branches.barrier.abort()
            raise

    handles = _positions(kind, network, branches)
    home["attention_function"] = branches.attention
    try:
        threads = [threading.Thread(target=branch, args=each, name=each[0]) for each in texts.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        home["attention_function"] = original
        for handle in handles:
            handle.remove()
    return found["pos"]


def _options(kind, branches, name):
    if kind.shared != "rope options" or name == "pos":
        return {}
    shift = branches.lengths["pos"] - branches.lengths[name]
    return {"transformer_options": {"rope_options": {"shift_t": float(shift)}}}


def _positions(kind, network, branches):
    """Lumina numbers the image behind the text: the negative's branch gets the prompt's numbers."""
    if kind.shared != "rope_embedder":
        return []

    def renumbered(_, arguments):
        ids = arguments[0].clone()
        me = threading.current_thread().name
        if me != "pos":
            image = ids[:, branches.lengths[me] :, 0]
            image[image > 0] = branches.lengths["pos"] + 1
        return (ids,)

    return [network.rope_embedder.register_forward_pre_hook(renumbered)]
