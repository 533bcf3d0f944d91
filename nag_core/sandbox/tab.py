"""One of the two generation tabs: its controls, and what its buttons do."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any

import gradio as gr
from modules import scripts, sd_samplers, shared
from modules.ui_components import InputAccordion

from nag_core.sandbox.job import Job, can_compare

FIRST_PROMPT, FIRST_NEGATIVE = "a circle", "red"
POLL_SECONDS = 0.25


class Tab:
    """`controls` maps a name to a control; the job receives their values under the same names."""

    def __init__(self, name: str, runner: Any) -> None:
        self.name, self.runner = name, runner
        self.is_img2img = name == "img2img"
        self.controls: dict[str, Any] = {}

    def build(self) -> None:
        """Create and wire everything."""
        with gr.Row(elem_id=f"{self.name}_toprow"):
            self._prompts()
        with gr.Row():
            with gr.Column(variant="compact", elem_id=f"{self.name}_settings"):
                if self.is_img2img:
                    self._images()
                self._sampling()
                if not self.is_img2img:
                    self._hires()
                self._scripts()
            with gr.Column(elem_id=f"{self.name}_results"):
                self._results()
        self._wire()

    def _add(self, name: str, control: Any) -> Any:
        self.controls[name] = control
        return control

    def _slider(
        self,
        name: str,
        label: str,
        low: float,
        high: float,
        step: float,
        value: float,
        suffix: str | None = None,
    ) -> Any:
        return self._add(
            name,
            gr.Slider(
                low, high, value=value, step=step, label=label, elem_id=f"{self.name}_{suffix or name}"
            ),
        )

    def _prompts(self) -> None:
        with gr.Column(scale=6):
            self._add(
                "prompt", gr.Textbox(FIRST_PROMPT, label="Prompt", lines=2, elem_id=f"{self.name}_prompt")
            )
            self._add(
                "negative_prompt",
                gr.Textbox(
                    FIRST_NEGATIVE,
                    label="Negative prompt",
                    lines=2,
                    interactive=False,
                    elem_id=f"{self.name}_neg_prompt",
                ),
            )
        with gr.Column(scale=1, min_width=180, elem_id=f"{self.name}_actions_column"):
            self.generate = gr.Button("Generate", variant="primary", elem_id=f"{self.name}_generate")
            self.interrupt = gr.Button("Interrupt", elem_id=f"{self.name}_interrupt")
            with gr.Row(elem_id=f"{self.name}_tools"):
                self.paste = gr.Button(
                    "Paste infotext",
                    elem_id="paste",
                    tooltip="Read parameters from the prompt box, or the last job's when it is empty",
                )

    def _images(self) -> None:
        with gr.Row():
            self._add(
                "image", gr.Image(label="Image", type="pil", elem_id="img2img_image", sources=["upload"])
            )
            self._add(
                "mask",
                gr.Image(
                    label="Mask (optional, white changes)",
                    type="pil",
                    image_mode="RGB",
                    elem_id="img_inpaint_mask",
                    sources=["upload"],
                ),
            )

    def _sampling(self) -> None:
        with gr.Row():
            self._add(
                "sampler_name",
                gr.Dropdown(
                    sd_samplers.visible_sampler_names(),
                    value="Euler",
                    label="Sampling method",
                    elem_id=f"{self.name}_sampling",
                ),
            )
            self._slider("steps", "Sampling steps", 1, 50, 1, 8 if self.is_img2img else 4)
        with gr.Row():
            self._slider("width", "Width", 64, 512, 32, 256)
            self._slider("height", "Height", 64, 512, 32, 256)
        with gr.Row():
            self._slider("n_iter", "Batch count", 1, 8, 1, 1, "batch_count")
            self._slider("batch_size", "Batch size", 1, 8, 1, 2 if self.name == "txt2img" else 1)
        with gr.Row():
            cfg = self._slider("cfg_scale", "CFG Scale", 1.0, 30.0, 0.1, 1.0)
            self._add("seed", gr.Number(5, label="Seed", precision=0, elem_id=f"{self.name}_seed"))
        if self.is_img2img:
            self._slider("denoising_strength", "Denoising strength", 0.0, 1.0, 0.01, 0.6)
        cfg.change(
            _unless_one, [cfg], [self.controls["negative_prompt"]], queue=False, show_progress="hidden"
        )

    def _hires(self) -> None:
        with (
            gr.Row(elem_id="txt2img_accordions"),
            InputAccordion(False, label="Hires. fix", elem_id="txt2img_hr") as enabled,
        ):
            self._add("enable_hr", enabled)
            with gr.Row():
                self._slider("hr_scale", "Upscale by", 1.0, 3.0, 0.25, 1.5)
                self._slider("hr_second_pass_steps", "Hires steps", 0, 50, 1, 8, "hires_steps")
                self._slider("denoising_strength", "Denoising strength", 0.0, 1.0, 0.01, 0.5)
            hr_cfg = self._slider("hr_cfg", "Hires CFG Scale", 1.0, 30.0, 0.1, 1.0)
            with gr.Row():
                self._add("hr_prompt", gr.Textbox("", label="Hires prompt", elem_id="hires_prompt"))
                negative = self._add(
                    "hr_negative_prompt",
                    gr.Textbox(
                        "", label="Hires negative prompt", interactive=False, elem_id="hires_neg_prompt"
                    ),
                )
        hr_cfg.change(_unless_one, [hr_cfg], [negative], queue=False, show_progress="hidden")
        self.runner.setup_ui_for_section("accordions")

    def _scripts(self) -> None:
        with gr.Group(elem_id=f"{self.name}_script_container"):
            self.compare = gr.Checkbox(True, label="Compare with NAG off", elem_id=f"{self.name}_nag_compare")
            self.script_inputs = self.runner.setup_ui()

    def _results(self) -> None:
        self.gallery = gr.Gallery(
            label="Output",
            show_label=False,
            elem_id=f"{self.name}_gallery",
            columns=2,
            object_fit="contain",
            type="pil",
            format="png",
            interactive=False,
        )
        self.log = gr.HTML(elem_id=f"html_log_{self.name}")
        self.info = gr.HTML(elem_id=f"html_info_{self.name}")
        self.texts = gr.State([])
        self.record = gr.Textbox(visible=False, elem_id=f"generation_info_{self.name}")
        self.send = gr.Button(
            "Send to img2img", visible=not self.is_img2img, elem_id=f"{self.name}_send_to_img2img"
        )

    def _wire(self) -> None:
        names = list(self.controls)

        def generate(compare: bool, *values: Any) -> Iterator[tuple[Any, ...]]:
            named = dict(zip(names, values, strict=False))
            yield from self.run(named, list(values[len(names) :]), compare)

        inputs = [self.compare, *self.controls.values(), *self.script_inputs]
        outputs = [self.gallery, self.info, self.log, self.texts, self.record]
        self.generate.click(
            generate, inputs, outputs, concurrency_id="jobs", concurrency_limit=1, show_progress="hidden"
        )
        self.interrupt.click(lambda: shared.state.interrupt(), [], [], queue=False, show_progress="hidden")
        self.gallery.select(_text_of_selected, [self.texts], [self.info], queue=False, show_progress="hidden")

    def run(self, named: dict[str, Any], script_args: list[Any], compare: bool) -> Iterator[tuple[Any, ...]]:
        """For gallery, infotext, log, texts and record: progress while the job runs, then its result."""
        runner = scripts.scripts_img2img if self.is_img2img else scripts.scripts_txt2img
        job = Job(self.is_img2img, named, script_args, runner, compare and can_compare(runner, script_args))
        job.start()
        same = gr.update()
        while not job.wait(POLL_SECONDS):
            yield same, same, _progress(shared.state.progress()), same, same
        if job.error is not None:
            yield [], "", f"<p class='error'>{html.escape(job.error)}</p>", [], ""
            return
        texts = [text for _, _, text in job.results]
        yield (
            [(image, caption) for image, caption, _ in job.results],
            _paragraph(texts[-1] if texts else ""),
            _paragraph(job.comments),
            texts,
            json.dumps({"infotexts": texts}),
        )

    def paste_fields(self) -> list[tuple[Any, Any]]:
        """(control, infotext key) of the tab's own controls."""
        keys = {
            "prompt": "Prompt",
            "negative_prompt": "Negative prompt",
            "sampler_name": "Sampler",
            "steps": "Steps",
            "width": "Size-1",
            "height": "Size-2",
            "cfg_scale": "CFG scale",
            "seed": "Seed",
            "denoising_strength": "Denoising strength",
            "enable_hr": _had_hires,
            "hr_scale": "Hires upscale",
            "hr_second_pass_steps": "Hires steps",
            "hr_cfg": "Hires CFG Scale",
            "hr_prompt": "Hires prompt",
            "hr_negative_prompt": "Hires negative prompt",
        }
        return [(self.controls[name], key) for name, key in keys.items() if name in self.controls]


def _had_hires(params: dict[str, Any]) -> bool:
    return "Hires upscale" in params or "Hires steps" in params


def _unless_one(scale: float) -> Any:
    # The host greys a negative prompt out where it would not be encoded.
    return gr.update(interactive=scale != 1)


def _text_of_selected(texts: list[str], event: gr.SelectData) -> str:
    return _paragraph(texts[event.index]) if event.index < len(texts) else ""


def _progress(share: float) -> str:
    percent = round(share * 100)
    return f"<div class='progressDiv'><div class='progress' style='width:{percent}%'>{percent}%</div></div>"


def _paragraph(text: str) -> str:
    lines = "<br>".join(html.escape(line) for line in text.splitlines())
    return f"<p>{lines}</p>" if lines else ""
