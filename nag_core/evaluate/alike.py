"""Whether a run's pictures were drawn alike: all by one model, those with NAG with the same values.

Behind stable-diffusion-webui-distributed each machine draws with the checkpoint and the extension that it
has. Its pictures are held to those of the WebUI that was asked; where that drew none, to what most say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping

from nag_core.evaluate.answer import LABEL
from nag_core.evaluate.plan import NAG, Spot
from nag_core.settings.parse import FIELDS

# A preset is its values, and a text may be another one for each pair.
_VALUES = tuple(
    one.infotext for one in FIELDS if one.kind != "text" and one.name not in ("enabled", "preset")
)
_ON, _MODEL, _HASH = "NAG scale", "Model", "Model hash"

Parameters = Mapping[str, str]


def odd_ones(pictures: Mapping[Spot, Parameters]) -> dict[Spot, list[str]]:
    """Why a picture cannot be compared with the others, by picture; those that can be are left out.

    pictures: their parameters by place in the run. One that does not say a thing is not held to it.
    """
    guided = {spot: said for spot, said in pictures.items() if spot.arm == NAG and _ON in said}
    named = {spot: said for spot, said in pictures.items() if _MODEL in said or _HASH in said}
    found: dict[Spot, list[str]] = {}
    for held, keys, differs in ((guided, _VALUES, _other_values), (named, (_MODEL, _HASH), _other_model)):
        usual = _usual(held.values(), lambda said, keys=keys: tuple(said.get(key) for key in keys))
        for spot, said in held.items():
            other = differs(said, usual)
            if other:
                worker = f" (worker {said[LABEL]})" if LABEL in said else ""
                found.setdefault(spot, []).append(f"drawn with {other}{worker}")
    return found


def _usual(every: Iterable[Parameters], what: Callable[[Parameters], Hashable]) -> Parameters:
    """One of the parameters that say what most do, of the asked WebUI's own where there are any."""
    every = list(every)
    own = [said for said in every if LABEL not in said] or every
    ((most, _),) = Counter(map(what, own)).most_common(1) or ((None, 0),)
    return next((said for said in own if what(said) == most), {})


def _other_values(said: Parameters, usual: Parameters) -> str:
    changed = [key for key in _VALUES if said.get(key) != usual.get(key)]
    default = "the default"
    return ", ".join(
        f"{key} {said.get(key, default)} instead of {usual.get(key, default)}" for key in changed
    )


def _other_model(said: Parameters, usual: Parameters) -> str:
    """By hash where both have one: files of one model may have several names."""
    key = _HASH if _HASH in said and _HASH in usual else _MODEL
    if key not in said or key not in usual or said[key] == usual[key]:
        return ""
    names = [
        f"{one.get(_MODEL, 'unnamed')}{f' [{one[_HASH]}]' if _HASH in one else ''}" for one in (said, usual)
    ]
    return f"model {names[0]} instead of {names[1]}"
