"""Judge whether a candidate fits the reference's index of vectors.

The verdict is independent of the one on outlier features. It asks whether the new file's vectors are those that the
index holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...arrays import Array, Bools, Floats, float64
from ...core.evidence import Evidence
from ...core.statistics.definitions import unit_rows
from ...core.statistics.intervals import wilson_bounds
from ...text import MIB, number_text, short_provider
from . import holds
from .ids import match_ids
from .index_report import OTHER_VECTORS, UNTESTED, Change, IndexOptions, IndexReport, Metric, Number, Tested, WorstImage
from .machine import MachineLoss
from .neighbours import KS, Neighbours, quantile, recall_bounds, search
from .pairs import Compared
from .similarity import TIED, cosine, lengths, procrustes
from .vectors import Block

FEWEST_IMAGES = 72  # from which the 5 % quantile has a lower bound
WORST = 5  # images that are shown
TYPES_SHOWN = 6  # of nodes that differ between the files
TIED_SHARE = 0.05  # of the neighbours that ties may hide before they are named as the reason
UNSOUND = {
    "duplicate_images",
    "near_duplicate_images",
    "images_not_varied",
    "nonfinite_representations",
    "constant_representations",
    "batch_dependent",
    "output_changed",
    "unchecked",
}
"""reasons of a check for which vectors or images can't be taken as they were measured"""
OWN = "in its own vectors"
SAME_LENGTH = 0.9  # of the median of the shorter vector's length divided by the longer one's
CONSTANT_LENGTH = 1e-3  # SD of the lengths relative to their mean: float16 vectors of length 1 have 2e-4
UNEXPLAINED = 0.1  # share of 1 − cosine that may be left: a rotation of few images always leaves less than before
WIDEST_PERMUTED = 4096  # features: all pairs of them are compared, in 128 MiB


def compare_vectors(
    candidate: Array,
    reference: Array,
    images: Sequence[tuple[str, str]],
    options: IndexOptions,
    text: Array | None,
    index: Iterable[Block] | None,
    ids: Iterable[str] = (),
) -> IndexReport:
    """Measure the two vectors of each image, and judge each number.

    Args:
        candidate, reference: (image, feature), as wide.
        images: name and digest of each.
        options: what `compatible` needs.
        text: (class, feature) embeddings.
        index: the vectors of a file.
        ids: of these vectors, or none.
    """
    metric: Metric = options.metric or "cosine"
    matches = match_ids([name for name, _ in images], ids)
    every = {row: row for row in range(len(images))}
    of_another_photo = np.roll(reference, 1, axis=0)
    rows = [(reference, lengths(reference))]
    photos = search([candidate, of_another_photo, reference], rows, metric, every)
    own = search([candidate], [(candidate, lengths(candidate))], metric, every)
    in_file = search([candidate, reference], index or (), metric, matches.rows)
    searched = {"among the photos": photos, OWN: own}
    if index is not None:
        searched["in the index"] = in_file
    # of equal vectors one search is that of both: products of other shapes differ by rounding
    is_same = np.array_equal(candidate, reference)
    recalls, tied = _recalls(searched, metric, options.min_recall, is_same=is_same)
    numbers = _distances(candidate, reference, options) | recalls
    if text is not None:
        now, before = margins(candidate, reference, text)
        numbers["top-1 class kept"] = _share(now > 0, needs=options.min_recall)
        numbers["margin moved"] = quantile(now - before, 0.5)
    change, after = explain(candidate, reference, options.min_cosine)
    own_recall = [number.estimate or 0.0 for name, number in recalls.items() if name.endswith(OWN)]
    if change == "rotated" and min(own_recall, default=1.0) < options.min_recall:
        change = "none"  # a rotation fits few vectors well, whatever they are; after one all neighbours are kept
    cosines = cosine(candidate, reference)
    worst = []
    for row in np.argsort(cosines, kind="stable")[:WORST]:
        name, digest = images[row]
        worst.append(WorstImage(name=name, digest=digest, cosine=cosines[row]))
    report = IndexReport(
        options=options,
        n_images=len(images),
        numbers=numbers,
        change=change,
        worst=tuple(worst),
        n_vectors=in_file.n_vectors,
        ids=dict(matches.ways),
        **matches.counts,
    )
    if change in ("permuted", "rotated"):
        seen = f"{change}: after undoing it, the cosine of the same image is {number_text(after)} (worst 5 %)"
        report = report.because(change, "re-embed", seen)
    k = max(k for k in KS if k < len(images))
    _, another, theirs = photos.ranked
    least, _ = recall_bounds(another, theirs, k, metric)
    shared = float(least.mean())
    if shared >= options.min_recall:
        seen = f"the query of another photo finds the same neighbours, too (recall {number_text(shared)})"
        report = report.because("same_for_all", "undecided", seen)
    report = _judged(report, tied)
    if index is None:
        return report
    return tested(report, reference, in_file)


