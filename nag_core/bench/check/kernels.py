"""Every implementation of the rule beside the rule in float64, at real models' shapes and near the limits of
a dtype: the fused kernels, the few operations, and guidance.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nag_core.bench import measure
from nag_core.bench.check.part import Found, distance
from nag_core.bench.models import Place
from nag_core.bench.published import published_nag
from nag_core.evaluate import tables
from nag_core.method import fallback
from nag_core.method.guidance import Method, guide
from nag_core.method.merge import Part

STRENGTH = (4.0, 2.5, 0.5)
EXTREME = (20.0, 10.0, 1.0)
# Tokens and channels of a layer: on a GPU, and at toy size.
SHAPES = {
    "SDXL, 64 x 64": ((4096, 640), (64, 40)),
    "SDXL, 32 x 32": ((1024, 1280), (32, 80)),
    "Flux": ((4096, 3072), (64, 96)),
    "SD3.5-L": ((4096, 2432), (64, 76)),
    "Wan 14B": ((32760, 5120), (60, 160)),
}
# Heads, their width, tokens of each text and of the picture.
JOINT = {"Flux": ((24, 128, 512, 4096), (3, 32, 6, 20)), "SD3.5-L": ((38, 64, 333, 4096), (5, 16, 7, 25))}
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Near its limits a value is held at the largest there is; what remains is rounding.
EXTREME_ERROR = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5}
WRITTEN = "as written"
# z+, z-, strength and counter to the guided tokens.
Guide = Callable[[Tensor, Tensor, tuple, Tensor], Tensor]


@dataclass(slots=True)
class Row:
    """One comparison. error: ours, as a share of the norm. naive: the published operations' in this dtype.
    seconds: the best of ten, 0 where it was not timed.
    """

    what: str
    dtype: str
    values: str
    path: str
    error: float
    naive: float | None
    wrong: str = ""
    seconds: float = 0.0


@functools.cache
def modules(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What there is by name: a module, or a sentence why it cannot be used there."""
    fused = fallback.FUSED if device.type == "cuda" else ()
    return {one.name: _module(one, device, dtype) for one in (*fused, fallback.OPERATIONS)}


def _module(one: fallback.Implementation, device: torch.device, dtype: torch.dtype) -> Any:
    try:
        module = one.load()
        agrees = fallback.agrees(module, device, dtype)
    except (ImportError, OSError) as error:
        return f"not here: {error}"
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        return _raised(error)
    return module if agrees else "they give other numbers than the rule"


def missing(place: Place) -> list[str]:
    """What cannot be used of what should be there, and why; what is not installed should not be there."""
    wrong = []
    for dtype in DTYPES:
        found = modules(place.device, dtype)
        wrong += [
            f"{name}, {_name(dtype)}: {why}"
            for name, why in found.items()
            if isinstance(why, str) and not why.startswith("not here")
        ]
        fused = [one for name, one in found.items() if name != fallback.OPERATIONS.name]
        if fused and all(isinstance(one, str) for one in fused):
            wrong.append(f"no fused kernels for {_name(dtype)}: {'; '.join(fused)}")
    return wrong


def guides(device: torch.device, dtype: torch.dtype) -> dict[str, Guide]:
    """The rule by every implementation that works there."""

    def by(module: Any) -> Guide:
        return lambda pos, neg, strength, counter: module.guide(pos, neg, strength, Method.NAG, counter)

    def as_written(pos: Tensor, neg: Tensor, strength: tuple, counter: Tensor) -> Tensor:
        made = guide(pos, neg, *strength)
        counter.add_(made.clipped)
        return made.out

    found = modules(device, dtype)
    return {WRITTEN: as_written} | {name: by(one) for name, one in found.items() if not isinstance(one, str)}


def found(place: Place) -> Found:
    """The rule on two attention outputs, and how many tokens it clips."""
    made = []
    for what, sizes in SHAPES.items():
        tokens, width = place.of(*sizes)
        for dtype in DTYPES:
            generator = torch.Generator(place.device).manual_seed(1)
            pos, neg = (_normal(place, generator, 1, tokens, width) for _ in range(2))
            neg[:, ::2] = pos[:, ::2] + 0.1 * neg[:, ::2]  # every second token is not clipped
            pos, neg = pos.to(dtype), neg.to(dtype)
            pos[:, 1], neg[:, 2] = 0, 0
            made += _compared(what, pos, neg, STRENGTH, "usual")
            limit = torch.finfo(dtype).max * 0.9
            largest = (x / x.abs().amax() * limit for x in (pos.float(), neg.float()))
            made += _compared(what, *(x.to(dtype) for x in largest), EXTREME, "near the limit")
    return _reported(made, missing(place))


def _compared(what: str, pos: Tensor, neg: Tensor, strength: tuple, values: str) -> list[Row]:
    dtype, usual = pos.dtype, values == "usual"
    wanted, clipped = exact(pos, neg, *strength)
    naive = distance(published_nag(pos, neg, *strength), wanted) if usual else None
    bound = _bound(naive, dtype) if usual else EXTREME_ERROR[dtype]
    rows = []
    for name, run in guides(pos.device, dtype).items():
        row = Row(what, _name(dtype), values, name, float("nan"), naive)
        rows.append(row)
        counter = torch.zeros((), dtype=torch.int64, device=pos.device)
        try:
            ours = run(pos, neg, strength, counter)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            row.wrong = _raised(error)
            continue
        row.error, count = distance(ours, wanted), int(counter)
        row.wrong = "; ".join(filter(None, (_judged(ours, row.error, bound), _counted(count, clipped))))
        row.seconds = _best(functools.partial(run, pos, neg, strength, counter)) if usual else 0.0
    return rows


