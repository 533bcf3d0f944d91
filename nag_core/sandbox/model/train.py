"""Train the tiny model from nothing: `python -m nag_core.sandbox.model.train [--state PATH]`.

Two stages with fixed seeds and iteration counts on one thread: rectified flow on the world, then distillation
on pairs of noise and the picture the first stage makes of it, so that one to four steps are enough.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from . import unet as unet_module
from .decoder import decode
from .load import WEIGHTS, save
from .sampling import euler, obedience
from .text import TextEncoder
from .unet import UNet
from .world import SIZE, sample

BATCH = 64
FLOW_STEPS, FLOW_RATE = 1900, 1.6e-3
PAIR_BATCHES, PAIR_STEPS = 80, 16
DISTILL_STEPS, DISTILL_RATE = 800, 8e-4
DROPOUT = 0.1
SAVE_EVERY = 100
# The seeds of the three stages; step numbers are added, so a resumed run draws what an unbroken one would.
FLOW_SEED, PAIR_SEED, DISTILL_SEED = 1_000_000, 2_000_000, 3_000_000


class Trainer:
    """The model, its moving average and its optimiser; everything a checkpoint must hold."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.ModuleDict({"unet": UNet(), "text": TextEncoder()})
        _quiet_start(self.net["unet"])
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        self.stage, self.step, self.seconds = "flow", 0, 0.0
        self.pairs: list[tuple[list[str], Tensor]] = []
        self.restart_optimizer()

    def restart_optimizer(self) -> None:
        """Forget the optimiser's moments, for a new stage."""
        parameters = self.net.parameters()
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)

    def write(self, path: Path | None) -> None:
        """Save everything to the checkpoint; nothing without a path."""
        if path is None:
            return
        state = {name: getattr(self, name) for name in ("stage", "step", "seconds", "pairs")}
        state |= {name: getattr(self, name).state_dict() for name in ("net", "ema", "optimizer")}
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def read(self, path: Path) -> None:
        """Continue from what `write` saved."""
        state = torch.load(path, weights_only=True)
        for name in ("net", "ema", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("stage", "step", "seconds", "pairs"):
            setattr(self, name, state[name])

    def descend(self, x: Tensor, t: Tensor, velocity: Tensor, captions: list[str], rate: float) -> float:
        """One optimiser step towards `velocity` (B, 3, H, W) at x and times t (B,); returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            predicted = self.net["unet"](x, t, self.net["text"](captions))
        loss = (predicted.float() - velocity).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(0.996, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.net.parameters()), 1 - decay)
        return loss.item()


def _quiet_start(unet: UNet) -> None:
    """Zero what ends a residual branch, so that training starts from the identity."""
    for module in unet.modules():
        if isinstance(module, unet_module.ResBlock):
            nn.init.zeros_(module.conv2.weight)
        if isinstance(module, unet_module.SpatialTransformer):
            nn.init.zeros_(module.proj_out.weight)
    nn.init.zeros_(unet.out[2].weight)


def _rate(step: int, total: int, peak: float) -> float:
    """Linear warm-up over 60 steps, constant, then linear decay to nothing over the last 45 %."""
    return peak * min(1.0, (step + 1) / 60, max(total - step, 1) / (0.45 * total))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The same attention by two matrix products, whose bf16 backward on a CPU is several times faster."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)


@contextlib.contextmanager
def fast_attention() -> Iterator[None]:
    """Let the model use `plain_attention` inside the block."""
    before, unet_module.attention = unet_module.attention, plain_attention
    try:
        yield
    finally:
        unet_module.attention = before


def _progress(trainer: Trainer, total: int, label: str, state: Path | None) -> Iterator[int]:
    """Steps left of a stage, with a bar; keeps the time and the checkpoint."""
    bar = tqdm(range(trainer.step, total), label, total, initial=trainer.step, mininterval=2)
    for step in bar:
        begin = time.monotonic()
        yield step
        trainer.seconds += time.monotonic() - begin
        if (step + 1) % SAVE_EVERY == 0:
            trainer.write(state)


def train_flow(trainer: Trainer, state: Path | None) -> None:
    """Stage 1: rectified flow between pictures and noise, some captions dropped."""
    losses = []
    for step in _progress(trainer, FLOW_STEPS, "flow", state):
        generator = Generator().manual_seed(FLOW_SEED + step)
        images, captions, _ = sample(BATCH, generator)
        drop = (torch.rand(BATCH, generator=generator) < DROPOUT).tolist()
        captions = ["" if dropped else caption for dropped, caption in zip(drop, captions, strict=True)]
        noise = torch.randn(images.shape, generator=generator)
        # What is in the picture is decided while it is still mostly noise: more time is spent there.
        t = torch.sigmoid(0.4 + 1.2 * torch.randn(BATCH, generator=generator))
        x = torch.lerp(images, noise, t[:, None, None, None])
        rate = _rate(step, FLOW_STEPS, FLOW_RATE)
        losses.append(trainer.descend(x, t, noise - images, captions, rate))
        _tell("flow", step, losses)


def _pair_noise(number: int) -> Tensor:
    generator = Generator().manual_seed(PAIR_SEED + number)
    return torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)


def make_pairs(trainer: Trainer, state: Path | None) -> None:
    """What the first stage's moving average draws from numbered noise, PAIR_STEPS Euler steps each."""
    for number in tqdm(range(len(trainer.pairs), PAIR_BATCHES), "pairs", mininterval=2):
        begin = time.monotonic()
        _, captions, _ = sample(BATCH, Generator().manual_seed(DISTILL_SEED - 1 - number))
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            context = trainer.ema["text"](captions)
            pictures = euler(trainer.ema["unet"], context, _pair_noise(number), PAIR_STEPS)
        trainer.pairs.append((captions, pictures.half()))
        trainer.seconds += time.monotonic() - begin
    trainer.write(state)


def _usable(trainer: Trainer) -> tuple[Tensor, Tensor, list[str]]:
    """Noises and pictures (n, 3, 32, 32) and captions of the pairs whose picture is valid and obeys."""
    noises = torch.cat([_pair_noise(number) for number in range(PAIR_BATCHES)])
    pictures = torch.cat([pair[1] for pair in trainer.pairs])
    captions = [caption for pair in trainer.pairs for caption in pair[0]]
    decoded = decode(pictures)
    good = decoded.valid & decoded.attributes.honour_each(captions)
    print(f"pairs: {int(good.sum())} of {len(good)} valid and obedient")
    return noises[good], pictures[good], [captions[i] for i in good.nonzero()[:, 0].tolist()]


def distill(trainer: Trainer, state: Path | None) -> None:
    """Stage 2: straight lines from noise to the teacher's picture, half of the rows at the noise itself.

    The teacher's failures are left out: the decoder knows them, and the student would learn them too.
    """
    noises, pictures, captions = _usable(trainer)
    losses = []
    for step in _progress(trainer, DISTILL_STEPS, "distill", state):
        generator = Generator().manual_seed(DISTILL_SEED + step)
        rows = torch.randint(len(captions), (BATCH,), generator=generator)
        noise, images = noises[rows], pictures[rows].float()
        t = torch.rand(BATCH, generator=generator)
        t = torch.where(torch.rand(BATCH, generator=generator) < 0.5, 1.0, t)
        x = torch.lerp(images, noise, t[:, None, None, None])
        chosen = [captions[row] for row in rows.tolist()]
        rate = _rate(step, DISTILL_STEPS, DISTILL_RATE)
        losses.append(trainer.descend(x, t, noise - images, chosen, rate))
        _tell("distill", step, losses)


def _tell(label: str, step: int, losses: list[float]) -> None:
    if (step + 1) % SAVE_EVERY == 0:
        recent = losses[-SAVE_EVERY:]
        tqdm.write(f"{label} {step + 1}: loss {sum(recent) / len(recent):.4f}")


def _next_stage(trainer: Trainer, stage: str, state: Path | None) -> None:
    trainer.stage, trainer.step = stage, 0
    trainer.net.load_state_dict(trainer.ema.state_dict())
    trainer.restart_optimizer()
    trainer.write(state)


def _print_numbers(net: nn.ModuleDict, steps: tuple[int, ...], n: int = 512) -> None:
    for count in steps:
        print(f"{count:2} steps:", obedience(net["unet"], net["text"], count, n))


def train(state: Path | None, out: Path) -> None:
    """Run or resume both stages and write the weights."""
    torch.set_num_threads(1)
    trainer = Trainer()
    if state is not None and state.is_file():
        trainer.read(state)
    with fast_attention():
        if trainer.stage == "flow":
            train_flow(trainer, state)
            _print_numbers(trainer.ema, (4, PAIR_STEPS), 128)
            _next_stage(trainer, "pairs", state)
        if trainer.stage == "pairs":
            make_pairs(trainer, state)
            _next_stage(trainer, "distill", state)
        if trainer.stage == "distill":
            distill(trainer, state)
    _print_numbers(trainer.ema, (1, 2, 4, 8))
    save(trainer.ema["unet"], trainer.ema["text"], out)
    print(f"{out}: {out.stat().st_size / 2**20:.2f} MiB after {trainer.seconds / 60:.1f} minutes of training")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, help="checkpoint to write, and to resume from where it exists")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the weights go")
    arguments = parser.parse_args()
    train(arguments.state, arguments.out)


if __name__ == "__main__":
    main()
