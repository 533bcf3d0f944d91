"""Draws on a running WebUI with one checkpoint of a model family, and writes what was seen.

    python -m tests.live.families http://127.0.0.1:7860 forge-neo --checkpoint NAME --family "Z-Image"
        [--scheduler Simple] [--steps 4] [--size 64] [--frames 5] [--fails SENTENCE]

Random weights will do: pictures are compared, not looked at. Without NAG, with it, with another negative,
with a scale next to nothing and with none, with several weighted negatives, beside CFG, in a batch of two,
and without NAG again. `--frames` for a video model, which takes the batch size for the number of frames.
`--fails` is for a family whose checkpoint the WebUI does not load: the table has what it said.
One JSON file for each WebUI in `results/families`, from which `families_table.py` makes the table.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import date
from pathlib import Path, PurePath
from typing import Any

import httpx

from nag_core import identity
from tests.live import seen as files
from tests.live.client import Result, WebUI, largest_difference
from tests.live.record import commit
from tests.live.seen import LEVELS, WHISPER

KIND = "families"
RESULTS = Path(__file__).parent / "results" / KIND
OTHER = "a tall green tree, sharp"
SEVERAL = "red :: 2\na tall green tree :: 0.5"
# The guided result alone, so that what is seen is not its share in a mix.
WHOLE = {"scale": 4, "alpha": 1}


class UnknownCheckpointError(ValueError):
    """The WebUI drew with another checkpoint than it was asked to."""


def drew_with(checkpoint: str, infotext: str) -> bool:
    """Whether a picture's parameters name this checkpoint, which may be given with folder and hash."""
    drew = re.search(r"\bModel: ([^,\n]+)", infotext)
    file = PurePath(checkpoint.partition(" [")[0])
    return drew is not None and drew[1] in (file.name, file.stem)


def looked_at(webui: WebUI, job: dict[str, Any]) -> dict[str, Any]:
    """What was seen of the family. job: what every job of it has. Raises `UnknownCheckpointError`."""

    def draw(nag: Any = False, **more: Any) -> Result:
        return webui.txt2img([nag], **(job | more))

    def apart(one: Result, two: Result) -> int:
        return max(map(largest_difference, one.pixels, two.pixels))

    off, guided = draw(), draw(WHOLE)
    # A name that a WebUI does not know leaves the checkpoint that it has.
    if not drew_with(webui.checkpoint, off.infotexts[0]):
        raise UnknownCheckpointError(f"it did not draw with {webui.checkpoint}: {off.infotexts[0]}")
    several, cfg = draw(WHOLE | {"negatives": SEVERAL}), draw(WHOLE, cfg_scale=4)
    found = {
        "levels_of_guidance": apart(guided, off),
        "another_negative_matters": draw(WHOLE | {"negative": OTHER}).pixels != guided.pixels,
        "levels_at_scale_next_to_nothing": apart(draw(WHOLE | {"scale": WHISPER}), off),
        "scale_nothing_same_pixels": draw(WHOLE | {"scale": 0}).pixels == off.pixels,
        "several_matter": several.pixels not in (off.pixels, guided.pixels),
        "acts_beside_cfg": cfg.pixels != draw(cfg_scale=4).pixels,
        "pictures": len(guided.pngs),
    }
    reports, whole = {"on": guided, "several": several, "cfg": cfg}, (guided, off)
    if job["batch_size"] == 1:
        two, plain = whole = [draw(nag, batch_size=2) for nag in (WHOLE, False)]
        # Some WebUIs draw a batch's first picture a little off the picture drawn alone, NAG or not.
        found["levels_of_a_batch"] = [apart(two, guided), apart(plain, off)]
        reports["batch"] = two
    found["acts_on_every_picture"] = all(a != b for a, b in zip(*(one.pixels for one in whole), strict=True))
    found["off_again_same_bytes"] = draw().pngs == off.pngs
    found["reports"] = {name: one.report() for name, one in reports.items()}
    return found | {"applied": {name: one.applied() for name, one in reports.items()}}


# What has to hold, and what to say where it does not. The first that is missed says it.
_NEEDED = (
    ("off_again_same_bytes", "leaves something behind"),
    ("levels_of_guidance", "unguided"),
    ("another_negative_matters", "the negative does not matter"),
    ("scale_nothing_same_pixels", "scale 0 is not off"),
    ("several_matter", "several negatives do not matter"),
    ("acts_beside_cfg", "unguided beside CFG"),
    ("acts_on_every_picture", "not every picture is guided"),
)


def verdict(seen: dict[str, Any]) -> str:
    """In a few words: works, or what does not."""
    if "fails" in seen:
        return "does not draw"
    missed = next((said for name, said in _NEEDED if not seen[name]), "")
    if missed:
        return missed
    if seen["pictures"] != seen["job"]["batch_size"]:
        return f"{seen['pictures']} pictures of {seen['job']['batch_size']}"
    if seen["levels_of_guidance"] <= LEVELS:
        return "guided too little to tell"
    if seen["levels_at_scale_next_to_nothing"] > LEVELS:
        return "changes the picture beyond its guidance"
    guided, plain = seen.get("levels_of_a_batch", (0, 0))
    if guided > max(LEVELS, plain):
        return "a batch is guided otherwise than its pictures alone"
    partly = [name for name, word in seen["applied"].items() if word != "fully"]
    return f"partly guided ({', '.join(partly)})" if partly else "works"


def main(arguments: list[str]) -> int:
    """Draws, prints what was seen, writes the file; 1 where the family does not work."""
    parser = argparse.ArgumentParser(prog="python -m tests.live.families", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("host", help="the result file's name")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--family", required=True)
    parser.add_argument("--scheduler")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--fails", metavar="SENTENCE")
    given = parser.parse_args(arguments)
    webui, file = WebUI(given.url, given.checkpoint, given.scheduler), RESULTS / f"{given.host}.json"
    version, today = webui.http.get("/nag/v1/version").json(), date.today().isoformat()
    known = {"code": version["code"], "tests": identity.digest(), "commit": commit(), "date": today}
    job = {"steps": given.steps, "width": given.size, "height": given.size, "batch_size": given.frames}
    try:
        seen = {"fails": given.fails} if given.fails else looked_at(webui, job)
    except (AssertionError, httpx.HTTPError) as error:
        seen = {"fails": " ".join(str(error).split())[:300]}
    found = {"checkpoint": given.checkpoint, "scheduler": given.scheduler, "job": job, **known, **seen}
    sys.stdout.write(f"{given.family}: {verdict(found)}: {found}\n")
    entries = {**files.read(file, KIND), given.family: found}
    files.write(file, {"host": version["host"], KIND: dict(sorted(entries.items()))})
    return int(verdict(found) != "works")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
