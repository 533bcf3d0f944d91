"""What makes the transformer's pooled vector heard: a start for the variant that is to draw by it."""

from __future__ import annotations

import torch
from torch import Generator, nn

from .miniature import Miniature
from .world import sample

CAPTIONS = 2048
# What is told apart is at least this share of the variance along the widest axis.
FLOOR = 1e-3
# Mean distance from their mean of the captions' parts of temb; the time's part is 1.7 long.
SPREAD = 1.0


def keep_encoders(model: Miniature) -> None:
    """Leave the text encoder, and the layer that `amplify` sets, as they are: what they tell apart would be
    lost in a short training.
    """
    model.text.requires_grad_(False)
    model.network.vector_in[0].requires_grad_(False)


@torch.no_grad()
def amplify(model: Miniature, generator: Generator) -> None:
    """Start `vector_in` afresh, so that captions are as far apart in temb as times are.

    The shipped pooled vectors tell every shape and colour, but within 4 % of their length; here their axes
    are scaled to one variance and mixed again. The mean of what comes out stays.
    """
    captions = sample(CAPTIONS, generator)[1]
    y = model.conditions(captions)[1]
    first, _, last = layers = model.network.vector_in
    centre = layers(y).mean(0)
    mean = y.mean(0)
    variances, axes = torch.linalg.eigh((y - mean).double().T.cov())
    # Rounded as it will be stored: it is large, and is not trained.
    first.weight.copy_((axes / (variances + FLOOR * variances[-1]).sqrt()).T.half())
    first.bias.copy_((-first.weight @ mean).half())
    nn.init.orthogonal_(last.weight, generator=generator)
    out = layers(y)
    last.weight.mul_(SPREAD / (out - out.mean(0)).norm(dim=1).mean())
    last.bias.add_(centre - layers(y).mean(0))
