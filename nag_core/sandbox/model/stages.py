"""The three stages of training: rectified flow, pairs of noise and picture, distillation on the pairs.

Every step draws from generators numbered by seed, stage and step, so that a resumed run sees what an unbroken
one would.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .decoder import decode
from .miniature import POOLED
from .sampling import euler
from .trainer import Trainer
from .vector import amplify
from .world import SIZE, sample

BATCH = 32
# The transformer needs longer to tell the shapes apart; its variant learns from what it draws, as shipped.
FLOW_STEPS, FLOW_RATE = {"unet": 1800, "mmdit": 2600, POOLED: 0}, 1.6e-3
PAIR_BATCHES, PAIR_BATCH, PAIR_STEPS = 72, 64, 10
DISTILL_STEPS, DISTILL_RATE = {"unet": 1100, "mmdit": 1100, POOLED: 2600}, 1e-3
DROPOUT = 0.1
# Of the variant's samples: those whose tokens say nothing, and those whose pooled vector says nothing.
# Without the latter it could forget its tokens, since the vector would always say everything.
NO_TOKENS, NO_VECTOR = 0.5, 0.25
# Below this difference the distillation's loss is squared, above it absolute: an absolute one makes the
# student decide where pictures of nearly the same noise differ, a squared one would have it blend them.
ROUNDED = 0.1


def _generator(trainer: Trainer, stage: int, number: int) -> Generator:
    return Generator().manual_seed((trainer.seed * 10 + stage) * 1_000_000 + number)


def _rate(step: int, total: int, peak: float) -> float:
    """Linear warm-up over 60 steps, constant, then linear decay to nothing over the last 45 %."""
    return peak * min(1.0, (step + 1) / 60, max(total - step, 1) / (0.45 * total))


def _views(trainer: Trainer, captions: list[str], generator: Generator) -> tuple[list[str], list[str]]:
    """The texts that the tokens and the pooled vector are of: the captions, some left out for the variant."""
    if trainer.kind != POOLED:
        return captions, captions
    draws = torch.rand(len(captions), generator=generator).tolist()
    drawn = list(zip(draws, captions, strict=True))
    tokens = ["" if draw < NO_TOKENS else caption for draw, caption in drawn]
    return tokens, ["" if draw >= 1 - NO_VECTOR else caption for draw, caption in drawn]


def flow(trainer: Trainer) -> None:
    """Rectified flow between pictures and noise, some captions dropped."""
    total = FLOW_STEPS[trainer.kind]
    for step in trainer.progress(total, "flow"):
        generator = _generator(trainer, 1, step)
        images, captions, _ = sample(BATCH, generator)
        drop = (torch.rand(BATCH, generator=generator) < DROPOUT).tolist()
        captions = ["" if dropped else caption for dropped, caption in zip(drop, captions, strict=True)]
        noise = torch.randn(images.shape, generator=generator)
        # What is in the picture is decided while it is still mostly noise: more time is spent there.
        t = torch.sigmoid(0.4 + 1.2 * torch.randn(BATCH, generator=generator))
        x = torch.lerp(images, noise, t[:, None, None, None])
        trainer.descend(x, t, images, (captions, captions), _rate(step, total, FLOW_RATE))


def _pair_noise(trainer: Trainer, number: int) -> Tensor:
    return torch.randn(PAIR_BATCH, 3, SIZE, SIZE, generator=_generator(trainer, 2, number))


def pairs(trainer: Trainer) -> None:
    """What the first stage's moving average draws from numbered noise, PAIR_STEPS Euler steps each."""
    for number in trainer.timed(range(len(trainer.pairs), PAIR_BATCHES), "pairs", PAIR_BATCHES):
        _, captions, _ = sample(PAIR_BATCH, _generator(trainer, 3, number))
        conditions = trainer.ema.conditions(captions)
        pictures = euler(trainer.ema, conditions, _pair_noise(trainer, number), PAIR_STEPS)
        trainer.pairs.append((captions, pictures.half()))
        if (number + 1) % 8 == 0:
            trainer.write()
    trainer.write()


def _usable(trainer: Trainer) -> tuple[Tensor, Tensor, list[str]]:
    """Noises and pictures (n, 3, 32, 32) and captions of the pairs whose picture is valid and obeys."""
    noises = torch.cat([_pair_noise(trainer, number) for number in range(len(trainer.pairs))])
    pictures = torch.cat([pair[1] for pair in trainer.pairs])
    captions = [caption for pair in trainer.pairs for caption in pair[0]]
    decoded = decode(pictures)
    good = decoded.valid & decoded.attributes.honour_each(captions)
    print(f"{trainer.kind} pairs: {int(good.sum())} of {len(good)} valid and obedient", flush=True)
    if not good.any():
        raise ValueError("the first stage drew no valid picture: there is nothing to distil")
    return noises[good], pictures[good], [captions[i] for i in good.nonzero()[:, 0].tolist()]


def distill(trainer: Trainer) -> None:
    """Straight lines from noise to the first stage's picture, half of the rows at the noise itself.

    That stage's failures are left out: the decoder knows them, and the student would learn them too.
    """
    noises, pictures, captions = _usable(trainer)
    if (trainer.kind, trainer.step) == (POOLED, 0):
        amplify(trainer.net, _generator(trainer, 5, 0))
        trainer.ema.load_state_dict(trainer.net.state_dict())
    total = DISTILL_STEPS[trainer.kind]
    for step in trainer.progress(total, "distill"):
        generator = _generator(trainer, 4, step)
        rows = torch.randint(len(captions), (BATCH,), generator=generator)
        chosen = [captions[row] for row in rows.tolist()]
        rate = _rate(step, total, DISTILL_RATE)
        noise, images = noises[rows], pictures[rows].float()
        t = torch.rand(BATCH, generator=generator)
        t = torch.where(torch.rand(BATCH, generator=generator) < 0.5, 1.0, t)
        x = torch.lerp(images, noise, t[:, None, None, None])
        trainer.descend(x, t, images, _views(trainer, chosen, generator), rate, ROUNDED)
