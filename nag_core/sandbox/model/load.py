"""Read and write the shipped weights: one fp16 safetensors file for both modules, checked by its sha256."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .text import TextEncoder
from .unet import UNet

WEIGHTS = Path(__file__).parent / "weights" / "shapes-unet.safetensors"


def save(unet: UNet, text: TextEncoder, path: Path = WEIGHTS) -> None:
    """Write both modules as fp16, and the file's sha256 beside it."""
    state = {f"unet.{k}": v for k, v in unet.state_dict().items()}
    state |= {f"text.{k}": v for k, v in text.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.to(torch.float16).contiguous() for k, v in state.items()}, path)
    path.with_suffix(".sha256").write_text(f"{_sha256(path)}  {path.name}\n", encoding="ascii")


def load(path: Path = WEIGHTS) -> tuple[UNet, TextEncoder]:
    """The model in eval mode and float32; ValueError where the file is missing or not the one saved."""
    digest = path.with_suffix(".sha256")
    if not path.is_file() or not digest.is_file():
        raise ValueError(f"incomplete sandbox model: {path.name} and {digest.name} belong in {path.parent}")
    if _sha256(path) != digest.read_text(encoding="ascii").split()[0]:
        raise ValueError(f"{path} is damaged: its sha256 is not the one in {digest.name}; check it out again")
    unet, text = UNet(), TextEncoder()
    try:
        state = load_file(path)
        for prefix, module in (("unet.", unet), ("text.", text)):
            part = {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
            module.load_state_dict(part)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold this version's sandbox model: {error}") from error
    return unet.eval().requires_grad_(False), text.eval().requires_grad_(False)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