def _distances(candidate: Array, reference: Array, options: IndexOptions) -> dict[str, Number]:
    """Compare the two vectors of each image by cosine, distance and length."""
    sizes = lengths(reference)
    ratios = lengths(candidate) / sizes
    cosines = cosine(candidate, reference)
    distances = lengths(candidate - reference) / sizes
    needed = None if options.metric == "cosine" else SAME_LENGTH
    return {
        "cosine, median": quantile(cosines, 0.5),
        "cosine, worst 5 %": quantile(cosines, 0.05, options.min_cosine),
        "cosine, worst 1 %": quantile(cosines, 0.01),
        "distance, median": quantile(distances, 0.5),
        "distance, worst 5 %": quantile(distances, 0.95),
        "distance, worst 1 %": quantile(distances, 0.99),
        "length, relative": quantile(ratios, 0.5),
        "length kept": quantile(np.minimum(ratios, 1 / ratios), 0.5, needed),
    }


def _recalls(
    searched: Mapping[str, Neighbours], metric: Metric, needed: float, *, is_same: bool
) -> tuple[dict[str, Number], dict[str, float]]:
    """Count the neighbours that stay. Return also the most that a recall with many ties can be.

    Args:
        searched: the neighbours by where they were looked for; the last query among the photos is the reference's.
        metric: what orders neighbours.
        needed: the recall that `compatible` needs, but for the candidate's own vectors.
        is_same: whether candidate and reference have equal vectors.
    """
    numbers = {}
    tied = {}
    for where, neighbours in searched.items():
        ours = neighbours.ranked[0]
        theirs = neighbours.ranked[-1]
        if where == OWN:
            theirs = searched["among the photos"].ranked[-1]
        if is_same:
            ours = theirs
        n_others = neighbours.n_vectors - bool(neighbours.own)
        counted = [k for k in KS if k <= n_others]
        for k in counted:
            name = f"recall@{k} {where}"
            least, most = recall_bounds(ours, theirs, k, metric)
            decides = where != OWN and k == counted[-1]
            numbers[name] = _share(least, most, needed if decides else None)
            if most.mean() - least.mean() > TIED_SHARE:
                tied[name] = float(most.mean())
    return numbers, tied


def _judged(report: IndexReport, tied: Mapping[str, float]) -> IndexReport:
    """Add a reason for each number that misses its limit. tied: the most that a recall with many ties can be."""
    for name, number in report.numbers.items():
        if number.needs is None or (number.low is not None and number.low >= number.needs):
            continue
        lost = number.high is not None and number.high < number.needs
        reason = name.split(" ")[0].strip(",")
        step = ""
        seen = f"{name} {number.text()}; {number.needs:g} is needed"
        if reason == "length":
            factor = number_text(report.numbers["length, relative"].estimate)
            change = "scaled" if report.change == "none" else report.change
            seen = f"{change}: vectors are {factor} times as long"
            if report.options.metric is None:
                lost = False
                step = "If the index is searched by cosine, say `--metric cosine`. Otherwise embed it again."
        if name in tied and not lost:
            least = number_text(number.estimate)
            most = number_text(tied[name])
            reason = "ties"
            seen = f"neighbours can't be told apart: {name} is between {least} and {most}"
        report = report.because(reason, "re-embed" if lost else "undecided", seen, step)
    return report


