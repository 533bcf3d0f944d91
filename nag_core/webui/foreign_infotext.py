"""Pictures made with other NAG tools: their parameters translated into ours when they are pasted.

A tool is known by keys that only it writes; two generic ones name nobody. What is not taken over is named in
one line: in the log, in the page, and under "NAG import" among the parameters that the API's png-info gives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nag_core.settings.parse import FIELD, HIRES_FIRST, HIRES_ONLY, named
from nag_core.settings.values import number
from nag_core.webui import infotext, sigmas

logger = logging.getLogger("nag")

IMPORT = "NAG import"
Parameters = Mapping[str, Any]

# Of an extension for Forge that rescales self-attention weights and calls that NAG.
_OTHER_METHOD = (
    "nag_norm_type",
    "nag_temperature",
    "nag_block",
    "nag_block_id",
    "nag_start_step",
    "nag_end_step",
)


class Imported(NamedTuple):
    """Another tool's settings: ours by field name, and what has to be said of them."""

    tool: str
    values: dict[str, Any]
    left: list[str]


def translate(text: str, parameters: dict[str, Any]) -> None:
    """on_infotext_pasted: adds our keys to the parameters of a picture that another NAG tool made.

    Scales become phi (the official code and ComfyUI count phi + 1). Of a picture of ours the settings are
    only made what its text says.
    """
    infotext.read_again(text, parameters)
    infotext.mark(text, parameters)
    if infotext.present(parameters):
        infotext.take_styles_out(parameters)
        return
    for read in (_vsf, _forge_neo_nag, _perturbed_attention, _official, _naguidance):
        found = read(parameters)
        if found is not None and "scale" in found.values:
            _take(found, text, parameters)
            return


def _take(found: Imported, text: str, parameters: dict[str, Any]) -> None:
    if _is_main(found.values.get("negative", ""), text, parameters):
        del found.values["negative"]
    parameters.update({FIELD[name].infotext: value for name, value in found.values.items()})
    if found.left:
        line = f"settings of {found.tool} that are not taken: {', '.join(found.left)}"
        parameters[IMPORT] = line
        logger.info("NAG: %s", line)
        _show(line)


def _show(line: str) -> None:
    """In the page, where this is called for one; elsewhere gradio would print it beside the log."""
    try:
        import gradio as gr
        from gradio import context

        local = getattr(context, "LocalContext", None)  # from gradio 4 on
        page = local.blocks.get(None) if local else getattr(context.thread_data, "blocks", None)
        if page is not None:
            gr.Info(f"NAG: {line}")
    except Exception as error:  # a message must not cost the paste
        logger.debug("NAG: the page could not be told", exc_info=error)


def _is_main(negative: str, text: str, parameters: Parameters) -> bool:
    """Whether it is the picture's main negative in every pass, which is what an empty box means; with the
    styles that the host takes out of a pasted prompt, or without.
    """
    _, _, written = f"\n{text}".partition("\nNegative prompt:")
    main = (parameters.get("Negative prompt"), written.rpartition("\n")[0])
    hires = parameters.get("Hires negative prompt") or negative
    return bool(negative) and _words(hires) == _words(negative) in [_words(one) for one in main if one]


def _words(text: Any) -> list[str]:
    return str(text).split()


def _forge_neo_nag(parameters: Parameters) -> Imported | None:
    """sd-webui-forge-neo-nag: `Forge NAG`, `Forge NAG Phi` ...; phi as in the paper."""
    if str(parameters.get("Forge NAG")) != "True":
        return None
    keys = {name: f"Forge NAG {name.capitalize()}" for name in ("tau", "alpha", "negative")}
    found = _read("sd-webui-forge-neo-nag", parameters, {"scale": "Forge NAG Phi", **keys})
    for key, everywhere in (("Forge NAG Sigma Start", 1000.0), ("Forge NAG Sigma End", 0.0)):
        _leave(found, parameters, key, lambda value, neutral=everywhere: value != neutral)
    return found


