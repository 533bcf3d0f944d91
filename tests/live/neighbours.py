"""Draws on a running WebUI beside other people's extensions, and writes what was seen.

    python -m tests.live.neighbours http://127.0.0.1:7860 forge-main --checkpoint NAME [--only NegPiP]

The extensions are the real ones, installed and with what they need; `NEIGHBOURS` says how each is asked to
act in a small job. ADetailer needs a detection model called `lab_yolo.pt` (random weights will do). Of each:
alone, NAG alone, both, both with another negative for NAG, both at a scale next to nothing, and alone again.
One JSON file for each WebUI in `results/neighbours`, from which `neighbours_table.py` makes the table.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.live import seen as files
from tests.live.client import Result, WebUI, largest_difference
from tests.live.seen import LEVELS, WHISPER

KIND = "neighbours"
RESULTS = Path(__file__).parent / "results" / KIND


@dataclass(frozen=True)
class Neighbour:
    """How an extension is asked to act.

    title: how that of its script begins, in small letters. args: its arguments, and those that switch it
        off. job: what else the job needs. img2img: it works on a picture, as a script of the menu.
    """

    source: str  # the repository and the commit that was run, unless --source says another
    title: str
    args: list[Any]
    off: list[Any]
    job: dict[str, Any] = field(default_factory=dict)
    img2img: bool = False


_DETAILS = {
    "ad_model": "lab_yolo.pt", "ad_confidence": 0.1, "ad_mask_k": 2, "ad_denoising_strength": 0.6,
    "ad_inpaint_only_masked": False, "ad_use_inpaint_width_height": True, "ad_inpaint_width": 64,
    "ad_inpaint_height": 64,
}  # fmt: skip
_ADETAILER = [True, False, _DETAILS]
_COUPLE = ["Basic", "", "Horizontal", "None", 0.5, [], "off", False, True]
_THRESHOLDS = [1.0, 0.9, "Constant", 0.0, "Constant", 0.0, 1.0, "enable", "MEAN", "AD", 1.0]
_UPSCALE = [None, 64, 0, 4, 16, 64, 0.35, 16, 0, False, 0, False, 4, 0, 2, 128, 128, 2]
NEIGHBOURS = {
    "NegPiP": Neighbour(
        "hako-mikan/sd-webui-negpip@dc75fd2c", "negpip", [True], [False],
        {"prompt": "a circle, (blue square, water:-1.8)"},
    ),
    "NegPiP, with CFG": Neighbour(
        "hako-mikan/sd-webui-negpip@dc75fd2c", "negpip", [True], [False],
        {"prompt": "a circle, (blue square, water:-1.8)", "cfg_scale": 5},
    ),
    "ADetailer": Neighbour("Bing-su/adetailer@36189cbe", "adetailer", _ADETAILER, [False]),
    "ADetailer, NAG among its scripts": Neighbour(
        "Bing-su/adetailer@36189cbe", "adetailer", _ADETAILER, [False],
        {"override_settings": {"ad_script_names": "nag_guidance"}},
    ),
    "Dynamic Prompts": Neighbour(
        "adieyal/sd-dynamic-prompts@e8326b5e", "dynamic prompts", [True], [False],
        {"prompt": "a {blue|green|yellow|white} {square|tree|house}"},
    ),
    "Ultimate SD Upscale": Neighbour(
        "Coyote-A/ultimate-upscale-for-automatic1111@2322caa4", "ultimate sd upscale", _UPSCALE, [],
        {"steps": 6, "denoising_strength": 0.6}, img2img=True,
    ),
    "Forge Couple": Neighbour(
        "Haoming02/sd-forge-couple@7a396d8d", "forge couple", [True, False, *_COUPLE],
        [False, False, *_COUPLE], {"prompt": "a circle\na blue square"},
    ),
    "NAGuidance (another NAG)": Neighbour(
        "seti9585/sd-webui-NAGuidance@2d5711fc", "naguidance", [True, 5.0, 0.5, 1.5], [False, 5.0, 0.5, 1.5],
        {"cfg_scale": 7},
    ),
    "Dynamic thresholding": Neighbour(
        "mcmonkeyprojects/sd-dynamic-thresholding@73e4e045", "dynamic", [True, *_THRESHOLDS],
        [False, *_THRESHOLDS], {"cfg_scale": 12},
    ),
}  # fmt: skip


def title_of(webui: WebUI, one: Neighbour) -> str | None:
    """The script's title as the WebUI has it; None where it is not installed."""
    listed = webui.http.get("/sdapi/v1/scripts").json()["img2img" if one.img2img else "txt2img"]
    begins = ("dynamicthresholding", "dynamic thresholding") if one.title == "dynamic" else (one.title,)
    return next((name for name in listed if name.startswith(begins)), None)


