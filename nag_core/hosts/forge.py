"""Forge main, the `backend` generation."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Hashable
from typing import Any, NamedTuple

from torch import Tensor, nn

from nag_core.attention.model_call import JointModel


class _Family(NamedTuple):
    """One joint-attention network: its block lists by kind, and where its attention is looked up."""

    blocks: tuple[tuple[str, str], ...]
    module: str
    attribute: str
    heads_split: bool


# Flux and Chroma: backend/nn/flux.py's `attention` rotates, then looks `attention_function` up; chroma.py
# imports that `attention`, so both go through flux.py's globals. MMDiTX (SD3, SD3.5): backend/nn/mmditx.py's
# `attention`, which is torch's scaled_dot_product_attention whatever backend the user chose.
_FLUX = _Family(
    (("double", "double_blocks"), ("single", "single_blocks")), "backend.nn.flux", "attention_function", True
)
_JOINT = {
    "IntegratedFluxTransformer2DModel": _FLUX,
    "IntegratedChromaTransformer2DModel": _FLUX,
    "MMDiTX": _Family((("joint", "joint_blocks"),), "backend.nn.mmditx", "attention", False),
}
# xformers' kernel computes the same softmax; the split and sub-quadratic ones are there to save memory.
_EXACT = {"attention_function": {"attention_pytorch", "attention_xformers"}, "attention": {"attention"}}


def probe() -> Forge | None:
    """The adapter where Forge's `backend.attention` is importable, else None."""
    try:
        found = importlib.util.find_spec("backend.attention") is not None
    except (ImportError, ValueError):
        return None
    return Forge() if found else None


class Forge:
    """Forge main: attention from `backend.attention`, LoRA identity from the patcher's loader."""

    name = "Forge (backend)"

    def attention(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        import backend.attention

        return backend.attention.attention_function(q, k, v, extra["n_heads"])

    @property
    def attention_name(self) -> str:
        import backend.attention

        return getattr(backend.attention.attention_function, "__name__", "attention")

    def weights(self, model: Any) -> Hashable:
        # backend/patcher/lora.py: LoraLoader keeps the identifier of what it merged, on the model itself.
        return str(getattr(getattr(model, "lora_loader", None), "loaded_hash", None))

    def joint_model(self, network: nn.Module) -> JointModel | None:
        # By any base class's name: a fork may subclass the network.
        names = (kind.__name__ for kind in type(network).__mro__)
        family = next((_JOINT[name] for name in names if name in _JOINT), None)
        if family is None:
            return None
        namespace = getattr(sys.modules.get(family.module), "__dict__", {})
        blocks = tuple((kind, len(getattr(network, name, ()))) for kind, name in family.blocks)
        if family.attribute not in namespace or not all(count for _, count in blocks):
            return None
        patch = _patch_size(network)
        exact = frozenset(_EXACT[family.attribute])
        return JointModel(blocks, patch, namespace, family.attribute, family.heads_split, exact)

    def after_encoding(self, unet: Any, x: Tensor) -> None:
        from backend.sampling.sampling_function import sampling_prepare

        sampling_prepare(unet, x=x)


def _patch_size(network: nn.Module) -> int:
    """Latent pixels per token and side. Flux's and Chroma's 2 is a literal in their forward."""
    size = getattr(network, "patch_size", 2)
    return int(size[0] if isinstance(size, (tuple, list)) else size)
