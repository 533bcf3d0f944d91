"""Calling a host's functions with what they take.

Releases add and drop parameters, and extensions put `*args, **kwargs` wrappers in front. So a function is
asked what it takes when it is called, behind whatever stands in front of it. What only some hosts take is
passed by name, and only there. What is needed and gone is `HostChanged`, in one sentence.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from nag_core.hosts import version
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.identity import VERSION

_ANYTHING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_DEEPEST = 8  # wrappers around wrappers


class HostChanged(UnsupportedHost, LookupError):  # noqa: N818 - a reason to stand aside, not a fault
    """A function or attribute of the host is not what NAG knows; the message is one readable sentence."""


def to_report() -> str:
    """What to do about a sentence that an update of the host may be behind."""
    versions = f"WebUI {version.running()}, NAG {VERSION}"
    return f"please report this line to the author of this extension ({versions})"


def attribute(owner: Any, name: str, whose: str = "the WebUI") -> Any:
    """`owner.name`; `HostChanged` where it is gone. whose: what the owner is a part of."""
    try:
        return getattr(owner, name)
    except AttributeError:
        where = getattr(owner, "__name__", type(owner).__name__)
        raise HostChanged(f"this version of {whose} has no {where}.{name}, which NAG needs") from None


def call(
    function: Callable[..., Any], *args: Any, where_taken: Mapping[str, Any] | None = None, **kwargs: Any
) -> Any:
    """`function(*args, **kwargs)`, and of `where_taken` what it takes by name.

    `HostChanged`, before anything is called, where it does not take `args` and `kwargs`, as far as that is
    sure: what a wrapper of unknown make calls can only be guessed, and such a guess chooses from
    `where_taken`, but refuses nothing.
    """
    behind, sure = original(function)
    signature = _signature(behind)
    more = {name: value for name, value in (where_taken or {}).items() if _takes(signature, name)}
    if signature is not None and sure:
        try:
            signature.bind(*args, **kwargs, **more)
        except TypeError as error:
            name = getattr(function, "__name__", type(function).__name__)
            raise HostChanged(
                f"this version of the WebUI has another {name}() than NAG knows ({error})"
            ) from error
    return function(*args, **kwargs, **more)


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether it takes an argument of that name, as far as can be seen behind its wrappers."""
    return _takes(_signature(original(function)[0]), name)


def original(function: Callable[..., Any]) -> tuple[Callable[..., Any], bool]:
    """The function behind its wrappers, and whether that is sure: the first that names all it takes, else the
    innermost found.

    A wrapper is one that takes more than it names. What it wraps is sure by `__wrapped__` (functools.wraps),
    or if it closes over a function of its own name; it is guessed where it closes over one function only, or
    is a partial of it.
    """
    sure = True
    for _ in range(_DEEPEST):
        found = _enclosed(function) if _open(function) else None
        if found is None:
            break
        function, certain = found
        sure = sure and certain
    return function, sure


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """None for builtins, which do not say."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _open(function: Callable[..., Any]) -> bool:
    """Whether it takes more than it names."""
    signature = _signature(function)
    return signature is not None and any(one.kind in _ANYTHING for one in signature.parameters.values())


def _takes(signature: inspect.Signature | None, name: str) -> bool:
    named = signature.parameters.get(name) if signature else None
    return named is not None and named.kind not in (*_ANYTHING, inspect.Parameter.POSITIONAL_ONLY)


def _enclosed(function: Callable[..., Any]) -> tuple[Callable[..., Any], bool] | None:
    """The function that a wrapper without `__wrapped__` calls, and whether it is by its name."""
    if isinstance(function, functools.partial):
        return function.func, False
    plain = getattr(function, "__func__", function)
    contents = []
    for cell in getattr(plain, "__closure__", None) or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    functions = [one for one in contents if inspect.isroutine(one)]
    named = [one for one in functions if getattr(one, "__name__", "") == getattr(plain, "__name__", None)]
    found = named or functions
    if len(found) != 1:
        return None
    # A method's wrapper may close over the plain function, which takes the instance as well.
    of_class = inspect.ismethod(function) and inspect.isfunction(found[0])
    return (found[0].__get__(function.__self__) if of_class else found[0]), bool(named)
