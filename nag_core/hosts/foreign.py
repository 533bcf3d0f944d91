"""Other extensions' code in the model beside ours: whose it is, and what it does there."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from types import CodeType
from typing import Any

from torch import nn

from nag_core.hosts.compiled import original, original_function

_FOLDERS = ("extensions", "extensions-builtin")
# As a word of its own (`nag_scale`, "forge_neo_nag", "NAGModelWrapper", "NAGuidance"): not "manager".
_NAG = re.compile(r"(?:^|[^a-z])nag(?:[^a-z]|$|uidance|[A-Z])|NAG|normalized_attention_guidance")
_OURS = __name__.partition(".")[0]
# Lists of functions in a patcher's options, and single ones.
_SLOTS = re.compile(r"^(?:sampler_\w+_function|model_function_wrapper|conditioning_modifiers)$")


def replaced_forward(module: nn.Module) -> Callable | None:
    """The `forward` that someone put on this module (NegPiP); None where it is the class's own.

    An object patch of the host leaves the class's own method behind as an instance attribute; that one is
    harmless. So is torch.compile's, of a module or of its forward.
    """
    forward = module.__dict__.get("forward")
    if forward is None or original(module) is not module:
        return None
    forward = original_function(forward)
    return None if getattr(forward, "__func__", None) is type(module).forward else forward


def replaced_within(modules: Iterable[nn.Module]) -> Callable | None:
    """The first forward that someone put on one of these modules or on one inside; plain layers aside, whose
    forwards LoRA and quantisation replace.
    """
    inside = (one for module in modules for one in module.modules() if next(one.children(), None) is not None)
    return next(filter(None, map(replaced_forward, inside)), None)


def is_negpip(function: Any) -> bool:
    """Whether a forward is NegPiP's, by its file: it attends to more words, and adds no term of its own
    (as IP-Adapter's does), which would stay in z+ - z-.
    """
    code = _code(function)
    return code is not None and PurePath(code.co_filename).stem == "negpip"


def owner(function: Any) -> str:
    """ "the extension NAME" by the folder its code lies in; "another extension" where it lies elsewhere."""
    code = _code(function)
    parts = PurePath(code.co_filename).parts if code is not None else ()
    for folder, name in itertools.pairwise(parts):
        if folder in _FOLDERS:
            return f"the extension {name}"
    return "another extension"


def replaced_by(function: Any) -> str:
    """The sentence for layers whose forward is this one."""
    return f"{owner(function)} replaced the forward of some attention layers; those are unguided"


def doubled(options: Mapping[str, Any]) -> str:
    """The sentence where another NAG guides the model call with these options, too; empty where none does.

    Known by the words of the code that is in the model: two implementations share no more than those.
    """
    found = next(filter(speaks_of_nag, _functions(options)), None)
    return f"{owner(found)} guides with a NAG of its own as well: the guidance is doubled" if found else ""


def guards(p: Any) -> str:
    """The sentence where another NAG has taken the job's sampling over; empty where none has."""
    sample = getattr(p, "__dict__", {}).get("sample")
    if sample is None or not speaks_of_nag(sample):
        return ""
    return f"{owner(sample)} guides this job with a NAG of its own, which takes nothing beside it"


def speaks_of_nag(function: Any) -> bool:
    """Whether a function's or a callable object's code has NAG in its names and is not ours."""
    code, kind = _code(function), type(function)
    module = str(getattr(function, "__module__", "") or kind.__module__)
    if code is None or module.partition(".")[0] == _OURS:
        return False
    words = (*module.split("."), kind.__name__, getattr(function, "__qualname__", ""), code.co_name)
    return any(map(_NAG.search, (*words, *code.co_names, *code.co_varnames, *code.co_freevars)))


def _functions(options: Mapping[str, Any]) -> Iterator[Callable]:
    """All that extensions have put into a patcher's model options."""
    inner = options.get("transformer_options", {})
    slots = [value for name, value in options.items() if _SLOTS.match(name)]
    waiting: list[Any] = [inner.get("patches"), inner.get("patches_replace"), *slots]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, (list, tuple)):
            waiting.extend(one)
        elif callable(one):
            yield one


def _code(function: Any) -> CodeType | None:
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    own = getattr(function, "__code__", None)
    return own or getattr(vars(type(function)).get("__call__"), "__code__", None)
