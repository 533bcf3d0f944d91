"""SD.Next: an A1111 fork on diffusers, which loads A1111's scripts but announces no sampling to them.

Its processing prepares every pipeline call by one function and tidies up after it by another, both looked up
among the globals of modules.processing_diffusers. For the length of a batch ours stand in front of these two;
the models themselves are hooked only between them (hosts/diffusers).
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from nag_core.hosts.base import Around, Host
from nag_core.hosts.diffusers.families import models_of
from nag_core.hosts.diffusers.guided import Guiding, guided
from nag_core.hosts.diffusers.prompts import Part, Reading, has_syntax
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.passes.plan import FIRST, HIRES, REFINER
from nag_core.passes.report import PassReport, aside
from nag_core.settings.parse import Settings

logger = logging.getLogger("nag")

MODULE = "modules.processing_diffusers"
BEFORE, AFTER = "set_pipeline_args", "process_post"
AS_WORDS = "weights and schedules in the negative are read as words here"


class PipelineCall(NamedTuple):
    """A pipeline that is about to be called: for which pass, and with which negatives of the WebUI's own."""

    pipe: Any
    name: str
    negatives: list[str]
    # Texts by the WebUI's own parser; None where none read the prompt.
    read: Callable[[list[str]], Reading] | None

    @contextmanager
    def guided(
        self, negative: str | list[str], settings: Settings, weights: Sequence[float], notes: list[str]
    ) -> Iterator[Callable[[], PassReport]]:
        """The call inside is guided by `negative` (one text, one for each image, or with `weights` one for
        each); afterwards the function given has its report. `UnsupportedHost` where nothing can be
        hooked.
        """
        guiding = Guiding(
            self.pipe, negative, settings, self.name, strict=False, weights=weights,
            read=partial(self._reading, [negative] if isinstance(negative, str) else negative, notes),
            interrupted=interrupted,
        )  # fmt: skip

        def report_of() -> PassReport:
            done = _of_pass(guiding)
            if done.applied and guiding.as_words and has_syntax(guiding.negative):
                notes.append(AS_WORDS)
            if interrupted():  # of which this WebUI tells no script, unless it keeps the picture so far
                logger.info("NAG: %s", done.sentence())
            return done

        with guided(guiding):
            yield report_of

    def _reading(self, texts: list[str], notes: list[str]) -> Reading | None:
        """The texts by the host's parser, where it read the prompt; its failure costs the weights only."""
        try:
            return None if self.read is None else self.read(texts)
        except Exception as error:
            logger.debug("NAG: the WebUI's parser did not read the negative", exc_info=error)
            notes.append(f"the WebUI's prompt parser failed on the negative ({str(error)[:120]})")
            return None


def _of_pass(guiding: Guiding) -> PassReport:
    """The pass that was guided, else the last; there is one, unless the call broke off before its text."""
    applied = [one for one in guiding.ended if one.applied]
    return (applied or guiding.ended or [aside(guiding.pass_name, "the pipeline encoded no prompt")])[-1]


class SDNext(Host):
    """Its passes are pipeline calls, which it announces itself; see `PipelineCall.guided`."""

    name = "SD.Next"
    lacks = ("mask", "mask_feather", "mask_image", "heat_map")
    # SD.Next's style sheet hides the tick in the header, and shows the section's content while it is ticked.
    notice = (
        "NAG is <b>on</b> while this section is open. It acts on the Text and Image tabs; Control and Video "
        "run no extensions. Not in this WebUI yet: {}."
    )
    negative_hint = (
        "Empty: the main negative prompt. "
        "(weights:1.2) where the prompt's are read; the report says where not."
    )
    records_by_image = False
    announces_sampling = confirms_axes = False
    # "Detail", the plot that is an always-on script, and scripts with a pipeline of their own (modules/face).
    no_pass = "SD.Next sampled nothing of this job itself: a script or the detailer drew, or nobody did"

    def await_calls(self, p: Any, around: Around) -> Callable[[], None]:
        return await_calls(p, around)

    def network(self, sd_model: Any) -> nn.Module:
        models = models_of(sd_model)
        if not models:
            raise UnsupportedHost(f"{type(sd_model).__name__} has no text model that NAG knows")
        return models[0]


def probe() -> SDNext | None:
    """The adapter where this process runs in SD.Next, else None."""
    try:
        return SDNext() if importlib.util.find_spec(MODULE) is not None else None
    except (ImportError, ValueError):
        return None


