"""Many mixed jobs on one WebUI: is the last one drawn as the first, and what stays behind?

    python -m tests.live.soak URL --jobs 200 --seed 1 --json with.json
    python -m tests.live.soak URL --jobs 200 --seed 1 --json without.json --without-nag

Every job is compared with its first twin, bit for bit. tests/live/extension beside ours tells what of NAG is
in the WebUI's modules, networks and memory before, in the middle and after. The second run is for the same
WebUI without the extension; `--against FILE` compares with it. Ends with 1 where something was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.live import soak_left
from tests.live.client import Result, WebUI, largest_difference
from tests.live.soak_jobs import Job, Resources, jobs

GUIDED = re.compile(r"× [1-9]\d*/\d+ steps")
PATIENCE = 300  # seconds for a job to end once it is interrupted
GIVE_UP = 3  # jobs without an answer


@dataclass
class Outcome:
    """What a soak saw. `findings`: one sentence each, none where all is well. `drawn`: SHA-256 of the PNG
    files of each job without NAG, by number; `memory`: MiB after each job, and what the walks say.
    """

    findings: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    drawn: dict[str, list[str]] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=lambda: {"each": []})
    seconds: float = 0.0


class Soak:
    """The jobs on one WebUI, one after the other. growth: MiB of memory added, by `soak_left.grown`, that
    are no finding. with_nag: whether NAG's arguments are sent.
    """

    def __init__(
        self, webui: WebUI, planned: list[Job], second: str = "", growth: float = 13, with_nag: bool = True
    ) -> None:
        self.webui, self.planned, self.second = webui, planned, second
        self.growth, self.with_nag = growth, with_nag
        self.outcome, self.first = Outcome(), {}

    def run(self, before: Callable[[int], Any] = lambda index: None) -> Outcome:
        """What was seen. before: called ahead of each job with its index."""
        began, outcome = time.monotonic(), self.outcome
        different = len({job.number for job in self.planned})
        walks = [self._look()]
        for index, job in enumerate(self.planned):
            before(index)
            if not self._answers(f"job {index} ({job.kind}, {'off' if job.is_off else 'on'})", job):
                break
            if index == different - 1:
                walks.append(self._look())
            if index % 10 == 9:
                _say(f"{index + 1} jobs, {time.monotonic() - began:.0f} s")
        else:
            walks.append(self._look())
            added = soak_left.memory(walks, outcome.memory["each"])
            outcome.findings += soak_left.findings(walks, added, self.growth)
            outcome.memory |= added
        outcome.seconds = round(time.monotonic() - began, 1)
        return outcome

    def _answers(self, name: str, job: Job) -> bool:
        """Draws a job; False where so many had no answer that it makes no sense to go on."""
        outcome, known = self.outcome, len(self.outcome.findings)
        try:
            self._judge(name, job, self._drawn(job))
            outcome.memory["each"].append(round(self.webui.resident(), 1))
        except (httpx.TransportError, AssertionError) as error:
            outcome.findings.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            outcome.counts["without an answer"] += 1
        for finding in outcome.findings[known:]:
            _say(finding)
        return outcome.counts["without an answer"] < GIVE_UP

    def _look(self) -> soak_left.Walk:
        return soak_left.look(self.webui, self.second)

    def _drawn(self, job: Job) -> Result:
        nag = job.nag if self.with_nag else None
        if job.fields.get("route") == "img2img":
            # Forge draws the noise of a start picture's encoding from torch's global generator, as the job
            # before has left it.
            self.webui.txt2img(steps=1)
        if not job.interrupted:
            return self.webui.txt2img(nag, **job.fields)
        thread, results = self.webui.in_background(nag, **job.fields)
        self._interrupt_in_the_middle(thread)
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"did not end within {PATIENCE} s of its interrupt"
        assert results, "the interrupted job did not answer"
        return results[0]

    def _interrupt_in_the_middle(self, thread: threading.Thread) -> None:
        """Of the job that the thread waits for; without effect where it has ended before."""
        while thread.is_alive():
            state = self.webui.http.get("/sdapi/v1/progress?skip_current_image=true").json()["state"]
            if state["sampling_step"] >= 2:
                self.webui.http.post("/sdapi/v1/interrupt")
                self.outcome.counts["interrupted"] += 1
                return
            time.sleep(0.05)

    def _judge(self, name: str, job: Job, result: Result) -> None:
        """Against the first twin, and what the parameters say."""
        outcome, which = self.outcome, "off" if job.is_off else "on"
        outcome.kinds[job.kind] += 1
        outcome.counts[which] += 1
        if self.with_nag and job.guided and not all(GUIDED.search(result.report(i)) for i in _texts(result)):
            outcome.findings.append(f"{name}: not guided: {result.report() or 'no report'}")
        if job.is_off and any("NAG" in text for text in result.infotexts):
            outcome.findings.append(f"{name}: speaks of NAG: {result.infotexts[0]}")
        if job.interrupted:
            return
        twin = self.first.setdefault(job.number, result)
        if twin is result:
            files = [hashlib.sha256(png).hexdigest() for png in result.pngs]
            outcome.drawn |= {str(job.number): files} if job.is_off else {}
            return
        outcome.counts[f"twins compared, {which}"] += 1
        if twin.pngs != result.pngs:
            what = _unlike(twin.pixels, result.pixels)
            texts = f"{result.infotexts[-1]!r}, first {twin.infotexts[-1]!r}"
            outcome.findings.append(f"{name}: unlike its first twin in {what}: {texts}")


def _unlike(one: list[bytes], two: list[bytes]) -> str:
    """In what two jobs' pictures differ, of those whose files do."""
    if [*map(len, one)] != [*map(len, two)]:
        return "number or size of the pictures"
    levels = max(map(largest_difference, one, two), default=0)
    return f"the picture, by up to {levels} of 255" if levels else "the parameters"


