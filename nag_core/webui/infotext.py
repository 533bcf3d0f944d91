"""A job's settings into the picture's parameters, and back into the accordion when they are pasted.

A reader is a function that is also the text of its key. As a text it stands in the host's list of fields to
disregard, and is the same field in both tabs, which is what lets "Send to img2img" carry NAG. As a function
it knows that what was not written was at its default, and switches NAG off for a picture without it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nag_core.identity import VERSION
from nag_core.passes.report import PassReport, verdict
from nag_core.settings import presets
from nag_core.settings.parse import FIELD, FIELDS, Field, Settings, named
from nag_core.webui import negative_text

REPORT, APPLIED = "NAG report", "NAG applied"
# Of a picture that was not drawn here: what distributed workers have drawn joins the last batch's own.
OF_ANOTHER = (
    "unknown: another WebUI drew this picture, or a script added it; its own report is not in this text"
)
UNKNOWN = "unknown"
NOT_READ = "unknown: the job did not come to its end"
# Whose tables Auto and the presets took their values from. For people: pictures are redrawn by the values.
MADE_BY = "NAG version"
# What a picture was made with, however it was chosen: always written. Their presence means NAG was on.
_CORE = presets.STRENGTHS
_ON = FIELD["enabled"].infotext
# A key and its value in the parameters' line, as the hosts' own readers (A1111's and its kin) find them.
_PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_MADE_WITH_NAG = re.compile(rf"(?:^|, )(?:{'|'.join(FIELD[name].infotext for name in _CORE)}): ")


def clear(parameters: dict[str, Any]) -> None:
    """Removes our keys: XYZ cells share one dict, a neighbour's values would end up in this picture."""
    for key in (REPORT, APPLIED, MADE_BY, *(field.infotext for field in FIELDS)):
        parameters.pop(key, None)


def write(parameters: dict[str, Any], settings: Settings, strength: presets.Strength) -> None:
    """Records an enabled job. Auto and the user's presets are recorded as their values: a picture must not
    depend on what they were. The name of a built-in one is added where its values stand unchanged.
    """
    core = {**_by_name(strength), "vsf_offset": strength.offset}
    for field in FIELDS:
        value = core.get(field.name, getattr(settings, field.name))
        if field.name in _CORE or (field.name not in ("enabled", "preset") and value != field.default):
            parameters[field.infotext] = _writable(value, field.infotext)
    fixed = presets.values(settings.preset)
    if set(_CORE) <= set(fixed) and all(
        fixed[name] == core.get(name, getattr(settings, name)) for name in fixed
    ):
        parameters["NAG preset"] = settings.preset
    parameters[MADE_BY] = VERSION


def write_hires(parameters: dict[str, Any], first: presets.Strength, hires: presets.Strength) -> None:
    """Records the values of a hires pass that are not the first pass's: Auto may have taken them for another
    checkpoint, whose family a job drawn again by values does not ask.
    """
    recorded = _by_name(first)
    for name, value in _by_name(hires).items():
        if value != recorded[name]:
            key = FIELD[f"hires_{name}"].infotext
            parameters[key] = _writable(value, key)


def _by_name(strength: presets.Strength) -> dict[str, float]:
    return {"scale": strength.phi, "tau": strength.tau, "alpha": strength.alpha}


def write_negatives(parameters: dict[str, Any], texts: Sequence[str], before: int) -> None:
    """Records the NAG negatives of a batch's images that differ, as the list that hosts read by image: by its
    number in the batch, and in a text that is made before the batch ends by its number in the job.

    before: how many images the batches before this one have.
    """
    key = FIELD["negative"].infotext
    own = [_writable(text, key) for text in texts]
    parameters[key] = [*own, *[None] * (before - len(own)), *own] if before else own


def write_report(parameters: dict[str, Any], sentence: str, reports: list[PassReport]) -> None:
    """Records what was done, for people and, in one word, for programs."""
    parameters[REPORT], parameters[APPLIED] = sentence, verdict(reports)


def write_report_when_read(
    parameters: dict[str, Any], so_far: Callable[[], tuple[str, list[PassReport]]]
) -> None:
    """Records the same as functions, which hosts call when they make a picture's text before the batch ends:
    ersatzForge all of them, right after the sampling, others that of a picture saved before its hires pass.
    """
    parameters[REPORT] = WhenRead(NOT_READ, lambda: so_far()[0])
    parameters[APPLIED] = WhenRead(UNKNOWN, lambda: verdict(so_far()[1]))


class WhenRead(str):
    """A text that is made when it is asked for. To those who do not ask, as JSON, it is text all the same: a
    plot hands on the parameters of a cell that failed.
    """

    __slots__ = ("made",)

    def __new__(cls, text: str, made: Callable[[], str] | None = None) -> WhenRead:
        one = super().__new__(cls, text)
        one.made = made
        return one

    def __call__(self, **_: Any) -> str:
        return str(self) if self.made is None else self.made()


def forget_unread(parameters: dict[str, Any]) -> None:
    """Removes these functions, where nothing has replaced them."""
    for key in (REPORT, APPLIED):
        if callable(parameters.get(key)):
            del parameters[key]


