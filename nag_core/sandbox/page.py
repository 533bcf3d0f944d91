"""The page: txt2img, img2img, PNG info and settings, with the element ids of the host it stands in for."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.routes
import jinja2
from fastapi import FastAPI
from modules import images, infotext_utils, paths, scripts, sd_models, shared

from nag_core.sandbox.tab import Tab

HERE = Path(__file__).parent
EXTERNAL = re.compile(r"<(?:link|script)\b[^>]*https://[^>]*>(?:\s*</script>)?")
SYSTEM_FONTS = ["system-ui", "sans-serif"]


def create_page() -> gr.Blocks:
    """All tabs, wired. The runners' script lists are built here."""
    theme = gr.themes.Default(font=SYSTEM_FONTS, font_mono=["monospace"])
    with gr.Blocks(
        theme=theme,
        analytics_enabled=False,
        title="NAG sandbox",
        head=_head(),
        css=(HERE / "page.css").read_text(encoding="utf8"),
    ) as demo:
        gr.Markdown(
            "**NAG sandbox**: a stand-in WebUI. Its model is tiny and draws coloured shapes: `a red circle`, "
            "`a square`, `blue`... It shows what the extension does, not what your model would make of it."
        )
        _checkpoint()
        with gr.Tabs(elem_id="tabs") as tabs:
            text_tab = _tab("txt2img", scripts.scripts_txt2img)
            image_tab = _tab("img2img", scripts.scripts_img2img)
            with gr.Tab("PNG Info", id="pnginfo"):
                _png_info()
            with gr.Tab("Settings", id="settings"):
                _settings()
        _connect_send(text_tab, image_tab, tabs)
    return demo


def _checkpoint() -> None:
    """Which model draws; the next job loads it."""
    names = sd_models.checkpoint_tiles()
    control = gr.Dropdown(
        names,
        value=shared.opts.sd_model_checkpoint,
        label="Checkpoint",
        info="tiny-shapes is a UNet, as SD1.5; tiny-shapes-flux a transformer, as Flux",
        elem_id="setting_sd_model_checkpoint",
    )
    control.change(lambda name: shared.opts.set("sd_model_checkpoint", name) and None, [control], [])


def _tab(name: str, runner: Any) -> Tab:
    with gr.Tab(name, id=name, elem_id=f"tab_{name}"):
        scripts.scripts_current = runner
        runner.initialize_scripts(name == "img2img")
        runner.prepare_ui()
        tab = Tab(name, runner)
        tab.build()
        scripts.scripts_current = None
    fields = infotext_utils.paste_fields[name] = tab.paste_fields() + runner.infotext_fields
    infotext_utils.connect_paste(tab.paste, fields, tab.controls["prompt"])
    return tab


def _connect_send(source: Tab, target: Tab, tabs: gr.Tabs) -> None:
    def picture(gallery: list[Any] | None) -> tuple[Any, Any]:
        if not gallery:
            return gr.update(), gr.update()
        return gallery[-1][0], gr.Tabs(selected="img2img")

    infotext_utils.connect_send(source.send, "txt2img", "img2img", source.runner.paste_field_names)
    source.send.click(picture, [source.gallery], [target.controls["image"], tabs], show_progress="hidden")


def _png_info() -> None:
    image = gr.Image(type="filepath", label="Source", elem_id="pnginfo_image", sources=["upload"])
    text = gr.Textbox(label="Parameters", elem_id="pnginfo_html_info", lines=4, interactive=False)

    def read(path: str | None) -> str:
        if path is None:
            return ""
        from PIL import Image

        with Image.open(path) as opened:
            return images.read_info_from_image(opened)[0] or "no parameters in this picture"

    image.change(read, [image], [text])


def _settings() -> None:
    """Controls for the options that scripts registered; they last as long as the process."""
    drawn = [(key, info) for key, info in shared.opts.data_labels.items() if info.component is not None]
    if not drawn:
        gr.Markdown("No script has registered settings.")
    for key, info in drawn:
        extra = info.component_args() if callable(info.component_args) else info.component_args or {}
        control = info.component(
            label=info.label, value=shared.opts.data.get(key), elem_id=f"setting_{key}", **extra
        )
        if info.comment_after:
            gr.HTML(info.comment_after)
        control.change(lambda value, key=key: shared.opts.set(key, value) and None, [control], [])


def _head() -> str:
    """The page's own script, then the extension's, in the order of their names."""
    extension = (
        Path(shared.cmd_opts.scripts_dir or Path(paths.extension_path) / "scripts").parent / "javascript"
    )
    files = [HERE / "page.js", *(sorted(extension.glob("*.js")) if extension.is_dir() else [])]
    return "\n".join(f"<script>\n{file.read_text(encoding='utf8')}\n</script>" for file in files)


def mount(app: FastAPI, demo: gr.Blocks) -> FastAPI:
    """Serve the page at / after every other route, with nothing in it that loads from elsewhere."""
    environment = gradio.routes.templates.env
    original = environment.loader

    def local_only(name: str) -> str:
        return EXTERNAL.sub("", original.get_source(environment, name)[0])

    environment.loader = jinja2.FunctionLoader(local_only)
    environment.cache.clear()
    demo.queue(max_size=16)
    return gr.mount_gradio_app(app, demo, path="/", allowed_paths=[os.path.realpath(paths.data_path)])
