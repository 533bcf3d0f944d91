"""Train the sandbox's models from nothing: `python -m nag_core.sandbox.train`.

Both together take 46 minutes of one slow core on a busy machine. A killed run goes on where it was when the
same command is given again. `--model mmdit-pooled` fine-tunes the shipped transformer instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from nag_core.sandbox.model import stages
from nag_core.sandbox.model.load import WEIGHTS, save, sha256, weights_file
from nag_core.sandbox.model.miniature import KINDS, POOLED
from nag_core.sandbox.model.sampling import obedience
from nag_core.sandbox.model.trainer import Trainer

STAGES = ("flow", "pairs", "distill")


def train(kind: str, seed: int, state: Path, out: Path) -> None:
    """Run or resume the stages of one model, write its weights to `out` and remove its checkpoint."""
    trainer = Trainer(kind, seed, state / f"{kind}-{seed}.pt")
    for number, stage in enumerate(STAGES):
        if trainer.stage != stage:
            continue
        getattr(stages, stage)(trainer)
        if stage != STAGES[-1]:
            trainer.next_stage(STAGES[number + 1])
    for steps in (1, 2, 4):
        print(f"{kind} at {steps} steps: {obedience(trainer.ema, steps)}", flush=True)
    path = weights_file(kind, out)
    save(trainer.ema, path, f"python -m nag_core.sandbox.train --model {kind} --seed {seed}")
    size, minutes = path.stat().st_size / 2**20, trainer.seconds / 60
    print(
        f"{path}: {size:.2f} MiB after {minutes:.1f} minutes of one core, sha256 {sha256(path)}", flush=True
    )
    trainer.state.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m nag_core.sandbox.train", description=__doc__)
    parser.add_argument("--model", choices=(*KINDS, POOLED), help="this one only (default: the first two)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, data and noise (default 0)")
    parser.add_argument(
        "--state",
        type=Path,
        default=Path("outputs/train"),
        help="folder of checkpoints",
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the weights")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    for kind in [arguments.model] if arguments.model else KINDS:
        train(kind, arguments.seed, arguments.state, arguments.out)


if __name__ == "__main__":
    main()
