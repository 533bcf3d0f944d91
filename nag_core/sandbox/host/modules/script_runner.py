"""Runs the scripts of one tab: builds their controls and calls their hooks.

A hook that raises is reported as `*** Error running <hook>: <file>` and the job goes on.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from modules import errors
from modules.api import models as api_models
from modules.script_base import AlwaysVisible, OnComponent, Script

INFO_FIELDS = ("value", "minimum", "maximum", "step")


class ScriptRunner:
    """Scripts of one tab, made of the loaded `data`; `inputs` is the flat list of their controls, the Script
    dropdown first.
    """

    def __init__(self, data: list[Any]) -> None:
        self.data = data
        self.scripts: list[Script] = []
        self.alwayson_scripts: list[Script] = []
        self.selectable_scripts: list[Script] = []
        self.titles: list[str] = []
        self.title_map: dict[str, Script] = {}
        self.infotext_fields: list[Any] = []
        self.paste_field_names: list[Any] = []
        self.inputs: list[Any] = [None]
        self.on_after_component_elem_id: dict[str, list[Any]] = {}

    # Building the page

    def initialize_scripts(self, is_img2img: bool) -> None:
        """Make this tab's instance of every loaded script and ask it where it wants to be shown."""
        self.scripts.clear()
        self.alwayson_scripts.clear()
        self.selectable_scripts.clear()
        for data in self.data:
            try:
                script = data.script_class()
            except Exception:
                errors.report(f"Error # failed to initialize Script {data.module}: ", exc_info=True)
                continue
            script.filename = data.path
            script.is_img2img = is_img2img
            shown = script.show(is_img2img)
            script.alwayson = shown is AlwaysVisible
            if shown:
                self.scripts.append(script)
                (self.alwayson_scripts if script.alwayson else self.selectable_scripts).append(script)
        self._collect_component_callbacks()

    def _collect_component_callbacks(self) -> None:
        for script in self.scripts:
            for elem_id, callback in script.on_after_component_elem_id or []:
                self.on_after_component_elem_id.setdefault(elem_id, []).append((callback, script))
            script.on_after_component_elem_id = []

    def prepare_ui(self) -> None:
        """Forget the controls of an earlier page."""
        self.inputs = [None]
        self.infotext_fields, self.paste_field_names = [], []

    def setup_ui(self) -> list[Any]:
        """Create the controls of every script that has no section of its own, and the Script dropdown."""
        self.title_map = {self._title(script).lower(): script for script in self.scripts}
        self.titles = [self._title(script) for script in self.selectable_scripts]
        self.setup_ui_for_section(None)
        dropdown = gr.Dropdown(
            label="Script", elem_id="script_list", choices=["None", *self.titles], value="None", type="index"
        )
        self.inputs[0] = dropdown
        self.setup_ui_for_section(None, self.selectable_scripts)
        groups = [script.group for script in self.selectable_scripts]
        dropdown.change(
            # By component: what is listed for a single one, gradio 4 would take for its value.
            lambda index: {
                group: gr.update(visible=number == (index or 0)) for number, group in enumerate(groups, 1)
            },
            [dropdown],
            groups,
        )
        self.infotext_fields.append((dropdown, lambda params: params.get("Script", "None")))
        self._collect_component_callbacks()
        return self.inputs

    def setup_ui_for_section(self, section: str | None, scriptlist: list[Script] | None = None) -> None:
        """Create the controls of the scripts that belong to one section of the page."""
        chosen = self.alwayson_scripts if scriptlist is None else scriptlist
        for script in sorted(chosen, key=lambda script: script.sorting_priority):
            if script.alwayson and script.section != section:
                continue
            if script.create_group:
                with gr.Group(visible=script.alwayson) as script.group:
                    self.create_script_ui(script)
            else:
                self.create_script_ui(script)

    def create_script_ui(self, script: Script) -> None:
        """Create one script's controls; a script whose `ui` fails keeps an empty slice of arguments."""
        script.args_from = script.args_to = len(self.inputs)
        try:
            controls = script.ui(script.is_img2img)
        except Exception:
            errors.report(f"Error calling: {script.filename}/ui", exc_info=True)
            controls = None
        script.controls = controls
        if controls is None:
            return
        script.name = self._title(script).lower()
        script.api_info = api_models.ScriptInfo(
            name=script.name,
            is_img2img=script.is_img2img,
            is_alwayson=script.alwayson,
            args=list(map(_describe, controls)),
        )
        self.infotext_fields += script.infotext_fields or []
        self.paste_field_names += script.paste_field_names or []
        self.inputs += controls
        script.args_to = len(self.inputs)

    def _title(self, script: Script) -> str:
        try:
            return script.title()
        except Exception:
            errors.report(f"Error calling: {script.filename}/title", exc_info=True)
            return script.filename

    def script(self, title: str) -> Script | None:
        """The script with this title, in any case."""
        return self.title_map.get(title.lower())

    # Running a job

    def run(self, p: Any, *args: Any) -> Any:
        """Let the selected script do the job; None when none is selected."""
        if not args[0]:
            return None
        script = self.selectable_scripts[args[0] - 1]
        return script.run(p, *args[script.args_from : script.args_to])

    def _call(self, hook: str, p: Any, *leading: Any, **kwargs: Any) -> None:
        for script in self.alwayson_scripts:
            if getattr(type(script), hook, None) is getattr(Script, hook, None):
                continue
            try:
                arguments = p.script_args[script.args_from : script.args_to]
                getattr(script, hook)(p, *leading, *arguments, **kwargs)
            except Exception:
                errors.report(f"Error running {hook}: {script.filename}", exc_info=True)

    def setup_scrips(self, p: Any) -> None:
        """Call the hook `setup`. Spelled as on the hosts."""
        self._call("setup", p)

    def before_process(self, p: Any) -> None:
        """Call the hook of this name."""
        self._call("before_process", p)

    def process(self, p: Any) -> None:
        """Call the hook of this name."""
        self._call("process", p)

    def process_batch(self, p: Any, **kwargs: Any) -> None:
        """Call the hook of this name."""
        self._call("process_batch", p, **kwargs)

    def process_before_every_sampling(self, p: Any, **kwargs: Any) -> None:
        """Call the hook of this name."""
        self._call("process_before_every_sampling", p, **kwargs)

    def postprocess_batch(self, p: Any, images: Any, **kwargs: Any) -> None:
        """Call the hook of this name."""
        self._call("postprocess_batch", p, images=images, **kwargs)

    def postprocess_batch_list(self, p: Any, pp: Any, **kwargs: Any) -> None:
        """Call the hook of this name."""
        self._call("postprocess_batch_list", p, pp, **kwargs)

    def postprocess_image_after_composite(self, p: Any, pp: Any) -> None:
        """Call the hook of this name."""
        self._call("postprocess_image_after_composite", p, pp)

    def postprocess_image(self, p: Any, pp: Any) -> None:
        """Call the hook of this name."""
        self._call("postprocess_image", p, pp)

    def postprocess(self, p: Any, processed: Any) -> None:
        """Call the hook of this name."""
        self._call("postprocess", p, processed)

    # Called by modules.gradio_extensions for every control that is made

    def after_component(self, component: Any) -> None:
        """Tell the scripts that wait for this control that it exists."""
        listeners = self.on_after_component_elem_id.get(getattr(component, "elem_id", None), [])
        for callback, script in listeners:
            try:
                callback(OnComponent(component))
            except Exception:
                errors.report(f"Error running after_component: {script.filename}", exc_info=True)


def _describe(control: Any) -> api_models.ScriptArg:
    known = {name: getattr(control, name, None) for name in INFO_FIELDS}
    choices = getattr(control, "choices", None)
    if choices is not None:
        choices = [choice[0] if isinstance(choice, tuple) else choice for choice in choices]
    return api_models.ScriptArg(label=control.label or "", choices=choices, **known)
