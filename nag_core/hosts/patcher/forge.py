"""Forge main, the `backend` generation."""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable
from typing import Any

from torch import Tensor, nn

from nag_core.hosts import asked
from nag_core.hosts.model import unet_patcher
from nag_core.hosts.patcher.families import Family, joint_model
from nag_core.hosts.patcher.host import PatchedHost
from nag_core.hosts.patcher.networks import JointModel

# Flux and Chroma: backend/nn/flux.py's `attention` rotates, then looks `attention_function` up; chroma.py
# imports that `attention`, so both go through flux.py's globals. xformers computes the same softmax as torch;
# the split and the sub-quadratic function are there to save memory.
_FLUX = Family(
    (("double", "double_blocks"), ("single", "single_blocks")), "backend.nn.flux", "attention_function", True,
    "backend.attention", frozenset({"attention_pytorch", "attention_xformers"}),
)  # fmt: skip
_JOINT = {
    "IntegratedFluxTransformer2DModel": _FLUX,
    "IntegratedChromaTransformer2DModel": _FLUX,
    # SD3, SD3.5: torch's scaled_dot_product_attention, whatever backend the user chose.
    "MMDiTX": Family(
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


class Forge(PatchedHost):
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
        return joint_model(network, _JOINT)

    def after_encoding(self, sd_model: Any, x: Tensor) -> None:
        from backend.sampling.sampling_function import sampling_prepare

        asked.call(sampling_prepare, unet_patcher(sd_model), x=x)
