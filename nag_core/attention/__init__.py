"""NAG by attention mechanism: cross-attention and, later, joint attention. Host functions are handed in."""
