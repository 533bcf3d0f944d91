"""Which other preset may fit better than the one in use. Only ever said: nothing switches by itself. Standard
library only.
"""

from __future__ import annotations

import re

from nag_core.settings import presets

FEW, MANY = 8, 20  # steps
# What the names of few-step checkpoints say; LCM, DMD and TCD as words of their own.
_FAST = re.compile(
    r"turbo|lightning|schnell|hyper-?(?:sd|flux|sdxl)|(?<![a-z])(?:lcm|dmd2?|tcd)(?![a-z])|(?<!\d)[248]-?steps?",
    re.IGNORECASE,
)


def hint(preset: str, family: str, checkpoint: str, steps: float, cfg: float) -> str:
    """One sentence for the accordion's header; empty where nothing fits better, or the user chose values.

    preset: in use. checkpoint: the loaded model's name. steps, cfg: those of the page; nan for unknown.
    """
    row = presets.auto(family) if preset == presets.AUTO else preset
    published = presets.COMMUNITY.get(row)
    if published is None and row not in presets.TABLE_5:
        return ""
    named = _FAST.search(checkpoint)
    if published is not None and not published.base and cfg > 1 and not named:
        return f"{row} is for {published.made_with}; for the base model nobody has published values"
    fast = f"“{named[0]}” in the model's name" if named else f"CFG 1 and {steps:g} steps"
    if (named or (cfg == 1 and steps <= FEW)) and "end" not in presets.values(row):
        return f"“Few-step” may fit better: {fast}"
    if family == "SDXL" and row == "SDXL" and steps >= MANY:
        return f"“SDXL 20+ steps” may fit better: {steps:g} steps"
    return ""
