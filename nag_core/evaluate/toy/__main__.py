"""`python -m nag_core.evaluate.toy`: NAG beside no guidance, CFG, NASA and two ablations, counted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

import nag_core
from nag_core.evaluate import files
from nag_core.evaluate import pairs as pairs_of_a_file
from nag_core.evaluate.errors import BAD_USE, INTERRUPTED, EvaluationError
from nag_core.evaluate.options import OneLineParser, whole
from nag_core.evaluate.pairs import Pair
from nag_core.evaluate.toy import draw, pictures, report
from nag_core.evaluate.toy.pairs import BUILT_IN, attribute
from nag_core.evaluate.toy.plan import rows
from nag_core.evaluate.toy.store import Store
from nag_core.evaluate.toy.summary import summary
from nag_core.sandbox.model.load import made_by, sha256, weights_file
from nag_core.sandbox.model.miniature import KINDS


def main(argv: list[str] | None = None) -> int:
    """Draw, count, write; the exit code says what went wrong, in one line on stderr."""
    options = _parser().parse_args(argv)
    try:
        pairs = pairs_of_a_file.read(options.pairs, "", attribute) if options.pairs else BUILT_IN
        if options.n < len(pairs):
            raise ValueError(f"--n {options.n} is less than one picture for each of {len(pairs)} pairs")
        result = evaluate(options, pairs)
    except (EvaluationError, ValueError, OSError) as error:
        print(f"nag evaluate: {error}", file=sys.stderr)
        return getattr(error, "code", BAD_USE)
    except KeyboardInterrupt:
        print("\nnag evaluate: stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    text = report.markdown(result)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    return 0


def evaluate(options: argparse.Namespace, pairs: tuple[Pair, ...]) -> dict[str, Any]:
    """The results, also written to `options.json`; rows that an unfinished run drew are not drawn again."""
    from tqdm import tqdm

    known = about(options, pairs)
    depends_on = {name: known[name] for name in ("version", "torch", "pairs", "n", "seed")}
    store = Store(options.json, known["weights"], depends_on)
    sandbox = draw.Sandbox.start(options.weights)
    plan = rows(options.models, options.steps, options.sweeps)
    seen = []
    for row in tqdm(plan, "rows", mininterval=1):
        seen.append(store.get(row) or store.add(row, sandbox.see(row, pairs, options.n, options.seed)))
    base = {
        (row.model, row.steps): kept for row, kept in zip(plan, seen, strict=True) if row.method == "none"
    }
    summaries = []
    for row, kept in zip(plan, seen, strict=True):
        found = summary(row.settings(), kept, base[row.model, row.steps])
        if found not in summaries:
            summaries.append(found)
    result = known | {"rows": summaries}
    if options.pictures:
        pictures.draw_pictures(result, sandbox, pairs, options.pictures)
    files.write_json(options.json, result)
    store.remove()
    return result


def about(options: argparse.Namespace, pairs: tuple[Pair, ...]) -> dict[str, Any]:
    """What the numbers depend on."""
    paths = {kind: options.weights.get(kind, weights_file(kind)) for kind in options.models}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        raise ValueError(f"the weights {', '.join(missing)} are not there; check them out again")
    return {
        "version": nag_core.__version__,
        "torch": torch.__version__,
        "weights": {kind: sha256(path) for kind, path in paths.items()},
        "made_by": {kind: made_by(path) for kind, path in paths.items()},
        "pairs": [f"{pair.prompt} | {pair.negative}" for pair in pairs],
        "n": options.n,
        "seed": options.seed,
    }


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m nag_core.evaluate.toy", description=__doc__)
    parser.add_argument("--pairs", type=Path, help="file of lines `prompt | negative` (default: eight pairs)")
    parser.add_argument(
        "--n", type=whole(1, 10**6), default=256, help="pictures a row, over all pairs (default 256)"
    )
    parser.add_argument("--steps", type=steps, default=[1, 2, 4, 25], help="default 1,2,4,25")
    parser.add_argument("--seed", type=whole(0, 4000), default=0, help="of the noise (default 0)")
    parser.add_argument(
        "--json", type=Path, default=Path("outputs/evaluation.json"),
        help="results (default outputs/evaluation.json); an unfinished run goes on from the file beside it",
    )  # fmt: skip
    parser.add_argument("--markdown", type=Path, help="write the tables there too")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write contact sheet and curves there")
    parser.add_argument("--sweeps", action="store_true", help="vary φ, τ, α at one step and θ at four, too")
    parser.add_argument("--models", type=models, default=list(KINDS), help=f"default {','.join(KINDS)}")
    parser.add_argument(
        "--weights", action=_Weights, default={}, metavar="MODEL=FILE", help="of another training of a model"
    )
    return parser


def steps(text: str) -> list[int]:
    """Numbers of steps, separated by commas."""
    return list(dict.fromkeys(whole(1, 150)(part.strip()) for part in text.split(",")))


def models(text: str) -> list[str]:
    """Names of models, separated by commas."""
    names = [part.strip() for part in text.split(",")]
    if unknown := [name for name in names if name not in KINDS]:
        raise argparse.ArgumentTypeError(f"no such model: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return list(dict.fromkeys(names))


class _Weights(argparse.Action):
    """Collects `unet=FILE` options into one dict."""

    def __call__(self, parser, namespace, value, option_string=None) -> None:
        kind, _, path = value.partition("=")
        if kind not in KINDS or not path:
            parser.error(
                f"{option_string} expects MODEL=FILE with a model of {', '.join(KINDS)}, not {value!r}"
            )
        namespace.weights = {**namespace.weights, kind: Path(path)}


if __name__ == "__main__":
    sys.exit(main())
