"""Find the concepts of a labelled set along single directions.

One pass over the images, then linear algebra. Information, not a verdict. Silent; progress goes to a callback.
"""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from ...arrays import Bools, Floats
from ...calls import public
from ...core.measure.job import Job
from ...core.measure.opening import Inputs, model_read, open_runner, read_inputs
from ...core.model.open import ModelFile
from ...core.options import RunOptions
from ...core.progress import Progress
from ...errors import CannotAssessError, UsageError, unfit
from ...outside.isolation import NO_LIMITS, Limits
from ...outside.storage.places import local_path
from ...text import count_text, frozen
from ..call import QuestionRun
from ..collect import Collected, collect, difference_of_head, n_features, read_head_input
from ..head import LinearHead, head_from_file, read_head
from . import directions
from .directions import MIN_SHUFFLES, OF, SearchedDirections, search
from .document import ENCODED_AP, ERROR_RATE, Concept, ConceptSetFacts, ConceptsModel, ConceptsReport, NotJudged
from .sets import ConceptSet, open_concepts

MIN_POSITIVES = 10
SHUFFLES = 200


@public('rc.concepts("model.onnx", "concepts/")')
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
    """Find concepts along single directions of a representation, compared with what shuffled labels give.

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
    run = QuestionRun.begin(None, options, progress)
    asked = Asked(concept_set, of, head, min_positives, min_coverage, shuffles)
    path = local_path(model, "model")
    if child := run.child(concepts, model, limits, isolate):
        settled = run.options.model_dump(exclude={"images"})
        return child(model, progress=progress, **vars(asked), **settled)
    return _find(run, path, asked)


@frozen
class Asked:
    """The arguments of `concepts` about concepts and directions; some values are refused."""

    concept_set: str | Path
    of: str | None
    head: str | Path | None
    min_positives: int
    min_coverage: float
    shuffles: int

    def __post_init__(self) -> None:
        if self.of not in (None, *OF):
            raise UsageError(f"of is {self.of!r}; it must be one of {', '.join(OF)}", f"--of {OF[0]}")
        if self.head is not None and self.of not in (None, "head"):
            raise UsageError(f"of is {self.of!r}, and a head is given; its directions are --of head", "leave out --of")
        if self.min_positives < 2:
            raise UsageError(f"min_positives is {self.min_positives}; it must be at least 2", "--min-positives 10")
        if self.shuffles < MIN_SHUFFLES:
            raise UsageError(
                f"shuffles is {self.shuffles}; at least {MIN_SHUFFLES} are needed to be beyond chance at "
                f"{ERROR_RATE:.0%}",
                f"--shuffles {SHUFFLES}",
            )


def _find(run: QuestionRun, path: Path, asked: Asked) -> ConceptsReport:
    """Measure the images, and search directions for the concepts."""
    seed = run.options.seed
    run.tell("opening the model and the concept set")
    concept_set = open_concepts(
        asked.concept_set, seed=seed, max_images=run.options.max_images, min_coverage=asked.min_coverage
    )
    inputs, own_head, why = _open(Job(path, run.options), concept_set, asked)
    (opened,) = inputs.models
    run.tell("loading the model")
    runner = open_runner(inputs)
    head = own_head
    if asked.head is not None:  # before minutes of images
        head = head_from_file(local_path(asked.head, "head"), n_features(runner, inputs))
    collected = collect(runner, inputs, progress=run.progress)
    if own_head is not None:
        difference_of_head(own_head, collected, opened)
    h = collected.representations
    present = _labels(collected, concept_set)
    chosen, left_out = split(present, concept_set.names, asked.min_positives)
    if not chosen:
        raise CannotAssessError(
            f"{asked.concept_set}: none of {len(concept_set.names)} concepts has at least {asked.min_positives} of the "
            f"{len(h)} images with it, and as many without; at least one is needed",
            "add images, of the concepts and without them; or --min-positives N, the report shows what chance gives",
        )
    looked_at, source = _directions(asked.of, head, h, opened)
    names = [concept_set.names[i] for i in chosen]
    positives = [np.flatnonzero(present[:, i]) for i in chosen]
    stage = "ranking the images along each direction"
    run.tell(stage)

    def tell(done: int) -> None:
        run.tell(f"{stage}, {done} of {looked_at.n} done")

    measured = search(h, looked_at, positives, n_shuffles=asked.shuffles, seed=seed, progress=tell)
    n_positives = [len(indices) for indices in positives]
    judged = directions.judge(measured, names, n_positives)
    set_notes = _set_notes(concept_set, looked_at, present[:, chosen], judged)
    return ConceptsReport(
        model=ConceptsModel(**model_read(opened), n_features=h.shape[1]),
        concept_set=ConceptSetFacts(
            source=str(asked.concept_set),
            layout=concept_set.layout,
            rule=concept_set.rule,
            n_concepts=len(concept_set.names),
            n_without=int((~present.any(axis=1)).sum()),
            min_positives=asked.min_positives,
        ),
        n_encoded=sum(concept.encoded for concept in judged),
        n_established=sum(concept.established for concept in judged),
        summary=_summary(judged),
        concepts=judged,
        not_judged=left_out,
        directions=directions.direction_facts(measured, names, looked_at, source),
        chance=directions.chance_facts(measured, seed),
        **run.concluded(inputs, collected.read, runner.execution, after=[*why, *set_notes]),
    )


def _summary(judged: Sequence[Concept]) -> str:
    """Count the concepts that are established, and those that reach an AP of 0.9, in a sentence."""
    n_established = sum(concept.established for concept in judged)
    n_encoded = sum(concept.encoded for concept in judged)
    are, them = ("is", "it") if n_established == 1 else ("are", "them")
    reach = "reaches" if n_encoded == 1 else "reach"
    return (
        f"{n_established} of {len(judged)} judged concepts {are} established: a single direction detects {them} with "
        f"average precision 0.9 or more, beyond chance; {n_encoded} {reach} 0.9."
    )


def _directions(
    of: str | None, head: LinearHead | None, h: Floats, opened: ModelFile
) -> tuple[SearchedDirections, str]:
    """Return the directions to search, and what they are in words, or refuse to go on without any."""
    tensor = opened.representation.tensor
    if of == "features":
        source = f"the features of {tensor}"
        looked_at = directions.of_features(h.shape[1])
    elif head is None:
        source = f"principal axes of {tensor}, these images"
        looked_at = directions.of_axes(h)
    else:
        source = f"right singular vectors of the weight of {head.source}"
        looked_at = directions.of_head(head.weight)
    if looked_at.n == 0:
        raise unfit(
            opened.path,
            f"no directions found ({source}); the head must have a weight other than 0, or the "
            "representations must differ",
        )
    return looked_at, source


def _open(job: Job, concept_set: ConceptSet, asked: Asked) -> tuple[Inputs, LinearHead | None, list[str]]:
    """Read the model; where its head gives the directions, the measured tensor is the input of that head.

    Returns that head, too, and a note on a choice that the user did not make.
    """
    inputs = read_inputs(job, lambda _: concept_set.source)
    if asked.of in ("features", "axes") or asked.head is not None:
        return inputs, None, []
    (opened,) = inputs.models
    try:
        head = read_head(opened)
    except CannotAssessError as fault:
        if asked.of == "head":
            raise
        return inputs, None, [f"No head was read ({fault.message}): principal axes are looked at."]
    if job.options.tensor is None:
        return read_head_input(job, lambda _: concept_set.source), head, []
    if opened.head is not None and opened.head.tensor == opened.representation.tensor:
        return inputs, head, []
    if asked.of == "head":
        raise UsageError(
            f"{opened.path}: --tensor is {opened.representation.tensor}; the head of the model acts on another one",
            "leave out --tensor, or --of axes",
        )
    return inputs, None, ["The head acts on another tensor: principal axes are looked at."]


def _labels(collected: Collected, concept_set: ConceptSet) -> Bools:
    """Return whether each image has each concept, (image, concept)."""
    column = {name: index for index, name in enumerate(concept_set.names)}
    present = np.zeros((len(collected.digests), len(column)), bool)
    for row, digest in enumerate(collected.digests):
        if digest not in concept_set.concepts:
            raise CannotAssessError(
                f"{collected.names[row]}: image has other bytes than when its concepts were read; images must not "
                "change during a run",
                "run again when nothing writes to the concept set",
            )
        columns = [column[name] for name in concept_set.concepts[digest]]
        present[row, columns] = True
    return present


def split(present: Bools, names: Sequence[str], min_positives: int) -> tuple[list[int], tuple[NotJudged, ...]]:
    """Return the concepts that can be judged, and the others.

    Args:
        present: (image, concept).
        names: of the concepts.
        min_positives: images with a concept, and without it, that are needed.
    """
    judged = []
    others = []
    counts = present.sum(axis=0).tolist()
    for index, (name, count) in enumerate(zip(names, counts, strict=True)):
        few = ""
        if count < min_positives:
            few = f"{count_text(count, 'image')} with it"
        elif len(present) - count < min_positives:
            few = f"{len(present) - count} without it"
        if few:
            reason = f"{few}; {min_positives} are needed"
            others.append(NotJudged(name=name, n_images=count, reason=reason))
        else:
            judged.append(index)
    return judged, tuple(others)


def _set_notes(
    concept_set: ConceptSet, looked_at: SearchedDirections, present: Bools, judged: Sequence[Concept]
) -> list[str]:
    """Return the notes on directions and concept set. `present` is (image, judged concept)."""
    notes = []
    if looked_at.of != "head":
        notes.append("The paper counts concepts along right singular vectors of a head; these are other directions.")
    if concept_set.layout == "broden":
        notes.append("An image without labels of a category counts as one without each of its concepts.")
    if alike := present.shape[1] - len({(column ^ column[0]).tobytes() for column in present.T}):
        notes.append(
            f"{count_text(alike, 'concept')} with the same images as another one, or with exactly the others: counted, "
            "but one question."
        )
    if by_chance := sum(c.chance[0] >= ENCODED_AP for c in judged):
        notes.append(
            f"{count_text(by_chance, 'concept')} of {len(judged)} had AP {ENCODED_AP:g} or more in half of the "
            "shuffles: most images have them, or there are few images, and AP 0.9 says little of them."
        )
    return notes