def tested(report: IndexReport, reference: Array, file: Neighbours) -> IndexReport:
    """Test whether the index of a file holds the reference's vectors, and judge that.

    By ids, the lower bound of the share of photos whose own vector is the reference's (`holds.is_same`) must reach
    `holds.SAME_SHARE`. By vectors, that of the share of all photos whose vector is there under any id, or without one.
    Bounds decide and no single photo does: one replaced vector of 141 changes nothing, and of ten vectors nothing is
    known. Otherwise the reason is what the index holds instead, if that can be seen.

    Args:
        report: of the vectors; the recall in the index is among its numbers.
        reference: (photo, feature).
        file: what the photos found in the index, the reference's vectors last.
    """
    spaces = holds.spacing(reference)
    is_there = holds.is_same(file.nearest, spaces)
    there = _share(is_there, needs=None if file.own else holds.SAME_SHARE)
    numbers = {"index: nearest cosine": quantile(file.nearest, 0.5), "index: vector is there": there}
    report = report.model_copy(update={"numbers": report.numbers | numbers, "tested": "no"})
    if file.own:
        return _by_ids(report, reference, file, is_there)
    return _by_vectors(report, reference, file, is_there)


def _by_ids(report: IndexReport, reference: Array, file: Neighbours, is_there: Bools) -> IndexReport:
    """Judge an index in which some photos are known by their ids. is_there: (photo,) the vector is there, anywhere."""
    photos = sorted(file.own)
    rows = float64([file.own[photo] for photo in photos])
    theirs = reference[photos]
    cosines = cosine(rows, theirs)
    is_own = holds.is_same(cosines, holds.spacing(reference)[photos])
    own = _share(is_own, needs=holds.SAME_SHARE)
    nearest = _share(cosines >= file.nearest[photos] - TIED)
    numbers = report.numbers | {"index: own vector": own, "index: own id nearest": nearest}
    report = report.model_copy(update={"numbers": numbers})
    n_other = int((~is_own).sum())
    if _reaches(own.low):
        return _found(report, "by ids", lengths(rows[is_own]), lengths(theirs[is_own]))
    if not n_other:
        return _by_vectors(report, reference, file, is_there)
    if _reaches(report.numbers["index: vector is there"].low):
        seen = f"the index has the photos' vectors, but {n_other} of {len(photos)} are under the id of another photo"
        return report.because("other_ids", "undecided", seen)
    if not _reaches(own.high):
        is_nearest = _reaches(nearest.estimate)
        if text := holds.form_of(file.sample, reference) or holds.moved(rows, theirs, is_nearest=is_nearest):
            return report.because("changed_index", "undecided", f"the index is {text}")
    other_cosine = float(np.median(cosines[~is_own]))
    seen = f"{n_other} of {len(photos)} photos have another vector in the index than the reference's (cosine "
    seen += f"{number_text(other_cosine)}, median)"
    return report.because("other_index", "undecided", seen)


def _by_vectors(report: IndexReport, reference: Array, file: Neighbours, is_there: Bools) -> IndexReport:
    """Judge an index by the photos whose vector is in it, under any id. is_there: (photo,) the vector is there."""
    if _reaches(report.numbers["index: vector is there"].low):
        return _found(report, "by vectors", file.nearest_lengths[is_there], lengths(reference[is_there]))
    if not is_there.any():
        if text := holds.form_of(file.sample, reference):
            return report.because("changed_index", "undecided", f"the index is {text}")
        if text := holds.mean_differs(file.sample, reference):
            step = "Name the reference that made it, or give its vectors before they were centred or rotated."
            return report.because("other_index", "undecided", f"the index is {text}", step)
    if report.options.accept_untested:
        return report
    n_there = int(is_there.sum())
    n = report.n_images
    seen = f"{UNTESTED}: {n_there} of {n} photos have their vector in it, and {len(file.own)} have an id there"
    return report.because("untested_index", "undecided", seen)


def _found(report: IndexReport, how: Tested, sizes: Floats, theirs: Floats) -> IndexReport:
    """Judge the lengths of the photos' vectors in an index of the reference, where a search sees them.

    Without a metric, vectors of one length are as good as the reference's: every metric orders them as the cosine does.

    Args:
        report: of the vectors.
        how: the vectors were found.
        sizes, theirs: their lengths in the index, and the reference's.
    """
    ratio = quantile(sizes / theirs, 0.5)
    numbers = report.numbers | {"index: length, relative": ratio}
    report = report.model_copy(update={"numbers": numbers, "tested": how})
    is_constant = report.options.metric is None and _are_constant(sizes)
    kept = np.minimum(sizes / theirs, theirs / sizes)
    if report.options.metric == "cosine" or is_constant or float(np.median(kept)) >= SAME_LENGTH:
        return report
    seen = f"vectors in the index are {number_text(ratio.estimate)} times as long as the reference's"
    return report.because("index_lengths", "undecided", seen)


