"""Forge main, the `backend` generation."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Hashable
from typing import Any, NamedTuple

from torch import Tensor, nn

from nag_core.attention.joint_model import JointModel


class _Family(NamedTuple):
    """One joint-attention network: its block lists by kind, the module in whose globals the attention is
    looked up and under which name, and the module that defines it with the names that are torch's own or as
    exact.
    """

    blocks: tuple[tuple[str, str], ...]
    module: str
    attribute: str
    heads_split: bool
    defined_in: str
    exact: frozenset[str]


# Flux and Chroma: backend/nn/flux.py's `attention` rotates, then looks `attention_function` up; chroma.py
# imports that `attention`, so both go through flux.py's globals. xformers computes the same softmax as torch;
# the split and the sub-quadratic function are there to save memory.
_FLUX = _Family(
    (("double", "double_blocks"), ("single", "single_blocks")), "backend.nn.flux", "attention_function", True,
    "backend.attention", frozenset({"attention_pytorch", "attention_xformers"}),
)  # fmt: skip
_JOINT = {
    "IntegratedFluxTransformer2DModel": _FLUX,
    "IntegratedChromaTransformer2DModel": _FLUX,
    # SD3, SD3.5: torch's scaled_dot_product_attention, whatever backend the user chose.
    "MMDiTX": _Family(
        (("joint", "joint_blocks"),), "backend.nn.mmditx", "attention", False,
        "backend.nn.mmditx", frozenset({"attention"}),
    ),
}  # fmt: skip


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
        lists = [(kind, getattr(network, name, ())) for kind, name in family.blocks]
        if family.attribute not in namespace or not all(len(blocks) for _, blocks in lists):
            return None

        def is_sdpa(function: Any) -> bool:
            # By where it is defined, not by its name alone: an extension's replacement may carry the same
            # one.
            home = getattr(sys.modules.get(family.defined_in), "__dict__", None)
            ours = getattr(function, "__globals__", None) is home is not None
            builtin = inspect.isbuiltin(nn.functional.scaled_dot_product_attention)
            return ours and builtin and function.__name__ in family.exact

        blocks = tuple((kind, block) for kind, listed in lists for block in listed)
        return JointModel(
            blocks, _patch_size(network), namespace, family.attribute, family.heads_split, is_sdpa
        )

    def after_encoding(self, unet: Any, x: Tensor) -> None:
        from backend.sampling.sampling_function import sampling_prepare

        sampling_prepare(unet, x=x)


def _patch_size(network: nn.Module) -> int:
    """Latent pixels per token and side. Flux's and Chroma's 2 is a literal in their forward."""
    size = getattr(network, "patch_size", 2)
    return int(size[0] if isinstance(size, (tuple, list)) else size)
