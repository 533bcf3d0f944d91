"""Why NAG stands aside."""

from __future__ import annotations


class UnsupportedHost(RuntimeError):  # noqa: N818 - a reason to stand aside, not a fault
    """This WebUI, or its loaded model, offers nothing to hook; the message is one readable sentence."""
