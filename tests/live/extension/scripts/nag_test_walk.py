"""Test-only: what of NAG is in this WebUI's modules, models and memory right now, for tests/live/soak.py.

GET /nag-test/v1/walk names it, /nag-test/v1/memory only how much memory there is. POST
/nag-test/v1/leave?what=hook leaves something behind on purpose, so that a test can see that it is found; the
next such call takes it away. None asks for a password.
"""

import contextlib
import ctypes
import functools
import gc
import os
import sys
import types
from collections import Counter, deque

import torch
from modules import script_callbacks

HOST = ("modules", "modules_forge", "backend", "ldm_patched", "ldm", "sgm", "k_diffusion", "launch")
TORCH = ("torch.nn.functional", "torch.nn.modules")
OURS, NOT_OURS, LEFT_BEHIND = ("nag_core", "nag_guidance"), "nag_core.sandbox", "nag_core.left_behind"
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
STEPS = 9  # from a module's global to the hooks on the loaded model's patcher


def within(name, packages):
    return isinstance(name, str) and any(name == one or name.startswith(f"{one}.") for one in packages)


def ours(module):
    """Of a module's name; a script's own is "nag_guidance.py" on some hosts."""
    return within(module, OURS) and not within(module, (NOT_OURS,))


def name_of(value):
    """Module and name of a function, a class or an object's class; a wrapper's own, not what it wraps."""
    while type(value) is functools.partial:
        value = value.func
    if type(value) is types.MethodType:
        value = value.__func__
    if type(value) is types.FunctionType:
        return f"{value.__globals__.get('__name__')}.{value.__qualname__}"
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def loaded(packages):
    """(name, module) of what is imported of them; a snapshot, because other threads import."""
    return [(name, module) for name, module in list(sys.modules.items()) if within(name, packages)]


def inside(value):
    """(place, value) of what a container, or an object or a class of the host's, holds."""
    if isinstance(value, dict):
        return [(f"[{key}]" if isinstance(key, str) else "[]", one) for key, one in list(value.items())]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [("[]", one) for one in list(value)]
    is_class = isinstance(value, type)
    if within(value.__module__ if is_class else type(value).__module__, HOST):
        return [(f".{key}", one) for key, one in list(getattr(value, "__dict__", {}).items())]
    return []


def in_modules():
    """How often each thing of ours is reached from the host's modules, by "place: name". Modules of networks
    are left to `on_networks`.
    """
    found, seen = Counter(), set()
    waiting = deque(
        (f"{name}.{key}", value, STEPS)
        for name, module in loaded(HOST)
        for key, value in list(vars(module).items())
    )
    while waiting:
        place, value, steps = waiting.popleft()
        if value is None or type(value) in (str, int, float, bool, bytes, torch.Tensor):
            continue
        if ours(name_of(value)):
            found[f"{place}: {name_of(value)}"] += 1
        elif steps and id(value) not in seen and not issubclass(type(value), torch.nn.Module):
            seen.add(id(value))
            waiting.extend((place + key, one, steps - 1) for key, one in inside(value))
    return found


def functions():
    """What the functions of the host and of torch's networks are, by where they are looked up."""
    found = {}
    for name, module in loaded((*HOST, *TORCH)):
        for key, value in list(vars(module).items()):
            if isinstance(value, type) and value.__module__ == name:
                methods = [(f"{name}.{key}.{inner}", one) for inner, one in list(vars(value).items())]
            else:
                methods = [(f"{name}.{key}", value)]
            found |= {place: name_of(one) for place, one in methods if type(one) is types.FunctionType}
    return found


def on_networks(objects):
    """How often each hook and each `forward` of a single module's own is there, in any network alive."""
    found = Counter()
    for module in objects:
        if not issubclass(type(module), torch.nn.Module):
            continue
        kept = object.__getattribute__(module, "__dict__")
        hooks = [(kind, one) for kind in HOOKS for one in list((kept.get(kind) or {}).values())]
        own = [(key, one) for key, one in list(kept.items()) if key == "forward" or ours(name_of(one))]
        found.update(f"{type(module).__name__}.{place}: {name_of(one)}" for place, one in hooks + own)
    return found


