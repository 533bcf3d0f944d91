"""How a pass of a diffusers pipeline ended, and why a pipeline call had none."""

from __future__ import annotations

from nag_core.passes.session import Session

CHANGED = "the text reached the model other than encode_prompt had made it"
NOT_SAMPLED = "no step was sampled"
NOT_ENCODED = "the prompt came encoded, and the pipeline encoded none; give it the text"


def named(error: BaseException | None) -> str:
    """The error for a report; empty for an interrupt."""
    return f"{type(error).__name__}: {str(error)[:120]}" if isinstance(error, Exception) else ""


def note(session: Session, total: int, early: bool, why: str) -> None:
    """Says whether the pass came to its end over this prompt, and what ended it else.

    total: steps of the pipeline call. early: it was ended, by an error or by the user; why: by which error.
    """
    steps = f"{session.calls} of {total} steps"
    if session.calls >= total:
        if why:
            session.problem(f"the call ended with {why}")
    elif early:
        session.problem(f"ended early, after {steps}{f' ({why})' if why else ''}")
    elif not session.stopped:
        session.problem(f"only {session.calls} of the call's {total} steps were over this prompt")
