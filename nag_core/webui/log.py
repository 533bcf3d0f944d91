"""The extension's one log channel."""

from __future__ import annotations

import logging


def get_logger() -> logging.Logger:
    """The "nag" logger. An own handler only where the host set up no logging: then INFO would be lost."""
    logger = logging.getLogger("nag")
    if not logging.root.handlers and not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    return logger
