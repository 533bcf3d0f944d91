"""X/Y/Z plot: one job a cell, drawn as a grid. Extensions append to `axis_options`."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from copy import copy
from itertools import product
from typing import Any

import gradio as gr
from modules import errors, images, infotext_utils, processing, scripts, sd_samplers, shared, xyz_values
from modules.processing import Processed, process_images
from modules.xyz_values import csv_string_to_list_strip, expand_numbers, list_to_csv_string

AxisInfo = namedtuple("AxisInfo", ["axis", "values"])
Apply = Callable[[Any, Any, list[Any]], None]
AXES = "XYZ"


def apply_field(field: str) -> Apply:
    """An axis that sets an attribute of the job."""

    def apply(p: Any, x: Any, xs: list[Any]) -> None:
        setattr(p, field, x)

    return apply


def apply_prompt(p: Any, x: str, xs: list[str]) -> None:
    """Replace the axis's first value by the cell's, in both prompts."""
    if xs[0] not in p.prompt and xs[0] not in p.negative_prompt:
        raise RuntimeError(f"Prompt S/R did not find {xs[0]} in prompt or negative prompt.")
    p.prompt, p.negative_prompt = p.prompt.replace(xs[0], x), p.negative_prompt.replace(xs[0], x)


def do_nothing(p: Any, x: Any, xs: list[Any]) -> None:
    """The axis of a plot with fewer dimensions."""


def format_value_add_label(p: Any, opt: AxisOption, x: Any) -> str:
    """`label: value`."""
    return f"{opt.label}: {format_value(p, opt, x)}"


def format_value(p: Any, opt: AxisOption, x: Any) -> Any:
    """The value, with floats cut to eight digits."""
    return round(x, 8) if isinstance(x, float) else x


def format_nothing(p: Any, opt: AxisOption, x: Any) -> str:
    """No label."""
    return ""


def confirm_samplers(p: Any, xs: list[str]) -> None:
    """Refuse unknown samplers before the first picture."""
    for x in xs:
        if x not in sd_samplers.all_samplers_map:
            raise RuntimeError(f"Unknown sampler: {x}")


class AxisOption:
    """What one axis may vary: how values are read, checked, applied to the job's copy, and shown."""

    def __init__(
        self,
        label: str,
        type: Any,
        apply: Apply,
        format_value: Callable[..., Any] = format_value_add_label,
        confirm: Callable[[Any, list[Any]], None] | None = None,
        cost: float = 0.0,
        choices: Callable[[], list[str]] | None = None,
        prepare: Callable[[str], list[str]] | None = None,
    ) -> None:
        self.label, self.type, self.apply, self.format_value = label, type, apply, format_value
        self.confirm, self.cost, self.choices, self.prepare = confirm, cost, choices, prepare


class AxisOptionTxt2Img(AxisOption):
    """An axis of txt2img only."""

    is_img2img = False


axis_options: list[AxisOption] = [
    AxisOption("Nothing", str, do_nothing, format_value=format_nothing),
    AxisOption("Seed", int, apply_field("seed")),
    AxisOption("Var. seed", int, apply_field("subseed")),
    AxisOption("Var. strength", float, apply_field("subseed_strength")),
    AxisOption("Steps", int, apply_field("steps")),
    AxisOptionTxt2Img("Hires steps", int, apply_field("hr_second_pass_steps")),
    AxisOption("CFG Scale", float, apply_field("cfg_scale")),
    AxisOption("Distilled CFG Scale", float, apply_field("distilled_cfg_scale")),
    AxisOption("Prompt S/R", str, apply_prompt, format_value=format_value),
    AxisOption(
        "Sampler", str, apply_field("sampler_name"), format_value, confirm_samplers,
        choices=sd_samplers.visible_sampler_names,
    ),
    AxisOption("Denoising", float, apply_field("denoising_strength")),
]  # fmt: skip


