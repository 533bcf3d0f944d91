"""Everything is on the CPU and stays there."""

from __future__ import annotations

from typing import Any

import torch


def get_torch_device() -> torch.device:
    """The CPU."""
    return torch.device("cpu")


def text_encoder_device() -> torch.device:
    """The CPU."""
    return torch.device("cpu")


def load_models_gpu(models: list[Any], **sizes: Any) -> None:
    """Nothing to move."""


def load_model_gpu(model: Any) -> None:
    """Nothing to move."""


def soft_empty_cache(force: bool = False) -> None:
    """No cache to empty."""
