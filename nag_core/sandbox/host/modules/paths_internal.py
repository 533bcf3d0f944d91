"""The older name of `modules.paths`."""

from modules.paths import data_path, extension_path, models_path, modules_path, script_path

__all__ = ["data_path", "extension_path", "models_path", "modules_path", "script_path"]