def alive(objects):
    """How many objects of our classes there are, and functions of ours, those made inside others included."""
    names = (name_of(one) for one in objects if not issubclass(type(one), type))
    return Counter(name for name in names if ours(name))


def tensors(objects):
    """MiB of all tensors that are alive, each storage once."""
    sizes = {}
    for one in objects:
        if issubclass(type(one), torch.Tensor) and one.layout is torch.strided and one.device.type != "meta":
            storage = one.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values()) / 2**20


def resident():
    """MiB of main memory that the process holds when what it does not need has been given back (Linux)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def walk():
    gc.collect()
    objects = gc.get_objects()
    return {
        "modules": in_modules(),
        "functions": functions(),
        "networks": on_networks(objects),
        "alive": alive(objects),
        "torch": {
            "threads": torch.get_num_threads(),
            "dtype": str(torch.get_default_dtype()),
            "gradients": torch.is_grad_enabled(),
        },
        "tensors_mib": tensors(objects),
        "resident_mib": resident(),
    }


def memory():
    """The last of it alone: many times as fast."""
    gc.collect()
    return {"resident_mib": resident()}


# What is left behind on purpose. Each takes place at once and returns what undoes it.


def as_ours(function):
    """The same function as if a module of NAG's had defined it."""
    namespace = {**function.__globals__, "__name__": LEFT_BEHIND}
    return types.FunctionType(
        function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__
    )


def a_module():
    """The first of the loaded network's attentions to text."""
    from modules import shared

    from nag_core.hosts import which

    return next(
        module
        for name, module in which.detect().network(shared.sd_model).named_modules()
        if name.endswith("attn2")
    )


def leave_hook():
    return a_module().register_forward_hook(as_ours(lambda *_: None)).remove


def leave_forward():
    module = a_module()
    forward = module.forward
    module.forward = as_ours(lambda *args, **named: forward(*args, **named))
    return lambda: module.__dict__.pop("forward")


def leave_function():
    from modules import processing

    original = processing.create_infotext
    processing.create_infotext = as_ours(lambda *args, **named: original(*args, **named))
    return lambda: setattr(processing, "create_infotext", original)


def leave_attribute():
    from modules import shared

    shared.state.left_behind = as_ours(lambda: None)
    return lambda: delattr(shared.state, "left_behind")


def leave_objects():
    kept = [type("Left", (), {"__module__": LEFT_BEHIND})()]
    return kept.clear


def leave_memory():
    kept = [bytearray(os.urandom(2**20)) for _ in range(64)]
    return kept.clear


def leave_picture():
    """Somebody else's hook, which makes other pictures."""
    return a_module().register_forward_hook(lambda module, args, out: out * 1.5).remove


def leave_mixed():
    """Every job with NAG gets what the one before it asked for."""
    from nag_core.webui import asked_for

    original, kept = asked_for.request, []

    def request(*args):
        found = original(*args)
        if found.settings.enabled:
            kept.append(found)
        return kept[-2] if found.settings.enabled and len(kept) > 1 else found

    asked_for.request = request
    return lambda: setattr(asked_for, "request", original)


LEAVE = {
    "hook": leave_hook, "forward": leave_forward, "function": leave_function, "attribute": leave_attribute,
    "objects": leave_objects, "memory": leave_memory, "picture": leave_picture, "mixed": leave_mixed,
}  # fmt: skip
LEFT = []


def leave(what: str = ""):
    while LEFT:
        LEFT.pop()()
    if what:
        LEFT.append(LEAVE[what]())


def register(demo, app):
    app.add_api_route("/nag-test/v1/walk", walk, methods=["GET"])
    app.add_api_route("/nag-test/v1/memory", memory, methods=["GET"])
    app.add_api_route("/nag-test/v1/leave", leave, methods=["POST"])


script_callbacks.on_app_started(register)
