"""CLIP score with open_clip's models, from weights that are on this machine.

100 × the cosine of the picture's and the text's embedding, as the paper's tables count it (Hessel et al.,
arXiv 2104.08718, without that paper's factor 2.5). The paper does not say which CLIP it took: compare numbers
of one model only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nag_core.evaluate.pairs import Pair
from nag_core.evaluate.scorer import Choice, MissingScorerError


class ClipScorer:
    """Raises MissingScorerError where package or weights are missing."""

    name = "clip"

    def __init__(self, choice: Choice) -> None:
        # Read when the hub's client is first imported: nothing is fetched behind the user's back.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            import open_clip
            import torch
        except Exception as error:
            # Not ImportError alone: a torchvision of another build than torch raises RuntimeError here.
            raise MissingScorerError(
                f"CLIP score is missing ({type(error).__name__}: {error}): pip install -e '.[clip]', or run "
                "--score-only with the Python of a WebUI that has open_clip"
            ) from error
        model, weights = choice.clip_model, choice.clip_weights
        if not _on_this_machine(open_clip, model, weights):
            raise MissingScorerError(
                f"CLIP score is missing: the weights {weights} of {model} are not in this machine's cache. "
                '`python -c "import open_clip; open_clip.create_model_and_transforms('
                f"'{model}', pretrained='{weights}')\"` fetches them; --clip-weights takes a file as well"
            )
        self.identity = f"{model} {Path(weights).name} (open_clip {open_clip.__version__})"
        self._torch = torch
        self._device = choice.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._model, _, self._preprocess = open_clip.create_model_and_transforms(
                model, pretrained=weights, device=self._device
            )
        except Exception as error:
            # Whatever the library raises for a damaged or foreign file: the pictures are not lost for it.
            raise MissingScorerError(
                f"CLIP score is missing: {model} does not load {weights} ({error})"
            ) from error
        self._model.eval()
        self._tokens = open_clip.get_tokenizer(model)
        self._texts: dict[str, Any] = {}

    def score(self, picture: Any, pair: Pair) -> dict[str, float]:
        with self._torch.inference_mode():
            batch = self._preprocess(picture)[None].to(self._device)
            whole = self._normalised(self._model.encode_image(batch))
        return {
            "clip_prompt": 100 * float(whole @ self._text(pair.prompt)),
            "clip_negative": 100 * float(whole @ self._text(pair.negative)),
        }

    def _text(self, text: str) -> Any:
        if text not in self._texts:
            with self._torch.inference_mode():
                tokens = self._tokens([text]).to(self._device)
                self._texts[text] = self._normalised(self._model.encode_text(tokens))
        return self._texts[text]

    def _normalised(self, features: Any) -> Any:
        """(1, width) to (width,), fp32 on the CPU."""
        return self._torch.nn.functional.normalize(features[0].float().cpu(), dim=-1)


def _on_this_machine(open_clip: Any, model: str, weights: str) -> bool:
    """Whether the weights are a file, or in the cache that open_clip would take them from."""
    if Path(weights).is_file():
        return True
    known = open_clip.pretrained.get_pretrained_cfg(model, weights) or {}
    address, hub = known.get("url", ""), known.get("hf_hub", "")
    if address and (Path.home() / ".cache/clip" / address.rpartition("/")[2]).is_file():
        return True
    if not hub:
        return False
    from huggingface_hub import try_to_load_from_cache

    repository, _, file = hub.rpartition("/")
    names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)
