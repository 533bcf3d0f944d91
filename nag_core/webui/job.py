"""One generation job: from parsed arguments to the sampling passes, and from what those did to the report."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nag_core.hosts import asked, which
from nag_core.hosts.base import Host
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.passes import report
from nag_core.passes.plan import FIRST, HIRES
from nag_core.settings.parse import Request
from nag_core.settings.presets import Strength
from nag_core.webui import heat_picture, infotext
from nag_core.webui.heat_picture import HeatPicture
from nag_core.webui.passes import Pass, Passes, stood_aside


@dataclass(slots=True)
class Job:
    """State of one job with NAG on. Kept by the script, never on `p`: other extensions serialise p."""

    build: Passes
    unsupported: str = ""
    failed: report.PassReport | None = None
    passes: dict[str, Pass | report.PassReport] = field(default_factory=dict)
    reports: list[report.PassReport] = field(default_factory=list)
    recorded: Strength | None = None
    stop_waiting: Callable[[], None] | None = None
    heats: list[Tensor | None] = field(default_factory=list)
    heat_pictures: list[HeatPicture] = field(default_factory=list)
    drawn: int | None = None  # pictures of the running batch; None where the host does not say how many
    finished: int = 0  # pictures of all batches, also of those that others have drawn

    @classmethod
    def of(cls, request: Request) -> Job:
        try:
            host, unsupported = which.detect(), ""
        except UnsupportedHost as reason:
            host, unsupported = None, str(reason)
        return cls(Passes(request.settings, list(request.notes), host), unsupported)

    def begin_pass(self, p: Any, uc: Any, c: Any = None) -> None:
        """Installs NAG for the pass that is about to be sampled, or notes why it stands aside. Never raises.

        uc: the host's own schedules of the main negative, None where it did not encode it (Forge main at CFG
            1). c: those of the prompt.
        """
        name = FIRST
        self._close_passes()  # a pass that begins ends the ones before
        try:
            name = _pass_name(p)
            if self.unsupported:
                raise UnsupportedHost(self.unsupported)
            self.passes[name] = self.build.start(p, uc, c, name)
        except Exception as reason:  # hosts swallow it and go on without a word; the report shall not
            self.passes[name] = stood_aside(name, reason)

    def of_hires(self) -> Strength | None:
        """What the hires pass under way is guided with; None where there is none."""
        current = self.passes.get(HIRES)
        return current.session.plan.strength if isinstance(current, Pass) else None

    def begin_batch(self, p: Any) -> None:
        """Waits for the batch's passes, in a WebUI that announces none to scripts. Never raises."""
        if self.build.host is None:
            return
        job = weakref.ref(p)  # or p, which the hooks' owner is found by, would be held by them

        def around(call: Any) -> AbstractContextManager:
            return self.build.guided_call(call, job(), self.passes)

        try:
            self.stop_waiting = self.build.host.await_calls(p, around)
            if self.stop_waiting is not None:
                self.build.name_row(p.sd_model)
        except Exception as error:
            self.failed = stood_aside(FIRST, error)

    def keep_installed(self, p: Any, sd_model: Any, x: Any) -> None:
        """Called in every denoiser call: puts NAG back after the refiner swapped the model within a pass (no
        script hook fires), and tells the host's adapter that a call begins.
        """
        host = self.build.host
        for name, current in self.passes.items():
            if not isinstance(current, Pass) or current.session.closed:
                continue
            session = current.session
            try:
                if not host.installed(p, sd_model, session):
                    self.build.move(p, current, sd_model, x, name)
            except Exception as error:
                session.problem(f"off after the refiner switch ({str(error)[:120]})", error)
                session.close()
                continue
            try:
                host.begin_call(p, sd_model, session)
            except Exception as error:
                message = f"{type(error).__name__}: {str(error)[:120]}"
                session.problem(f"could not be installed ({message})", error)

    def end_batch(self, drawn: int | None) -> str:
        """Ends the batch's passes; the sentence for log, comment and infotext. drawn: its pictures."""
        self.drawn = drawn
        self._close_passes()
        try:
            self.heats = _heats(self.passes.values())
            sentence, self.reports = self.so_far()
        finally:  # what cannot be reported is tried once
            self.passes.clear()
        return sentence

    def so_far(self) -> tuple[str, list[report.PassReport]]:
        """What the batch's passes have done, in one sentence and one by one. Waits for the device."""
        ended = self.passes.values()
        reports = [current.session.report() if isinstance(current, Pass) else current for current in ended]
        if not reports:
            known = self.unsupported or (self.build.host or Host).no_pass
            reason = known or "this WebUI never announced a sampling pass"
            never = report.aside(FIRST, reason, unknown=not known)
            reports = [self.failed or never]
        # Of what was bypassed another extension is the likelier cause, but not the only one.
        unknown = any(one.unknown or one.bypassed for one in reports)
        notes = dict.fromkeys([*self.build.notes, *([asked.to_report()] if unknown else [])])
        return "; ".join([report.summary(reports, self.recorded), *notes]), reports

    def finish(self, p: Any, picture: Any) -> None:
        """The batch's next picture is about to be recorded: what belongs to it and to no other.

        Its number in the job is counted: `p.batch_size` is another one as soon as pictures of distributed
        workers have joined the last batch.
        """
        image, index = p.batch_index, self.finished
        self.finished += 1
        if self.drawn is not None and image >= self.drawn:
            if (self.build.host or Host).records_by_image:
                infotext.write_of_another(p.extra_generation_params, self.drawn, image)
            return
        heat = self.heats[image] if image < len(self.heats) else None
        if heat is not None:
            made = heat_picture.drawn(picture, heat)
            found = HeatPicture(made, index, float(heat.max()), p.seeds[image], p.prompts[image])
            self.heat_pictures.append(found)

    def close(self) -> None:
        """Lets go of everything, in whatever state an interrupt or an exception left the job."""
        self._close_passes()
        self.passes.clear()
        self.build.caches.clear()
        self.heats.clear()
        self.heat_pictures.clear()

    def _close_passes(self) -> None:
        if self.stop_waiting is not None:
            self.stop_waiting()
            self.stop_waiting = None
        for current in self.passes.values():
            if isinstance(current, Pass):
                current.session.close()


def _pass_name(p: Any) -> str:
    """Of the pass that is about to be sampled; `HostChanged` where nobody can tell."""
    # An img2img job has none, on some hosts.
    hires = getattr(p, "enable_hr", False) and asked.attribute(p, "is_hr_pass")
    return HIRES if hires else FIRST


def _heats(passes: Iterable[Any]) -> list[Tensor | None]:
    """Each image's heat map of the last pass that guided one: a hires pass draws what is seen in the end."""
    sessions = [one.session for one in passes if isinstance(one, Pass)]
    found = [one.heat.pictures(one.counts.images) for one in sessions if one.heat is not None and one.layers]
    return next((maps for maps in reversed(found) if any(heat is not None for heat in maps)), [])
