"""Makes the stand-in `modules` and `backend` packages importable, once, and only when the sandbox starts."""

import os
import sys
from pathlib import Path

HOST_DIR = Path(__file__).resolve().parent / "host"
SHIMMED = ("modules", "backend")


class HostPresentError(RuntimeError):
    """Another WebUI's packages are already imported in this process."""


def activate() -> None:
    """Put `host/` first on sys.path; refuse when `modules` or `backend` come from elsewhere already."""
    for name in SHIMMED:
        present = sys.modules.get(name)
        if present is not None and not _is_ours(present):
            raise HostPresentError(
                f"the package '{name}' is already imported from {_origin(present)}; "
                "the sandbox cannot run inside another WebUI's process"
            )
    # Jobs run in threads of their own, which read it from here; the model is too small for more.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if str(HOST_DIR) not in sys.path:
        sys.path.insert(0, str(HOST_DIR))


def _is_ours(module: object) -> bool:
    return Path(_origin(module)).is_relative_to(HOST_DIR)


def _origin(module: object) -> str:
    paths = list(getattr(module, "__path__", []))
    return getattr(module, "__file__", None) or (paths[0] if paths else "an unknown place")