def write_of_another(parameters: dict[str, Any], drawn: int, image: int) -> None:
    """Records that the batch's image number `image` is none of the `drawn` ones that were drawn here: it has
    none of our reports, and nothing of what is recorded by image. The lists are those that hosts read so.
    """
    for key, of_another in ((REPORT, OF_ANOTHER), (APPLIED, UNKNOWN), (FIELD["negative"].infotext, None)):
        value = parameters.get(key)
        if of_another is not None and not isinstance(value, list):
            value = [value] * drawn
        if isinstance(value, list):
            parameters[key] = [*value[:drawn], *[of_another] * (image + 1 - drawn)]


def _writable(value: Any, key: str) -> Any:
    """The value as the hosts' parameter line brings it back: that line loses blanks around a text and quotes
    around it, unless the text is quoted; the hosts do that themselves only where a comma, a colon or a line
    end is in it. Of a text that is its own key they write the key alone.
    """
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    text = str(value)
    safe = text == text.strip() != key and not (text.startswith('"') and text.endswith('"'))
    return text if safe or any(mark in text for mark in ",:\n") else json.dumps(text, ensure_ascii=False)


def present(parameters: Mapping[str, Any]) -> bool:
    """Whether the picture was made with NAG on."""
    return any(FIELD[name].infotext in parameters for name in _CORE) or str(parameters.get(_ON)) == "True"


def read_again(text: str, parameters: dict[str, Any]) -> None:
    """Gives our keys the values that stand in `text`, a picture's whole infotext.

    SD.Next's reader (modules/infotext.py, `extract`) takes the words of the prompt and of the negative prompt
    out of all that follows them, and so out of a NAG negative that has the same words.
    """
    ours = {field.infotext for field in FIELDS}.difference(_disregarded())
    for key, written in _PARAMETER.findall(_last_line(text)):
        value = _unquoted(written)
        if key in ours and str(parameters.get(key)) != value:
            parameters[key] = value


def _last_line(text: str) -> str:
    """Where the parameters stand."""
    return text.rstrip().rpartition("\n")[2]


def _unquoted(written: str) -> str:
    try:
        return str(json.loads(written)) if written.startswith('"') else written
    except ValueError:
        return written


_WITHOUT_STYLES = {
    "negative": negative_text.without_styles,
    "negatives": negative_text.lines_without_styles,
}


def take_styles_out(parameters: dict[str, Any]) -> None:
    """Takes the styles that the host has taken out of the prompts out of the recorded negatives, too: who
    draws the picture again, by the page or the API, has them chosen beside.
    """
    for name, without in _WITHOUT_STYLES.items():
        recorded = parameters.get(FIELD[name].infotext)
        if isinstance(recorded, str):
            parameters[FIELD[name].infotext] = without(recorded, parameters)


def mark(text: str, parameters: dict[str, Any]) -> None:
    """Notes that NAG was on where the host has taken away the keys that say so: the user has told it to
    disregard them, and wants these settings left alone, not NAG switched off.
    """
    if _MADE_WITH_NAG.search(_last_line(text)):
        parameters[_ON] = "True"


def _disregarded() -> Sequence[str]:
    """The keys that the host is told to leave out of what is pasted."""
    try:
        from modules import shared

        return tuple(shared.opts.infotext_skip_pasting or ())
    except (ImportError, AttributeError, TypeError):
        return ()


def _read(field: Field, parameters: Mapping[str, Any]) -> Any:
    """The field's value for the accordion; what was not written was at its default. None leaves the control
    alone.
    """
    disregarded = _disregarded()
    if field.infotext in disregarded:
        return None
    if field.name == "enabled":
        return present(parameters)
    if not present(parameters):
        return None
    value = _found(field.infotext, parameters)
    if field.name == "preset":
        if value is None and all(FIELD[name].infotext in disregarded for name in _CORE):
            return None  # Custom would put other values in force than those that shall stay
        known = value in field.choices and _unchanged(value, parameters)
        return value if known else presets.CUSTOM
    # As arguments are read: held within the range, the default where it is none.
    return named({field.name: value}, []).get(field.name, field.default)


def _unchanged(preset: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a preset sets what the picture was made with. By name it gets what this version has."""
    fixed = presets.values(preset)
    return set(_CORE) <= set(fixed) and all(
        _read(FIELD[name], parameters) in (None, value) for name, value in fixed.items()
    )


def _found(key: str, parameters: Mapping[str, Any]) -> Any:
    """What stands under `key`; the hosts take any 3x4 for a size and put it under two keys."""
    size = [parameters.get(f"{key}-{side}") for side in (1, 2)]
    return parameters.get(key, "x".join(map(str, size)) if None not in size else None)


class Reader(str):
    """The key of a field, which reads the field's value from the parameters when it is called."""

    __slots__ = ("field",)

    def __new__(cls, field: Field) -> Reader:
        made = super().__new__(cls, field.infotext)
        made.field = field
        return made

    def __call__(self, parameters: Mapping[str, Any]) -> Any:
        return _read(self.field, parameters)


READERS: dict[str, Reader] = {field.name: Reader(field) for field in FIELDS}
