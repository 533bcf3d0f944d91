"""Prompt styles: the sandbox has none, and says so through the usual interface."""


class StyleDatabase:
    """An empty collection of styles."""

    def __init__(self) -> None:
        self.styles: dict[str, object] = {}

    def apply_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        """The prompt itself."""
        return prompt

    def apply_negative_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        """The negative prompt itself."""
        return prompt

    def extract_styles_from_prompt(self, prompt: str, negative_prompt: str) -> tuple[list[str], str, str]:
        """No styles, and both prompts unchanged."""
        return [], prompt, negative_prompt
