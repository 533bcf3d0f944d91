"""The objects every script reaches for: settings, flags, job state, the loaded model."""

from typing import Any

from modules import devices
from modules.options import OptionInfo, Options, options_section
from modules.shared_cmd_options import cmd_opts
from modules.shared_state import State
from modules.styles import StyleDatabase

__all__ = ["OptionInfo", "Options", "cmd_opts", "device", "options_section", "opts", "state"]

device = devices.device
state = State()
prompt_styles = StyleDatabase()
demo: Any = None
parallel_processing_allowed = True
latent_upscale_default_mode = "Latent"
latent_upscale_modes = {
    "Latent": {"mode": "bilinear", "antialias": False},
    "Latent (nearest)": {"mode": "nearest", "antialias": False},
}
sd_upscalers: list[Any] = []
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
        "send_size": OptionInfo(True),
        "infotext_skip_pasting": OptionInfo([]),
        "infotext_styles": OptionInfo("Ignore"),
        "img_max_size_mp": OptionInfo(200.0),
        "initial_noise_multiplier": OptionInfo(1.0),
        "s_min_uncond": OptionInfo(0.0),
        "skip_early_cond": OptionInfo(0.0),
        "sdxl_crop_left": OptionInfo(0),
        "sdxl_crop_top": OptionInfo(0),
        "live_previews_enable": OptionInfo(True),
        "forge_additional_modules": OptionInfo([]),
        "forge_unet_storage_dtype": OptionInfo("Automatic"),
        "hires_fix_use_firstpass_conds": OptionInfo(False),
    },
)
opts = Options(options_templates)


class _TotalProgress:
    def update(self) -> None:
        """The sandbox draws no console progress bar."""

    def updateTotal(self, total: int) -> None:  # noqa: N802
        """The sandbox draws no console progress bar."""

    def clear(self) -> None:
        """The sandbox draws no console progress bar."""


total_tqdm = _TotalProgress()


def __getattr__(name: str) -> Any:
    if name == "sd_model":
        from modules import sd_models

        return sd_models.model_data.get_sd_model()
    raise AttributeError(f"module 'modules.shared' has no attribute '{name}'")