def _perturbed_attention(parameters: Parameters) -> Imported | None:
    """sd-perturbed-attention's pull request 44: `nag_enabled` beside tau and alpha; the scale is phi."""
    if str(parameters.get("nag_enabled")) != "True" or not _official_keys(parameters):
        return None
    names = {name: f"nag_{name}" for name in ("scale", "tau", "alpha", "negative")}
    found = _read("sd-perturbed-attention's NAG", parameters, names)
    mode = {"HRFix Off": HIRES_FIRST, "HRFix Only": HIRES_ONLY}.get(parameters.get("nag_hr_mode"))
    if str(parameters.get("nag_hr_override")) == "True":
        own = _read(found.tool, parameters, {f"hires_{n}": f"nag_hr_{n}" for n in ("scale", "tau", "alpha")})
        if 0 in (
            own.values.get("hires_scale"),
            own.values.get("hires_alpha"),
        ):  # off there; ours is "the same"
            mode, own = mode or HIRES_FIRST, own._replace(values={})
        found.values.update(own.values)
        found.left.extend(own.left)
    if mode is not None:
        found.values["hires"] = mode
    _leave(found, parameters, "nag_block_list")
    for key in ("nag_sigma_start", "nag_sigma_end"):
        _leave(found, parameters, key, lambda value: value is None or value >= 0)
    return found


def _official(parameters: Parameters) -> Imported | None:
    """The names of the official code and of ComfyUI's nodes, with their scale, phi + 1."""
    if "nag_enabled" in parameters or not _official_keys(parameters):
        return None
    names = {name: f"nag_{name}" for name in ("scale", "tau", "alpha", "negative")}
    found = _read("the official code or ComfyUI", parameters, names, shift=-1.0)
    last = number(parameters.get("nag_sigma_end"))
    if last is not None and last > 0:
        end = sigmas.share_until(last, parameters)
        if end is None:
            _leave(found, parameters, "nag_sigma_end")
        else:
            found.values["end"] = end
    elif last is None:
        _leave(found, parameters, "nag_sigma_end")
    return found


def _vsf(parameters: Parameters) -> Imported | None:
    """Tools that offer VSF beside NAG: `neg_method`, `vsf_scale`, `vsf_offset`."""
    if "vsf_scale" not in parameters or str(parameters.get("neg_method", "vsf")).lower() != "vsf":
        return None
    names = {"scale": "vsf_scale", "vsf_offset": "vsf_offset", "negative": "nag_negative"}
    found = _read("a tool with VSF", parameters, names)
    found.values["method"] = "VSF"
    return found


def _official_keys(parameters: Parameters) -> bool:
    strength = "nag_scale" in parameters and ("nag_tau" in parameters or "nag_alpha" in parameters)
    return strength and not any(key in parameters for key in _OTHER_METHOD)


def _naguidance(parameters: Parameters) -> Imported | None:
    """sd-webui-NAGuidance: `NAG Scale`, `NAG Tau`, `NAG Alpha`; the scale is ComfyUI's (phi + 1)."""
    if "NAG Tau" not in parameters and "NAG Alpha" not in parameters:
        return None
    names = {name: f"NAG {name.capitalize()}" for name in ("scale", "tau", "alpha")}
    return _read("NAGuidance", parameters, names, shift=-1.0)


def _read(tool: str, parameters: Parameters, keys: Mapping[str, str], shift: float = 0.0) -> Imported:
    """Our fields from these keys, numbers held within our ranges. shift: is added to the scale."""
    found = Imported(tool, {}, [])
    for name, key in keys.items():
        field, value = FIELD[name], parameters.get(key)
        if value is None or value == "":
            continue
        if field.kind == "text":
            found.values[name] = str(value)
            continue
        read = number(value)
        if read is None:
            found.left.append(f"{key} {value}")
            continue
        read += shift if name == "scale" else 0.0
        found.values.update(named({name: read}, []))
        if found.values[name] != read:
            found.left.append(f"{key} {value} ({name} {found.values[name]:g} in its place)")
    return found


def _leave(
    found: Imported, parameters: Parameters, key: str, matters: Callable[[Any], bool] = lambda value: True
) -> None:
    """Names a setting that we do not have. matters: whether its value changes anything there."""
    value = parameters.get(key)
    if value not in (None, "") and matters(number(value)):
        found.left.append(f"{key} {value}")