def _reaches(bound: float | None) -> bool:
    return bound is not None and bound >= holds.SAME_SHARE


def _share(values: Array | Any, most: Array | Any = None, needs: float | None = None) -> Number:
    """Return the mean of shares, one per image, with its Wilson interval.

    The variance of a share is at most that of a yes or no with the same mean, so the interval is wide enough.

    most: what the shares are at most; the upper bound is that of their mean. needs: as in `quantile`.
    """
    mean = float(np.mean(values))
    largest = mean if most is None else float(np.mean(most))
    low, _ = wilson_bounds(mean, len(values))
    _, high = wilson_bounds(largest, len(values))
    return Number(estimate=mean, low=low, high=high, needs=needs)


def because_unsound(report: IndexReport, reasons: Iterable[str]) -> IndexReport:
    """Return the report with the reasons of a check for which the vectors can't be relied on."""
    unsound = sorted(reasons)
    step = f"Run `robustcheck explain {unsound[0]}`."
    return report.because("unsound", "undecided", f"a check finds {', '.join(unsound)}", step)


def because_too_few(report: IndexReport, n_varied: int) -> IndexReport:
    """Return the report with the reason that too few images differ from each other."""
    seen = f"{n_varied} images differ clearly from each other; {FEWEST_IMAGES} are needed"
    return report.because("too_few_images", "undecided", seen)


def concluded_index(report: IndexReport, both: Sequence[Compared], nodes: Sequence[Counter[str]]) -> IndexReport:
    """Add what differs between the files, and what makes the numbers unsure.

    Args:
        report: of the vectors.
        both: candidate and reference.
        nodes: of each file's graph, by type; none where those of one are not known.
    """
    evidence = [side.evidence for side in both]
    n_varied = min(evidence[0].images.sanity.n_varied, report.n_images)
    assumed = [side.evidence.model.file for side in both if side.evidence.preprocessing.source == "assumed"]
    if assumed:
        seen = f"neither an option nor a file gives the preprocessing of {' and '.join(assumed)}"
        report = report.because("assumed_preprocessing", "undecided", seen)
    if unsound := UNSOUND & {reason.id for side in both for reason in side.verdict.reasons}:
        report = because_unsound(report, unsound)
    ran = " against ".join(f"{short_provider(e.execution.providers[0])} {e.execution.runtime}" for e in evidence)
    if n := report.numbers:
        ran += f": cosine {number_text(n['cosine, median'].estimate, 5)}"
        ran += f", recall@1 {number_text(n['recall@1 among the photos'].estimate)}"
        if n_varied < FEWEST_IMAGES:
            report = because_too_few(report, n_varied)
    new, old = map(_facts, evidence)
    differs = [f"{name} {old[name]} → {new[name]}" for name in new if old[name] != new[name]]
    return report.model_copy(update={"ran": ran, "differs": (*differs, *_changed_nodes(*nodes))})


def on_another_machine(report: IndexReport, loss: MachineLoss | None) -> IndexReport:
    """Return the report with what reference arithmetic says. The answer is undecided where it could be another one.

    An index that does not hold the reference's vectors stays so on every machine.
    """
    report = report.model_copy(update={"machine": loss})
    if loss is None or any(reason.id in OTHER_VECTORS for reason in report.reasons):
        return report
    differs = loss.is_of_machine
    if report.is_compatible:
        worst = report.numbers["cosine, worst 5 %"].low
        differs = worst is not None and loss.scaled(worst) < report.options.min_cosine
    if not differs:
        return report
    return report.because("runtime_differs", "undecided", loss.text)


