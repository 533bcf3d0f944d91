"""What NAG does to a real checkpoint: pictures with it off and on through a live WebUI's API, scored and
compared. `python -m nag_core.evaluate`. Knows the extension's settings and nothing else of it; no torch
before a score asks for it.
"""
