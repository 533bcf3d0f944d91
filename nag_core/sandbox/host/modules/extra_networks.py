"""`<kind:name:args>` tags are taken out of prompts; the sandbox has no networks to apply."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

TAG = re.compile(r"<(\w+):([^>]+)>")


class ExtraNetworkParams:
    """The arguments of one tag, positional and by name."""

    def __init__(self, items: list[str] | None = None) -> None:
        self.items = items or []
        self.positional = [item for item in self.items if "=" not in item]
        self.named = dict(item.split("=", 1) for item in self.items if "=" in item)


def parse_prompt(prompt: str) -> tuple[str, dict[str, list[ExtraNetworkParams]]]:
    """The prompt without its tags, and the tags by kind."""
    found: dict[str, list[ExtraNetworkParams]] = defaultdict(list)

    def take(match: re.Match[str]) -> str:
        found[match.group(1)].append(ExtraNetworkParams(match.group(2).split(":")))
        return ""

    return TAG.sub(take, prompt), found


def parse_prompts(prompts: list[str]) -> tuple[list[str], Any]:
    """All prompts without tags, and the tags of the first one: a batch shares its networks."""
    parsed = [parse_prompt(prompt) for prompt in prompts]
    return [text for text, _ in parsed], parsed[0][1] if parsed else None


def activate(p: Any, data: Any) -> None:
    """Say that there is nothing to activate."""
    for name in data or {}:
        p.comment(f"The sandbox has no extra networks: <{name}:...> was ignored.")


def deactivate(p: Any, data: Any) -> None:
    """Nothing was activated."""
