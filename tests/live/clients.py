"""Two clients at once on one WebUI, each by its page and by its API: does one get what is the other's?

    python -m tests.live.clients URL --minutes 10 --json clients.json

Every job is first drawn alone. Meanwhile somebody asks for the progress and for NAG's status, and somebody
interrupts whatever runs: a job that an interrupt may have cut short is held to its own settings only. Ends
with 1 where something was found. gradio 4 (Forge main, Neo, the sandbox).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.live.client import WebUI
from tests.live.queue_page import Answer, QueuePage

PAGE, API = "page", "API"
# The page's element ids where they are not the API's names.
ON_PAGE = {"negative_prompt": "neg_prompt", "sampler_name": "sampling"}
SMALL = {"prompt": "a circle", "steps": 3, "width": 64, "height": 64, "sampler_name": "Euler"}
# What tells the two apart in every job with NAG: the mark stands in the negative's text.
SCALES = {"first": 3.25, "second": 7.5}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "CFG 1": ({"cfg_scale": 1}, {}),
    "a batch": ({"cfg_scale": 7, "batch_size": 2}, {"end": 0.75}),
    "VSF": ({"cfg_scale": 1}, {"method": "VSF"}),
    "off": ({"cfg_scale": 7}, None),
}


@dataclass(frozen=True)
class Wish:
    """A client's job through one of the two doors."""

    client: str
    door: str
    kind: str
    fields: dict[str, Any] = field(hash=False)
    nag: dict[str, Any] | None = field(hash=False)

    @property
    def name(self) -> str:
        return f"{self.client} client, {self.kind} by the {self.door}"


def wishes(more: dict[str, Any]) -> list[Wish]:
    """Every kind by both clients through both doors. more: fields of all of them."""
    found = []
    for number, (client, scale) in enumerate(SCALES.items(), 1):
        own = {"enabled": True, "preset": "Custom", "scale": scale, "negative": f"blue square, {client}"}
        for kind, (fields, nag) in KINDS.items():
            job = {**SMALL, "negative_prompt": "red", "seed": 100 * number, **fields, **more}
            asked = None if nag is None else own | nag
            found += [Wish(client, door, kind, job, asked) for door in (PAGE, API)]
    return found


@dataclass
class Drawn:
    """An answer, and when it was asked for and came (s)."""

    wish: Wish
    answer: Answer
    asked: float
    came: float


class Client:
    """Both doors of one WebUI. By the API the fields that are not set are the WebUI's own, not the tests'."""

    def __init__(self, url: str) -> None:
        self.page, self.webui = QueuePage(url), WebUI(url)

    def draw(self, wish: Wish) -> Drawn:
        asked = time.monotonic()
        if wish.door == API:
            result = self.webui.txt2img(None if wish.nag is None else [wish.nag], **wish.fields)
            answer = Answer(result.pixels, result.infotexts)
        else:
            fields = {ON_PAGE.get(name, name): value for name, value in wish.fields.items()}
            answer = self.page.txt2img(wish.nag, **fields)
        return Drawn(wish, answer, asked, time.monotonic())


def mixed_up(wish: Wish, answer: Answer, alone: Answer, cut: bool) -> list[str]:
    """What in an answer is not the job's own. cut: whether an interrupt may have ended it early."""
    found = []
    for text in filter(None, answer.infotexts):
        seeds = {int(seed) for seed in re.findall(r"\bSeed: (\d+)", text)}
        if not seeds <= set(range(wish.fields["seed"], wish.fields["seed"] + 2)):
            found.append(f"another's seed: {text}")
        if wish.nag is None:
            found += [f"NAG in a job without it: {text}"] if "NAG" in text else []
            continue
        if f"NAG scale: {wish.nag['scale']:g}," not in text:
            found.append(f"not its own scale: {text}")
        if any(client in text for client in SCALES if client != wish.client):
            found.append(f"another's negative: {text}")
    if not cut and answer.infotexts != alone.infotexts:
        found.append(f"other parameters than alone: {answer.infotexts}, alone {alone.infotexts}")
    if not cut and answer.pixels != alone.pixels:
        found.append("another picture than alone")
    return [f"{wish.name}: {one}" for one in found]


