"""Puts host, scripts, API and page together, in the order a real host does."""

from __future__ import annotations

from typing import Any

from nag_core.sandbox import makes
from nag_core.sandbox.bootstrap import activate


def create_app(flags: dict[str, Any] | None = None) -> Any:
    """The FastAPI application, ready to serve; `flags` override the command line's defaults.

    Raises HostPresentError inside another WebUI's process and ValueError without the model's weights.
    """
    activate()
    import torch
    from modules.shared_cmd_options import cmd_opts

    vars(cmd_opts).update(flags or {})
    torch.set_num_threads(1)

    from fastapi import FastAPI
    from modules import gradio_extensions, script_callbacks, scripts, sd_models, shared

    makes.apply(cmd_opts.make)
    gradio_extensions.install()
    sd_models.prepare()
    scripts.load_scripts()
    script_callbacks.ui_settings_callback()
    app = FastAPI(title="NAG sandbox")
    from nag_core.sandbox.api import Api
    from nag_core.sandbox.page import create_page, mount

    if cmd_opts.nowebui:
        # `before_ui` fires after the scripts' controls were built, as on the host without a page.
        create_page()
        Api(app)
        script_callbacks.before_ui_callback()
        script_callbacks.app_started_callback(None, app)
        return app
    script_callbacks.before_ui_callback()
    shared.demo = create_page()
    Api(app)
    script_callbacks.app_started_callback(shared.demo, app)
    return mount(app, shared.demo)
