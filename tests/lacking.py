"""The sandbox's host without one thing of the table, for our code alone: the host itself goes on with it.

So it is after an update that gave the thing another name throughout the host. In the place of a function
there can be one that takes something else.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tests.host_table import FAMILIES, Entry, Word
from tests.live.serving import ROOT

_SANDBOX = str(ROOT / "nag_core" / "sandbox")
_PACKAGES = ("modules", "backend", "nag_core")
_OURS = (str(ROOT / "nag_core"), str(ROOT / "scripts"))


@contextmanager
def lacking(entry: Entry, instead: Any = None) -> Iterator[int]:
    """Inside, our code does not find the thing, or finds `instead`; gives the number of places it was in."""
    owners, name = _owners(entry)
    with ExitStack() as stack:
        if isinstance(entry, Word) and not owners:
            yield _rename(stack, name)
            return
        for owner in owners:
            if isinstance(owner, ModuleType):
                _take_from_module(stack, owner, name, looked_up=entry in FAMILIES)
            _hide(stack, owner, name, instead)
        yield len(owners)


def _take_from_module(stack: ExitStack, module: ModuleType, name: str, looked_up: bool) -> None:
    """What is found in other ways than by asking the module: a network by the name of its class, and what a
    network's module looks up (`looked_up`) in its globals.
    """
    thing = getattr(module, name)
    if isinstance(thing, type):
        stack.callback(setattr, thing, "__name__", thing.__name__)
        thing.__name__ = f"{name}_of_old"
    elif looked_up:
        _rename_global(stack, module, name)


def _owners(entry: Entry) -> tuple[list[Any], str]:
    """The modules or classes of the sandbox that have the thing, and its name there."""
    owner, _, name = entry.name.rpartition(".")
    if name == "__init__":  # what is called is the class, from wherever it is imported
        kind = _class(owner)
        return [module for module in _modules() if kind and vars(module).get(owner) is kind], owner
    modules = [module for file in entry.files if (module := _module(file)) is not None]
    kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    if isinstance(entry, Word):  # an attribute, or the key of a dictionary
        model = importlib.import_module("modules.shared").sd_model
        found = [kind for kind in kinds if name in vars(kind)]
        return found + ([type(model)] if hasattr(model, name) else []), name
    if not owner:
        return [module for module in modules if hasattr(module, name)], name
    if owner == "*":
        return [kind for kind in kinds if kind.__module__.split(".")[0] in _PACKAGES], name
    found = [kind for kind in kinds if kind.__name__ == owner] or [_class(owner)]  # it may be elsewhere here
    return [kind for kind in found[:1] if kind is not None], name


def _class(name: str) -> type | None:
    found = [vars(module)[name] for module in _modules() if isinstance(vars(module).get(name), type)]
    return found[0] if found else None


def _modules() -> list[ModuleType]:
    return [module for name, module in list(sys.modules.items()) if name.split(".")[0] in _PACKAGES]


def _module(file: str) -> ModuleType | None:
    try:
        return importlib.import_module(file.removesuffix(".py").replace("/", "."))
    except ImportError:
        return None


def _is_ours(frame: Any) -> bool:
    file = frame.f_code.co_filename
    return file.startswith(_OURS) and not file.startswith(_SANDBOX)


def _hide(stack: ExitStack, owner: Any, name: str, instead: Any) -> None:
    """Of a class for its instances: what is looked up on the class itself is found."""
    kind = type(owner) if isinstance(owner, ModuleType) else owner

    def hiding(original: Any) -> Any:
        def found(self: Any, asked_for: str) -> Any:
            if asked_for == name and _is_ours(sys._getframe(1)):
                if instead is None:
                    raise AttributeError(f"{owner.__name__!r} has no attribute {name!r}")
                return instead
            return original(self, asked_for)

        return found

    if kind is not owner:
        stack.callback(setattr, owner, "__class__", kind)
        owner.__class__ = type(kind.__name__, (kind,), {"__getattribute__": hiding(kind.__getattribute__)})
        return
    for method in ("__getattribute__", "__getattr__"):  # the second one is torch's, for parts of a network
        if hasattr(kind, method):
            own = vars(kind).get(method)
            stack.callback(setattr if own else delattr, kind, method, *([own] if own else []))
            setattr(kind, method, hiding(getattr(kind, method)))


def _rename_global(stack: ExitStack, module: ModuleType, name: str) -> None:
    """Gives what a module's functions look up by name another one."""
    other = f"{name}_of_old"
    stack.callback(vars(module).pop, other)
    stack.callback(vars(module).__setitem__, name, vars(module)[name])
    vars(module)[other] = vars(module).pop(name)
    for function in _functions(lambda one: one.__globals__ is vars(module)):
        code = function.__code__
        names = tuple(other if one == name else one for one in code.co_names)
        stack.callback(setattr, function, "__code__", code)
        function.__code__ = code.replace(co_names=names)


def _rename(stack: ExitStack, name: str) -> int:
    """Gives a key, or an argument, another name in all the sandbox's code; in how many functions it stood."""
    count = 0
    for function in _functions(lambda one: one.__code__.co_filename.startswith(_SANDBOX)):
        code = function.__code__
        changed = _renamed(code, name)
        if changed is not code:
            stack.callback(setattr, function, "__code__", code)
            function.__code__ = changed
            count += 1
    return count


def _functions(wanted: Callable[[FunctionType], bool]) -> list[FunctionType]:
    return [one for one in gc.get_objects() if type(one) is FunctionType and wanted(one)]


def _renamed(code: CodeType, name: str) -> CodeType:
    def other(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(other, value))
        if isinstance(value, CodeType):
            return _renamed(value, name)
        return f"{name}_of_old" if isinstance(value, str) and value == name else value

    old = {part: getattr(code, part) for part in ("co_consts", "co_varnames")}
    new = {part: other(value) for part, value in old.items()}
    return code.replace(**new) if new != old else code