def _best(step: measure.Step) -> float:
    """Seconds of the best of ten."""
    seconds = measure.clock(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return min(seconds(step) for _ in range(10))


def _raised(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _bound(naive: float, dtype: torch.dtype) -> float:
    """Twice the naive error. A floor of 4 eps (16 in fp32): a GPU's division and exponential are off by that,
    and where the naive operations are lucky twice nothing is nothing.
    """
    return max(2 * naive, (16 if dtype is torch.float32 else 4) * torch.finfo(dtype).eps)


def _counted(count: int, clipped: int) -> str:
    same = abs(count - clipped) <= max(1, clipped // 1000)
    return "" if same else f"{count} tokens clipped, {clipped} in float64"


def exact(pos: Tensor, neg: Tensor, phi: float, tau: float, alpha: float) -> tuple[Tensor, int]:
    """Eq. 7-10 in float64 as they are written, held at the dtype's largest value; clipped tokens."""
    pos64, neg64 = pos.double(), neg.double()
    guided = pos64 + phi * (pos64 - neg64)
    norm, limit = guided.abs().sum(-1, keepdim=True), tau * pos64.abs().sum(-1, keepdim=True)
    over = norm > limit
    guided = torch.where(over, guided * (limit / norm.clamp(min=1e-300)), guided)
    largest = torch.finfo(pos.dtype).max
    return (alpha * guided + (1 - alpha) * pos64).clamp(-largest, largest), int(over.sum())


def merged(place: Place) -> Found:
    """Three partial attentions merged and guided in one call."""
    made = []
    for what, sizes in JOINT.items():
        heads, width, text, image = place.of(*sizes)
        for dtype in DTYPES:
            generator = torch.Generator(place.device).manual_seed(2)
            tokens = 2 * text + image
            sizes_of = (tokens, tokens - text, tokens)
            parts = [
                Part(
                    _normal(place, generator, 1, heads, n, width).to(dtype),
                    _normal(place, generator, 1, heads, n) + 5,
                )
                for n in sizes_of
            ]
            made += _merged(what, parts, text, dtype)
    return _reported(made, [])


def _merged(what: str, parts: list[Part], text: int, dtype: torch.dtype) -> list[Row]:
    """[negative | prompt | picture], as Flux has them; SD3.5's other order is only another `spans`."""
    image, pos, neg = parts
    batch, heads, tokens, width = image.out.shape
    z_pos, z_neg = exact_merge(image, pos, text), exact_merge(image, neg, 0)
    wanted = z_pos.clone()
    wanted[:, :text] = z_neg[:, :text]
    rounded = [z[:, 2 * text :].to(dtype) for z in (z_pos, z_neg)]
    picture, clipped = exact(z_pos[:, 2 * text :], z_neg[:, 2 * text :], *STRENGTH)
    wanted[:, 2 * text :] = picture
    naive = distance(published_nag(*rounded, *STRENGTH), picture)
    spans = (text, 2 * text, 0, text, text, tokens)
    rows = []
    for name, module in modules(image.out.device, dtype).items():
        if isinstance(module, str):
            continue
        row = Row(what, _name(dtype), "merge", name, float("nan"), naive)
        rows.append(row)
        out = image.out.new_empty(batch, tokens, heads * width)
        counter = torch.zeros((), dtype=torch.int64, device=out.device)
        given = (image, pos, neg, out, spans, STRENGTH, Method.NAG, counter)
        try:
            module.merge_and_guide(*given)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            row.wrong = _raised(error)
            continue
        row.error, count = distance(out, wanted), int(counter)
        judged = (_judged(out, row.error, _bound(naive, dtype)), _counted(count, clipped))
        row.wrong = "; ".join(filter(None, judged))
        row.seconds = _best(functools.partial(module.merge_and_guide, *given))
    return rows


def exact_merge(image: Part, other: Part, first: int) -> Tensor:
    """Both parts' attention in float64, (B, tokens, H*D); `other` begins at token `first`, the tokens before
    it see the picture alone.
    """
    weight = torch.sigmoid(other.lse.double() - image.lse[:, :, first:].double()).unsqueeze(-1)
    made = image.out.double().clone()
    made[:, :, first:] = made[:, :, first:] * (1 - weight) + other.out.double() * weight
    return made.transpose(1, 2).flatten(2)


def _judged(out: Tensor, error: float, bound: float) -> str:
    if not bool(torch.isfinite(out).all()):
        return "not finite"
    return "" if error <= bound else f"error {error:.1e}, allowed {bound:.1e}"


def _normal(place: Place, generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, device=place.device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _reported(rows: list[Row], wrong: list[str]) -> Found:
    lines = [
        (r.what, r.dtype, r.values, r.path, f"{r.error:.1e}", "" if r.naive is None else f"{r.naive:.1e}",
         f"{r.seconds * 1e6:.0f}" if r.seconds else "", r.wrong or "ok") for r in rows
    ]  # fmt: skip
    head = ("layer", "dtype", "values", "path", "error", "naive", "µs", "")
    wrong = wrong + [f"{r.what} {r.dtype} {r.values} {r.path}: {r.wrong}" for r in rows if r.wrong]
    data: dict[str, Any] = {"rows": [{name: getattr(r, name) for name in Row.__slots__} for r in rows]}
    return Found(data, tables.markdown(head, lines), wrong)
