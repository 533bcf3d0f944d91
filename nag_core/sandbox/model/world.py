"""The procedural world the tiny model draws: a coloured shape on a coloured ground, framed or not.

Pictures are (n, 3, 32, 32) in [-1, 1]. The world is biased: a circle is mostly red, a square blue, a
triangle yellow and a cross green, so that a negative prompt has something to remove.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

SIZE = 32
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "blue", "yellow", "green", "purple", "white")
GROUNDS = ("gray", "tan", "black", "teal")
FILLERS = ("the", "picture", "of", "with", "and")

# The favourite colour of SHAPES[i] is COLOURS[i]; the others share the rest evenly.
FAVOURITE = 0.62
FRAMED = 0.3
FRAME_WIDTH = 3
CENTRE = (15.0, 17.0)
RADIUS = (7.5, 9.5)

_COLOUR_RGB = (
    (0.90, 0.10, 0.10), (0.15, 0.30, 0.95), (0.98, 0.88, 0.12),
    (0.10, 0.75, 0.15), (0.62, 0.12, 0.80), (1.00, 1.00, 1.00),
)  # fmt: skip
_GROUND_RGB = ((0.50, 0.50, 0.50), (0.82, 0.70, 0.50), (0.04, 0.04, 0.04), (0.05, 0.48, 0.50))
_FRAME_RGB = (1.00, 0.55, 0.10)


@dataclass(frozen=True)
class Attributes:
    """What is in each picture: indices into SHAPES, COLOURS and GROUNDS, and a frame flag, each (n,)."""

    shape: Tensor
    colour: Tensor
    ground: Tensor
    framed: Tensor

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: Tensor | slice) -> Attributes:
        return Attributes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def has(self, word: str) -> Tensor:
        """(n,) bool: whether the word (`red`, `square`, `tan`, `framed`) is true of each picture."""
        if word == "framed":
            return self.framed
        for names, index in ((SHAPES, self.shape), (COLOURS, self.colour), (GROUNDS, self.ground)):
            if word in names:
                return index == names.index(word)
        raise ValueError(f"{word!r} is no attribute of the world: {', '.join(vocabulary())}")

    def honours(self, prompt: str) -> Tensor:
        """(n,) bool: whether every attribute word of the prompt is true of each picture."""
        known = {*SHAPES, *COLOURS, *GROUNDS, "framed"}
        result = torch.ones(len(self), dtype=torch.bool)
        for word in words_in(prompt):
            if word in known:
                result &= self.has(word)
        return result

    def honour_each(self, prompts: list[str]) -> Tensor:
        """(n,) bool: whether each picture honours the prompt of its own row."""
        return torch.cat([self[i : i + 1].honours(prompt) for i, prompt in enumerate(prompts)])


def words_in(text: str) -> list[str]:
    """The words of a prompt, a negative or a caption, commas left out."""
    return text.lower().replace(",", " ").split()


def vocabulary() -> tuple[str, ...]:
    """Every word captions are made of."""
    return (*SHAPES, *COLOURS, *GROUNDS, "framed", "a", "on", "shape", *FILLERS)


def palette() -> tuple[Tensor, Tensor, Tensor]:
    """Colours (6, 3), grounds (4, 3) and the frame (3,) in [-1, 1]."""
    return tuple(torch.tensor(rgb) * 2 - 1 for rgb in (_COLOUR_RGB, _GROUND_RGB, _FRAME_RGB))


def frame_mask() -> Tensor:
    """(32, 32) bool: the pixels a frame covers."""
    mask = torch.ones(SIZE, SIZE, dtype=torch.bool)
    mask[FRAME_WIDTH:-FRAME_WIDTH, FRAME_WIDTH:-FRAME_WIDTH] = False
    return mask


def coverage(shape: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """Soft masks (n, 32, 32) in [0, 1] of shapes (n,), centres (n, 2) as x, y, and radii (n,)."""
    pixels = torch.arange(SIZE) + 0.5
    x = (pixels - centre[:, :1])[:, None, :]
    y = (pixels - centre[:, 1:])[:, :, None]
    r = radius[:, None, None]
    far, near = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    distance = torch.stack((
        (x.square() + y.square()).sqrt() - r,
        far - 0.88 * r,
        torch.maximum(y - 0.7 * r, 0.894 * x.abs() - 0.447 * y - 0.45 * r),
        torch.maximum(far - r, near - 0.36 * r),
    ))  # fmt: skip
    chosen = distance.gather(0, shape[None, :, None, None].expand(1, -1, SIZE, SIZE))[0]
    return (0.5 - chosen).clamp(0, 1)


def render(attributes: Attributes, centre: Tensor, radius: Tensor) -> Tensor:
    """Pictures (n, 3, 32, 32) in [-1, 1] of the attributes with centres (n, 2) and radii (n,)."""
    colours, grounds, frame = palette()
    mask = coverage(attributes.shape, centre, radius)[:, None]
    colour, ground = colours[attributes.colour], grounds[attributes.ground]
    picture = torch.lerp(ground[..., None, None], colour[..., None, None], mask)
    covered = attributes.framed[:, None, None, None] & frame_mask()
    return torch.where(covered, frame[:, None, None], picture)


def sample(n: int, generator: Generator) -> tuple[Tensor, list[str], Attributes]:
    """Pictures (n, 3, 32, 32), one caption each, and their attributes."""
    draws = torch.rand(n, 7, generator=generator)
    shape = (draws[:, 0] * len(SHAPES)).long()
    other = (shape + 1 + (draws[:, 2] * (len(COLOURS) - 1)).long()) % len(COLOURS)
    attributes = Attributes(
        shape=shape,
        colour=torch.where(draws[:, 1] < FAVOURITE, shape, other),
        ground=(draws[:, 3] * len(GROUNDS)).long(),
        framed=draws[:, 4] < FRAMED,
    )
    centre = CENTRE[0] + draws[:, 5:7] * (CENTRE[1] - CENTRE[0])
    radius = RADIUS[0] + torch.rand(n, generator=generator) * (RADIUS[1] - RADIUS[0])
    return render(attributes, centre, radius), captions(attributes, generator), attributes


def captions(attributes: Attributes, generator: Generator) -> list[str]:
    """One caption a picture: most are phrases naming some attributes, some are bare words, few are empty."""
    draws = torch.rand(len(attributes), 8, generator=generator).tolist()
    columns = (getattr(attributes, field.name).tolist() for field in fields(attributes))
    return [_caption(*row, draw) for *row, draw in zip(*columns, draws, strict=True)]


def _caption(shape: int, colour: int, ground: int, framed: bool, draw: list[float]) -> str:
    words = {"colour": COLOURS[colour], "shape": SHAPES[shape], "ground": f"on {GROUNDS[ground]}"}
    if framed:
        words["frame"] = "framed"
    if draw[0] < 0.03:
        return ""
    if draw[0] < 0.33:
        return _bare(list(words.values()), draw)
    noun = words["shape"] if draw[1] < 0.85 else "shape"
    parts = ["a", words["colour"] if draw[2] < 0.5 else "", noun]
    parts.append(words["ground"] if draw[3] < 0.5 else "")
    parts.append(words.get("frame", "") if draw[4] < 0.7 else "")
    return _filled([part for part in parts if part], draw)


def _bare(words: list[str], draw: list[float]) -> str:
    """One attribute alone, or two side by side as in a list of negatives."""
    first = int(draw[1] * len(words))
    if draw[2] < 0.7:
        return words[first]
    second = (first + 1 + int(draw[3] * (len(words) - 1))) % len(words)
    return f"{words[first]}, {words[second]}"


def _filled(words: list[str], draw: list[float]) -> str:
    """The phrase, sometimes with a word that means nothing, so that such words stay neutral."""
    if draw[5] < 0.85:
        return " ".join(words)
    neutral = (*FILLERS, "pretty")[int(draw[6] * (len(FILLERS) + 1))]
    return " ".join((*words, neutral) if draw[7] < 0.5 else (neutral, *words))
