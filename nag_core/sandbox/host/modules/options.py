"""The settings object scripts extend with `shared.opts.add_option(key, OptionInfo(...))`."""

from __future__ import annotations

from typing import Any

BUILTIN = ("data_labels", "data")


class OptionInfo:
    """One setting: default, label and how the settings page draws it."""

    def __init__(
        self,
        default: Any = None,
        label: str = "",
        component: Any = None,
        component_args: Any = None,
        onchange: Any = None,
        section: tuple[str, str] | None = None,
        comment_before: str = "",
        comment_after: str = "",
        infotext: str | None = None,
    ) -> None:
        self.default, self.label, self.section = default, label, section
        self.component, self.component_args = component, component_args
        self.onchange, self.infotext = onchange, infotext
        self.comment_before, self.comment_after = comment_before, comment_after

    def info(self, text: str) -> OptionInfo:
        """Append an explanation to the label."""
        return self.html(f"<span class='info'>({text})</span>")

    def html(self, html: str) -> OptionInfo:
        """Append raw HTML to the label."""
        self.comment_after += html
        return self

    def link(self, label: str, url: str) -> OptionInfo:
        """Prepend a link to the label."""
        self.comment_before += f"[<a href='{url}' target='_blank'>{label}</a>]"
        return self

    def needs_reload_ui(self) -> OptionInfo:
        """Mark the setting as read when the page is built."""
        return self.html(" <span class='info'>(requires Reload UI)</span>")


def options_section(section: tuple[str, ...], options: dict[str, OptionInfo]) -> dict[str, OptionInfo]:
    """The options, all put into one section."""
    for option in options.values():
        option.section = section[:2]
    return options


class Options:
    """Attribute access over `data`; an unknown name raises AttributeError."""

    def __init__(self, data_labels: dict[str, OptionInfo]) -> None:
        self.data_labels = data_labels
        self.data = {key: info.default for key, info in data_labels.items()}

    def __getattr__(self, key: str) -> Any:
        if key in BUILTIN:
            raise AttributeError(key)
        if key in self.data:
            return self.data[key]
        if key in self.data_labels:
            return self.data_labels[key].default
        raise AttributeError(f"'Options' object has no attribute '{key}'")

    def __setattr__(self, key: str, value: Any) -> None:
        if key not in BUILTIN and (key in self.data or key in self.data_labels):
            self.data[key] = value
        else:
            super().__setattr__(key, value)

    def add_option(self, key: str, info: OptionInfo) -> None:
        """Register a setting; a value already stored is kept."""
        self.data_labels[key] = info
        self.data.setdefault(key, info.default)

    def set(self, key: str, value: Any, run_callbacks: bool = True) -> bool:
        """Change a known setting; whether it changed."""
        info = self.data_labels.get(key)
        if info is None or self.data.get(key) == value:
            return False
        self.data[key] = value
        if run_callbacks and info.onchange is not None:
            info.onchange()
        return True
