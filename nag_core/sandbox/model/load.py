"""Read and write the shipped weights: one fp16 safetensors file a model, checked by its sha256."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from .miniature import Miniature

WEIGHTS = Path(__file__).parent / "weights"


def weights_file(kind: str, folder: Path = WEIGHTS) -> Path:
    """Where the weights of a model ("unet", "mmdit") are."""
    return folder / f"shapes-{kind}.safetensors"


def save(model: Miniature, path: Path, made_by: str = "") -> None:
    """Write the model as fp16, with the command that made it, and the file's sha256 beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    save_file(state, path, {"made_by": made_by})
    path.with_suffix(".sha256").write_text(f"{sha256(path)}  {path.name}\n", encoding="ascii")


def load(kind: str, path: Path | None = None) -> Miniature:
    """The model in eval mode and float32; ValueError where the file is missing or not the one saved."""
    path = weights_file(kind) if path is None else path
    digest = path.with_suffix(".sha256")
    if not path.is_file() or not digest.is_file():
        raise ValueError(f"incomplete sandbox model: {path.name} and {digest.name} belong in {path.parent}")
    if sha256(path) != digest.read_text(encoding="ascii").split()[0]:
        raise ValueError(f"{path} is damaged: its sha256 is not the one in {digest.name}; check it out again")
    model = Miniature(kind)
    try:
        model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (SafetensorError, RuntimeError) as error:
        # torch lists every weight that is missing or too many; the first line says enough.
        reason = str(error).splitlines()[0].rstrip(":")
        raise ValueError(f"{path} does not hold this version's sandbox model: {reason}") from error
    return model.eval().requires_grad_(False)


def made_by(path: Path) -> str:
    """The command that made the weights, as it stands in their file."""
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("made_by", "unknown")


def sha256(path: Path) -> str:
    """Of the file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
