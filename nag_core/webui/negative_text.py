"""Which negative text each image of a batch gets, prepared the way the host prepares its own negative box."""

from __future__ import annotations

from typing import Any, NamedTuple

from nag_core.hosts import asked
from nag_core.hosts.diffusers import sdnext
from nag_core.settings.parse import Settings
from nag_core.settings.weighted import parse_negatives


class Texts(NamedTuple):
    """The negatives of a pass. own: they are NAG's, not the host's main one. images: how many the batch has.

    texts: one per image; with `weights`, one per weight, for every image alike.
    """

    texts: list[str]
    own: bool
    images: int
    weights: tuple[float, ...] = ()

    def of_one_image(self) -> Texts:
        """The same of the batch's first image alone."""
        return self._replace(images=1, texts=self.texts if self.weights else self.texts[:1])


def negative_texts(p: Any, settings: Settings, hires: bool, notes: list[str]) -> Texts:
    """The several negatives if there are any, else the NAG box's if it is filled, else the main negative of
    this pass (styles applied).
    """
    main = _main_negatives(p, hires)
    several = [one for one in parse_negatives(settings.negatives) if one.weight > 0]
    if several:
        if settings.negative.strip():
            notes.append("the NAG negative is not used beside several negatives")
        prepared = [(prepared_text(one.text, p, notes), one.weight) for one in several]
        kept = [(text, weight) for text, weight in prepared if text.strip()]
        return Texts([text for text, _ in kept], True, len(main), tuple(weight for _, weight in kept))
    prepared = prepared_text(settings.negative, p, notes) if settings.negative.strip() else ""
    if prepared.strip():
        return Texts([prepared] * len(main), True, len(main))
    return Texts(main, False, len(main))


def _main_negatives(p: Any, hires: bool) -> list[str]:
    """The current batch's slice of the main negatives (a batch of one, where the host has not made the
    slices).
    """
    name = "hr_negative_prompts" if hires else "negative_prompts"
    texts = getattr(p, name, None) if sdnext.present() else asked.attribute(p, name)
    if not texts:
        texts = [getattr(p, "negative_prompt", "") or ""] * int(getattr(p, "batch_size", 1))
    return [str(text) for text in texts]


def prepared_text(text: str, p: Any, notes: list[str]) -> str:
    """`text` with the job's styles, without comments and without extra-network tags (no host reads them in a
    negative: they would be tokenised as words).
    """
    from modules import extra_networks, shared

    styled = asked.attribute(shared.prompt_styles, "apply_negative_styles_to_prompt")
    text = _without_comments(asked.call(styled, text, asked.attribute(p, "styles") or []))
    stripped, networks = asked.call(asked.attribute(extra_networks, "parse_prompts"), [text])
    if networks:
        notes.append(
            "LoRA tags in the NAG negative are ignored (hosts read them in the positive prompt only)"
        )
    return stripped[0]


def _without_comments(text: str) -> str:
    """`text` without `# comments`, where the host strips them (Classic has an option for it)."""
    try:
        from modules.processing_scripts.comments import strip_comments
        from modules.shared import opts
    except ImportError:
        return text
    return asked.call(strip_comments, text) if getattr(opts, "enable_prompt_comments", True) else text
