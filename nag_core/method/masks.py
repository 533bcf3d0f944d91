"""Parts of an attention mask, additive or boolean, broadcastable to (B, H, queries, keys)."""

from __future__ import annotations

import torch
from torch import Tensor

from nag_core.method.focus import Focus


def of_rows(mask: Tensor | None, index: slice | Tensor) -> Tensor | None:
    """The mask of some rows; one that is the same for all rows stays."""
    return mask if mask is None or mask.dim() < 4 or mask.shape[0] == 1 else mask[index]


def between(mask: Tensor | None, queries: tuple[slice, ...], keys: tuple[slice, ...]) -> Tensor | None:
    """The mask between tokens; a query dimension of size 1 stays."""
    if mask is None:
        return None
    columns = torch.cat([mask[..., part] for part in keys], dim=-1)
    if columns.shape[-2] == 1:
        return columns
    return torch.cat([columns[..., part, :] for part in queries], dim=-2)


def asked(mask: Tensor | None, text: int, focus: Focus | None) -> Tensor | None:
    """Of a mask whose queries are [text, image] those that ask: the text, and the image's by `focus`, None
    for none of them. Selected on the device: making a list of its index would wait for it.
    """
    if mask is None or mask.shape[-2] == 1:
        return mask
    if focus is None:
        return mask[..., :text, :]
    image = mask[..., text:, :]
    return torch.cat([mask[..., :text, :], focus.queries(image, image.dim() - 2)], dim=-2)
