"""The two models. They are read at start; a job gets the one that the settings name, as on hosts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from modules import script_callbacks, shared

# The checkpoints by name, and which of the sandbox's models each holds.
KIND_OF = {"tiny-shapes": "unet", "tiny-shapes-flux": "mmdit"}


class FakeInitialModel:
    """What `shared.sd_model` is before the first job."""

    cond_stage_model = None
    chunk_length = 75

    def get_prompt_lengths_on_ui(self, prompt: str) -> tuple[int, int]:
        """A guess by words."""
        return len(prompt.split()), self.chunk_length


class ModelData:
    """Holds the model in use, both under the names of their checkpoints, and the files they were read from
    (None: the shipped ones).
    """

    def __init__(self) -> None:
        self.sd_model: Any = FakeInitialModel()
        self.prepared: dict[str, Any] = {}
        self.paths: dict[str, Path | None] = {}

    def get_sd_model(self) -> Any:
        """The model, or its stand-in."""
        return self.sd_model


model_data = ModelData()
checkpoints_list = {name: SimpleNamespace(title=name, name=name, filename="") for name in KIND_OF}
checkpoint_aliases = checkpoints_list


def prepare() -> None:
    """Read the weights from disk; raises ValueError when they are missing or damaged."""
    from backend.diffusion_engine.engines import engine

    from nag_core.sandbox.model.load import load

    for name, kind in KIND_OF.items():
        # Another training of a model, where the evaluation was given one.
        path = shared.cmd_opts.weights.get(kind)
        if name not in model_data.prepared or model_data.paths[name] != path:
            model_data.prepared[name], model_data.paths[name] = engine(load(kind, path), name), path


def forge_model_reload() -> tuple[Any, bool]:
    """The model that the settings name, and whether this call loaded it; scripts hear of a change."""
    prepare()
    chosen = model_data.prepared.get(shared.opts.sd_model_checkpoint, model_data.prepared["tiny-shapes"])
    if model_data.sd_model is chosen:
        return chosen, False
    model_data.sd_model = chosen
    script_callbacks.model_loaded_callback(chosen)
    return chosen, True


def get_closet_checkpoint_match(search: str) -> Any:
    """The checkpoint of that name; the host's own spelling of the function's."""
    return checkpoints_list.get(search)


def checkpoint_tiles(use_short: bool = False) -> list[str]:
    """Names for a list on the page."""
    return list(checkpoints_list)


def reload_model_weights(*args: Any, **kwargs: Any) -> None:
    """Nothing to swap before the next job."""
