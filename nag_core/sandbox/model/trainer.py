"""A miniature in training: its moving average, its optimiser, and the checkpoint a killed run resumes."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .load import load
from .miniature import POOLED, Miniature
from .vector import keep_encoders

SAVE_EVERY = 50
SAVED = ("stage", "step", "seconds", "pairs")


class Trainer:
    """The model, its moving average and its optimiser; everything a checkpoint must hold.

    `pairs`: captions and pictures that the distillation learns from. `seconds`: of processor time spent so
    far, over all runs.
    """

    def __init__(self, kind: str, seed: int, state: Path) -> None:
        torch.manual_seed(seed)
        self.kind, self.seed, self.state = kind, seed, state
        self.net = Miniature(kind)
        self.net.quiet_start()
        if kind == POOLED:
            self.net.load_state_dict(load("mmdit").state_dict())
            keep_encoders(self.net)
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        self.stage, self.step, self.seconds = "flow", 0, 0.0
        self.pairs: list[tuple[list[str], Tensor]] = []
        self.restart_optimizer()
        if state.is_file():
            self._read()

    def restart_optimizer(self) -> None:
        """Forget the optimiser's moments, for a new stage."""
        parameters = [one for one in self.net.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )

    def write(self) -> None:
        """Save everything to the checkpoint; an interruption leaves the former one whole."""
        state = {name: getattr(self, name) for name in SAVED}
        state |= {name: getattr(self, name).state_dict() for name in ("net", "ema", "optimizer")}
        self.state.parent.mkdir(parents=True, exist_ok=True)
        part = self.state.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.state)

    def _read(self) -> None:
        state = torch.load(self.state, weights_only=True)
        for name in ("net", "ema", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        for name in SAVED:
            setattr(self, name, state[name])
        print(f"{self.kind}: going on with {self.state} ({self.stage}, step {self.step})")

    def next_stage(self, stage: str) -> None:
        """Go on with the moving average's weights and a fresh optimiser."""
        self.stage, self.step = stage, 0
        self.net.load_state_dict(self.ema.state_dict())
        self.restart_optimizer()
        self.write()

    def descend(
        self,
        x: Tensor,
        t: Tensor,
        images: Tensor,
        views: tuple[list[str], list[str]],
        rate: float,
        rounded: float = torch.inf,
    ) -> float:
        """One optimiser step towards `images` (B, 3, H, W) at x and times t (B,); returns the loss.

        views: the captions that the tokens are of, and those that the MM-DiT's pooled vector is of.
        The loss is squared up to differences of `rounded` and absolute above.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        drawn = x - t[:, None, None, None] * self.net(x, t, self.net.conditions(*views))
        if rounded < torch.inf:
            loss = F.smooth_l1_loss(drawn, images, beta=rounded)
        else:
            loss = F.mse_loss(drawn, images)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(0.996, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.net.parameters()), 1 - decay)
        return loss.item()

    def progress(self, total: int, label: str) -> Iterator[int]:
        """Steps left of a stage, with a bar; keeps the time and the checkpoint.

        `self.step` is the caller's to count, since an optimiser step does it.
        """
        for step in self.timed(range(self.step, total), label, total):
            yield step
            if (step + 1) % SAVE_EVERY == 0:
                self.write()

    def timed(self, numbers: range, label: str, total: int) -> Iterator[int]:
        """The numbers with a bar, adding the processor's time to `seconds`."""
        bar = tqdm(numbers, f"{self.kind} {label}", total, initial=numbers.start, mininterval=2)
        for number in bar:
            begin = time.process_time()
            yield number
            self.seconds += time.process_time() - begin
