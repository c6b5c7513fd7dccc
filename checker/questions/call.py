"""Begin the run of a question: settle its options once, and decide once whether a child process answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from ..core.evidence import Execution
from ..core.images.source import ImageSource
from ..core.measure.job import Job
from ..core.measure.opening import Inputs, OpenSource, question_notes, read_inputs
from ..core.measure.sums import ImagesRead
from ..core.options import Options, RunOptions
from ..core.progress import Tell, tell_stage
from ..core.verdict.notes import execution_notes, image_notes
from ..outside.image_sets.open import Images, opener, settle
from ..outside.isolation import Limits, apart, is_possible
from ..report.record import Clock, Time
from ..text import VERSION, Fields, frozen

Params = ParamSpec("Params")
Answer = TypeVar("Answer")


@frozen
class QuestionRun:
    """What every question is called with, next to its own arguments."""

    clock: Clock
    options: Options
    handed_over: ImageSource | None
    """images that Python handed over; None where the options name a set"""
    progress: Tell | None

    @classmethod
    def begin(cls, images: Images | None, options: RunOptions, progress: Tell | None, **defaults: int) -> Self:
        """Settle images and options. Raises as `settle`; the defaults are the question's own."""
        clock = Clock()
        settled, handed_over = settle(images, options, **defaults)
        return cls(clock, settled, handed_over, progress)

    def child(
        self, function: Callable[Params, Answer], model: str | Path, limits: Limits, isolate: bool, *places: str
    ) -> Callable[Params, Answer] | None:
        """Return the function as a child process answers it, or None where this process must.

        Args:
            function: the question's, one of `child.TASKS`.
            model: names what is read in errors.
            limits: of the child; UsageError where there is none.
            isolate: whether the caller wants a child.
            places: what else is read, as typed.
        """
        if isolate and is_possible(self.handed_over, self.options.images, *places):
            return apart(function, str(model), limits)
        limits.refuse_here()
        return None

    def tell(self, stage: str) -> None:
        """Report a stage."""
        tell_stage(self.progress, stage)

    def read(
        self,
        model: Path,
        read: Callable[[Job, OpenSource], Inputs] = read_inputs,
        *,
        other_models: tuple[Path, ...] | None = None,
    ) -> Inputs:
        """Read the model, its preprocessing and the list of images. Raises as `read_inputs`.

        other_models: as in `Job`.
        """
        self.tell("opening the model and the images")
        return read(Job(model, self.options, other_models=other_models), opener(self.handed_over))

    def concluded(
        self,
        inputs: Inputs,
        read: ImagesRead,
        execution: Execution,
        before: Iterable[str] = (),
        after: Iterable[str] = (),
    ) -> Fields:
        """Return the fields that the report of each question has; its run ends now.

        before, after: the question's own notes, before and after those on the image set as a whole.
        """
        images = read.facts(inputs.source)
        findings = [f"Image set: {finding.seen}." for finding in images.sanity.findings]
        notes = (*question_notes(inputs), *image_notes(images), *before, *findings, *after)
        return {
            "tool_version": VERSION,
            "preprocessing": inputs.preprocessing,
            "images": images,
            "execution": execution,
            "notes": (*notes, *execution_notes(execution)),
            "time": Time.until_now(self.clock, read.n_usable),
        }
