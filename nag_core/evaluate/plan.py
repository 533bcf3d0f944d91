"""What a run draws: pairs × seeds × arms, and the request for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nag_core.evaluate.pairs import Pair

OFF, NAG, CFG = "off", "nag", "cfg"


@dataclass(frozen=True, slots=True)
class Spot:
    """One picture's place in the run; `pair` counts from 0."""

    pair: int
    seed: int
    arm: str

    @property
    def name(self) -> str:
        """Its file below the folder of pictures, without the ending."""
        return f"{self.arm}/{self.pair:02d}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """The settings that a picture depends on. `cfg` None draws no CFG pictures; `base_cfg` is the CFG of the
    off and NAG ones; `nag` is the extension's dict form, "enabled" left out.
    """

    pairs: tuple[Pair, ...]
    seeds: tuple[int, ...]
    steps: int = 4
    sampler: str = "Euler"
    scheduler: str = ""
    width: int = 1024
    height: int = 1024
    base_cfg: float = 1.0
    cfg: float | None = 3.0
    distilled_cfg: float | None = None
    nag: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""

    @property
    def arms(self) -> tuple[str, ...]:
        return (OFF, NAG) if self.cfg is None else (OFF, NAG, CFG)

    def spots(self) -> list[Spot]:
        """Every picture, pair by pair, so that a run that ends early has whole comparisons."""
        places = range(len(self.pairs))
        return [Spot(pair, seed, arm) for pair in places for seed in self.seeds for arm in self.arms]

    def cfg_of(self, arm: str) -> float:
        return self.cfg if arm == CFG and self.cfg is not None else self.base_cfg

    def payload(self, pair: int, arm: str, first_seed: int, count: int) -> dict[str, Any]:
        """The txt2img request for `count` pictures of consecutive seeds."""
        job: dict[str, Any] = {
            "prompt": self.pairs[pair].prompt,
            "negative_prompt": self.pairs[pair].negative,
            "seed": first_seed,
            "batch_size": count,
            "n_iter": 1,
            "steps": self.steps,
            "cfg_scale": self.cfg_of(arm),
            "sampler_name": self.sampler,
            "width": self.width,
            "height": self.height,
            # Pictures carry their text; a grid setting would shift how distributed counts its pictures.
            "override_settings": {"return_grid": False, "enable_pnginfo": True},
            "alwayson_scripts": {"NAG": {"args": [{**self.nag, "enabled": arm == NAG}]}},
        }
        if self.scheduler:
            job["scheduler"] = self.scheduler
        if self.distilled_cfg is not None:
            job["distilled_cfg_scale"] = self.distilled_cfg
        return job

    def record(self) -> dict[str, Any]:
        """The settings as JSON; `from_record` gives the plan back."""
        names = [name for name in self.__dataclass_fields__ if name not in ("pairs", "seeds", "nag")]
        return {
            "pairs": [[pair.prompt, pair.negative] for pair in self.pairs],
            "seeds": list(self.seeds),
            "nag": dict(self.nag),
            **{name: getattr(self, name) for name in names},
        }


def from_record(record: Mapping[str, Any]) -> Plan:
    """Raises TypeError, KeyError or ValueError for what is no record of a plan."""
    pairs = tuple(Pair(str(prompt), str(negative)) for prompt, negative in record["pairs"])
    return Plan(**{**record, "pairs": pairs, "seeds": tuple(int(seed) for seed in record["seeds"])})


def runs(seeds: Iterable[int], longest: int) -> list[tuple[int, int]]:
    """(first, count) of consecutive seeds, at most `longest` together: what one request can ask for."""
    found: list[tuple[int, int]] = []
    for seed in sorted(seeds):
        first, count = found[-1] if found else (seed, 0)
        if found and seed == first + count and count < longest:
            found[-1] = (first, count + 1)
        else:
            found.append((seed, 1))
    return found
