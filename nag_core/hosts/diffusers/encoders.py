"""A pipeline's encode_prompt: listened to while it is called, and asked for other texts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from nag_core.hosts import asked
from nag_core.hosts.unsupported import UnsupportedHost


def listened(pipe: Any) -> bool:
    """Whether somebody listens to this pipeline already."""
    return getattr(pipe.encode_prompt, "nag_listens", False)


def own_encoder(pipe: Any) -> Callable[..., Any]:
    """The pipeline's encode_prompt as its class has it, behind whatever stands in front of it.

    SD.Next puts a function on the pipeline that takes anything, remembers by the prompt alone, and answers an
    error with the prompt itself (modules/sd_hijack_te.py): a negative asked of it comes back as the prompt.
    """
    of_class = getattr(type(pipe), "encode_prompt", None)
    return pipe.encode_prompt if of_class is None else of_class.__get__(pipe)


def _signature(encode: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(asked.original(encode)[0])


@contextmanager
def listening(pipe: Any, heard: Callable[[Callable[..., Any], dict[str, Any], Any], None]) -> Iterator[None]:
    """Tells `heard` of every call of the pipeline's encode_prompt: the pipeline's own encoder, the arguments
    by that one's names, and what the call gave.
    """
    if listened(pipe):
        raise UnsupportedHost("NAG is applied to this pipeline already")
    front, own = pipe.encode_prompt, own_encoder(pipe)
    signature = _signature(own)
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    if "prompt" not in signature.parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise UnsupportedHost(f"the text encoding of {type(pipe).__name__} takes no plain prompt")

    @functools.wraps(own)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        result = front(*args, **kwargs)
        heard(own, _by_name(signature, args, kwargs), result)
        return result

    encode_prompt.nag_listens = True
    before = pipe.__dict__.get("encode_prompt")
    pipe.__dict__["encode_prompt"] = encode_prompt
    try:
        yield
    finally:
        if before is None:
            del pipe.__dict__["encode_prompt"]
        else:
            pipe.__dict__["encode_prompt"] = before


def _by_name(signature: inspect.Signature, args: tuple, kwargs: dict) -> dict[str, Any]:
    arguments = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
    return arguments


class CountMismatchError(ValueError):
    """The negatives are not as many as the prompts."""


def texts_of(negative: str | Sequence[str], arguments: dict[str, Any]) -> list[str]:
    """One negative for each prompt of the call; else `CountMismatchError`."""
    prompt = arguments.get("prompt")
    embeds = arguments.get("prompt_embeds")
    count = 1 if isinstance(prompt, str) else len(embeds if prompt is None else prompt)
    if isinstance(negative, str):
        return [negative] * count
    if len(negative) != count:
        raise CountMismatchError(f"{len(negative)} negatives for {count} prompts")
    return list(negative)


def without_texts(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of encode_prompt's arguments those that are no texts."""
    return {name: _comparable(value) for name, value in arguments.items() if not _is_text(name)}


def _is_text(name: str) -> bool:
    return "prompt" in name and not name.startswith("num_")


def _comparable(value: Any) -> Any:
    """A value that == takes; others (images) stand for themselves."""
    plain = (str, int, float, list, torch.device, torch.dtype, type(None))
    return value if isinstance(value, plain) else id(value)


def encoded(encode: Callable[..., Any], arguments: dict[str, Any], texts: Sequence[str]) -> Any:
    """`texts` by the pipeline's encoders, asked as the prompt was: same length, device, clip_skip, LoRA
    scale, images to edit.

    Once each, and not once for each image: SANA's pipeline repeats its masks in another order than its texts.
    Its instruction to rewrite the prompt is left out, as for its own negative.
    """
    dropped = ("embeds", "mask")
    kept = {
        name: value
        for name, value in arguments.items()
        if not name.startswith("negative") and not name.endswith(dropped)
    }
    own = {
        "prompt_2": None, "prompt_3": None, "complex_human_instruction": None,
        "do_classifier_free_guidance": False, "num_images_per_prompt": 1, "num_videos_per_prompt": 1,
    }  # fmt: skip
    parameters = _signature(encode).parameters
    kept.update({name: value for name, value in own.items() if name in parameters})
    if kept.get("image") is None:
        return encode(**{**kept, "prompt": list(texts)})  # a copy, as Z-Image's pipeline writes into it
    # Encoders that read images take as many as the texts together have places for.
    each = [encode(**{**kept, "prompt": [text]}) for text in texts]
    return tuple(map(_together, zip(*each, strict=True)))


def _together(parts: Sequence[Any]) -> list[Any] | None:
    """One part of several texts' encodings, by text; None where there is none."""
    return None if any(part is None for part in parts) else [row for part in parts for row in part]