def drawn(webui: WebUI, one: Neighbour, title: str, on: bool, nag: list[Any]) -> Result:
    """One job: the neighbour on or off, NAG with these arguments."""
    job, scripts = dict(one.job), {"NAG": {"args": nag}}
    job["override_settings"] = {**webui.payload()["override_settings"], **job.get("override_settings", {})}
    if not one.img2img:
        scripts[title] = {"args": one.args if on else one.off}
        return webui.txt2img(**job, alwayson_scripts=scripts)
    # Drawn anew each time: Ultimate SD Upscale's picture depends on the kind of job before it, NAG or not.
    picture = webui.txt2img().pngs[0]
    job |= {"route": "img2img", "init_images": [base64.b64encode(picture).decode()]}
    job |= {"script_name": title, "script_args": one.args} if on else {}
    return webui.txt2img(**job, alwayson_scripts=scripts)


def looked_at(webui: WebUI, one: Neighbour, title: str) -> dict[str, Any]:
    """What was seen of the two together."""

    def draw(on: bool, *nag: Any) -> Result:
        return drawn(webui, one, title, on, list(nag))

    neither, alone = draw(False, False), draw(True, False)
    by_itself, both = draw(False, {"scale": 4}), draw(True, {"scale": 4})
    other = draw(True, {"scale": 4, "negative": "a tall green tree, sharp"})
    whisper, again = draw(True, {"scale": WHISPER}), draw(True, False)
    pixels = [result.pixels[0] for result in (neither, alone, by_itself, both, other)]
    quiet = largest_difference(whisper.pixels[0], pixels[1])
    return {
        "acts_alone": pixels[0] != pixels[1],
        "nag_acts_alone": pixels[0] != pixels[2],
        "nag_acts_beside_it": pixels[3] != pixels[1],
        "it_acts_beside_nag": pixels[3] != pixels[2],
        "another_negative_matters": pixels[4] != pixels[3],
        "levels_at_scale_next_to_nothing": quiet,
        "alone_again_same_bytes": again.pngs == alone.pngs,
        "report": both.report(),
        "picture": hashlib.sha256(both.pixels[0]).hexdigest()[:12],
    }


def verdict(seen: dict[str, Any]) -> str:
    """In one word: works, stands aside, not possible, or what is wrong."""
    if "impossible" in seen:
        return "not possible here"
    if not seen["acts_alone"] or not seen["nag_acts_alone"]:
        return "it has no effect, NAG or not" if seen["nag_acts_alone"] else "NAG has no effect"
    if not seen["alone_again_same_bytes"]:
        return "leaves something behind"
    if seen["report"].startswith("not applied") and not seen["nag_acts_beside_it"]:
        return "NAG stands aside and says so"
    needed = ("nag_acts_beside_it", "it_acts_beside_nag", "another_negative_matters")
    whole = seen["levels_at_scale_next_to_nothing"] <= LEVELS
    return "works" if all(seen[name] for name in needed) and whole else "does not work"


def main(arguments: list[str]) -> int:
    """Draws, prints a line for each neighbour, writes the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.live.neighbours", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("host", help="the result file's name")
    parser.add_argument("--checkpoint")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--impossible", action="append", default=[], metavar="NAME=REASON")
    parser.add_argument("--model", default="", help="of another checkpoint, for the neighbour's name")
    parser.add_argument("--source", action="append", default=[], metavar="NAME=REPOSITORY@COMMIT")
    given = parser.parse_args(arguments)
    sources = dict(one.split("=", 1) for one in given.source)
    webui, file = WebUI(given.url, given.checkpoint), RESULTS / f"{given.host}.json"
    version = webui.http.get("/nag/v1/version").json()
    found = files.read(file, KIND)
    for name, reason in (one.split("=", 1) for one in given.impossible):
        found[name] = {"impossible": reason}
    for name, one in NEIGHBOURS.items():
        title = None if given.only and name not in given.only else title_of(webui, one)
        if title is None:
            continue
        try:
            seen = looked_at(webui, one, title)
        except (AssertionError, httpx.HTTPError) as error:
            sys.stderr.write(f"{name}: {error}\n")
            continue
        # Nothing of what the WebUI brings itself.
        source = "" if "integrated" in title else sources.get(name, one.source)
        shown = f"{name}, on {given.model}" if given.model else name
        found[shown] = {"source": source, "script": title, "code": version["code"], **seen}
        found[shown]["checkpoint"] = given.checkpoint
        sys.stdout.write(f"{shown}: {verdict(seen)}: {found[shown]}\n")
        files.write(file, {"host": version["host"], KIND: found})
    files.write(file, {"host": version["host"], KIND: found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
