"""The jobs of a soak: kinds mixed by a seed, each drawn several times, in one order for every run."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import Phase, given, seed, settings
from PIL import Image, ImageDraw

from nag_core.settings.fields import METHODS
from tests.odd_arguments import JOBS, patient

TWINS = 4  # how often each job is drawn
SIZE = {"width": 64, "height": 64}
SUBJECTS = ("a circle", "a red square", "two blue circles", "a square, framed")
NEGATIVES = ("red", "blue square", "circle, (framed:1.3)", "")
# Schedules, several negatives, blocks: what has a language of its own in the arguments.
WRITTEN: tuple[dict[str, Any], ...] = (
    {"negative": "[red:blue square:0.5]"}, {"end": 0.5}, {"start": 0.5}, {"curve": "0:8, 1:1"},
    {"negatives": "red :: 2\nblue square :: 0.5"}, {"negative": "red BREAK blue"},
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One request. Jobs of the same number are twins.

    nag: the extension's arguments, None where none are sent. interrupted: cut short in the middle of its
    sampling, so that its picture is no one's twin.
    """

    number: int
    kind: str
    fields: dict[str, Any] = field(hash=False)
    nag: list[Any] | None = field(hash=False)
    interrupted: bool = False

    @property
    def is_off(self) -> bool:
        return self.nag is None

    @property
    def guided(self) -> bool:
        """Whether the report must say that NAG was applied."""
        return not (self.is_off or self.interrupted or self.kind == "odd")


@dataclass(frozen=True)
class Resources:
    """What a WebUI has for jobs: a second checkpoint and a LoRA by name ("" for none), an upscaler."""

    upscaler: str
    second: str = ""
    lora: str = ""


Draw = Callable[[random.Random, Resources], dict[str, Any]]


def _picture(rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    left, top = rng.randrange(24), rng.randrange(24)
    ImageDraw.Draw(image).ellipse((left, top, left + 36, top + 36), fill=rng.choice(("red", "blue")))
    return image


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _img2img(rng: random.Random, _: Resources) -> dict[str, Any]:
    start = {"init_images": [_encoded(_picture(rng))], "denoising_strength": 0.75}
    return {"route": "img2img", "steps": 4, **start}


def _inpaint(rng: random.Random, has: Resources) -> dict[str, Any]:
    mask = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(mask).rectangle((0, 0, rng.randrange(16, 48), 64), fill=255)
    how = {"mask_blur": 0, "inpainting_fill": 1, "inpaint_full_res": False}
    return {**_img2img(rng, has), "mask": _encoded(mask), **how}


def _hires(rng: random.Random, has: Resources) -> dict[str, Any]:
    second = {"hr_scale": 1.5, "hr_second_pass_steps": 2, "hr_upscaler": has.upscaler, "hr_force": True}
    cfg = {"hr_cfg": rng.choice((1, 7)), "denoising_strength": 0.6}
    return {"enable_hr": True, "hr_additional_modules": ["Use same choices"], **second, **cfg}


def _other_checkpoint(rng: random.Random, has: Resources) -> dict[str, Any]:
    return {"override_settings": {"sd_model_checkpoint": has.second}}


def _lora(rng: random.Random, has: Resources) -> dict[str, Any]:
    return {"prompt": f"{rng.choice(SUBJECTS)} <lora:{has.lora}:{rng.choice((1, 0.5, -1))}>"}


# By kind, what its jobs have beside a prompt, a negative and a seed.
KINDS: dict[str, Draw] = {
    "CFG 1": lambda rng, has: {"cfg_scale": 1},
    "CFG 7": lambda rng, has: {"cfg_scale": 7},
    "method": lambda rng, has: {"cfg_scale": rng.choice((1, 7))},
    "hires": _hires,
    "img2img": _img2img,
    "inpaint": _inpaint,
    "batch": lambda rng, has: {"batch_size": rng.choice((2, 3)), "n_iter": rng.choice((1, 2))},
    "AND": lambda rng, has: {"cfg_scale": 7, "prompt": "a circle AND a square :0.6"},
    "schedule": lambda rng, has: {"steps": 4, "prompt": "[a circle:a square:0.5]"},
    "interrupt": lambda rng, has: {"steps": 150, "width": 128, "height": 128},
    "other model": _other_checkpoint,
    "LoRA": _lora,
    "odd": lambda rng, has: {},
}


def _arguments(kind: str, rng: random.Random) -> list[Any]:
    """NAG on, with what the kind is about."""
    asked: dict[str, Any] = {
        "enabled": True,
        "scale": rng.choice((3, 4, 6.5)),
        "negative": rng.choice(NEGATIVES),
    }
    if kind == "method":
        asked |= {"method": rng.choice(METHODS)}
    if kind == "schedule":
        asked |= rng.choice(WRITTEN)
    if kind == "hires":
        asked |= {"hires": rng.choice(("Both", "First pass", "Hires only"))}
    return [asked]


def odd_jobs(number: int, count: int) -> list[dict[str, Any]]:
    """`count` jobs of tests/odd_arguments.py, the same for the same `number`."""
    found: list[dict[str, Any]] = []

    @seed(number)
    @settings(patient, max_examples=count, database=None, phases=[Phase.generate])
    @given(JOBS)
    def collect(job: dict[str, Any]) -> None:
        found.append(job)

    collect()
    return found[:count]


def jobs(count: int, number: int, has: Resources) -> list[Job]:
    """`count` jobs by the seed `number`: every kind that the WebUI has the means for, off and on, first each
    once and then their twins, both in a mixed order.
    """
    rng = random.Random(number)
    wanting = {"other model": not has.second, "LoRA": not has.lora}
    kinds = [kind for kind in KINDS if not wanting.get(kind)]
    different = max(1, count // TWINS)
    odd = iter(odd_jobs(number, different))
    first = [_job(index, kinds, rng, has, odd) for index in range(different)]
    rng.shuffle(first)
    again = [job for job in first for _ in range(-(-count // different))]
    rng.shuffle(again)
    return [*first, *again][:count]


def _job(
    number: int, kinds: list[str], rng: random.Random, has: Resources, odd: Iterator[dict[str, Any]]
) -> Job:
    kind = kinds[number % len(kinds)]
    fields = {
        "prompt": rng.choice(SUBJECTS), "negative_prompt": rng.choice(NEGATIVES[:3]), "steps": 2,
        "seed": rng.randrange(10_000), **SIZE, **KINDS[kind](rng, has),
    }  # fmt: skip
    if kind == "odd":
        asked = dict(next(odd))
        nag = asked.pop("nag")
        return Job(number, kind, fields | asked, nag)
    turn, place = divmod(number, len(kinds))
    is_on = kind == "method" or (turn + place) % 2 == 0
    return Job(number, kind, fields, _arguments(kind, rng) if is_on else None, kind == "interrupt")
