"""The command line: every value is checked before the first request."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from nag_core.evaluate import pairs
from nag_core.evaluate.errors import BAD_USE
from nag_core.evaluate.plan import Plan
from nag_core.evaluate.scorer import Choice
from nag_core.settings.parse import FIELD

URL = "http://127.0.0.1:7860"
NAG_VALUES = ("preset", "scale", "tau", "alpha", "start", "end")


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments without repeating them all."""

    def error(self, message: str) -> NoReturn:
        """One line and exit code 2."""
        self.exit(BAD_USE, f"nag evaluate: {message} (see --help)\n")


def parser() -> argparse.ArgumentParser:
    """The options of `python -m nag_core.evaluate`."""
    made = OneLineParser(
        prog="python -m nag_core.evaluate",
        description="Draws pictures with NAG off, on and with CFG through a running WebUI; compares them.",
        epilog="Exit codes: 0 done, 1 the WebUI or the disk failed, 2 bad arguments, 3 done, but some "
        "pictures do not count (NAG was not applied, say), 130 interrupted. The same command goes on where "
        "it stopped.",
    )
    made.add_argument("--url", default=URL, help=f"the WebUI, started with --api (default {URL})")
    made.add_argument("--auth", type=_auth, metavar="USER:PASSWORD", help="those of the WebUI's --api-auth")
    made.add_argument(
        "--prompts", metavar="FILE", help="lines `prompt | negative` (default: the paper's 16 pairs)"
    )
    made.add_argument("--out", default="nag-evaluation", metavar="DIR", help="default %(default)s")
    made.add_argument("--score-only", action="store_true", help="score what is in --out; asks no WebUI")
    made.add_argument("--again", action="store_true", help="draw pictures that do not count once more")
    made.add_argument("--timeout", type=_above(0), default=600, help="seconds for one request (default 600)")
    made.add_argument(
        "--patience",
        type=_from(0),
        default=120,
        help="seconds to wait for a WebUI that went away (default 120)",
    )
    _picture_options(made.add_argument_group("pictures"))
    _nag_options(made.add_argument_group("NAG (default: the WebUI's preset Auto)"))
    group = made.add_argument_group("scores")
    group.add_argument(
        "--clip-model", default=Choice.clip_model, help="an open_clip model (default %(default)s)"
    )
    group.add_argument(
        "--clip-weights", default=Choice.clip_weights, metavar="TAG|FILE", help="default %(default)s"
    )
    group.add_argument("--device", default="", help="for the scores; a GPU where there is one")
    return made


def _picture_options(group: Any) -> None:
    group.add_argument("--n", type=whole(1, 1000), default=4, help="pictures per pair and arm (default 4)")
    group.add_argument("--seeds", type=_seeds, metavar="1-4,9", help="in place of --n: these seeds")
    group.add_argument("--batch-size", type=whole(1, 64), default=1, help="pictures per request (default 1)")
    group.add_argument("--steps", type=whole(1, 150), default=4, help="default 4")
    group.add_argument("--sampler", default="Euler", help="default Euler")
    group.add_argument("--scheduler", default="", help="the WebUI's own by default; Flux on Forge: Simple")
    group.add_argument("--width", type=_side, default=1024, help="default 1024")
    group.add_argument("--height", type=_side, default=1024, help="default 1024")
    group.add_argument(
        "--cfg", type=_from(1), default=3.0, metavar="W", help="CFG of the CFG row (default 3)"
    )
    group.add_argument("--no-cfg", action="store_true", help="no CFG row")
    group.add_argument(
        "--base-cfg", type=_from(1), default=1.0, help="CFG of the off and NAG rows (default 1)"
    )
    group.add_argument("--distilled-cfg", type=_from(0), help="Forge's distilled CFG, for Flux dev")


def _nag_options(group: Any) -> None:
    group.add_argument("--preset", help="Auto, Custom, a family, or one of your own")
    for name in NAG_VALUES[1:]:
        field = FIELD[name]
        group.add_argument(
            f"--{name}",
            type=_between(field.minimum, field.maximum),
            help=f"{field.minimum:g}–{field.maximum:g}",
        )


def plan(options: argparse.Namespace, model: str = "") -> Plan:
    """The plan that the options name. Raises EvaluationError for a bad file of prompts."""
    nag = {name: getattr(options, name) for name in NAG_VALUES if getattr(options, name) is not None}
    return Plan(
        pairs=pairs.read(options.prompts) if options.prompts else pairs.TABLE_10,
        seeds=options.seeds or tuple(range(1, options.n + 1)),
        steps=options.steps,
        sampler=options.sampler,
        scheduler=options.scheduler,
        width=options.width,
        height=options.height,
        base_cfg=options.base_cfg,
        cfg=None if options.no_cfg else options.cfg,
        distilled_cfg=options.distilled_cfg,
        nag=nag,
        model=model,
    )


def _auth(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not colon or not user:
        raise argparse.ArgumentTypeError("expected USER:PASSWORD")
    return user, password


def _seeds(text: str) -> tuple[int, ...]:
    """ "1-4,9" as (1, 2, 3, 4, 9), each once."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:-(\d{1,10}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first >= 1000 or last >= 2**32:
            raise argparse.ArgumentTypeError(f"{part!r} is no seed (0 to 4294967295) and no range like 1-4")
        found += range(first, last + 1)
    return tuple(sorted(set(found)))


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number


def _between(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        number = _number(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is outside {low:g} to {high:g}")
        return number

    return read


def _from(low: float) -> Callable[[str], float]:
    return _between(low, 1e6)


def _above(low: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        number = _from(low)(text)
        if number == low:
            raise argparse.ArgumentTypeError(f"{text} is not above {low:g}")
        return number

    return read


def whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return read


def _side(text: str) -> int:
    side = whole(32, 8192)(text)
    if side % 8:
        raise argparse.ArgumentTypeError(f"{side} is not a multiple of 8, which pictures of a WebUI are")
    return side