class Script(scripts.Script):
    """The plot as a selectable script; its arguments are in the host's order."""

    def title(self) -> str:
        """The key in API requests, in lower case."""
        return "X/Y/Z plot"

    def ui(self, is_img2img: bool) -> list[Any]:
        """Type, values and dropdown of each axis, then the switches."""
        self.current_axis_options = [
            option
            for option in axis_options
            if type(option) is AxisOption or getattr(option, "is_img2img", None) == is_img2img
        ]
        rows = [self._axis_row(axis) for axis in AXES]
        draw_legend = self._check("Draw legend", "draw_legend", True)
        lone = self._check("Include Sub Images", "include_lone_images")
        sub_grids = self._check("Include Sub Grids", "include_sub_grids")
        unfixed = self._check("Keep -1 for seeds", "no_fixed_seeds")
        vary = [self._check(f"Vary seeds for {axis}", f"vary_seeds_{axis.lower()}") for axis in AXES]
        more = [self._more(label, value) for label, value in xyz_values.MORE_ARGUMENTS]
        margin = gr.Slider(0, 500, 0, step=2, label="Grid margins (px)", elem_id=self.elem_id("margin_size"))
        csv_mode = self._check("Use text inputs instead of dropdowns", "csv_mode")
        for kind, values, dropdown in rows:
            inputs = [kind, csv_mode]
            kind.change(self._show_values, inputs, [values, dropdown], show_progress="hidden")
            csv_mode.change(self._show_values, inputs, [values, dropdown], show_progress="hidden")
        self.infotext_fields = [
            pair
            for axis, (kind, values, _) in zip(AXES, rows, strict=True)
            for pair in ((kind, f"{axis} Type"), (values, f"{axis} Values"))
        ]
        axes = [control for row in rows for control in row]
        return [*axes, draw_legend, lone, sub_grids, unfixed, *vary, *more, margin, csv_mode]

    def _axis_row(self, axis: str) -> tuple[Any, Any, Any]:
        labels = [option.label for option in self.current_axis_options]
        name = axis.lower()
        with gr.Row():
            kind = gr.Dropdown(
                labels, value=labels[1 if axis == "X" else 0], type="index", label=f"{axis} type",
                elem_id=self.elem_id(f"{name}_type"),
            )  # fmt: skip
            values = gr.Textbox("", label=f"{axis} values", elem_id=self.elem_id(f"{name}_values"))
            dropdown = gr.Dropdown([], label=f"{axis} values", visible=False, multiselect=True)
        return kind, values, dropdown

    def _check(self, label: str, item: str, value: bool = False) -> Any:
        return gr.Checkbox(value, label=label, elem_id=self.elem_id(item))

    def _more(self, label: str, value: Any) -> Any:
        """An argument that only some releases have."""
        item = label.lower().replace(" ", "_")
        if isinstance(value, bool):
            return self._check(label, item, value)
        return gr.Number(value, label=label, elem_id=self.elem_id(item))

    def _show_values(self, kind: int | None, csv_mode: bool) -> tuple[Any, Any]:
        choices = self.current_axis_options[kind or 0].choices
        listed = choices is not None and not csv_mode
        options = choices() if choices is not None else []
        return gr.update(visible=not listed), gr.update(visible=listed, choices=options, value=[])

    def run(self, p: Any, *args: Any) -> Processed:
        """Every cell is a job of its own on a shallow copy of `p`."""
        kinds, texts, dropdowns = args[0:9:3], args[1:9:3], args[2:9:3]
        draw_legend, lone, sub_grids, unfixed, *vary = args[9:16]
        csv_mode = args[-1]
        if not unfixed:
            processing.fix_seed(p)
        options = [self.current_axis_options[kind or 0] for kind in kinds]
        texts = [
            list_to_csv_string(chosen or []) if option.choices is not None and not csv_mode else text
            for option, text, chosen in zip(options, texts, dropdowns, strict=True)
        ]
        values = [_axis_values(p, option, text) for option, text in zip(options, texts, strict=True)]
        for axis, option, found in zip(AXES, options, values, strict=True):
            setattr(shared.state, f"xyz_plot_{axis.lower()}", AxisInfo(option, found))
        shared.state.job_count = len(values[0]) * len(values[1]) * len(values[2]) * p.n_iter
        cells = _run_cells(p, options, values, vary)
        labels = [
            [option.format_value(p, option, x) for x in found] if draw_legend else [""] * len(found)
            for option, found in zip(options, values, strict=True)
        ]
        record = {"Script": self.title()}
        for axis, option, text in zip(AXES, options, texts, strict=True):
            if option.label != "Nothing":
                record |= {f"{axis} Type": option.label, f"{axis} Values": text}
        return _assemble(p, cells, labels, record, bool(lone), bool(sub_grids))