def nobodys(status: dict[str, Any] | None, known: Iterable[Wish]) -> str:
    """What in NAG's status is of no job of these, or of two at once; empty where all is well."""
    if status is None or not status["settings"]["enabled"]:
        return ""
    asked = status["settings"]
    if not any(one.nag and all(asked[key] == value for key, value in one.nag.items()) for one in known):
        return f"the status has settings that nobody sent: {asked}"
    strengths = [status["strength"], *(one["strength"] for one in status["passes"])]
    if any(one and one["scale"] != asked["scale"] for one in strengths):
        return f"the status has settings of one job and the report of another: {status}"
    return ""


@dataclass
class Outcome:
    """What two clients saw. `findings`: one sentence each, none where all is well."""

    findings: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Meeting:
    """Both clients at one WebUI, for so many seconds. interrupts: how many seconds lie between two."""

    def __init__(self, url: str, seconds: float, seed: int, more: dict[str, Any], interrupts: float) -> None:
        self.seconds, self.seed, self.interrupts = seconds, seed, interrupts
        self.wishes = wishes(more)
        self.clients = {client: Client(url) for client in SCALES}
        self.watcher = WebUI(url)
        self.outcome = Outcome()
        self.drawn: list[Drawn] = []
        self.interrupted: list[tuple[float, float]] = []
        self.until = 0.0

    def run(self) -> Outcome:
        alone = {wish: self.clients[wish.client].draw(wish).answer for wish in self.wishes}
        for wish, answer in alone.items():
            self.outcome.findings += mixed_up(wish, answer, answer, cut=False)
        self.until = time.monotonic() + self.seconds
        tasks = [(self._draw, client) for client in SCALES] + [(self._watch,), (self._interrupt,)]
        threads = [threading.Thread(target=self._safely, args=task) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one in self.drawn:
            cut = any(one.asked < end and start < one.came for start, end in self.interrupted)
            self.outcome.counts[f"{one.wish.client} client by the {one.wish.door}"] += 1
            self.outcome.counts["perhaps cut short" if cut else "compared with alone"] += 1
            self.outcome.findings += mixed_up(one.wish, one.answer, alone[one.wish], cut)
        self.outcome.counts["interrupts"] = len(self.interrupted)
        self.outcome.seconds = self.seconds
        return self.outcome

    def _safely(self, task: Callable[..., None], *args: Any) -> None:
        """A task whose error is a finding. The others go on to their end."""
        try:
            task(*args)
        except Exception as error:
            self.outcome.findings.append(
                f"{task.__name__} {args}: {type(error).__name__}: {str(error)[:500]}"
            )

    def _draw(self, client: str) -> None:
        rng = random.Random(f"{self.seed} {client}")
        own = [wish for wish in self.wishes if wish.client == client]
        while time.monotonic() < self.until:
            self.drawn.append(self.clients[client].draw(rng.choice(own)))

    def _watch(self) -> None:
        """As a page and a program do that ask how far it is."""
        while time.monotonic() < self.until:
            for route in ("/sdapi/v1/progress?skip_current_image=true", "/nag/v1/auto"):
                self.watcher.http.get(route).raise_for_status()
            found = nobodys(self.watcher.http.get("/nag/v1/status").json(), self.wishes)
            self.outcome.findings += [found] if found else []
            self.outcome.counts["polls"] += 1
            time.sleep(0.2)

    def _interrupt(self) -> None:
        rng = random.Random(self.seed)
        while True:
            time.sleep(rng.uniform(0.5, 1.5) * self.interrupts)
            if time.monotonic() >= self.until:
                return
            start = time.monotonic()
            self.watcher.http.post("/sdapi/v1/interrupt").raise_for_status()
            self.interrupted.append((start, time.monotonic()))


def main(argv: list[str] | None = None) -> int:
    """1 where something was found; it is said on stdout and stands in the file."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.live.clients", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("url")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--interrupts", type=float, default=20, help="seconds between two, on average")
    parser.add_argument("--json", type=Path, help="write what was seen into this file")
    parser.add_argument("--checkpoint")
    parser.add_argument("--scheduler")
    asked = parser.parse_args(argv)
    if asked.checkpoint:
        WebUI(asked.url).post("options", {"sd_model_checkpoint": asked.checkpoint}).raise_for_status()
    more = {"scheduler": asked.scheduler} if asked.scheduler else {}
    meeting = Meeting(asked.url, 60 * asked.minutes, asked.seed, more, asked.interrupts)
    found = vars(meeting.run())
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps({key: value for key, value in found.items() if key != "findings"}, indent=1))
    print("\n".join(found["findings"]) or "nothing found")
    return bool(found["findings"])


if __name__ == "__main__":
    sys.exit(main())
