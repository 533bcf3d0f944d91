"""The one model. It is read at start, and handed to scripts at the first job, as hosts do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from modules import script_callbacks


class FakeInitialModel:
    """What `shared.sd_model` is before the first job."""

    cond_stage_model = None
    chunk_length = 75

    def get_prompt_lengths_on_ui(self, prompt: str) -> tuple[int, int]:
        """A guess by words."""
        return len(prompt.split()), self.chunk_length


class ModelData:
    """Holds the loaded model."""

    def __init__(self) -> None:
        self.sd_model: Any = FakeInitialModel()
        self.prepared: Any = None

    def get_sd_model(self) -> Any:
        """The model, or its stand-in."""
        return self.sd_model


model_data = ModelData()
checkpoints_list = {"tiny-shapes": SimpleNamespace(title="tiny-shapes", name="tiny-shapes", filename="")}
checkpoint_aliases = checkpoints_list


def prepare() -> None:
    """Read the weights from disk; raises ValueError when they are missing or damaged."""
    if model_data.prepared is None:
        from backend.diffusion_engine.tiny import TinyDiffusion

        from nag_core.sandbox.model.load import load

        model_data.prepared = TinyDiffusion(*load())


def forge_model_reload() -> tuple[Any, bool]:
    """The model, and whether this call loaded it; scripts hear of it the first time."""
    if not isinstance(model_data.sd_model, FakeInitialModel):
        return model_data.sd_model, False
    prepare()
    model_data.sd_model = model_data.prepared
    script_callbacks.model_loaded_callback(model_data.sd_model)
    return model_data.sd_model, True


def get_closet_checkpoint_match(search: str) -> Any:
    """There is one checkpoint; the host's own spelling of the name."""
    return checkpoints_list.get(search)


def checkpoint_tiles(use_short: bool = False) -> list[str]:
    """Names for a list on the page."""
    return list(checkpoints_list)


def reload_model_weights(*args: Any, **kwargs: Any) -> None:
    """Nothing to swap."""
