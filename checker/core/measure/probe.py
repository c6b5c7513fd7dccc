"""Try a model on the first photos, before anything is measured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain

from ...arrays import AnyArray
from ..evidence import ModelFacts
from ..images.entries import Entries
from ..images.source import Skipped
from ..runtime.batch_trial import TRIED, batch_differences, fixed_scale_differences
from .opening import OpenedJob, model_facts
from .prepare import Prepared, prepare_item, stack
from .sums import RunFacts


def take_probe(
    decoded: Iterable[Prepared | Skipped],
    n: int = TRIED,
    taken: Iterable[Prepared | Skipped] = (),
    tell: Callable[[int], None] | None = None,
) -> list[Prepared | Skipped]:
    """Take images until `n` are usable, or all.

    Args:
        decoded: the images.
        n: usable images.
        taken: the images before these, of which at most `n` are usable; they are returned, too.
        tell: called after every image, with the number of images.
    """
    first: list[Prepared | Skipped] = []
    n_usable = 0
    for item in chain(taken, decoded):
        first.append(item)
        if tell is not None:
            tell(len(first))
        n_usable += isinstance(item, Prepared)
        if n_usable == n:
            break
    return first


def usable(items: Iterable[Prepared | Skipped]) -> list[Prepared]:
    """Return the images that can be run."""
    return [item for item in items if isinstance(item, Prepared)]


def probe(opened: OpenedJob) -> RunFacts:
    """Try the model on the first usable images, which are decoded here (`probe_measured`)."""
    first = take_probe(prepare_item(item, opened) for item in opened.source.items())
    facts, _ = probe_measured(opened, usable(first))
    return facts


def probe_measured(opened: OpenedJob, images: Sequence[Prepared]) -> tuple[RunFacts, list[AnyArray]]:
    """Try the model, and measure images for it (`Runner.output_difference`, `batch_differences`).

    To be called before anything else is measured: it settles the graph optimisation that the session runs with, and
    since it looks at the same images everywhere, every worker settles the same. With less than two usable images the
    differences are None.

    Args:
        opened: the job.
        images: the first usable ones of the job.

    Returns:
        The facts, and the representations (image, feature) of each tensor; none for less than two images.
    """
    rows: list[AnyArray] = []
    models: list[ModelFacts] = []
    for runner in opened.runners if len(images) > 1 else ():
        pixels = stack(images)
        output = runner.output_difference(pixels[:TRIED])  # first: it may lower the graph optimisation
        own = runner.represent_in_batches(pixels)
        batch = batch_differences(runner, pixels, own)
        fixed: tuple[float | None, ...] = (None,) * len(own)
        if opened.job.options.batch_size == 1:
            fixed = fixed_scale_differences(runner, pixels[:TRIED])
        rows += own
        for model, *measured in zip(runner.models, batch, fixed, strict=True):
            models.append(model_facts(model, output, *measured))
    facts = RunFacts(
        models=tuple(models or map(model_facts, opened.models)),
        executions=tuple(runner.execution for runner in opened.runners for _ in runner.models),
        preprocessing=opened.preprocessing,
        source=replace(opened.source, entries=Entries.of([])),
        n_images=len(opened.source),
        names=opened.source.names_digest,
    )
    return facts, rows
