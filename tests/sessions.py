"""A sampling pass for tests: of four calls, in the first of which it stays, unless said otherwise."""

from dataclasses import replace

from nag_core.method.guidance import Method
from nag_core.method.negative import Negative
from nag_core.passes.plan import Plan, Progress
from nag_core.passes.session import Session
from nag_core.settings.presets import Strength


def made(strength, negative=None, blocks=None, **plan):
    given = {"method": Method.NAG, "progress": lambda: Progress(0, 4), **plan}
    return Session(Plan(strength=Strength(*strength), **given), negative or Negative(()), blocks)


def replan(used, **changes):
    """Another plan for a session that has not begun."""
    used.plan = replace(used.plan, **changes)