def _say(text: str) -> None:
    """While it goes on: what is found, and how far it is."""
    print(text, file=sys.stderr, flush=True)


def _texts(result: Result) -> list[int]:
    """Indexes of pictures with parameters: some hosts send an inpaint's mask beside its picture."""
    return [index for index, text in enumerate(result.infotexts) if text]


def against(one: dict[str, Any], other: dict[str, Any], growth: float) -> list[str]:
    """What a soak has, as it was written, that the same jobs without the extension have not."""
    found = [
        f"off job {number}: not the file that the WebUI without the extension makes"
        for number, files in one["drawn"].items()
        if number in other["drawn"] and other["drawn"][number] != files
    ]
    more = one["memory"].get("growth_mib", 0) - other["memory"].get("growth_mib", 0)
    if more > growth:
        found.append(f"{more:.0f} MiB more were added than without the extension")
    return found


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.live.soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("url")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write what was seen into this file")
    parser.add_argument("--without-nag", action="store_true", help="the same jobs without NAG's arguments")
    parser.add_argument("--against", type=Path, help="the file of a run on the WebUI without the extension")
    parser.add_argument("--growth", type=float, default=13, help="MiB that half of the jobs may add")
    for name in ("checkpoint", "second", "lora", "scheduler"):
        parser.add_argument(f"--{name}", default="")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """1 where something was found; it is said on stdout and stands in the file."""
    asked = parsed(argv)
    webui = WebUI(asked.url, asked.checkpoint or None, asked.scheduler or None)
    planned = jobs(asked.jobs, asked.seed, Resources(webui.upscaler, asked.second, asked.lora))
    outcome = Soak(webui, planned, asked.second, asked.growth, not asked.without_nag).run()
    found = vars(outcome)
    if asked.against:
        other = json.loads(asked.against.read_text(encoding="utf-8"))
        outcome.findings += against(found, other, asked.growth)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    said = {key: value for key, value in found.items() if key not in ("drawn", "findings")}
    said["memory"] = {key: value for key, value in outcome.memory.items() if key != "each"}
    print(json.dumps(said, indent=1))
    print("\n".join(outcome.findings) or "nothing found")
    return bool(outcome.findings)


if __name__ == "__main__":
    sys.exit(main())
