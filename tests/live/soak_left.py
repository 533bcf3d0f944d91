"""What is left of NAG in a WebUI between jobs, by the walk of tests/live/extension."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from tests.live.client import WebUI

SETTLED = -2  # of the walks: before any job, after the first twins, at the end
# Counts that may not be more than before: of which walk, and what more of them is.
COUNTED = (
    ("modules", 0, "left in the WebUI's modules"),
    ("networks", 0, "left on a network"),
    ("alive", SETTLED, "more alive than after the first twins"),
)
TENSORS = 1.0  # MiB more that are no finding: a LoRA's, a text's

Walk = dict[str, Any]


def look(webui: WebUI, second: str = "") -> Walk:
    """The walk after jobs without NAG, and their pictures. Nothing beside where there is no walk.

    One job on each checkpoint: what a pass has put on a model's patcher the host drops before the model's
    next pass. And one of each tab: hosts list a tab's scripts when its first job asks for them.
    """
    models = [{"override_settings": {"sd_model_checkpoint": second}}] if second else []
    results = [webui.txt2img(cfg_scale=7, **more) for more in [*models, {}]]
    start = [base64.b64encode(results[-1].pngs[0]).decode()]
    results.append(webui.txt2img(route="img2img", init_images=start, denoising_strength=0.75))
    answer = webui.http.get("/nag-test/v1/walk")
    walk = answer.json() if answer.status_code == 200 else {}
    pngs = [png for result in results for png in result.pngs]
    return {**walk, "resident_mib": walk.get("resident_mib") or webui.memory(), "pngs": pngs}


def findings(walks: list[Walk], added: dict[str, Any], growth: float) -> list[str]:
    """A sentence for each thing that is at the end and was not there. added: by `memory`. growth: MiB that
    may be added.
    """
    first, last = walks[0], walks[-1]
    found = []
    if any(walk["pngs"] != first["pngs"] for walk in walks):
        found.append("the picture of the job between the walks changed")
    if "modules" not in last:
        return [*found, "no walk: copy tests/live/extension into the WebUI's extensions"]
    for key, start, what in COUNTED:
        earlier = walks[start][key]
        more = {name: count - earlier.get(name, 0) for name, count in last[key].items()}
        found += [f"{what}: {name} ({count} more)" for name, count in more.items() if count > 0]
    for key in ("functions", "torch"):
        changed = {name for name, value in last[key].items() if first[key].get(name, value) != value}
        found += [f"replaced: {name} by {last[key][name]}" for name in sorted(changed)]
    if added["growth_mib"] > growth:
        found.append(f"{added['growth_mib']:.0f} MiB of memory added since the second quarter of the jobs")
    if added["tensors_growth_mib"] > TENSORS:
        found.append(f"{added['tensors_growth_mib']:.1f} MiB of tensors added after the first twins")
    return found


def grown(levels: Sequence[float]) -> float:
    """MiB that were added between the second and the last quarter of the jobs, by the lowest level of each: a
    WebUI's memory goes up and down by itself.
    """
    quarter = max(1, len(levels) // 4)
    return min(levels[-quarter:]) - min(levels[quarter : 2 * quarter] or levels)


def memory(walks: list[Walk], levels: Sequence[float]) -> dict[str, Any]:
    """MiB that the process held at each walk, and that were added: `grown` of all, and of the tensors what
    came after the first twins. levels: MiB after each job.
    """
    resident, tensors = ([walk.get(f"{kind}_mib", 0.0) for walk in walks] for kind in ("resident", "tensors"))
    return {
        "resident_mib": [round(one, 1) for one in resident],
        "tensors_mib": [round(one, 1) for one in tensors],
        "growth_mib": round(grown(levels), 1),
        "tensors_growth_mib": round(tensors[-1] - tensors[SETTLED], 1),
    }
