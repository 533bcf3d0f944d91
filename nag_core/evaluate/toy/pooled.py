"""`python -m nag_core.evaluate.toy.pooled`: what one image stream costs where the pooled vector matters.

The shared rule modulates every token by the prompt's pooled vector; the extension draws it. The authors' Flux
code carries two streams (two_streams.py); it takes the network's place in the same job, so that noise and
sampler are the same. Counted on the shipped transformer and on its variant that reads the vector.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nag_core.evaluate import files
from nag_core.evaluate.options import OneLineParser, whole
from nag_core.evaluate.pairs import Pair
from nag_core.evaluate.statistics import difference, share
from nag_core.evaluate.toy import draw
from nag_core.evaluate.toy.__main__ import about, steps
from nag_core.evaluate.toy.pairs import BUILT_IN
from nag_core.evaluate.toy.plan import PHI, TAU, Row
from nag_core.evaluate.toy.pooled_report import markdown, written
from nag_core.evaluate.toy.summary import MEASURES
from nag_core.evaluate.toy.two_streams import velocity
from nag_core.sandbox.model.load import load, weights_file
from nag_core.sandbox.model.miniature import POOLED
from nag_core.sandbox.model.sampling import obedience, seeded_noise

MODELS = ["mmdit", POOLED]
TWO_STREAMS = "two-streams"
ALPHAS = (0.25, 0.5)  # Flux's of the paper, and the toys'
TIMES = (1.0, 0.75, 0.5, 0.25)  # of four steps
NOISES = 16  # a pair, for the distance of the rules


class Sandbox(draw.Sandbox):
    """The extension's pictures, and those of the authors' rule in the same jobs."""

    def use(self, kind: str) -> None:
        """The weights of `kind` for the checkpoint of the transformer, from the next job on."""
        from modules.shared_cmd_options import cmd_opts

        cmd_opts.weights = {"mmdit": weights_file(kind)}

    def row(self, row: Row, pair: Pair, seed: int, count: int) -> tuple[list[Image.Image], list[str]]:
        """`count` pictures of consecutive seeds as the row has them."""
        if row.method != TWO_STREAMS:
            return super().row(row, pair, seed, count)
        from modules import sd_models

        sd_models.prepare()
        engine = sd_models.model_data.prepared[self.checkpoints[row.model]]
        found = engine.get_learned_conditioning([pair.negative])
        negative, strength = (found["crossattn"], found["vector"]), (row.phi, row.tau, row.alpha)
        network = engine.forge_objects.unet.model.diffusion_model

        def forward(x: Tensor, timestep: Tensor, context: Tensor, y: Tensor, **ignored: Any) -> Tensor:
            rows = tuple(part.repeat_interleave(len(x), 0) for part in negative)
            return velocity(network, x, timestep, (context, y), rows, strength)

        network.forward = forward
        try:
            return super().row(row, pair, seed, count)
        finally:
            del network.forward


def main(argv: list[str] | None = None) -> int:
    """Measure, draw, count, write."""
    options = _parser().parse_args(argv)
    models = {kind: vectors(kind, BUILT_IN) for kind in MODELS}
    found = about(options, BUILT_IN) | {"models": models, "rows": counted(BUILT_IN, options)}
    files.write_json(options.json, found)
    print(markdown(found))
    if options.readme:
        files.write(options.readme, written(options.readme.read_text(encoding="utf-8"), found).encode())
    return 0


@torch.no_grad()
def vectors(kind: str, pairs: tuple[Pair, ...]) -> dict[str, Any]:
    """What the pooled vector does in a model.

    rho: |temb+ - temb-| / |temb+| over pairs and TIMES. apart: how far from each other the rules' answers to
    noise are, as a share of what guidance changes. obeyed: share of random captions, nothing or one thing
    left out.
    """
    model = load(kind)
    positive, negative = (
        model.conditions([getattr(pair, side) for pair in pairs] * NOISES) for side in ("prompt", "negative")
    )
    rho = []
    for time in TIMES:
        t = torch.full((len(positive[1]),), time)
        own, other = (model.network.temb(t, y)[: len(pairs)] for _, y in (positive, negative))
        rho += ((own - other).norm(dim=1) / own.norm(dim=1)).tolist()
    x, t = seeded_noise(len(t), 0), torch.ones_like(t)
    authors, shared = (
        velocity(model.network, x, t, positive, (negative[0], y), (PHI, TAU, ALPHAS[0]))
        for y in (negative[1], positive[1])
    )
    apart = (authors - shared).norm() / (authors - model(x, t, positive)).norm()
    left_out = {"nothing": {}, "tokens": {"tokens": False}, "vector": {"vector": False}}
    return {
        "rho": {"mean": sum(rho) / len(rho), "low": min(rho), "high": max(rho)},
        "apart": apart.item(),
        "obeyed": {name: obedience(model, len(TIMES), **how)["obeyed"] for name, how in left_out.items()},
    }


def counted(pairs: tuple[Pair, ...], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both rules' pictures and those without guidance, from the same noise."""
    sandbox, rows = Sandbox.start(), []
    for kind in MODELS:
        sandbox.use(kind)
        for count in options.steps:
            none = Row("mmdit", "none", count, 0.0)
            rows.append(_row(kind, none, sandbox.see(none, pairs, options.n, options.seed)))
            for alpha in ALPHAS:
                asked = [Row("mmdit", way, count, PHI, TAU, alpha, 1.0) for way in (TWO_STREAMS, "nag")]
                authors, shared = (sandbox.see(row, pairs, options.n, options.seed) for row in asked)
                rows += [_row(kind, asked[0], authors), _row(kind, asked[1], shared)]
                rows[-1]["beside_two_streams"] = difference(shared.good, authors.good)
    return rows


def _row(kind: str, row: Row, seen: draw.Seen) -> dict[str, Any]:
    names = ("model", "method", "steps", "alpha", "applied")
    known = dict(zip(names, (kind, row.method, row.steps, row.alpha, seen.applied), strict=True))
    return known | {name: share(getattr(seen, name)) for name in MEASURES}


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m nag_core.evaluate.toy.pooled", description=__doc__)
    parser.add_argument("--n", type=whole(8, 10**6), default=256, help="pictures a row (default 256)")
    parser.add_argument("--steps", type=steps, default=[1, 4], help="default 1,4")
    parser.add_argument("--seed", type=whole(0, 4000), default=900, help="of the noise (default 900)")
    parser.add_argument("--json", type=Path, default=Path("outputs/pooled.json"), help="results")
    parser.add_argument("--readme", type=Path, help="write the tables between its marks, too")
    parser.set_defaults(weights={}, models=MODELS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
