"""NAG on the calls of a diffusers pipeline: which text is whose, and one pass for each call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from nag_core.hosts.diffusers import ends
from nag_core.hosts.diffusers.calling import (
    Steps,
    caller,
    came_out,
    images_per_prompt,
    is_over,
    mark,
    own_cfg,
)
from nag_core.hosts.diffusers.checks import as_written, chosen_blocks, no_such_blocks, refuse_caches, why_not
from nag_core.hosts.diffusers.encoders import CountMismatchError, encoded, listening, texts_of, without_texts
from nag_core.hosts.diffusers.families import models_of
from nag_core.hosts.diffusers.network import Arrived, Network, serving
from nag_core.hosts.diffusers.padding import of_pipeline
from nag_core.hosts.diffusers.prompts import (
    Contexts,
    Encoded,
    Reading,
    conditional,
    context_of,
    has_syntax,
    mixed_negative,
    negative_of,
    read_negative,
    reads_words,
    repeated,
)
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.method.guidance import Method
from nag_core.method.negative import Negative
from nag_core.method.rows import Batch
from nag_core.passes import report
from nag_core.passes.plan import Plan, Progress
from nag_core.passes.report import PassReport
from nag_core.passes.session import Session
from nag_core.settings import strength
from nag_core.settings.parse import Settings

logger = logging.getLogger("nag")

ALL_THE_PROMPT = "all rows have the prompt, and which of them are CFG's is not known: all are guided"


class Guiding:
    """What NAG does to a pipeline's calls; one pass, and one report, for each of them.

    strict: an error of NAG's own ends the call; else the call goes on without it, and the report says so.
    negative: the text of all images, or one for each; with `weights`, one for each weight, together for every
        image alike.
    read: gives the texts as a host's own parser reads them, None where it does not; asked before the call,
        if there is something to do. `as_words` says afterwards whether the texts were taken as they are
        written.
    interrupted: whether the call was ended early; by default the pipeline's own mark of that.
    on_values: what is to be said of the settings' values if anything is guided.
    """

    def __init__(
        self,
        pipe: Any,
        negative: str | Sequence[str],
        settings: Settings,
        pass_name: str = "",
        strict: bool = True,
        weights: Sequence[float] = (),
        read: Callable[[], Reading | None] = lambda: None,
        interrupted: Callable[[], bool] | None = None,
        on_values: Sequence[str] = (),
    ) -> None:
        self.pipe, self.negative, self.settings = pipe, negative, settings
        self.pass_name, self.strict, self.weights = pass_name, strict, weights
        self.read, self.as_words = read, True
        self.reading: Reading | None = None
        self.interrupted = interrupted or (lambda: bool(getattr(pipe, "_interrupt", False)))
        self.networks: list[Network] = []
        self.waiting: list[tuple[dict[str, Any], Any, Encoded]] = []
        self.current: tuple[Encoded, Session] | None = None
        self.ended: list[PassReport] = []
        self.on_values = on_values
        self.remarks: list[str] = []  # on the texts
        self.steps = Steps()
        self.step: tuple[int, Batch | None] | None = None  # under way: its number, and whom it guides
        self.called = False  # the model, since the last pass ended
        self.call: object | None = None  # of the pipeline, by its mark
        self.said = False  # why its prompt was not encoded
        self.total = 0  # steps of the pass

    @property
    def reports(self) -> list[PassReport]:
        """One for each pipeline call, the one under way included."""
        running = [] if self.current is None else [self.current[1].report()]
        return [*self.ended, *running]

    def heard(self, encode: Callable[..., Any], arguments: dict[str, Any], result: Any) -> None:
        """encode_prompt was called. Pipelines may do so several times before their first model call, once for
        their own negative; which call was the prompt's, that model call tells.
        """
        # Also where no model call was over a text of the earlier pipeline call's, or it came to none.
        if self.called or (self.call is not None and is_over(self.call)):
            self.end_pass()
        self.call = mark()
        if self.said and self.call is not None:
            return  # what a pipeline encodes behind its prompt is its own negative
        self.said = False
        try:
            self._encode(encode, arguments, result)
        except Exception as error:
            if self.waiting and isinstance(error, CountMismatchError):
                return  # the prompt, which pipelines encode first, had as many: this is their own negative
            if self.strict:
                raise
            logger.debug("NAG: the negative could not be encoded", exc_info=error)
            reason = f"the negative could not be encoded ({type(error).__name__}: {str(error)[:120]})"
            self.ended.append(report.aside(self.pass_name, reason))
            self.said = True

    def _encode(self, encode: Callable[..., Any], arguments: dict[str, Any], result: Any) -> None:
        contexts = context_of(result)
        if isinstance(contexts, list) and all(isinstance(one, Tensor) for one in contexts):
            result = repeated(result, images_per_prompt())  # as the pipeline does after encoding
        elif not isinstance(contexts, Tensor):
            raise UnsupportedHost("the pipeline's text encoder gave no conditioning")
        texts = list(self.negative) if self.weights else texts_of(self.negative, arguments)
        made = self._encoded(encode, arguments, texts) if self.reading is None else self.reading
        text = Encoded(context_of(result), self._negative(texts, made, result))
        self.waiting.append((without_texts(arguments), made, text))
        if self.reading is not None:
            text.later = self.reading.prompts
            self.as_words = has_syntax(texts) and self._reads_words(encode, arguments, texts)

    def _reads_words(self, encode: Callable[..., Any], arguments: dict[str, Any], texts: list[str]) -> bool:
        """Only a remark depends on it, so that a failure is none of the pass."""
        try:
            return reads_words(self.reading, texts, encoded(encode, arguments, texts))
        except Exception as error:
            logger.debug("NAG: the pipeline did not encode the negative as words", exc_info=error)
            return False

    def _encoded(self, encode: Callable[..., Any], arguments: dict[str, Any], texts: list[str]) -> Any:
        """By the pipeline; once where it encodes its prompt several times before its first model call."""
        others = without_texts(arguments)
        made = next((made for known, made, _ in self.waiting if known == others), None)
        if made is None or len(context_of(made)) != len(texts):
            made = encoded(encode, arguments, texts)
        return made

    def _negative(self, texts: list[str], made: Any, result: Any) -> Negative:
        family, cut = self.networks[0].family, None
        if Method(self.settings.method).needs_lse:
            cut = of_pipeline(self.pipe, family.preset(self.networks[0].model), self.remarks)
        if self.weights:
            return mixed_negative(family, texts, self.weights, made, len(context_of(result)), cut)
        if isinstance(made, Reading):
            return read_negative(family, texts, made, cut)
        return negative_of(family, texts, made, result, cut)

    def arrived(self, context: Contexts | None) -> Arrived | None:
        if context is None or caller() not in (None, self.pipe):
            return None
        self._in_call(mark(), context)
        if self.waiting:
            self._begin(context)
        if self.current is None:
            return None
        text, session = self.current
        own = own_cfg()
        marks = conditional(text.marks(context), context, own)
        if (len(marks) > 1 or context is own.negative) and not any(marks) and own.cfg is not False:
            session.problem(ALL_THE_PROMPT, partly=False)
        if 0 not in marks:
            if not marks:
                session.problem("a batch layout nobody knows; there the model ran unguided")
            return None
        batch = self._of_step(session)
        return None if batch is None or session.stopped else Arrived(session, batch, marks)

    def _in_call(self, call: object | None, context: Contexts) -> None:
        """Ends the pass where a model call comes from another pipeline call, which encoded nothing (Z-Image,
        given prompt_embeds); the text is this one's too if the model call is over it.
        """
        if self.called and call is not self.call:
            text = None if self.current is None else self.current[0]
            self.end_pass()
            if text is not None and 0 in text.marks(context):
                self.waiting.append(({}, None, text))
        self.call, self.called = call, True

    def _of_step(self, session: Session) -> Batch | None:
        """Whom the step under way guides, None for nobody: the same in all of its model calls."""
        number = self.steps.taken if self.steps.counts else session.calls
        if self.step is None or self.step[0] != number:
            progress = session.begin_call()
            self.step = number, progress and session.batch(session.negative.at(progress.call))
        return self.step[1]

    def failed(self, reason: str, error: BaseException | None = None) -> None:
        if self.current is not None:
            self.current[1].off(reason, error)

    def _begin(self, context: Contexts) -> None:
        """Starts the pass of the text that this call is over. Pipelines that call the model for prompt and
        negative apart begin with the prompt.
        """
        found = next((one for *_, one in self.waiting if 0 in one.marks(context)), None)
        if found is not None:
            self.waiting.clear()
            self.current, self.step = (found, self._session(found)), None
            self.steps.begin(getattr(self.pipe, "scheduler", None))
            self.total = self._progress().total

    def _session(self, text: Encoded) -> Session:
        network = self.networks[0]
        family = network.family
        wanted = strength.of(self.settings, family.preset(network.model), family.mechanism)
        chosen = chosen_blocks(network.model, self.settings)
        plan = Plan(
            strength=wanted, method=Method(self.settings.method), window=self.settings.window,
            curve=self.settings.strength_curve, progress=self._progress, pass_name=self.pass_name,
        )  # fmt: skip
        session = Session(plan, text.negative, None if chosen is None else chosen.blocks)
        for remark in self.on_values:
            session.remark(remark)
        for remark in self.remarks:
            session.problem(remark, partly=False)
        if chosen is not None and chosen.unknown:
            session.problem(no_such_blocks(network.model, chosen), partly=False)
        if not session.counts.guided:
            session.stop(report.nobody(session.counts.images, session.counts.alike))
        return session

    def _progress(self) -> Progress:
        """In steps, of which each may make several model calls over the prompt."""
        total = getattr(self.pipe, "_num_timesteps", None)
        if not total:  # PixArt's does not say
            total = len(getattr(getattr(self.pipe, "scheduler", None), "timesteps", ()))
        return Progress(self.steps.taken if self.steps.counts else self.current[1].calls, int(total))

    def end_pass(self, error: BaseException | None = None) -> None:
        """Ends the pass under way, or notes why a pipeline call has had none.

        error: what ended the block.
        """
        if error is not None and not came_out(error, self.call):
            error = None  # raised behind that call
        why = ends.named(error)
        if self.current is not None:
            session = self.current[1]
            early = error is not None or self.interrupted() or self.steps.fewer_than(self.total)
            ends.note(session, self.total, early, why)
            session.close()
            self.ended.append(session.report())
            self.current = None
        elif self.waiting:
            without = ends.CHANGED if self.called else ends.NOT_SAMPLED
            reason = f"the call ended with {why}" if why else without
            self.ended.append(report.aside(self.pass_name, reason))
        elif why and not self.ended:
            self.ended.append(report.aside(self.pass_name, f"{why}, before a prompt was encoded"))
        elif self.called and not self.said:
            self.ended.append(report.aside(self.pass_name, ends.NOT_ENCODED))
        self.waiting.clear()
        self.steps.end()
        self.called = self.said = False


@contextmanager
def guided(guiding: Guiding) -> Iterator[None]:
    """Hooks the pipeline for as long as the block runs; `UnsupportedHost` where it offers nothing to hook."""
    pipe, models = guiding.pipe, models_of(guiding.pipe)
    if not models or not hasattr(pipe, "encode_prompt"):
        raise UnsupportedHost(f"{type(pipe).__name__} has no text model that NAG knows")
    reason = why_not(models[0], guiding.settings, guiding.negative)
    if not reason and any(map(serving, models)):
        raise UnsupportedHost("NAG is applied to this model already; it serves one `applied` at a time")
    with ExitStack() as stack:
        if reason:
            guiding.ended.append(report.aside(guiding.pass_name, reason))
        else:
            guiding.reading = guiding.read()
            stack.enter_context(listening(pipe, guiding.heard))
            stack.enter_context(as_written(pipe))
            for number, model in enumerate(models):
                refuse_caches(pipe, model)
                guiding.networks.append(Network(model, guiding, number))
                stack.callback(guiding.networks[-1].remove)
            stack.push(lambda _kind, error, _trace: guiding.end_pass(error))
        yield
