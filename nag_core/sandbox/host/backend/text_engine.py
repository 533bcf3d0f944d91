"""From a prompt with emphasis and BREAK to rows of 77 vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class TextEngine:
    """Tokens fill chunks of 75; BREAK starts a new chunk; texts encoded together get one number of chunks."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.chunk_length = encoder.chunk_length

    def tokens(self, text: str) -> list[list[tuple[int, float]]]:
        """(token, weight) by chunk; an empty text is one empty chunk."""
        from modules.prompt_parser import parse_prompt_attention

        chunks: list[list[tuple[int, float]]] = [[]]
        for part, weight in parse_prompt_attention(text):
            if part == "BREAK" and weight == -1:
                chunks.append([])
                continue
            for token in self.encoder.tokenize(part):
                if len(chunks[-1]) == self.chunk_length:
                    chunks.append([])
                chunks[-1].append((token, weight))
        return chunks

    def _framed(self, chunk: list[tuple[int, float]]) -> list[tuple[int, float]]:
        filler = [(self.encoder.pad, 1.0)] * (self.chunk_length - len(chunk))
        return [(self.encoder.bos, 1.0), *chunk, *filler, (self.encoder.eos, 1.0)]

    def __call__(self, texts: list[str]) -> Tensor:
        """(texts, 77 * chunks, C)."""
        chunked = [self.tokens(text) for text in texts]
        columns = []
        for number in range(max(map(len, chunked))):
            rows = [self._framed(chunks[number] if number < len(chunks) else []) for chunks in chunked]
            ids = torch.tensor([[token for token, _ in row] for row in rows])
            weights = torch.tensor([[weight for _, weight in row] for row in rows])
            columns.append(self.encoder.encode(ids, weights))
        return torch.cat(columns, dim=1)
