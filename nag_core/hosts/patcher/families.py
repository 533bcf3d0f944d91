"""Joint-attention networks as rows of metadata, and how a row becomes a `JointModel`."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from operator import attrgetter
from typing import Any, NamedTuple

from torch import Tensor, nn

from nag_core.hosts.patcher.networks import EITHER, TEXT_ONLY, UNTOUCHED, JointModel
from nag_core.hosts.patcher.positions import known_places, own_padding, own_positions
from nag_core.method.layout import Layout
from nag_core.method.rows import Arrangement


class Family(NamedTuple):
    """One network class: its block lists by kind, the module in whose globals the attention is looked up and
    under which name, and the module that defines it with the names that are torch's own or as exact.

    patch: the network's attribute with the latent pixels per token and side; 2 where it has none (in Forge's
    Flux it is a literal in the forward). embedder: turns position ids into angles; needed where text has
    positions. image_axis, image_first: see positions.py and `Layout`. pads, pad_token, padded: the network's
    attributes with the multiple and the token that texts are padded with, and the module whose output is
    padded. text_only, untouched: module lists with another attention, see `JointModel.others`. references:
    where the network puts the tokens of reference images, `BEHIND` or `EITHER`; empty where it has none.
    begins: see `JointModel`.
    """

    blocks: tuple[tuple[str, str], ...]
    module: str
    attribute: str
    heads_split: bool
    defined_in: str
    exact: frozenset[str]
    patch: str = "patch_size"
    embedder: str = ""
    image_axis: int | None = None
    image_first: bool = False
    pads: str = ""
    pad_token: str = ""
    padded: str = ""
    text_only: tuple[str, ...] = ()
    untouched: tuple[str, ...] = ()
    references: str = ""
    begins: str = ""


# As `JointModel.references`, of a network with this patch size.
References = Callable[[nn.Module, Family, int, Tensor, Mapping[str, Any]], tuple[int, int]]


def class_row(network: nn.Module, table: Mapping[str, Any]) -> Any:
    """The network's row of `table`; by any base class's name, since a fork may subclass the network."""
    names = (kind.__name__ for kind in type(network).__mro__)
    return next((table[name] for name in names if name in table), None)


def globals_of(module: str) -> dict[str, Any]:
    """The globals of an imported module; empty for one that is not."""
    return getattr(sys.modules.get(module), "__dict__", {})


def joint_model(
    network: nn.Module, table: Mapping[str, Family], references: References | None = None
) -> JointModel | None:
    """The network as its row of `table` describes it; None for others, and for one that lacks a part of it.

    references: of a host whose models know reference images.
    """
    family = class_row(network, table)
    if family is None:
        return None
    namespace = globals_of(family.module)
    lists = [(kind, getattr(network, name, ())) for kind, name in family.blocks]
    parts = (family.embedder, family.padded, *family.text_only, *family.untouched)
    known = all(_has(network, path) for path in parts if path)
    if family.attribute not in namespace or not known or not all(len(blocks) for _, blocks in lists):
        return None
    roles = ((TEXT_ONLY, family.text_only), (UNTOUCHED, family.untouched))
    patch = _size(network, family.patch)
    return JointModel(
        tuple((kind, block) for kind, listed in lists for block in listed), patch,
        namespace, family.attribute, family.heads_split, functools.partial(_is_sdpa, family),
        family.image_first, int((family.pads and getattr(network, family.pads, None)) or 1),
        tuple((role, m) for role, paths in roles for path in paths for m in attrgetter(path)(network)),
        _adapted(network, family),
        functools.partial(references, network, family, patch) if references else None, family.begins,
    )  # fmt: skip


def _is_sdpa(family: Family, function: Any) -> bool:
    # By where it is defined, not by its name alone: an extension's replacement may carry the same one.
    home = getattr(sys.modules.get(family.defined_in), "__dict__", None)
    ours = getattr(function, "__globals__", None) is home is not None
    builtin = inspect.isbuiltin(nn.functional.scaled_dot_product_attention)
    return ours and builtin and function.__name__ in family.exact


def _adapted(
    network: nn.Module, family: Family
) -> Callable[[Layout, Arrangement], AbstractContextManager] | None:
    if not family.embedder and not family.padded:
        return None

    @contextmanager
    def adapt(layout: Layout, rows: Arrangement) -> Iterator[None]:
        with ExitStack() as stack:
            if family.embedder:
                embedder = attrgetter(family.embedder)(network)
                stack.enter_context(own_positions(embedder, layout, rows, family.image_axis))
                if family.references == EITHER and layout.target < layout.image:
                    stack.enter_context(known_places(embedder, layout))
            if family.padded and layout.pad > 1:
                token = functools.partial(getattr, network, family.pad_token)
                stack.enter_context(own_padding(attrgetter(family.padded)(network), token, layout, rows))
            yield

    return adapt


def _has(network: nn.Module, path: str) -> bool:
    try:
        attrgetter(path)(network)
    except AttributeError:
        return False
    return True


def _size(network: nn.Module, attribute: str) -> int:
    size = getattr(network, attribute, 2)
    return int(size[0] if isinstance(size, (tuple, list)) else size)