def await_calls(p: Any, around: Around) -> Callable[[], None]:
    """Puts `around` around each pipeline call of the job `p` from now on; the function returned ends that.

    One job at a time is waited for: what an earlier one left (SD.Next tells no script of an interrupt) goes.
    Other jobs' calls pass. `p` is referred to weakly.
    """
    module = importlib.import_module(MODULE)
    before, after = (getattr(module, name) for name in (BEFORE, AFTER))
    if (leave := getattr(before, "nag_leave", None)) is not None:
        leave()
        return await_calls(p, around)
    job, signature, running = weakref.ref(p), inspect.signature(before), ExitStack()

    @functools.wraps(before)
    def prepared(*args: Any, **kwargs: Any) -> Any:
        readers: list[Callable[[list[str]], Reading]] = []
        with _noting_parser(readers):
            arguments = before(*args, **kwargs)
        running.close()
        given = signature.bind(*args, **kwargs).arguments
        if _is_of(given.get("p"), job(), module):
            read = readers[-1] if readers and "prompt_embeds" in arguments else None
            running.enter_context(around(_call(given, read)))
        return arguments

    @functools.wraps(after)
    def tidied(*args: Any, **kwargs: Any) -> Any:
        running.close()
        return after(*args, **kwargs)

    def remove() -> None:
        running.close()
        for name, ours, theirs in ((BEFORE, prepared, before), (AFTER, tidied, after)):
            if getattr(module, name) is ours:
                setattr(module, name, theirs)

    prepared.nag_leave = remove
    setattr(module, BEFORE, prepared)
    setattr(module, AFTER, tidied)
    return remove


def _is_of(called: Any, job: Any, module: Any) -> bool:
    """Whether a pipeline call is the job's. "Refine & HiRes pass" goes on with the processing object of
    the job before (restore_state).
    """
    again = str(getattr(job, "state", None) or "").startswith("reprocess")
    return called is job or (again and called is not None and called is getattr(module, "last_p", None))


def interrupted() -> bool:
    """Whether the pipeline call that runs now was ended early: by the user, or by an error of it."""
    state = importlib.import_module("modules.shared").state
    return bool(state.interrupted or state.skipped)


@contextmanager
def _noting_parser(asked_for: list[Callable[[list[str]], Reading]]) -> Iterator[None]:
    """Puts a way to read other texts in `asked_for` whenever SD.Next's parser of weights and schedules reads
    the prompt of a pipeline call (modules/processing_prompt.py, set_prompt: by model and setting).
    """
    try:
        module = importlib.import_module("modules.prompt_parser_diffusers")
        parser = module.PromptEmbedder
    except (ImportError, AttributeError):  # texts are read as words then, and that is said
        yield
        return

    @functools.wraps(parser)
    def noting(*args: Any, **kwargs: Any) -> Any:
        made = parser(*args, **kwargs)
        given = inspect.signature(parser).bind(*args, **kwargs).arguments
        asked_for.append(functools.partial(_read, module, parser, given, made))
        return made

    module.PromptEmbedder = noting
    try:
        yield
    finally:
        module.PromptEmbedder = parser


def _read(
    module: Any, parser: Callable[..., Any], given: dict[str, Any], used: Any, texts: list[str]
) -> Reading:
    """`texts` as `parser(**given)` read the prompt, which is `used`."""
    each = list(dict.fromkeys(texts))
    with _unnoticed(module):
        made = parser(**{**given, "prompts": each, "negative_prompts": [""] * len(each)})
    parts = dict(zip(each, map(_parts, made.prompt_embeds), strict=True))
    steps = range(max(map(len, used.prompt_embeds)))
    # One context for each arrangement of words, however many steps have it.
    first = {
        tuple(id(image[min(n, len(image) - 1)]) for image in used.prompt_embeds): n for n in reversed(steps)
    }
    return Reading(parts, [used("prompt_embeds", step) for step in sorted(first.values())])


@contextmanager
def _unnoticed(module: Any) -> Iterator[None]:
    """What the parser remembers, and the embeddings that it names in the infotext, stay the job's own."""
    pipe = getattr(getattr(module, "shared", None), "sd_model", None)
    cache, database = getattr(module, "cache", None), getattr(pipe, "embedding_db", None)
    remembered = None if cache is None else dict(cache)
    named = list(getattr(database, "embeddings_used", ()))
    try:
        yield
    finally:
        if remembered is not None:
            cache.clear()
            cache.update(remembered)
        if database is not None:
            database.embeddings_used = named


def _parts(steps: list[Tensor]) -> list[Part]:
    """Where one image's words change. steps: its conditioning (1, tokens, channels) of each step, the same
    tensor for the same words; or one for all steps.
    """
    contexts = {id(one): one[0] for one in steps}
    changes = [n for n in range(1, len(steps)) if steps[n] is not steps[n - 1]]
    return [Part(end - 1, contexts[id(steps[end - 1])]) for end in (*changes, len(steps))]


def _call(given: dict[str, Any], read: Callable[[list[str]], Reading] | None) -> PipelineCall:
    p, pipe = given["p"], given["model"]
    negatives = given.get("negative_prompts") or ""
    texts = [negatives] if isinstance(negatives, str) else [str(text) for text in negatives]
    name = HIRES if getattr(p, "is_hr_pass", False) else FIRST
    if getattr(p, "is_refiner_pass", False):
        name = REFINER
    return PipelineCall(getattr(pipe, "pipe", None) or pipe, name, texts, read)
