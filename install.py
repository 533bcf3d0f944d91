"""Installs nothing: NAG needs only what the WebUI ships. Says so in one line where something is missing."""

import importlib.util

missing = [name for name in ("torch", "gradio") if importlib.util.find_spec(name) is None]
if missing:
    print(
        f"sd-webui-nag: {', '.join(missing)} not found; this extension runs inside a Stable Diffusion WebUI."
    )
