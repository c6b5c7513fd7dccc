"""Answer for the index and the vectors of a file, from what a comparison measured."""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Mapping, Sequence

import numpy as np

from ...arrays import float64
from ...core.evidence import Evidence
from ...core.measure.opening import OpenedJob
from ...core.measure.reference import ReferenceOutput
from ...core.model.watched import file_digest
from ...errors import UsageError
from ..call import QuestionRun
from . import stored, trials
from .baseline import Vectors
from .index import compare_vectors
from .index_report import IndexOptions, IndexReport
from .machine import MachineLoss, loss_of
from .pairs import Pair
from .vectors import VectorFile, VectorsByPhoto


def machine_loss(
    pair: Pair, old: Vectors | None, references: Sequence[ReferenceOutput | None], evidence: Sequence[Evidence]
) -> MachineLoss | None:
    """Compare candidate and reference over the first images by both arithmetics.

    None where no reference run was needed or possible, or the reference's vectors of these images are not there. A
    baseline's vectors stand for both arithmetics.
    """
    runs = [
        (each.run, len(each.rows), of_model)
        for each, of_model in zip(references, evidence, strict=False)
        if each is not None and each.rows is not None
    ]
    if not runs or old is None:
        return None
    run, n, of_model = runs[0]
    ours, theirs = _rows_of_both(pair, old)
    if ours[:n] != list(range(n)):
        return None
    measured = pair.candidate.vectors[:n], old.rows[theirs[:n]]
    exact = [None if each is None else each.rows for each in (*references, None)]
    return loss_of(measured, exact[:2], of_model.execution.machine, run.words)


def _rows_of_both(pair: Pair, old: Vectors) -> tuple[list[int], list[int]]:
    """Return the rows of the candidate's vectors whose images the reference has, and of the reference's vectors."""
    places = {digest: row for row, digest in enumerate(old.digests)}
    rows = []
    rows_of_old = []
    for row, (_, digest) in enumerate(pair.images):
        if digest in places:
            rows.append(row)
            rows_of_old.append(places[digest])
    return rows, rows_of_old


def judge_vectors(
    opened: OpenedJob,
    pair: Pair,
    file: VectorFile,
    index: IndexOptions,
    run: QuestionRun,
    exact: ReferenceOutput | None,
) -> IndexReport:
    """Compare the vectors of a file with the model's own."""
    names = [name for name, _ in pair.images]
    rows = float64(pair.candidate.vectors)

    def try_others(own: VectorsByPhoto) -> str:
        run.tell("trying other preprocessing")
        return trials.explained(opened, names, rows, own)

    run.tell("comparing the vectors")
    report = stored.judge_stored(rows, names, file, index, try_others, exact)
    return report.model_copy(update={"file_digest": file_digest(file.path)})


def report_on_index(
    pair: Pair, old: Vectors | None, reference: Evidence, files: Mapping[str, VectorFile], options: IndexOptions
) -> IndexReport:
    """Compare the vectors of the same images, and judge the index."""
    width = reference.statistics.n_features
    for file in files.values():
        if file.width != width:
            raise of_another_width(file, width)
    report = IndexReport(options=options)
    if old is None:
        return report.because("no_vectors", "undecided", "the baseline holds no vectors")
    rows, rows_of_old = _rows_of_both(pair, old)
    images = [pair.images[row] for row in rows]
    ours = float64(pair.candidate.vectors[rows])
    theirs = float64(old.rows[rows_of_old])
    if ours.shape[1] != width:
        seen = f"the vectors have {ours.shape[1]} features, those of the reference {width}"
        return report.because("another_width", "re-embed", seen)
    if len(images) < 2:
        return report.because("other_images", "undecided", "the baseline has other images")
    text = None
    if classes := files.get("--text"):
        text = np.concatenate([vectors for vectors, _ in classes.blocks()])
    if index := files.get("--index"):
        return compare_vectors(ours, theirs, images, options, text, index.blocks(), index.ids())
    return compare_vectors(ours, theirs, images, options, text, None)


def of_another_width(file: VectorFile, width: int) -> UsageError:
    """Return the error on vectors that have not the width of the reference's, with the likely reason."""
    features = f"{file.width} features"
    step = "name the reference that made them, or give vectors as it makes them"
    if file.width < width:
        features += ", as after a PCA"
        step += ", not reduced"
    if file.n == width:
        step = file.transposed
    return UsageError(
        f"{file.path}: vectors of {file.option} have {features}; those of the reference have {width}",
        step,
    )
