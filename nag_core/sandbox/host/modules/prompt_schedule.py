"""Prompt editing: `[before:after:when]`, `[text:when]`, `[text::when]`, alternation `[a|b]`, nested at will.

A prompt that does not parse is taken literally, as a whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Union

TOKEN = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\", re.S)
NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*")


class NotAScheduleError(ValueError):
    """The brackets of a prompt do not match."""


@dataclass
class Scheduled:
    """`before` up to and including step `when`, `after` from then on."""

    before: list[Node]
    after: list[Node]
    when: str
    step: int = 0


@dataclass
class Alternate:
    """The options in turn, one a step."""

    options: list[list[Node]]


Node = Union[str, Scheduled, Alternate]  # noqa: UP007 (evaluated, and its classes name it)


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens = TOKEN.findall(text)
        self.at = 0

    def sequence(self, stops: str) -> list[Node]:
        """Nodes up to a token in `stops`, which is left unread."""
        nodes: list[Node] = []
        while self.at < len(self.tokens) and self.tokens[self.at] not in stops:
            token = self.tokens[self.at]
            self.at += 1
            if token == "[":
                nodes += self.brackets()
            elif token == "(":
                nodes += ["(", *self.sequence(")"), self.take(")")]
            else:
                nodes.append(token)
        return nodes

    def take(self, expected: str) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at] != expected:
            raise NotAScheduleError(expected)
        self.at += 1
        return expected

    def brackets(self) -> list[Node]:
        """What follows an opening bracket: a schedule, an alternation, or plain de-emphasis."""
        parts, marks = [self.sequence("]|:)")], ""
        while self.at < len(self.tokens) and self.tokens[self.at] in "|:":
            marks += self.tokens[self.at]
            self.at += 1
            parts.append(self.sequence("]|:)"))
        self.take("]")
        if not marks:
            return ["[", *parts[0], "]"]
        if set(marks) == {"|"}:
            return [Alternate(parts)]
        last = "".join(node for node in parts[-1] if isinstance(node, str))
        if marks in (":", "::") and len(parts[-1]) == 1 and NUMBER.fullmatch(last):
            before, after = ([], parts[0]) if marks == ":" else (parts[0], parts[1])
            return [Scheduled(before, after, last.strip())]
        literal: list[Node] = ["[", *parts[0]]
        for mark, part in zip(marks, parts[1:], strict=False):
            literal += [mark, *part]
        return [*literal, "]"]


def parse(prompt: str) -> list[Node]:
    """The prompt as text and schedules; raises NotAScheduleError where an opened bracket is not closed."""
    return _Reader(prompt).sequence("")


def _children(node: Node) -> list[Node]:
    if isinstance(node, Scheduled):
        return [*node.before, *node.after]
    return [child for option in node.options for child in option] if isinstance(node, Alternate) else []


def _walk(nodes: list[Node]) -> list[Node]:
    return [found for node in nodes for found in (node, *_walk(_children(node)))]


def _text_at(nodes: list[Node], step: int) -> str:
    text = ""
    for node in nodes:
        if isinstance(node, Scheduled):
            text += _text_at(node.before if step <= node.step else node.after, step)
        elif isinstance(node, Alternate):
            text += _text_at(node.options[(step - 1) % len(node.options)], step)
        else:
            text += node
    return text


def _change_step(when: str, base_steps: int, hires_steps: int | None, old: bool) -> int:
    # A number with a point is a fraction of the pass (1 to 2 is the hires pass), one without counts steps
    # from the start of the first pass.
    hires = hires_steps is not None and not old
    steps = hires_steps if hires else base_steps
    value = float(when)
    if old:
        value = value * steps if value < 1 else value
    elif "." in when:
        value = (value - (1.0 if hires else 0.0)) * steps
    else:
        value -= base_steps if hires else 0
    return min(steps, int(value))


def schedule(
    prompt: str, base_steps: int, hires_steps: int | None = None, use_old_scheduling: bool = False
) -> list[list]:
    """[[last step, text], ...]: which text is in force until when."""
    steps = base_steps if hires_steps is None or use_old_scheduling else hires_steps
    try:
        nodes = parse(prompt)
    except NotAScheduleError:
        return [[steps, prompt]]
    ends = {steps}
    for node in _walk(nodes):
        if isinstance(node, Scheduled):
            node.step = _change_step(node.when, base_steps, hires_steps, use_old_scheduling)
            ends |= {node.step} if node.step >= 1 else set()
        elif isinstance(node, Alternate):
            ends |= set(range(1, steps + 1))
    return [[end, _text_at(nodes, end)] for end in sorted(ends)]
