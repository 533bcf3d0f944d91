"""A small stand-in for a Stable Diffusion WebUI: its script host, API and page, drawing with a tiny model.

Start it with `python -m nag_core.sandbox`. The extension under scripts/ is loaded unmodified through the same
hooks a real host calls; `host/` holds the packages `modules` and `backend` that scripts import, and goes on
sys.path only through `bootstrap.activate()`, so it can never shadow a real host.
"""
