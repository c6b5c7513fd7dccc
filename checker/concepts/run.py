"""Find the concepts of a labelled set along single directions.

One pass over the images, then linear algebra. Information, not a verdict. Silent; progress goes to a callback.
"""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from robustcheck_onnx.checker import isolation
from robustcheck_onnx.checker.arrays import Bools
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Options, RunOptions
from robustcheck_onnx.checker.isolation import NO_LIMITS, Limits, Progress
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import Job
from robustcheck_onnx.checker.measure.run import Collected, Inputs
from robustcheck_onnx.checker.report.record import Clock, Time
from robustcheck_onnx.checker.runtime.head import LinearHead, head_from_file, read_head
from robustcheck_onnx.checker.storage.places import local_path
from robustcheck_onnx.checker.text import VERSION, count_text, quoted
from robustcheck_onnx.checker.verdict.notes import execution_notes, image_notes

from . import directions
from .directions import OF, Directions, search
from .document import ENCODED_AP, Concept, ConceptSetFacts, ConceptsModel, ConceptsReport
from .sets import ConceptSet, open_concepts

MIN_POSITIVES = 10
SHUFFLES = 200


def concepts(
    model: str | Path,
    concept_set: str | Path,
    *,
    of: str | None = None,
    head: str | Path | None = None,
    min_positives: int = MIN_POSITIVES,
    min_coverage: float = 0.0,
    shuffles: int = SHUFFLES,
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> ConceptsReport:
    """Find concepts along single directions of a representation. They are counted and compared with shuffled labels.

    A concept is encoded where h·v or −h·v, for some direction v, has average precision 0.9 or more as a score for
    "this image has it" (Crabbé et al., TMLR 2024, eq. 5), and established where that is beyond chance as well.

    Args:
        model: path of the ONNX file.
        concept_set: a folder of folders named after concepts, a manifest (.csv, .jsonl) with the columns path and
            concept (and perhaps score), or a Broden-layout folder.
        of: the directions: head (right singular vectors of its weight), features, or axes (principal axes of these
            representations); None = those of the head where there is one, else axes.
        head: .npy or .safetensors with the weight (class, feature) of a head that acts on the representation.
        min_positives: a concept is judged where at least as many images have it, and as many do not; 2 or more.
        min_coverage: of Broden masks: share of the pixels, 0 to 1, from which a concept is present; 0 = any pixel.
        shuffles: how often labels are shuffled to see what chance gives, at least 19; the seed is that of the images.
        isolate: as in `check`.
        limits: as in `check`.
        progress: called when a stage begins and after every batch.
        options: as in `check`; max_images counts different images.

    Raises:
        UsageError: as for a check; a concept set or head that can't be read; a value that is none of those above.
        CannotAssessError: as for a check; no head where it was asked for; values that are not finite; no concept with
            enough images; no direction along which the images differ.
        EnvironmentFaultError: as for a check.
    """
    if "images" in options:
        raise TypeError("unexpected keyword argument 'images'; the images are those of the concept set")
    clock, run = Clock(), Options.of({**options, "images": None})
    if of not in (None, *OF):
        raise UsageError(f"of is {of!r}; it must be one of {', '.join(OF)}", f"--of {OF[0]}")
    if head is not None and of not in (None, "head"):
        raise UsageError(f"of is {of!r}, and a head is given; its directions are --of head", "leave out --of")
    if min_positives < 2:
        raise UsageError(f"min_positives is {min_positives}; it must be at least 2", "--min-positives 10")
    if shuffles < directions.MIN_SHUFFLES:
        raise UsageError(
            f"shuffles is {shuffles}; at least {directions.MIN_SHUFFLES} are needed to be beyond chance at "
            f"{directions.ERROR_RATE:.0%}",
            f"--shuffles {SHUFFLES}",
        )
    path = local_path(model, "model")
    if isolate:
        return isolation.apart(concepts, str(model), limits)(
            model,
            concept_set,
            of=of,
            head=head,
            min_positives=min_positives,
            min_coverage=min_coverage,
            shuffles=shuffles,
            progress=progress,
            **run.model_dump(exclude={"images"}),
        )
    limits.refuse_here()
    isolation.tell_stage(progress, "opening the model and the concept set")
    found = open_concepts(concept_set, seed=run.seed, max_images=run.max_images, min_coverage=min_coverage)
    inputs, own_head, why = _open(Job(path, run), found, of, head)
    (opened,) = inputs.models
    isolation.tell_stage(progress, "loading the model")
    runner = measure.open_runner(inputs)
    # before minutes of images
    chosen = own_head if head is None else head_from_file(local_path(head, "head"), measure.n_features(runner, inputs))
    collected = measure.collect(runner, inputs, progress=progress)
    if own_head is not None:
        measure.difference_of_head(own_head, collected, opened)
    h = collected.representations
    present = _labels(collected, found)
    judged, left_out = directions.split(present, found.names, min_positives)
    if not judged:
        raise CannotAssessError(
            f"{concept_set}: none of {len(found.names)} concepts has at least {min_positives} of the {len(h)} images "
            "with it, and as many without; at least one is needed",
            "add images, of the concepts and without them; or --min-positives N, the report shows what chance gives",
        )
    names = [found.names[index] for index in judged]
    positives = [np.flatnonzero(present[:, index]) for index in judged]
    tensor = opened.representation.tensor
    if of == "features":
        looked_at, source = directions.of_features(h.shape[1]), f"the features of {tensor}"
    elif chosen is None:
        looked_at, source = directions.of_axes(h), f"principal axes of {tensor}, these images"
    else:
        looked_at, source = (
            directions.of_head(chosen.weight),
            f"right singular vectors of the weight of {chosen.source}",
        )
    if looked_at.n == 0:
        raise CannotAssessError(
            f"{opened.path}: no directions found ({source}); the head must have a weight other than 0, or the "
            "representations must differ",
            f"robustcheck inspect {quoted(opened.path)}",
        )
    stage = "ranking the images along each direction"
    isolation.tell_stage(progress, stage)

    def tell(done: int) -> None:
        isolation.tell_stage(progress, f"{stage}, {done} of {looked_at.n} done")

    measured = search(h, looked_at, positives, n_shuffles=shuffles, seed=run.seed, progress=tell)
    concepts_ = directions.judge(measured, names, [len(each) for each in positives])
    n_established, n_encoded = sum(each.established for each in concepts_), sum(each.encoded for each in concepts_)
    facts = collected.read.facts(inputs.source)
    return ConceptsReport(
        tool_version=VERSION,
        model=ConceptsModel(**measure.model_read(opened), n_features=h.shape[1]),
        concept_set=ConceptSetFacts(
            source=str(concept_set),
            layout=found.layout,
            rule=found.rule,
            n_concepts=len(found.names),
            n_without=int((~present.any(axis=1)).sum()),
            min_positives=min_positives,
        ),
        n_encoded=n_encoded,
        n_established=n_established,
        summary=f"{n_established} of {len(concepts_)} judged concepts {'is' if n_established == 1 else 'are'} "
        f"established: a single direction detects {'it' if n_established == 1 else 'them'} with average precision 0.9 "
        f"or more, beyond chance; {n_encoded} {'reaches' if n_encoded == 1 else 'reach'} 0.9.",
        concepts=concepts_,
        not_judged=left_out,
        directions=directions.directions_told(measured, names, looked_at, source),
        chance=directions.chance_facts(measured, run.seed),
        preprocessing=inputs.preprocessing,
        images=facts,
        execution=runner.execution,
        notes=(
            *measure.question_notes(inputs),
            *image_notes(facts),
            *(f"Image set: {finding.seen}." for finding in facts.sanity.findings),
            *([why] if why else []),
            *_set_notes(found, looked_at, present[:, judged], concepts_),
            *execution_notes(runner.execution),
        ),
        time=Time.until_now(clock, len(h)),
    )


def _open(
    job: Job, found: ConceptSet, of: str | None, head: str | Path | None
) -> tuple[Inputs, LinearHead | None, str]:
    """Open the model for a call. Where its head gives the directions, the tensor is the input of the head.

    Returns that head, too, and a note on a choice that the user did not make.
    """
    inputs = measure.read_inputs(job, source=found.source)
    if of in ("features", "axes") or head is not None:
        return inputs, None, ""
    (opened,) = inputs.models
    try:
        read = read_head(opened)
    except CannotAssessError as fault:
        if of == "head":
            raise
        return inputs, None, f"No head was read ({fault.message}): principal axes are looked at."
    if job.options.tensor is None:
        return measure.read_head_input(job, source=found.source), read, ""
    if opened.head is None or opened.head.tensor != opened.representation.tensor:
        if of == "head":
            raise UsageError(
                f"{opened.path}: --tensor is {opened.representation.tensor}; the head of the model acts on another one",
                "leave out --tensor, or --of axes",
            )
        return inputs, None, "The head acts on another tensor: principal axes are looked at."
    return inputs, read, ""


def _labels(collected: Collected, found: ConceptSet) -> Bools:
    """(image, concept): whether it is present."""
    column = {name: index for index, name in enumerate(found.names)}
    present = np.zeros((len(collected.digests), len(column)), bool)
    for row, digest in enumerate(collected.digests):
        if digest not in found.concepts:
            raise CannotAssessError(
                f"{collected.names[row]}: image has other bytes than when its concepts were read; images must not "
                "change during a run",
                "run again when nothing writes to the concept set",
            )
        present[row, [column[name] for name in found.concepts[digest]]] = True
    return present


def _set_notes(found: ConceptSet, looked_at: Directions, present: Bools, judged: Sequence[Concept]) -> list[str]:
    """Return the notes on directions and concept set. `present` is (image, judged concept)."""
    notes = []
    if looked_at.of != "head":
        notes.append("The paper counts concepts along right singular vectors of a head; these are other directions.")
    if found.layout == "broden":
        notes.append("An image without labels of a category counts as one without each of its concepts.")
    if alike := present.shape[1] - len({(each ^ each[0]).tobytes() for each in present.T}):
        notes.append(
            f"{count_text(alike, 'concept')} with the same images as another one, or with exactly the others: counted, "
            "but one question."
        )
    if by_chance := sum(each.chance[0] >= ENCODED_AP for each in judged):
        notes.append(
            f"{count_text(by_chance, 'concept')} of {len(judged)} had AP {ENCODED_AP:g} or more in half of the "
            "shuffles: most images have them, or there are few images, and AP 0.9 says little of them."
        )
    return notes
