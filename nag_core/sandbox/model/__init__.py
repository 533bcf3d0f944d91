"""A tiny text-to-image model of latent-diffusion layout, its procedural world and its training.

The sandbox draws with it. It knows coloured shapes on coloured grounds and nothing else, so what
guidance does to a picture can be counted exactly instead of judged.
"""
