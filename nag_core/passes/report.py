"""What a pass did, in one sentence for the log, the picture's comment and the infotext."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from nag_core.method.fallback import path
from nag_core.method.guidance import Method
from nag_core.settings.presets import Strength

SAME = "prompt and negative gave the same conditioning"
UNKNOWN_PLACES = "the image tokens are arranged in a way that NAG does not know"
# What a host's update causes: something is not there, or takes something else. What a device, a file or torch
# says is not among these.
OF_AN_UNKNOWN_HOST = (AttributeError, ImportError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class PassReport:
    """What NAG did in one sampling pass; `reason` is set when it stood aside altogether.

    `due`: whether the settings ask for NAG in this pass. `layers`: how many were guided, by kind: (("", 70),)
    for attention layers, (("double", 19), ("single", 38)) for transformer blocks. `total_calls`: model calls
    made (some samplers make two a step); `due_calls` of them were to be guided, `guided_calls` were.
    `complete`: all of these, and in them every layer and image that the job asked for. `negatives`: the most
    that were combined, and their tokens. `rule`: what guided in place of NAG. `images`: how many of how many
    had a negative to steer away from; `alike`: of how many it gave what the prompt gave. `bypassed`: NAG was
    installed for calls, and none of them came to it, for no reason that is named. `unknown`: something of the
    host was not as NAG knows it. `picture`: how many of how many image tokens are the picture's; the rest are
    reference images, which are not guided.
    """

    pass_name: str
    reason: str = ""
    due: bool = True
    layers: tuple[tuple[str, int], ...] = ()
    guided_calls: int = 0
    due_calls: int = 0
    total_calls: int = 0
    complete: bool = False
    clipped_share: float | None = None
    rule: str = ""
    attention: str = ""
    strength: Strength | None = None
    negatives: tuple[int, int] = (1, 0)
    images: tuple[int, int] = (0, 0)
    alike: int = 0
    problems: tuple[str, ...] = ()
    bypassed: bool = False
    unknown: bool = False
    picture: tuple[int, int] = (0, 0)

    @property
    def applied(self) -> bool:
        return bool(self.layers)

    def sentence(self, recorded: Strength | None = None) -> str:
        """ "70 layers × 4/4 steps, 12 % of tokens clipped by τ, attention_pytorch", or why nothing was done.

        `recorded`: the strength the infotext names; another one (hires scale, another model) is said here.
        """
        if not self.applied:
            reasons = [reason for reason in (self.reason, *self.problems) if reason]
            sampled = "no step inside the window was sampled" if self.total_calls else "no step was sampled"
            if self.bypassed:
                sampled = "another extension took the attention or the model call over, and NAG never ran"
            return f"not applied: {'; '.join(reasons) or sampled}"
        parts = [f"{self._counted_layers()} × {self.guided_calls}/{self.total_calls} steps"]
        if self.rule:
            parts.append(self.rule)
        if self.clipped_share is not None:
            parts.append(f"{_percent(self.clipped_share)} of tokens clipped by τ")
        parts.append(self.attention)
        if recorded is not None and self.strength not in (None, recorded):
            parts.append(f"φ {self.strength.phi:g} τ {self.strength.tau:g} α {self.strength.alpha:g}")
        if self.negatives[0] > 1:
            parts.append(f"{self.negatives[0]} negatives of {self.negatives[1]} tokens together")
        target, tokens = self.picture
        if target < tokens:
            parts.append(f"{_percent(target / tokens)} of the image tokens (the rest are reference images)")
        guided, total = self.images
        if guided < total:
            parts.append(f"{guided} of {total} images ({left_out(total - guided - self.alike, self.alike)})")
        return ", ".join([*parts, *self.problems])

    def _counted_layers(self) -> str:
        """ "70 layers", "1 joint block", "19 double + 38 single blocks"."""
        blocks = [(count, kind) for kind, count in self.layers if kind]
        parts = [_number(count, "layer") for kind, count in self.layers if not kind]
        parts += [f"{count} {kind}" for count, kind in blocks[:-1]]
        parts += [_number(count, f"{kind} block") for count, kind in blocks[-1:]]
        return " + ".join(parts)


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def of(session: Any, clipped: int) -> PassReport:
    """What a pass did. session: a Session, which knows this module. clipped: tokens that τ shrank."""
    every_call = session.due_calls <= session.guided_calls > 0
    faded = session.faded > 0 and not session.armed and not session.layers
    counts, reads_tau = session.counts, session.plan.method.normalises
    return PassReport(
        session.plan.pass_name,
        "the strength over the steps is 0 in every step of the window" if faded else "",
        layers=tuple(Counter(session.layers.values()).items()),
        guided_calls=session.guided_calls,
        due_calls=session.due_calls,
        total_calls=session.calls,
        complete=session.complete and every_call and not counts.alike,
        clipped_share=clipped / session.tokens if reads_tau and session.tokens and session.counters else None,
        rule=_rule(session.plan),
        attention=", ".join(filter(None, (session.path, *map(path, session.counters)))),
        strength=session.plan.strength,
        negatives=counts.most,
        images=(counts.guided, counts.images),
        alike=counts.alike,
        problems=(*session.problems, *(session.remarks if session.layers else ())),
        bypassed=session.armed > 0 and not (session.layers or session.beside),
        unknown=session.unknown,
        picture=session.picture,
    )


def _rule(plan: Any) -> str:
    """What is not NAG itself, by name."""
    if plan.method is Method.NAG:
        return ""
    return f"{plan.method.value}{f' (offset {plan.strength.offset:g})' if plan.method.needs_lse else ''}"


def aside(pass_name: str, reason: str, due: bool = True, unknown: bool = False) -> PassReport:
    """The report of a pass in which NAG stood aside. due: off where the settings themselves leave it out.
    unknown: the host was not as NAG knows it.
    """
    return PassReport(pass_name, reason=reason, due=due, unknown=unknown)


def nobody(images: int, alike: int) -> str:
    """Why none of `images` is guided: the negative of `alike` gave the prompt's conditioning, the others' is
    empty.
    """
    if not alike:
        return "the negative prompt is empty"
    return SAME if alike == images else left_out(images - alike, alike)


def left_out(empty: int, alike: int) -> str:
    """Why some images are not guided: `empty` by an empty negative, `alike` by one that gave the prompt's
    conditioning.
    """
    if not alike:
        return "the others' negative is empty"
    where = f"{alike} where {SAME}"
    return f"{empty} with an empty negative, {where}" if empty else where


def verdict(reports: list[PassReport]) -> str:
    """Whether the job was guided where it asked for it: "fully", "partly (3 of 4 calls)" or "no"."""
    due = [report for report in reports if report.due]
    if not any(report.applied for report in due):
        return "no"
    if all(report.complete for report in due):
        return "fully"
    guided, total = (sum(getattr(one, name) for one in due) for name in ("guided_calls", "due_calls"))
    return f"partly ({guided} of {total} calls{', not everywhere' if guided == total else ''})"


def summary(reports: list[PassReport], recorded: Strength | None = None) -> str:
    """The sentence of the job: one pass bare, several named."""
    if len(reports) == 1:
        return reports[0].sentence(recorded)
    return "; ".join(f"{report.pass_name}: {report.sentence(recorded)}" for report in reports)


def _percent(share: float) -> str:
    """Whole percents, but never "0 %" for something and never "100 %" for less than all."""
    if 0 < share < 0.005:
        return "under 1 %"
    if 0.995 <= share < 1:
        return "over 99 %"
    return f"{share * 100:.0f} %"
