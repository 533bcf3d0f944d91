"""Which rows are drawn: model, method, steps and strength, as the job that draws them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

# Method names of the report, and the extension's own. The other two are no guidance and CFG.
OURS = {
    "nasa": "NASA",
    "nag": "NAG",
    "no-normalisation": "No normalisation",
    "no-refinement": "No refinement",
    "nag+cfg": "NAG",
    "vsf": "VSF",
    "orthogonal": "Orthogonal",
}
PHI, TAU, ALPHA, CFG = 4.0, 2.5, 0.5, 3.0
PHIS, TAUS, ALPHAS, THETAS = (1, 2, 8, 16), (1, 1.5, 5, 10), (0.125, 0.25, 0.75, 1), (0.25, 0.5, 0.75)
SWEEP_STEPS, THETA_STEPS = 1, 4


@dataclass(frozen=True)
class Row:
    """One line of the table.

    phi: the paper's scale; for "cfg" its weight. cfg: the weight of CFG, 1 for none. theta: NAG acts on this
    first share of the steps. offset: VSF's. alpha, tau, theta are None where they mean nothing. sweep: what
    is varied, None for the main table.
    """

    model: str
    method: str
    steps: int
    phi: float
    tau: float | None = None
    alpha: float | None = None
    theta: float | None = None
    cfg: float = 1.0
    sweep: str | None = None
    offset: float | None = None

    def settings(self) -> dict[str, Any]:
        """As written to the results; the offset, VSF's alone, where it is set."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("offset", None)}

    def nag(self) -> dict[str, Any]:
        """What the extension is asked for."""
        if self.method not in OURS:
            return {"enabled": False}
        return {
            "enabled": True, "preset": "Custom", "method": OURS[self.method], "scale": self.phi,
            "tau": self.tau or TAU, "alpha": self.alpha or ALPHA, "end": self.theta or 1.0,
            "vsf_offset": self.offset or 0.0,
        }  # fmt: skip


def rows(models: list[str], steps: list[int], sweeps: bool) -> list[Row]:
    """The main table of every model and number of steps, then, on request, the sweeps."""
    found = [row for model in models for count in steps for row in _main(model, count)]
    if sweeps:
        found += [row for model in models for row in _sweeps(model)]
    return found


def _main(model: str, steps: int) -> Iterator[Row]:
    yield Row(model, "none", steps, 0.0)
    yield Row(model, "cfg", steps, CFG, cfg=CFG)
    yield Row(model, "nasa", steps, PHI)
    yield Row(model, "nag", steps, PHI, TAU, ALPHA, 1.0)
    yield Row(model, "no-normalisation", steps, PHI, None, ALPHA, 1.0)
    yield Row(model, "no-refinement", steps, PHI, TAU, None, 1.0)
    yield Row(model, "nag+cfg", steps, PHI, TAU, ALPHA, 1.0, CFG)


def _sweeps(model: str) -> Iterator[Row]:
    """What the main table does not hold already; `none` at the sweeps' steps is what they compare with."""
    for steps in (SWEEP_STEPS, THETA_STEPS):
        yield Row(model, "none", steps, 0.0)
    for phi in (PHI, *PHIS):
        yield Row(model, "nag", SWEEP_STEPS, phi, TAU, ALPHA, 1.0, sweep="phi")
        yield Row(model, "no-normalisation", SWEEP_STEPS, phi, None, ALPHA, 1.0, sweep="phi")
        yield Row(model, "nasa", SWEEP_STEPS, phi, sweep="phi")
    for tau in (TAU, *TAUS):
        yield Row(model, "nag", SWEEP_STEPS, PHI, tau, ALPHA, 1.0, sweep="tau")
    for alpha in (ALPHA, *ALPHAS):
        yield Row(model, "nag", SWEEP_STEPS, PHI, TAU, alpha, 1.0, sweep="alpha")
    for theta in (1.0, *THETAS):
        yield Row(model, "nag", THETA_STEPS, PHI, TAU, ALPHA, theta, sweep="theta")
