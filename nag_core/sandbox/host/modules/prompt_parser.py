"""From prompt text to conditioning schedules: emphasis, editing over the steps, `AND` parts with weights."""

from __future__ import annotations

import re
from collections import namedtuple
from typing import Any

import torch

from modules.prompt_schedule import schedule
from modules.shared import opts

ScheduledPromptConditioning = namedtuple("ScheduledPromptConditioning", ["end_at_step", "cond"])

AND = re.compile(r"\bAND\b")
PART_WEIGHT = re.compile(r"(.*?)(?:\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+)))?\s*", re.S)
BREAK = re.compile(r"\s*\bBREAK\b\s*")
PIECE = re.compile(r"\\.|:\s*[+-]?[.\d]+\s*\)|[()\[\]:\\]|[^\\()\[\]:]+", re.S)
STEP_UP = 1.1


class SdConditioning(list):
    """Prompts with what some text encoders want to know beside them."""

    def __init__(
        self,
        prompts: list[str],
        is_negative_prompt: bool = False,
        width: int | None = None,
        height: int | None = None,
        copy_from: Any = None,
        distilled_cfg_scale: float | None = None,
    ) -> None:
        super().__init__(prompts)
        source = prompts if copy_from is None else copy_from
        self.is_negative_prompt = is_negative_prompt or getattr(source, "is_negative_prompt", False)
        self.width = width or getattr(source, "width", None)
        self.height = height or getattr(source, "height", None)
        self.distilled_cfg_scale = distilled_cfg_scale or getattr(source, "distilled_cfg_scale", None)


class ComposableScheduledPromptConditioning:
    """One part of an AND prompt: its schedule and its weight."""

    def __init__(self, schedules: list[ScheduledPromptConditioning], weight: float = 1.0) -> None:
        self.schedules, self.weight = schedules, weight


class MulticondLearnedConditioning:
    """The parts of every prompt of a batch."""

    def __init__(
        self, shape: tuple[int, ...], batch: list[list[ComposableScheduledPromptConditioning]]
    ) -> None:
        self.shape, self.batch = shape, batch


def old_scheduling(value: bool) -> tuple[bool, ...]:
    """The argument `use_old_scheduling`, where this make still has it (nag_core/sandbox/makes.py)."""
    return (value,) if "use_old_scheduling" in opts.data_labels else ()


def get_learned_conditioning_prompt_schedules(
    prompts: list[str], base_steps: int, hires_steps: int | None = None, use_old_scheduling: bool = False
) -> list[list[list]]:
    """[[last step, text], ...] of every prompt."""
    return [schedule(prompt, base_steps, hires_steps, use_old_scheduling) for prompt in prompts]


def get_learned_conditioning(
    model: Any,
    prompts: SdConditioning | list[str],
    steps: int,
    hires_steps: int | None = None,
    use_old_scheduling: bool = False,
) -> list[list[ScheduledPromptConditioning]]:
    """The encoded schedule of every prompt; one prompt's texts are encoded together and share a length."""
    old = old_scheduling(use_old_scheduling)
    schedules = get_learned_conditioning_prompt_schedules(prompts, steps, hires_steps, *old)
    encoded: dict[str, list[ScheduledPromptConditioning]] = {}
    for prompt, entries in zip(prompts, schedules, strict=False):
        if prompt not in encoded:
            texts = SdConditioning([text for _, text in entries], copy_from=prompts)
            conds = model.get_learned_conditioning(texts)
            encoded[prompt] = [
                ScheduledPromptConditioning(end, _row(conds, i)) for i, (end, _) in enumerate(entries)
            ]
    return [encoded[prompt] for prompt in prompts]


def _row(conds: Any, i: int) -> Any:
    return {key: value[i] for key, value in conds.items()} if isinstance(conds, dict) else conds[i]


class DictWithShape(dict):
    """A conditioning of several tensors that answers for its text's shape."""

    @property
    def shape(self) -> Any:
        """Of the text rows."""
        return self["crossattn"].shape


def _stacked(rows: list[Any]) -> Any:
    if isinstance(rows[0], dict):
        return DictWithShape({key: torch.stack([row[key] for row in rows]) for key in rows[0]})
    return torch.stack(rows)


def _text(row: Any) -> torch.Tensor:
    return row["crossattn"] if isinstance(row, dict) else row