def _axis_values(p: Any, option: AxisOption, text: str) -> list[Any]:
    if option.label == "Nothing":
        return [0]
    found = option.prepare(text) if option.prepare is not None else csv_string_to_list_strip(text)
    if option.type in (int, float):
        found = expand_numbers(found, option.type)
    else:
        found = [option.type(value) for value in found]
    if option.confirm:
        option.confirm(p, found)
    return found


def _run_cells(
    p: Any, options: list[AxisOption], values: list[list[Any]], vary: list[bool]
) -> dict[tuple[int, int, int], Processed]:
    """Results by (x, y, z) position; axes that are dear to change are the outer loops."""
    order = sorted((2, 1, 0), key=lambda axis: -options[axis].cost)
    sizes = [len(found) for found in values]
    stride = [1, sizes[0] if vary[0] else 1, (sizes[0] if vary[0] else 1) * (sizes[1] if vary[1] else 1)]
    results = {}
    for position in product(*(range(sizes[axis]) for axis in order)):
        at = tuple(dict(zip(order, position, strict=True))[axis] for axis in range(3))
        if shared.state.interrupted or shared.state.stopping_generation:
            break
        pc = copy(p)
        pc.styles = pc.styles[:]
        for option, found, i in zip(options, values, at, strict=True):
            option.apply(pc, found[i], found)
        pc.seed += sum(i * step for i, step, varied in zip(at, stride, vary, strict=True) if varied)
        pc.do_not_save_grid = True
        try:
            results[at] = process_images(pc)
        except Exception as error:
            errors.display(error, "generating image for xyz plot")
            results[at] = Processed(p, [], p.seed, "")
    return results


def _plane(drawn: dict[tuple[int, int, int], Processed], labels: list[list[Any]], z: int) -> Any:
    """The grid at one position of the third axis, every cell under its labels."""
    empty = images.blank(drawn[min(drawn)].images[0].size)
    tiles = [
        images.labelled(
            drawn[x, y, z].images[0] if (x, y, z) in drawn else empty,
            "  ".join(str(label) for label in (x_label, y_label) if label != ""),
        )
        for y, y_label in enumerate(labels[1])
        for x, x_label in enumerate(labels[0])
    ]
    return images.labelled(images.image_grid(tiles, rows=len(labels[1])), str(labels[2][z]))


def _assemble(
    p: Any,
    cells: dict[tuple[int, int, int], Processed],
    labels: list[list[Any]],
    record: dict[str, str],
    lone: bool,
    sub_grids: bool,
) -> Processed:
    """Main grid, sub-grids if wanted, single pictures if wanted; each with its infotext."""
    drawn = {at: result for at, result in cells.items() if result.images}
    if not drawn:
        return Processed(p, [])
    first = drawn[min(drawn)]
    grids = [_plane(drawn, labels, z) for z in range(len(labels[2]))]
    main = images.image_grid(grids, rows=1)
    line = ", ".join(f"{key}: {infotext_utils.quote(value)}" for key, value in record.items())
    text = f"{first.infotexts[0]}, {line}"
    singles = [
        pair
        for at in sorted(drawn, key=lambda at: at[::-1])
        for pair in zip(drawn[at].images, drawn[at].infotexts, strict=False)
    ]
    chosen = [(main, text), *((grid, text) for grid in grids if sub_grids), *(singles if lone else [])]
    for image, infotext in chosen:
        image.info["parameters"] = infotext
    first_single = len(chosen) - len(singles) if lone else 0
    return Processed(
        p,
        [image for image, _ in chosen],
        seed=first.seed,
        info=text,
        subseed=first.subseed,
        all_prompts=first.all_prompts,
        all_negative_prompts=first.all_negative_prompts,
        all_seeds=first.all_seeds,
        all_subseeds=first.all_subseeds,
        index_of_first_image=first_single,
        infotexts=[infotext for _, infotext in chosen],
        extra_images_list=first.extra_images,
    )
