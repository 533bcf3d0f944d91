"""The objects every script reaches for: settings, flags, job state, the loaded model."""

from typing import Any

from modules import devices
from modules.options import OptionInfo, Options, options_section
from modules.shared_cmd_options import cmd_opts
from modules.shared_state import State
from modules.styles import StyleDatabase

__all__ = ["OptionInfo", "Options", "cmd_opts", "device", "options_section", "opts", "state"]


class FakeInitialModel:
    """What `sd_model` is before the first job."""


device = devices.device
state = State()
prompt_styles = StyleDatabase()
demo: Any = None
sd_model: Any = FakeInitialModel()
latent_upscale_default_mode = "Latent"
latent_upscale_modes = {
    "Latent": {"mode": "bilinear", "antialias": False},
    "Latent (nearest)": {"mode": "nearest", "antialias": False},
}
options_templates: dict[str, OptionInfo] = options_section(
    ("sandbox", "Sandbox"),
    {
        "sd_model_checkpoint": OptionInfo("tiny-shapes"),
        "CLIP_stop_at_last_layers": OptionInfo(1, "Clip skip", infotext="Clip skip"),
        "emphasis": OptionInfo("Original", "Emphasis mode"),
        "use_old_scheduling": OptionInfo(False),
        "persistent_cond_cache": OptionInfo(True, "Persistent cond cache"),
        "return_grid": OptionInfo(True, "Show grid in results"),
        "grid_only_if_multiple": OptionInfo(True),
        "enable_pnginfo": OptionInfo(True),
        "samples_format": OptionInfo("png"),
        "send_seed": OptionInfo(True),
        "infotext_skip_pasting": OptionInfo([]),
        "initial_noise_multiplier": OptionInfo(1.0),
        "s_min_uncond": OptionInfo(0.0),
        "skip_early_cond": OptionInfo(0.0),
        "hires_fix_use_firstpass_conds": OptionInfo(False),
    },
)
opts = Options(options_templates)


class _TotalProgress:
    def update(self) -> None:
        """The sandbox draws no console progress bar."""


total_tqdm = _TotalProgress()
