"""Prompt styles: the sandbox has none, and says so through the usual interface."""


class StyleDatabase:
    """An empty collection of styles."""

    def __init__(self) -> None:
        self.styles: dict[str, object] = {}

    def apply_negative_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        """The negative prompt itself."""
        return prompt
