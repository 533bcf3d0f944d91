"""Prompt styles: texts by name that are put behind a prompt, or around it. The sandbox has none at first."""

from typing import NamedTuple

PLACE = "{prompt}"


class PromptStyle(NamedTuple):
    """One style. Its texts may hold `{prompt}`, where the prompt goes."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def apply_styles_to_prompt(prompt: str, styles: list[str]) -> str:
    """The prompt with each style's text."""
    for style in filter(None, styles):
        prompt = style.replace(PLACE, prompt) if PLACE in style else ", ".join(filter(None, (prompt, style)))
    return prompt


def extract_style_text_from_prompt(style_text: str, prompt: str) -> tuple[bool, str]:
    """Whether the prompt carries the style's text, and the prompt without it."""
    before, place, behind = style_text.partition(PLACE)
    if not place:
        before, behind = "", style_text
    if not (prompt.startswith(before) and prompt.endswith(behind)):
        return False, prompt
    kept = prompt[len(before) : len(prompt) - len(behind)]
    return True, kept if place else kept.removesuffix(", ")


class StyleDatabase:
    """The styles by name; none at first."""

    def __init__(self) -> None:
        self.styles: dict[str, PromptStyle] = {}

    def _found(self, styles: list[str]) -> list[PromptStyle]:
        return [self.styles.get(name, PromptStyle("None")) for name in styles]

    def apply_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        """The prompt with these styles."""
        return apply_styles_to_prompt(prompt, [style.prompt for style in self._found(styles)])

    def apply_negative_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        """The negative prompt with these styles."""
        return apply_styles_to_prompt(prompt, [style.negative_prompt for style in self._found(styles)])
