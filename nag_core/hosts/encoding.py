"""The negative's conditioning from the host's own text encoder, with the host's prompt syntax and steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nag_core.hosts import asked
from nag_core.method.alike import alike
from nag_core.method.negative import cross_attention_context


def schedule_texts(p: Any, texts: Sequence[str], hires: bool) -> list[list[str]]:
    """The text behind each schedule entry, image by image: `[red::0.5]` is "red", then ""."""
    from modules import prompt_parser, shared

    first, second = _steps(p, hires)
    schedules = asked.call(
        asked.attribute(prompt_parser, "get_learned_conditioning_prompt_schedules"),
        list(texts), first, **_of_hires(second),
        # Neo has dropped it.
        where_taken={"use_old_scheduling": bool(getattr(shared.opts, "use_old_scheduling", False))},
    )  # fmt: skip
    return [[text for _, text in schedule] for schedule in schedules]


def encode(p: Any, texts: Sequence[str], cache: list, hires: bool) -> list[list[tuple[int, Any]]]:
    """The schedules of `texts` (one per image) from the host's own encoder, with its full prompt syntax.

    Through the host's caching path, but into `cache` ([None, None], ours) where the host takes one: most
    hosts' keys ignore is_negative_prompt. Sizes, steps and network data are those the host takes for the
    negative of this pass (Forge main, processing.py:475-504 and 1575-1592).
    """
    from modules import prompt_parser

    width, height = (p.hr_upscale_to_x, p.hr_upscale_to_y) if hires else (p.width, p.height)
    options = {"is_negative_prompt": True, "width": width, "height": height}
    distilled = getattr(p, "hr_distilled_cfg" if hires else "distilled_cfg_scale", None)
    some_take = {"distilled_cfg_scale": distilled}  # Forge main and Neo
    first, second = _steps(p, hires)
    networks = getattr(p, "hr_extra_network_data" if hires else "extra_network_data", None)
    conditioning = asked.attribute(prompt_parser, "SdConditioning")

    def made(some: Sequence[str]) -> Any:
        return asked.call(conditioning, list(some), **options, where_taken=some_take)

    def cached(function: Callable) -> Any:
        caching = asked.attribute(p, "get_conds_with_caching")
        # ersatzForge takes none: it keeps all itself, and tells a negative's entries apart by `is_negative`.
        caches = [] if asked.takes(caching, "is_negative") else [[cache]]
        return asked.call(
            caching, function, made(texts), first, *caches, networks, **_of_hires(second),
            where_taken={"is_negative": True},
        )  # fmt: skip

    try:
        return cached(asked.attribute(prompt_parser, "get_learned_conditioning"))
    except asked.HostChanged:
        raise
    except RuntimeError:
        if all(len(parts) == 1 for parts in schedule_texts(p, texts, hires)):
            raise
        # Forge main stacks the parts of a schedule, which fails on Chroma where they are not equally long.
        return cached(_part_by_part(made))


def unread_weights(p: Any, cache: list, hires: bool) -> str:
    """What the model's text encoder does with weights in place of reading them; empty where it reads them.
    Tried and not looked up: each of a host's encoders has its own way. cache: as for `encode`.
    """
    encoded = (schedule[0][1] for schedule in encode(p, ["a", "(a:1.0)", "(a:1.5)"], cache, hires))
    plain, once, more = map(cross_attention_context, encoded)
    if not alike(plain, once):
        return "are read as words by this model's text encoder"
    return "have no effect in this model's text encoder" if alike(plain, more) else ""


def _part_by_part(made: Callable[[Sequence[str]], Any]) -> Callable:
    """The host's get_learned_conditioning, but each part of a schedule encoded by itself.

    made: texts as the host's SdConditioning. What the host passes behind the steps goes to its own functions
        as it came: not every host has the same there.
    """
    from modules import prompt_parser

    def get_learned_conditioning(model, prompts, steps, *more, **named):
        def encoded(text: str) -> Any:
            alone = made([text])
            return prompt_parser.get_learned_conditioning(model, alone, steps, *more, **named)[0][-1].cond

        unique = list(dict.fromkeys(prompts))  # equal prompts share their schedule, as the hosts' do
        parse = prompt_parser.get_learned_conditioning_prompt_schedules
        schedules = parse(unique, steps, *more, **named)
        parts = [[(end, encoded(text)) for end, text in schedule] for schedule in schedules]
        return [parts[unique.index(prompt)] for prompt in prompts]

    return get_learned_conditioning


def _of_hires(steps: int | None) -> dict[str, int]:
    """As an argument: only the hires pass needs it."""
    return {} if steps is None else {"hires_steps": steps}


def _steps(p: Any, hires: bool) -> tuple[int, int | None]:
    """The calls of the first and of the hires pass (None in the first), as prompt editing counts them."""
    first = getattr(p, "firstpass_steps", None) or p.steps
    if not hires:
        return first, None
    from modules import sd_samplers

    find = asked.attribute(sd_samplers, "find_sampler_config")
    config = asked.call(find, p.hr_sampler_name or p.sampler_name)
    steps = p.hr_second_pass_steps or p.steps
    return first, config.total_steps(steps) if config else steps