def _facts(evidence: Evidence) -> dict[str, str]:
    """Return what may differ between two files, but for their nodes. Of the opsets it is ONNX's own."""
    model = evidence.model
    facts = {
        "precision": evidence.execution.precision,
        "size": f"{model.size_bytes / MIB:.3g} MiB",
        "opset": str(model.opset.get("ai.onnx", "–")),
        "exporter": model.producer or "–",
    }
    steps = dict(evidence.preprocessing.preprocessing)
    return facts | {f"preprocessing {name}": str(value) for name, value in steps.items()}


def _changed_nodes(new: Counter[str], old: Counter[str]) -> Iterator[str]:
    """Yield the types of nodes of which there are more or fewer, the largest change first."""
    changes = (new - old) + (old - new)
    largest_first = sorted(changes, key=lambda name: (-changes[name], name))
    for name in largest_first[:TYPES_SHOWN]:
        yield f"nodes {name} {old[name]} → {new[name]}"
    if len(changes) > TYPES_SHOWN:
        yield f"and {len(changes) - TYPES_SHOWN} more types of nodes"


def explain(x: Array, y: Array, least: float) -> tuple[Change, float]:
    """Find the simple change that explains how the candidate's vectors differ.

    normalised: the candidate's vectors have one length and the reference's have not; not normalised: the other way
    around. permuted: each feature of the reference is the candidate's nearest one. rotated: `procrustes` explains it.

    Args:
        x, y: (image, feature) of candidate and reference, as wide.
        least: 5 % quantile of the cosines from which vectors are the same up to the change.

    Returns:
        The change, and the 5 % quantile of the cosines after it is undone.
    """
    a = unit_rows(x)
    b = unit_rows(y)
    after = _low_cosine(a, b)
    if after >= least:
        has_one_length = _are_constant(lengths(x))
        if has_one_length == _are_constant(lengths(y)):
            return "none", after
        return "normalised" if has_one_length else "not normalised", after
    changes: tuple[Change, Change] = ("permuted", "rotated")
    for change, undone in zip(changes, (_permuted, procrustes), strict=True):
        left = _low_cosine(undone(a, b), b)
        if left >= least and 1 - left <= UNEXPLAINED * (1 - after):
            return change, left
    return "none", after


def _low_cosine(x: Array, y: Array) -> float:
    """Return the 5 % quantile of the cosines."""
    return float(np.quantile(cosine(x, y), 0.05))


def _are_constant(sizes: Floats) -> bool:
    return bool(sizes.std() < CONSTANT_LENGTH * sizes.mean())


def _permuted(x: Array, y: Array) -> Array:
    """Return, for each feature of y, the nearest one of x.

    x itself if they are more than `WIDEST_PERMUTED`, or if that is not a permutation: of equal features any is taken.
    """
    if x.shape[1] > WIDEST_PERMUTED:
        return x
    x_squares = np.einsum("ij,ij->j", x, x)
    y_squares = np.einsum("ij,ij->j", y, y)
    distances = x_squares[:, None] + y_squares - 2 * (x.T @ y)
    nearest = np.asarray(x[:, distances.argmin(axis=0)])
    if _features(nearest) != _features(x):
        return x
    return nearest


def _features(x: Array) -> Counter[bytes]:
    """Count the features that are equal in every image."""
    return Counter(feature.tobytes() for feature in (x + 0.0).T)  # −0 becomes 0


def margins(candidate: Array, reference: Array, text: Array) -> tuple[Array, Array]:
    """Return the margin of each image's most similar class, by both models.

    Args:
        candidate, reference: (image, feature) vectors of the same images.
        text: (class, feature) embeddings of two or more classes.

    Returns:
        Of candidate and reference: cosine of the reference's most similar class minus that of the best other class.
        The candidate's is above 0 where the class stays; a tie is not.
    """
    classes = unit_rows(text).T
    ours = unit_rows(candidate) @ classes
    theirs = unit_rows(reference) @ classes
    most_similar = theirs.argmax(axis=1)
    is_top = np.arange(len(text)) == most_similar[:, None]
    return _margin(ours, is_top), _margin(theirs, is_top)


def _margin(cosines: Array, is_top: Bools) -> Array:
    """Return the cosine of one class per image minus that of the best other class. Both are (image, class)."""
    others = np.where(is_top, -np.inf, cosines)
    return np.asarray(cosines[is_top] - others.max(axis=1))
