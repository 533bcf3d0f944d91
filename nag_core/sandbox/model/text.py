"""The miniatures' tokenizer and text encoder, with CLIP's layout: chunks of bos + tokens + eos.

CLIP's chunks hold 75 tokens; the MM-DiT's, which attends to text and image at once, hold fewer. Padding is an
ordinary token that images attend to, and a text of several chunks is several rows here, which the caller
concatenates along the tokens.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from . import unet
from .world import vocabulary

PAD, BOS, EOS, UNK = range(4)
WORDS = {word: index for index, word in enumerate(vocabulary(), start=4)}
# Rows without a word, so that a later word does not change the shape of shipped weights.
SPARE = 4


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and MLP over all positions, unmasked."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.out(unet.attention(q, k, v, self.heads))
        return x + self.mlp(self.norm2(x))


class TextEncoder(nn.Module):
    """Words of the world to one vector per token; unknown words share one embedding."""

    bos, eos, pad = BOS, EOS, PAD

    def __init__(self, chunk_length: int = 75, width: int = 64, layers: int = 1, heads: int = 2) -> None:
        super().__init__()
        self.chunk_length, self.width = chunk_length, width
        self.tokens = nn.Embedding(4 + len(WORDS) + SPARE, width)
        self.positions = nn.Parameter(torch.randn(self.chunk_length + 2, width) * 0.1)
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of the text's words, without bos, eos and padding; punctuation is dropped."""
        return [WORDS.get(word, UNK) for word in re.findall(r"[^\W_]+", text.lower())]

    def encode(self, token_ids: Tensor, weights: Tensor) -> Tensor:
        """Token ids and emphasis weights, both (B, T), to (B, T, C), where T is a chunk with bos and eos.

        Weights multiply the vectors, then each row's mean magnitude is restored, so that emphasis shifts
        attention between words and not the scale of the whole text. (Magnitude, since the last norm leaves
        a plain mean near zero, which nothing can be divided by.) Weights of one change nothing.
        """
        hidden = self.norm(self._hidden(token_ids))
        if bool((weights == 1).all()):
            return hidden
        weighted = hidden * weights[..., None].to(hidden)
        before, after = (z.abs().mean((1, 2), keepdim=True) for z in (hidden, weighted))
        return weighted * (before / after.clamp_min(1e-6))

    def chunks(self, text: str) -> Tensor:
        """The text as rows (n, T) of bos, tokens and eos, n >= 1; a convenience without weights."""
        ids = self.tokenize(text)
        rows = []
        for start in range(0, max(len(ids), 1), self.chunk_length):
            part = ids[start : start + self.chunk_length]
            rows.append([BOS, *part, *[PAD] * (self.chunk_length - len(part)), EOS])
        return torch.tensor(rows, device=self.positions.device)

    def forward(self, texts: list[str]) -> Tensor:
        """Texts of one chunk each to (B, T, C); equal texts are encoded once."""
        unique = list(dict.fromkeys(texts))
        ids = torch.cat([self.chunks(text)[:1] for text in unique])
        rows = torch.tensor([unique.index(text) for text in texts], device=ids.device)
        return self.norm(self._hidden(ids))[rows]

    def _hidden(self, token_ids: Tensor) -> Tensor:
        x = self.tokens(token_ids) + self.positions
        for layer in self.layers:
            x = layer(x)
        return x
