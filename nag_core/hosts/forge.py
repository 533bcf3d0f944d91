"""Forge main, the `backend` generation."""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable
from typing import Any

from torch import Tensor


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

    def after_encoding(self, unet: Any, x: Tensor) -> None:
        from backend.sampling.sampling_function import sampling_prepare

        sampling_prepare(unet, x=x)
