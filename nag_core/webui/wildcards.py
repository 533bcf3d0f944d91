"""Wildcards in NAG's own box, drawn by the extension that draws those of the main negative.

Such extensions replace `p.all_negative_prompts` in their `process`. There is no other door that all of them
have, so theirs is called once more, on a copy of the job whose negative is NAG's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import copy
from typing import Any

logger = logging.getLogger("nag")

# What begins a wildcard or a template; the two settings are those of Dynamic Prompts.
_SIGNS = ("__", "{")
_OPTIONS = ("dp_parser_wildcard_wrap", "dp_parser_variant_start")


def drawn(text: str, p: Any, notes: list[str]) -> list[str]:
    """`text` for every image of the job, with its wildcards drawn by the job's seeds; the text alone where
    nobody draws any.
    """
    if not any(sign in text for sign in _signs()):
        return [text]
    texts = [text] * max(1, len(getattr(p, "all_prompts", None) or ()))
    for script, args in _scripts(p):
        try:
            texts = _by(script, args, p, texts)
        except Exception as error:
            logger.debug("NAG: wildcards could not be drawn", exc_info=error)
            notes.append(f"wildcards in the NAG negative could not be drawn ({str(error)[:120]})")
    return texts


def _signs() -> tuple[str, ...]:
    from modules.shared import opts

    own = (getattr(opts, name, None) for name in _OPTIONS)
    return (*_SIGNS, *(sign for sign in own if isinstance(sign, str) and sign))


def _scripts(p: Any) -> Iterator[tuple[Any, tuple]]:
    """The job's scripts that draw wildcards, with their arguments."""
    for script in getattr(p.scripts, "alwayson_scripts", None) or ():
        if any("wildcard" in name.lower() for name in dir(script)) and hasattr(type(script), "process"):
            yield script, tuple(p.script_args[script.args_from : script.args_to])


def _by(script: Any, args: tuple, p: Any, texts: list[str]) -> list[str]:
    """`texts` as the script makes them of the main negatives. What it keeps of a job stays that of the main
    ones: it works on copies of itself and of what its package has put on it.
    """
    package = type(script).__module__.partition(".")[0]
    stand_in, helper = copy(p), copy(script)
    for name, value in list(vars(script).items()):
        if type(value).__module__.partition(".")[0] == package:
            setattr(helper, name, copy(value))
    stand_in.negative_prompt, stand_in.all_negative_prompts = texts[0], list(texts)
    stand_in.extra_generation_params, stand_in.comments, stand_in.enable_hr = {}, {}, False
    helper.process(stand_in, *args)
    made = [str(one) for one in stand_in.all_negative_prompts or ()]
    return [made[image % len(made)] for image in range(len(texts))] if made else texts
