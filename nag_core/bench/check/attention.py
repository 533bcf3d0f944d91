"""The kernels that return a log-sum-exp: which there are, whether their parts merge, and what that costs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nag_core.bench import measure
from nag_core.bench.check.part import Found, distance
from nag_core.bench.models import Place
from nag_core.evaluate import tables
from nag_core.method.lse_kernels import (
    BACKENDS,
    CUDNN,
    EFFICIENT,
    FLASH,
    FLASH_CPU,
    TOLERANCE,
    Kernel,
    lse_kernel,
)
from nag_core.method.merge import merge

# Heads, their width, tokens of each text and of the picture: on a GPU, and at toy size.
SHAPES = {
    "Flux-schnell": ((24, 128, 256, 4096), (2, 128, 16, 64)),
    "Flux-dev": ((24, 128, 512, 4096), (2, 128, 32, 64)),
    "SD3.5-L": ((38, 64, 333, 4096), (3, 64, 21, 64)),
}


def found(place: Place) -> Found:
    """One row for each kernel, shape and dtype that models run in."""
    cuda = place.device.type == "cuda"
    kernels = (FLASH, EFFICIENT, CUDNN) if cuda else (FLASH_CPU,)
    rows, wrong = [], []
    for what, sizes in SHAPES.items():
        heads, width, text, image = place.of(*sizes)
        for dtype in (torch.bfloat16, torch.float16) if cuda else (place.dtype,):
            named = f"{what}, {str(dtype).removeprefix('torch.')}"
            q, k, v = (place.normal(1, heads, 2 * text + image, width).to(dtype) for _ in range(3))
            taken = lse_kernel(q)
            made = [
                {
                    "what": named,
                    "kernel": kernel.name,
                    "taken": taken is kernel,
                    **_row(kernel, q, k, v, text),
                }
                for kernel in kernels
            ]
            rows += made
            wrong += _judged(named, made, torch._fused_sdp_choice(q, k, v) if cuda else None)
    head = ("shape", "kernel", "taken", "error", "three parts over one attention without NAG")
    lines = [
        (row["what"], row["kernel"], "yes" if row["taken"] else "",
         row["failure"] if row["error"] is None else f"{row['error']:.1e}",
         "" if row["ratio"] is None else f"{row['ratio'] * 100:+.1f} %") for row in rows
    ]  # fmt: skip
    return Found({"rows": rows}, tables.markdown(head, lines), wrong)


def _judged(what: str, made: list[dict], choice: int | None) -> list[str]:
    """choice: the number of the kernel that torch's own attention takes, None where nobody chooses."""
    taken = next((row for row in made if row["taken"]), None)
    if taken is None:
        return [f"{what}: no kernel with a log-sum-exp works"]
    wrong = []
    if taken["error"] is None:
        wrong.append(f"{what}: {taken['kernel']} is taken and failed ({taken['failure']})")
    torchs = BACKENDS[choice].name if choice in BACKENDS else f"backend {choice}"
    if choice is not None and torchs != taken["kernel"]:
        wrong.append(f"{what}: torch takes {torchs}, for its parts {taken['kernel']} is taken")
    return wrong


def _row(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, text: int) -> dict:
    """[negative | prompt | picture]. The error is that of the first heads: float64 has no fast kernel."""
    try:
        few = [x[:, :4] for x in (q, k, v)]
        own = [x[:, :, text:] for x in few]
        whole = scaled_dot_product_attention(*(x.double() for x in own))
        parts = [
            kernel.run(own[0], *(x[:, :, keys] for x in own[1:])) for keys in (slice(text), slice(text, None))
        ]
        error = distance(merge(*parts), whole)
        if not error < TOLERANCE[q.dtype]:
            return {"error": None, "ratio": None, "failure": f"error {error:.1e}"}
        return {"error": error, "ratio": _ratio(kernel, q, k, v, text), "failure": ""}
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError, TypeError, AttributeError, ValueError) as error:
        return {"error": None, "ratio": None, "failure": str(error).splitlines()[0][:120]}


def _ratio(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, text: int) -> float:
    """Extra time of the three parts, unmerged, over the attention of prompt and picture."""

    def parts() -> None:
        kernel.run(q, k[:, :, 2 * text :], v[:, :, 2 * text :])
        kernel.run(q[:, :, text:], k[:, :, text : 2 * text], v[:, :, text : 2 * text])
        kernel.run(q, k[:, :, :text], v[:, :, :text])

    def plain() -> None:
        scaled_dot_product_attention(*(x[:, :, text:] for x in (q, k, v)))

    seconds, steps = measure.clock(q.device), {"plain": plain, "parts": parts}
    measure.warmed(steps.values(), seconds, 3)
    times = measure.interleaved(steps, seconds, 20 if q.is_cuda else 3, lambda: None)
    return measure.overhead(times["parts"], times["plain"]).overhead
