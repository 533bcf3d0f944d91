"""Finds and loads script files, and holds the two runners. Scripts import the base class from here."""

from __future__ import annotations

import inspect
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

from modules import errors, paths, script_callbacks, script_loading
from modules.script_base import AlwaysVisible, PostprocessBatchListArgs, PostprocessImageArgs, Script
from modules.script_runner import ScriptRunner
from modules.shared_cmd_options import cmd_opts

__all__ = [
    "AlwaysVisible",
    "PostprocessBatchListArgs",
    "PostprocessImageArgs",
    "Script",
    "basedir",
    "load_scripts",
    "script_callbacks",
    "scripts_data",
]

ScriptFile = namedtuple("ScriptFile", ["basedir", "filename", "path"])
ScriptClassData = namedtuple("ScriptClassData", ["script_class", "path", "basedir", "module"])

scripts_data: list[ScriptClassData] = []
current_basedir = paths.script_path
scripts_txt2img: Any = None
scripts_img2img: Any = None
scripts_current: Any = None


def basedir() -> str:
    """The folder of the extension whose script is being loaded; the host's own folder at any other time."""
    return current_basedir


def list_scripts(scriptdirname: str = "scripts", extension: str = ".py") -> list[ScriptFile]:
    """Script files in load order: the host's own, then the extension's, by name within each."""
    folders = [
        Path(paths.script_path) / scriptdirname,
        Path(cmd_opts.scripts_dir or Path(paths.extension_path) / scriptdirname),
    ]
    return [
        ScriptFile(str(folder.parent), file.name, str(file))
        for folder in folders
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix.lower() == extension
    ]


def load_scripts() -> None:
    """Load every script file anew. A file that fails is reported and left out."""
    global current_basedir, scripts_txt2img, scripts_img2img  # noqa: PLW0603 (the host publishes them so)
    scripts_data.clear()
    script_callbacks.clear_callbacks()
    for file in list_scripts():
        if file.basedir != paths.script_path and file.basedir not in sys.path:
            sys.path.insert(0, file.basedir)
        current_basedir = file.basedir
        try:
            _register(script_loading.load_module(file.path), file)
        except Exception:
            errors.report(f"Error loading script: {file.filename}", exc_info=True)
        finally:
            current_basedir = paths.script_path
    scripts_txt2img, scripts_img2img = ScriptRunner(scripts_data), ScriptRunner(scripts_data)


def _register(module: Any, file: ScriptFile) -> None:
    # Every Script subclass in the module's namespace counts, imported ones too, as on a real host:
    # `from modules.scripts import Script` would register the base class itself.
    for value in list(module.__dict__.values()):
        if inspect.isclass(value) and issubclass(value, Script):
            scripts_data.append(ScriptClassData(value, file.path, file.basedir, module))
