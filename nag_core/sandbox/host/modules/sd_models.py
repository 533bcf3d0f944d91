"""The two models. They are read at start; a job gets the one that the settings name, as on hosts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from modules import shared

# The checkpoints by name, and which of the sandbox's models each holds.
KIND_OF = {"tiny-shapes": "unet", "tiny-shapes-flux": "mmdit"}


class ModelData:
    """Both models under the names of their checkpoints, and the files they were read from (None: the shipped
    ones).
    """

    def __init__(self) -> None:
        self.prepared: dict[str, Any] = {}
        self.paths: dict[str, Path | None] = {}
        self.forge_hash = ""

    @property
    def sd_model(self) -> Any:
        """The model in use."""
        return shared.sd_model

    @property
    def forge_loading_parameters(self) -> dict[str, Any]:
        """What is chosen; the model in use is of it where its text is `forge_hash`."""
        return {"checkpoint_info": shared.opts.sd_model_checkpoint}


model_data = ModelData()
checkpoints_list = {name: SimpleNamespace(title=name, name=name, filename="") for name in KIND_OF}


def prepare() -> None:
    """Read the weights from disk; raises ValueError when they are missing or damaged."""
    from backend.diffusion_engine.engines import engine

    from nag_core.sandbox.model.load import load

    for name, kind in KIND_OF.items():
        # Another training of a model, where the evaluation was given one.
        path = shared.cmd_opts.weights.get(kind)
        if name not in model_data.prepared or model_data.paths[name] != path:
            model_data.prepared[name], model_data.paths[name] = engine(load(kind, path), name), path


def forge_model_reload() -> None:
    """Makes the model that the settings name the one in use."""
    prepare()
    models = model_data.prepared
    model_data.forge_hash = str(model_data.forge_loading_parameters)
    shared.sd_model = models.get(shared.opts.sd_model_checkpoint, models["tiny-shapes"])


def checkpoint_tiles() -> list[str]:
    """Names for a list on the page."""
    return list(checkpoints_list)