def get_multicond_prompt_list(
    prompts: SdConditioning | list[str],
) -> tuple[list[list[tuple[int, float]]], SdConditioning, dict[str, int]]:
    """For every prompt its parts as (number of the text, weight), and the distinct texts."""
    texts: dict[str, int] = {}
    parts = []
    for prompt in prompts:
        found = []
        for part in AND.split(prompt):
            text, weight = PART_WEIGHT.fullmatch(part).groups()
            found.append((texts.setdefault(text, len(texts)), 1.0 if weight is None else float(weight)))
        parts.append(found)
    return parts, SdConditioning(list(texts), copy_from=prompts), texts


def get_multicond_learned_conditioning(
    model: Any,
    prompts: SdConditioning | list[str],
    steps: int,
    hires_steps: int | None = None,
    use_old_scheduling: bool = False,
) -> MulticondLearnedConditioning:
    """As get_learned_conditioning, with the parts of AND prompts kept apart."""
    parts, texts, _ = get_multicond_prompt_list(prompts)
    old = old_scheduling(use_old_scheduling)
    learned = get_learned_conditioning(model, texts, steps, hires_steps, *old)
    batch = [
        [ComposableScheduledPromptConditioning(learned[index], weight) for index, weight in found]
        for found in parts
    ]
    return MulticondLearnedConditioning((len(prompts),), batch)


def _at_step(schedules: list[ScheduledPromptConditioning], step: int) -> Any:
    # Past the last entry hosts fall back to the first one.
    return next((entry.cond for entry in schedules if step <= entry.end_at_step), schedules[0].cond)


def reconstruct_cond_batch(c: list[list[ScheduledPromptConditioning]], current_step: int) -> Any:
    """The conditioning in force, one row a prompt; raises where rows differ in length, as on Forge main."""
    rows = [_at_step(schedules, current_step) for schedules in c]
    shapes = [_text(row).shape for row in rows]
    if len(set(shapes)) > 1 or shapes[0] != _text(c[0][0].cond).shape:
        raise RuntimeError("negative prompts of different length in one batch cannot be stacked")
    return _stacked(rows)


def reconstruct_multicond_batch(
    c: MulticondLearnedConditioning, current_step: int
) -> tuple[list[list[tuple[int, float]]], Any]:
    """For every prompt its parts as (row, weight), and the rows; short ones repeat their last token."""
    rows: list[Any] = []
    composition = []
    for parts in c.batch:
        composition.append([(len(rows) + i, part.weight) for i, part in enumerate(parts)])
        rows += [_at_step(part.schedules, current_step) for part in parts]
    longest = max(_text(row).shape[0] for row in rows)
    return composition, _stacked([_lengthened(row, longest) for row in rows])


def _lengthened(row: Any, tokens: int) -> Any:
    if isinstance(row, dict):
        return {**row, "crossattn": _lengthened(row["crossattn"], tokens)}
    return torch.cat([row, row[-1:].expand(tokens - row.shape[0], -1)])


def parse_prompt_attention(text: str) -> list[list]:
    """[[text, weight], ...]: `(a)` is 1.1, `(a:1.3)` is 1.3, `[a]` is 1/1.1; BREAK becomes ["BREAK", -1]."""
    result: list[list] = []
    opened: list[tuple[str, int]] = []

    def close(kind: str, factor: float) -> bool:
        for i in range(len(opened) - 1, -1, -1):
            if opened[i][0] == kind:
                start = opened.pop(i)[1]
                for entry in result[start:]:
                    entry[1] *= factor
                return True
        return False

    for piece in PIECE.findall(text):
        if piece in "([":
            opened.append((piece, len(result)))
        elif piece[-1] in ")]" and piece[0] in ":)]" and close(*_closing(piece)):
            continue
        elif piece[0] == "\\" and len(piece) > 1:
            result.append([piece[1:], 1.0])
        else:
            for i, part in enumerate(BREAK.split(piece)):
                result += ([["BREAK", -1]] if i else []) + [[part, 1.0]]
    for kind, start in opened:
        for entry in result[start:]:
            entry[1] *= STEP_UP if kind == "(" else 1 / STEP_UP
    return _merged(result) or [["", 1.0]]


def _closing(piece: str) -> tuple[str, float]:
    """The bracket that `)`, `]` or `:1.2)` closes, and the factor of what it held."""
    if piece == "]":
        return "[", 1 / STEP_UP
    try:
        return "(", STEP_UP if piece == ")" else float(piece[1:-1])
    except ValueError:
        return "(", 1.0


def _merged(entries: list[list]) -> list[list]:
    merged: list[list] = []
    for text, weight in entries:
        if merged and merged[-1][1] == weight and "BREAK" not in (text, merged[-1][0]):
            merged[-1][0] += text
        else:
            merged.append([text, weight])
    return merged
