"""Counts what guidance does to the sandbox's two models: `python -m nag_core.evaluate.toy`.

Every picture is drawn through the sandbox's API by the extension itself and judged by the exact decoder. What
comes out is evidence about the rule and its hooks on two miniatures, not about SDXL or Flux.
"""
