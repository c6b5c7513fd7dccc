"""Judge whether a candidate fits the reference's index of vectors.

The verdict is independent of the one on outlier features. It asks whether the new file's vectors are those that the
index holds.

An index, or embeddings of classes, is read from a file in blocks, so memory stays bounded.
"""

from __future__ import annotations

import contextlib
import math
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import Field

from ....thresholds.profile import Frozen
from ...arrays import NOT_READABLE, AnyArray, Array, Bools, Counts, Floats, float64
from ...core.evidence import Evidence, Interval
from ...core.statistics.definitions import unit_rows
from ...core.statistics.intervals import CONFIDENCE, wilson_bounds
from ...core.verdict.reasons import INDEX_REASONS, INDEX_STEPS
from ...errors import EnvironmentFaultError, UsageError, install_hint
from ...paths import existing_parent, nearest_path
from ...text import MIB, interval_text, number_text, quoted, short_provider
from . import holds
from .ids import match_ids
from .machine import MachineLoss
from .pairs import TIED, Compared, procrustes

Metric = Literal["cosine", "dot", "euclidean"]
Change = Literal["none", "normalised", "not normalised", "permuted", "rotated"]
IndexVerdict = Literal["compatible", "re-embed", "undecided"]
Required = Literal["indication", "index"]
Tested = Literal["by ids", "by vectors", "no"]
Share = Annotated[float, Field(ge=0, le=1)]
FEWEST_IMAGES: Final = 72  # from which the 5 % quantile has a lower bound
WORST: Final = 5  # images that are shown
TYPES_SHOWN: Final = 6  # of nodes that differ between the files
TIED_SHARE: Final = 0.05  # of the neighbours that ties may hide before they are named as the reason
UNSOUND: Final = {
    *("duplicate_images", "near_duplicate_images", "images_not_varied", "nonfinite_representations"),
    *("constant_representations", "batch_dependent", "output_changed", "unchecked"),
}
"""reasons of a check for which vectors or images can't be taken as they were measured"""
OTHER_VECTORS: Final = ("other_index", "other_ids", "changed_index", "index_lengths")
"""reasons for which an index does not hold the reference's vectors"""
OUTRANKING: Final = (*OTHER_VECTORS, "assumed_preprocessing", "runtime_differs")
"""reasons for which the measured vectors are not those that a search compares: nothing is known then"""
ACCEPT: Final = "--accept-untested-index"
UNTESTED: Final = "it was not tested whether the reference made the index"
SIGNS: Final[dict[IndexVerdict, str]] = {"compatible": "✓", "re-embed": "✗", "undecided": "?"}
OWN: Final = "in its own vectors"
SAME_LENGTH: Final = 0.9  # of the median of the shorter vector's length divided by the longer one's
KS: Final = (1, 5, 10)  # neighbours that are counted
SAMPLE: Final = 2048  # vectors that show of which form an index is
SEEN: Final = 2 * KS[-1] + 1  # nearest vectors that are looked at: so many that ties at the last one are seen
CONSTANT_LENGTH = 1e-3  # SD of the lengths relative to their mean: float16 vectors of length 1 have 2e-4
UNEXPLAINED = 0.1  # share of 1 − cosine that may be left: a rotation of few images always leaves less than before
WIDEST_PERMUTED = 4096  # features: all pairs of them are compared, in 128 MiB
Block = tuple[Floats, Floats]
"""vectors (vector, feature), and their `lengths`"""


class IndexOptions(Frozen):
    """What the index verdict is asked with. benchmarks/results/index-pairs.md shows what real pairs have."""

    file: Path | None = None
    """an index, in which neighbours are looked for, too"""
    text: Path | None = None
    """embeddings of classes: whether the most similar class of each image stays"""
    min_cosine: Share = 0.9
    """of the 5 % quantile of the cosines of the same image"""
    min_recall: Share = 0.8
    """of recall@10 of the candidate's queries among the reference's vectors, and of the classes that stay"""
    metric: Metric | None = None
    """what orders neighbours in the index; None: not known, so cosine, and the lengths must stay, too"""
    accept_untested: bool = False
    """whether `compatible` is possible where it could not be tested whether the reference made the index"""

    @property
    def allowances(self) -> tuple[str, ...]:
        """Return which of these options are looser than the defaults."""
        usual = IndexOptions()
        out = []
        if self.accept_untested:
            out.append("an untested index")
        for name in ("min_cosine", "min_recall"):
            if (asked := getattr(self, name)) < getattr(usual, name):
                out.append(f"{name} {asked:g}")
        return tuple(out)


class Number(Interval):
    """A number with its bounds."""

    needs: float | None = None
    """the lower bound that `compatible` needs; None: the number decides nothing"""


class WorstImage(Frozen):
    """One of the images whose vectors differ most."""

    name: str
    digest: str
    cosine: float


class IndexReason(Frozen):
    """A reason why the verdict is not `compatible`."""

    id: str
    verdict: IndexVerdict
    seen: str
    next_step: str


class IndexReport(Frozen):
    """Whether the candidate may replace the reference under an index of vectors."""

    verdict: IndexVerdict = "compatible"
    reasons: tuple[IndexReason, ...] = ()
    options: IndexOptions
    n_images: int = 0
    numbers: dict[str, Number] = Field(default_factory=dict)
    change: Change = "none"
    """the simple change of all vectors that explains the difference"""
    n_vectors: int = 0
    """of the index in a file"""
    file_digest: str = ""
    """sha256:… of that file"""
    tested: Tested | None = None
    """how it was shown that the reference made that index"""
    ids: dict[str, int] = Field(default_factory=dict)
    """photos that have a vector there by its id, by the way in which the id matches"""
    n_ambiguous: int = 0
    """photos that several ids match, or whose id matches another photo, too"""
    n_ids: int = 0
    """of that index"""
    worst: tuple[WorstImage, ...] = ()
    ran: str = ""
    """what ran both, and how close their vectors are"""
    differs: tuple[str, ...] = ()
    """how the two files differ"""
    machine: MachineLoss | None = None
    """how far the vectors are from the reference's by reference arithmetic; None: it was not needed, or not possible"""

    def because(self, name: str, verdict: IndexVerdict, seen: str, next_step: str = "") -> IndexReport:
        """Return the report with one more reason. re-embed counts before undecided, and `OUTRANKING` before all.

        Where the index does not hold the reference's vectors, those are not what queries meet: nothing is known of
        the index, and embedding it again does not help if the wrong reference was named.
        """
        step = next_step or INDEX_REASONS.get(name, ("", ""))[1] or INDEX_STEPS[verdict]
        reason = IndexReason(id=name, verdict=verdict, seen=seen, next_step=step)
        reasons = sorted((*self.reasons, reason), key=lambda each: each.id not in OUTRANKING)
        worst = "re-embed" if "re-embed" in (self.verdict, verdict) else "undecided"
        if reasons[0].id in OUTRANKING:
            worst = "undecided"
        return self.model_copy(update={"reasons": tuple(reasons), "verdict": worst})

    @property
    def reason(self) -> IndexReason | None:
        """The first reason for the verdict."""
        return next((r for r in self.reasons if r.verdict == self.verdict), None)

    @property
    def plain(self) -> str:
        """Return the verdict with its first reason, or the numbers that decide."""
        decide = [f"{name} {number_text(n.estimate)} ({_bounds(n)})" for name, n in self.numbers.items() if n.needs]
        because = f": {r.seen}. {r.next_step}" if (r := self.reason) else f". Measured: {'; '.join(decide)}."
        untested = ""
        if self.verdict == "compatible" and self.tested == "no":
            untested = f", but {UNTESTED} (accepted by {ACCEPT})"
        return f"{SIGNS[self.verdict]} vector index: {self.verdict}{untested}{because}"

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield label and text of each line. They are the same in every form for people."""
        for reason in self.reasons:
            yield reason.verdict, f"{reason.seen}. {reason.next_step}"
        yield "run by", self.ran
        if self.machine is not None:
            yield "machine", self.machine.text
        for name, number in self.numbers.items():
            needs = "" if number.needs is None else f"; {number.needs:g} is needed"
            yield name, f"{number_text(number.estimate, 5)} ({_bounds(number)}{needs})"
        if self.n_vectors:
            yield "index", f"{self.options.file}, {self.n_vectors:,} vectors"
            yield "ids", self._ids_text()
            yield "made by", "not tested" if self.tested == "no" else f"the reference, tested {self.tested}"
        if self.differs:
            yield "files differ", "; ".join(self.differs)

    def _ids_text(self) -> str:
        """Describe which ids of the index are a photo's."""
        if not self.n_ids:
            return "none in the file"
        ways = ", ".join(f"{n} by {way}" for way, n in self.ids.items()) or "none"
        ambiguous = f"; {self.n_ambiguous} ambiguous, so not matched" if self.n_ambiguous else ""
        return f"of {self.n_images} photos, matched: {ways}{ambiguous}"


def _bounds(number: Number) -> str:
    return interval_text(number.low, number.high, [number.needs or 0], missing="bounds need more photos")


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
    paths, digests = zip(*images, strict=True)
    metric: Metric = options.metric or "cosine"
    matches = match_ids(paths, ids)
    every = {row: row for row in range(len(images))}
    rows = [(reference, lengths(reference))]
    photos = search([candidate, np.roll(reference, 1, axis=0), reference], rows, metric, every)
    own = search([candidate], [(candidate, lengths(candidate))], metric, every)
    in_file = search([candidate, reference], index or (), metric, matches.rows)
    searched = {"among the photos": photos, OWN: own} | ({} if index is None else {"in the index": in_file})
    # of equal vectors one search is that of both: products of other shapes differ by rounding
    recalls, tied = _recalls(searched, metric, options.min_recall, is_same=np.array_equal(candidate, reference))
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
    report = IndexReport(
        options=options,
        n_images=len(images),
        numbers=numbers,
        change=change,
        worst=tuple(
            WorstImage(name=paths[row], digest=digests[row], cosine=cosines[row])
            for row in np.argsort(cosines, kind="stable")[:WORST]
        ),
        n_vectors=in_file.n_vectors,
        ids=dict(matches.ways),
        n_ambiguous=matches.n_ambiguous,
        n_ids=matches.n_ids,
    )
    if change in ("permuted", "rotated"):
        seen = f"{change}: after undoing it, the cosine of the same image is {number_text(after)} (worst 5 %)"
        report = report.because(change, "re-embed", seen)
    k = max(k for k in KS if k < len(images))
    _, another, theirs = photos.ranked
    shared = float(recall_bounds(another, theirs, k, metric)[0].mean())
    if shared >= options.min_recall:
        seen = f"the query of another photo finds the same neighbours, too (recall {number_text(shared)})"
        report = report.because("same_for_all", "undecided", seen)
    report = _judged(report, tied)
    return report if index is None else tested(report, reference, in_file)


def _distances(candidate: Array, reference: Array, options: IndexOptions) -> dict[str, Number]:
    """Compare the two vectors of each image by cosine, distance and length."""
    sizes = lengths(reference)
    ratios, cosines = lengths(candidate) / sizes, cosine(candidate, reference)
    numbers = {
        f"{name}, {place}": quantile(values, abs(at - p), options.min_cosine if (at, p) == (0, 0.05) else None)
        for name, values, at in (("cosine", cosines, 0), ("distance", lengths(candidate - reference) / sizes, 1))
        for place, p in (("median", 0.5), ("worst 5 %", 0.05), ("worst 1 %", 0.01))
    }
    needed = None if options.metric == "cosine" else SAME_LENGTH
    numbers["length, relative"] = quantile(ratios, 0.5)
    numbers["length kept"] = quantile(np.minimum(ratios, 1 / ratios), 0.5, needed)
    return numbers


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
    numbers, tied = dict[str, Number](), dict[str, float]()
    for where, neighbours in searched.items():
        theirs = (searched["among the photos"] if where == OWN else neighbours).ranked[-1]
        counted = [k for k in KS if k <= neighbours.n_vectors - bool(neighbours.own)]
        for k in counted:
            least, most = recall_bounds(theirs if is_same else neighbours.ranked[0], theirs, k, metric)
            decides = where != OWN and k == counted[-1]
            numbers[name := f"recall@{k} {where}"] = _share(least, most, needed if decides else None)
            if most.mean() - least.mean() > TIED_SHARE:
                tied[name] = float(most.mean())
    return numbers, tied


def _judged(report: IndexReport, tied: Mapping[str, float]) -> IndexReport:
    """Add a reason for each number that misses its limit. tied: the most that a recall with many ties can be."""
    for name, number in report.numbers.items():
        if number.needs is None or (number.low is not None and number.low >= number.needs):
            continue
        lost = number.high is not None and number.high < number.needs
        reason, step = name.split(" ")[0].strip(","), ""
        seen = f"{name} {number_text(number.estimate)} ({_bounds(number)}); {number.needs:g} is needed"
        if reason == "length":
            factor = number_text(report.numbers["length, relative"].estimate)
            seen = f"{report.change if report.change != 'none' else 'scaled'}: vectors are {factor} times as long"
            if report.options.metric is None:
                lost, step = (
                    False,
                    "If the index is searched by cosine, say `--metric cosine`. Otherwise embed it again.",
                )
        if name in tied and not lost:
            least, most = number_text(number.estimate), number_text(tied[name])
            reason, seen = "ties", f"neighbours can't be told apart: {name} is between {least} and {most}"
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
    if _reaches(there.low):
        return _found(report, "by vectors", file.nearest_lengths[is_there], lengths(reference[is_there]))
    return _not_found(report, reference, file, is_there)


def _by_ids(report: IndexReport, reference: Array, file: Neighbours, is_there: Bools) -> IndexReport:
    """Judge an index in which some photos are known by their ids. is_there: (photo,) the vector is there, anywhere."""
    photos = sorted(file.own)
    rows, theirs = float64([file.own[photo] for photo in photos]), reference[photos]
    cosines = cosine(rows, theirs)
    is_own = holds.is_same(cosines, holds.spacing(reference)[photos])
    own, nearest = _share(is_own, needs=holds.SAME_SHARE), _share(cosines >= file.nearest[photos] - TIED)
    numbers = report.numbers | {"index: own vector": own, "index: own id nearest": nearest}
    report = report.model_copy(update={"numbers": numbers})
    n_other, is_elsewhere = int((~is_own).sum()), _reaches(report.numbers["index: vector is there"].low)
    if _reaches(own.low):
        return _found(report, "by ids", lengths(rows[is_own]), lengths(theirs[is_own]))
    if is_elsewhere and not n_other:
        return _found(report, "by vectors", file.nearest_lengths[is_there], lengths(reference[is_there]))
    if is_elsewhere:
        seen = f"the index has the photos' vectors, but {n_other} of {len(photos)} are under the id of another photo"
        return report.because("other_ids", "undecided", seen)
    if not n_other:
        return _not_found(report, reference, file, is_there)
    if not _reaches(own.high):
        is_nearest = _reaches(nearest.estimate)
        if text := holds.form_of(file.sample, reference) or holds.moved(rows, theirs, is_nearest=is_nearest):
            return report.because("changed_index", "undecided", f"the index is {text}")
    seen = f"{n_other} of {len(photos)} photos have another vector in the index than the reference's (cosine "
    seen += f"{number_text(float(np.median(cosines[~is_own])))}, median)"
    return report.because("other_index", "undecided", seen)


def _not_found(report: IndexReport, reference: Array, file: Neighbours, is_there: Bools) -> IndexReport:
    """Judge an index in which too few photos are known. is_there: (photo,) the vector is there."""
    if not is_there.any():
        if text := holds.form_of(file.sample, reference):
            return report.because("changed_index", "undecided", f"the index is {text}")
        if text := holds.mean_differs(file.sample, reference):
            step = "Name the reference that made it, or give its vectors before they were centred or rotated."
            return report.because("other_index", "undecided", f"the index is {text}", step)
    if report.options.accept_untested:
        return report
    n_there, n = int(is_there.sum()), report.n_images
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
    means = [float(np.mean(shares)) for shares in (values, values if most is None else most)]
    (low, _), (_, high) = (wilson_bounds(mean, len(values)) for mean in means)
    return Number(estimate=means[0], low=low, high=high, needs=needs)


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
    if unsound := sorted(UNSOUND & {reason.id for side in both for reason in side.verdict.reasons}):
        step = f"Run `robustcheck explain {unsound[0]}`."
        report = report.because("unsound", "undecided", f"a check finds {', '.join(unsound)}", step)
    ran = " against ".join(f"{short_provider(e.execution.providers[0])} {e.execution.runtime}" for e in evidence)
    if n := report.numbers:
        ran += f": cosine {number_text(n['cosine, median'].estimate, 5)}"
        ran += f", recall@1 {number_text(n['recall@1 among the photos'].estimate)}"
        if n_varied < FEWEST_IMAGES:
            seen = f"{n_varied} images differ clearly from each other; {FEWEST_IMAGES} are needed"
            report = report.because("too_few_images", "undecided", seen)
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
    if report.verdict == "compatible":
        worst = report.numbers["cosine, worst 5 %"].low
        differs = worst is not None and loss.scaled(worst) < report.options.min_cosine
    else:
        differs = loss.is_of_machine
    return report.because("runtime_differs", "undecided", loss.text) if differs else report


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
    changes = Counter({name: abs(new[name] - old[name]) for name in sorted({*new, *old}) if new[name] != old[name]})
    for name, _ in changes.most_common(TYPES_SHOWN):
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
    constant = [_are_constant(lengths(x)), _are_constant(lengths(y))]
    a, b = unit_rows(x), unit_rows(y)
    after = float(np.quantile(cosine(a, b), 0.05))
    if after >= least:
        return "none" if constant[0] == constant[1] else "normalised" if constant[0] else "not normalised", after
    changes: tuple[Change, Change] = ("permuted", "rotated")
    for change, undone in zip(changes, (_permuted, procrustes), strict=True):
        left = float(np.quantile(cosine(undone(a, b), b), 0.05))
        if left >= least and 1 - left <= UNEXPLAINED * (1 - after):
            return change, left
    return "none", after


def _are_constant(sizes: Floats) -> bool:
    return bool(sizes.std() < CONSTANT_LENGTH * sizes.mean())


def _permuted(x: Array, y: Array) -> Array:
    """Return, for each feature of y, the nearest one of x.

    x itself if they are more than `WIDEST_PERMUTED`, or if that is not a permutation: of equal features any is taken.
    """
    if x.shape[1] > WIDEST_PERMUTED:
        return x
    squares = [np.einsum("ij,ij->j", v, v) for v in (x, y)]
    nearest = np.asarray(x[:, (squares[0][:, None] + squares[1] - 2 * (x.T @ y)).argmin(axis=0)])
    features = [Counter(feature.tobytes() for feature in (vectors + 0.0).T) for vectors in (x, nearest)]  # −0 becomes 0
    return nearest if features[0] == features[1] else x


def margins(candidate: Array, reference: Array, text: Array) -> tuple[Array, Array]:
    """Return the margin of each image's most similar class, by both models.

    Args:
        candidate, reference: (image, feature) vectors of the same images.
        text: (class, feature) embeddings of two or more classes.

    Returns:
        Of candidate and reference: cosine of the reference's most similar class minus that of the best other class.
        The candidate's is above 0 where the class stays; a tie is not.
    """
    ours, theirs = (unit_rows(vectors) @ unit_rows(text).T for vectors in (candidate, reference))
    top = np.arange(len(text)) == theirs.argmax(axis=1)[:, None]
    now, before = (cosines[top] - np.where(top, -np.inf, cosines).max(axis=1) for cosines in (ours, theirs))
    return now, before


def quantile(values: Array, p: float, needs: float | None = None) -> Number:
    """Return a quantile with bounds from order statistics. They hold for every distribution.

    Equal to scipy.stats.quantile_test(values, p=p).confidence_interval(0.95). The estimate is
    numpy.quantile(values, p, method="inverted_cdf"), which is one of the values.

    Args:
        values: (image,), at most 1,024.
        p: between 0 and 1.
        needs: the lower bound that `compatible` needs.

    Returns:
        None for a bound that the values are too few for: the lower bound of the 5 % quantile needs 72, that of the 1 %
        quantile 368.
    """
    x, n = np.sort(values), len(values)
    below = np.cumsum([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n)])  # P(at most k)
    low = int(np.searchsorted(below, (1 - CONFIDENCE) / 2, "right"))
    high = int(np.searchsorted(below, (1 + CONFIDENCE) / 2))
    return Number(
        estimate=float(np.quantile(x, p, method="inverted_cdf")),
        low=float(x[low - 1]) if low else None,
        high=float(x[high]) if high < n else None,
        needs=needs,
    )


def cosine(x: Array, y: Array) -> Array:
    """Return the cosine of each pair of vectors (image, feature)."""
    return np.asarray(np.einsum("ij,ij->i", unit_rows(x), unit_rows(y)))


def lengths(x: Floats) -> Floats:
    """Return the Euclidean length of each vector of (image, feature)."""
    squares = np.einsum("ij,ij->i", x, x)
    if x.dtype == np.float32 and not ((squares > 1e-30) & (squares < 1e30)).all():
        return lengths(x.astype(np.float64))  # whose squares neither vanish nor overflow
    return np.asarray(np.sqrt(squares))


class Ranked(NamedTuple):
    """The `SEEN` nearest vectors of each query."""

    scores: Floats
    """(query, place) similarity, largest first; −∞ where there is no vector"""
    numbers: Counts
    """(query, place) of the vectors; of equal ones the earlier first"""


class Neighbours(NamedTuple):
    """What queries find in an index."""

    ranked: list[Ranked]
    """of each array of queries"""
    n_vectors: int
    own: dict[int, Floats]
    """each image's vector in the index, known by its id"""
    nearest: Array
    """(image,) largest cosine of any vector in the index to the last query of the image"""
    nearest_lengths: Floats
    """(image,) of these vectors"""
    sample: Floats
    """(vector, feature) the first `SAMPLE` of the index"""


def search(queries: Sequence[Array], blocks: Iterable[Block], metric: Metric, own: Mapping[int, int]) -> Neighbours:
    """Find the nearest vectors of queries. In float32, one matrix product per block.

    Args:
        queries: arrays (image, feature) of the same images.
        blocks: the index.
        metric: what orders neighbours. cosine: q·v / ‖v‖. dot: q·v. euclidean: q·v − ‖v‖² / 2, which falls as the
            distance grows. Each is divided by ‖q‖, which changes no order.
        own: image by the number of its vector, which is not a neighbour of that image.
    """
    stacked = np.concatenate(queries)
    units, doubled = unit_rows(stacked).astype(np.float32).T, 2 * lengths(stacked)
    best = Ranked(np.full((len(stacked), SEEN), -np.inf, np.float32), np.full((len(stacked), SEEN), -1))
    n_images = len(queries[0])
    nearest, nearest_lengths = np.full(n_images, -1.0), np.ones(n_images)
    sample = [np.zeros((0, queries[0].shape[1]), np.float32)]
    n_vectors, vectors_of = 0, dict[int, Floats]()
    for vectors, sizes in blocks:
        scores, length = np.asarray(vectors, np.float32) @ units, sizes[:, None]
        cosines = scores[:, -n_images:] / length
        row = cosines.argmax(axis=0)
        cosine_there = cosines[row, np.arange(n_images)]
        nearest_lengths = np.where(cosine_there > nearest, sizes[row], nearest_lengths)
        nearest = np.maximum(nearest, cosine_there)
        sample.append(np.array(vectors[: max(0, SAMPLE - n_vectors)]))
        for number, image in own.items():
            if n_vectors <= number < n_vectors + len(vectors):
                vectors_of[image] = np.array(vectors[number - n_vectors])
                scores[number - n_vectors, image::n_images] = -np.inf
        if metric == "cosine":
            scores /= length
        elif metric == "euclidean":
            scores -= length * (length / doubled)
        _add(best, scores, n_vectors)
        n_vectors += len(vectors)
    parts = [np.split(values, len(queries)) for values in best]
    ranked = [Ranked(*part) for part in zip(*parts, strict=True)]
    return Neighbours(ranked, n_vectors, vectors_of, float64(nearest), nearest_lengths, np.concatenate(sample))


def _add(best: Ranked, scores: Floats, start: int) -> None:
    """Add the similarities (vector, query) of another block, in place. start: number of its first vector."""
    limit, n_queries = best.scores[:, -1], scores.shape[1]
    if len(scores) > SEEN and np.isneginf(limit).any():
        limit = np.nextafter(np.partition(scores, -SEEN, axis=0)[-SEEN], -np.inf)
    hits = np.flatnonzero(scores > limit)
    queries, query = np.unique(hits % n_queries, return_inverse=True)
    places = np.arange(len(queries))
    query = np.concatenate([np.repeat(places, SEEN), query])
    score = np.concatenate([best.scores[queries].ravel(), scores.ravel()[hits]])
    number = np.concatenate([best.numbers[queries].ravel(), start + hits // n_queries])
    order = np.lexsort((number, -score, query))
    nearest = order[np.searchsorted(query[order], places)[:, None] + np.arange(SEEN)]
    best.scores[queries], best.numbers[queries] = score[nearest], number[nearest]


def recall_bounds(ours: Ranked, theirs: Ranked, k: int, metric: Metric) -> tuple[Array, Array]:
    """Return the share of the k nearest vectors that both have, (image,). At least and at most, by the order of ties.

    Similarities that differ by rounding alone are ties. A group that is tied in both, of at most `KS[-1]` vectors,
    counts as kept: those are equal vectors in an index, and which of them is found does not matter. In a larger group
    nothing can be told apart.
    """
    equal = ours.numbers[:, :, None] == theirs.numbers[:, None, :]

    def first(scores: Floats) -> tuple[Bools, Bools]:
        """Return what is surely among the first k, and what may be."""
        tolerance = TIED * np.maximum(np.abs(scores[:, :1]), metric == "cosine")
        sure = scores > scores[:, k, None] + tolerance
        return sure, (scores >= scores[:, k - 1, None] - tolerance) & np.isfinite(scores) & ~sure

    def both(a: AnyArray, b: AnyArray) -> Counts:
        return np.asarray((equal & a[:, :, None] & b[:, None, :]).sum(axis=(1, 2)))

    (x_sure, x_tied), (y_sure, y_tied) = first(ours.scores), first(theirs.scores)
    n, m = x_tied.sum(axis=1), y_tied.sum(axis=1)
    x_places, y_places = np.minimum(k - x_sure.sum(axis=1), n), np.minimum(k - y_sure.sum(axis=1), m)
    many = np.maximum(n, m) > KS[-1]
    same = (n == m) & (both(x_tied, y_tied) == n) & ~many
    least = both(x_sure, y_sure) + np.where(same, np.minimum(x_places, y_places), 0)
    least += np.maximum(0, x_places - n + both(x_tied, y_sure)) + np.maximum(0, y_places - m + both(x_sure, y_tied))
    most = np.where(many, k, np.minimum(k, both(x_sure | x_tied, y_sure | y_tied)))
    return least / k, most / k


BLOCK: Final = 8192  # vectors that are read and multiplied at once
NAMES: Final = ("vectors", "embeddings", "representations", "embedding", "vector")
"""names of the vectors where a file holds several arrays"""
IDS: Final = ("ids", "id", "names", "name")
Blocks = Iterator[AnyArray]
LISTS: Final = ("list<", "large_list<", "fixed_size_list<")
"""Types of a Parquet column that may hold vectors."""


class VectorFile(NamedTuple):
    """The vectors of a file. Nothing of them is read yet, and nothing is unpickled."""

    path: Path
    option: str
    """that names the file"""
    n: int
    """of its vectors"""
    width: int
    read: Callable[[], Blocks]
    read_ids: Callable[[], Iterator[Any]]

    def ids(self) -> Iterator[str]:
        """Yield the ids of the vectors, if the file holds any."""
        with readable(self.path, self.option):
            for name in self.read_ids():
                yield name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)

    def blocks(self) -> Iterator[Block]:
        """Yield the vectors in blocks. Raises UsageError where one has no direction."""
        n = 0
        with readable(self.path, self.option), np.errstate(over="ignore", invalid="ignore"):
            for vectors in self.read():
                rows = np.asarray(vectors, np.float32)
                if not (sound := np.isfinite(size := lengths(rows)) & (size > 0)).all():
                    raise ValueError(f"vector {n + int(sound.argmin())} is zero or not finite")
                n += len(rows)
                yield rows, size


def open_vectors(path: Path, option: str) -> VectorFile:
    """Open a file of vectors: `.npy`, `.npz`, `.safetensors` or `.parquet`.

    It holds one array (vector, feature) of floats, or one with a name of `NAMES`, and perhaps ids with a name of `IDS`.

    Args:
        path: the file.
        option: the one that names it.

    Raises:
        UsageError: no such file, another kind of file, damaged, no such array.
        EnvironmentFaultError: the package that reads it is not installed.
    """
    with readable(path, option):
        if path.suffix == ".parquet":
            n, width, kind, read, read_ids = _parquet(path)
        else:
            arrays = _arrays(path)
            shapes = {
                name: tuple(array.shape if isinstance(array, np.ndarray) else array.get_shape())
                for name, array in arrays.items()
            }
            name = _vectors_of([name for name, shape in shapes.items() if len(shape) == 2])
            ids = [arrays[key] for key in IDS if shapes.get(key) == shapes[name][:1]]
            (n, width), kind = shapes[name], arrays[name][:1].dtype.kind

            def read() -> Blocks:
                for first in range(0, n, BLOCK):
                    yield arrays[name][first : min(first + BLOCK, n)]

            def read_ids() -> Iterator[Any]:
                for first in range(0, n if ids else 0, BLOCK):
                    yield from _texts(ids[0][first : min(first + BLOCK, n)])

        if n < 2 or not width or kind != "f":
            codes = "; whole numbers are codes of a quantised or binary index" if kind in "biu" else ""
            raise ValueError(
                f"its array has shape ({n}, {width}) and is of kind {kind}{codes}; floats (vector, feature) needed"
            )
    return VectorFile(path, option, n, width, read, read_ids)


@contextlib.contextmanager
def readable(path: Path, option: str) -> Iterator[None]:
    """Turn what a missing or damaged file raises into a UsageError."""
    try:
        yield
    except ModuleNotFoundError as fault:
        raise EnvironmentFaultError(f"{path}: package {fault.name} is missing", install_hint("data")) from fault
    except FileNotFoundError as fault:
        near = nearest_path(path)
        raise UsageError(
            f"{path}: file of {option} can't be used (No such file or directory)",
            f"{option} {quoted(near)}" if near else f"ls {quoted(existing_parent(path))}",
        ) from fault
    except NOT_READABLE as fault:
        raise UsageError(
            f"{path}: file of {option} can't be used ({getattr(fault, 'strerror', None) or str(fault)[:200]})",
            f"numpy.save('vectors.npy', vectors)  # floats (vector, feature); then {option} vectors.npy",
        ) from fault


def _texts(ids: AnyArray) -> list[Any]:
    """Return ids as a list. NumPy does not look at the code points of texts, and Python fails at wrong ones."""
    if ids.dtype.kind == "U":
        points = np.frombuffer(ids.tobytes(), np.dtype(np.uint32).newbyteorder(ids.dtype.byteorder))
        if points.max(initial=0) > sys.maxunicode:
            raise ValueError("an id is not text")
    return list(ids.tolist())


def _vectors_of(names: Sequence[str]) -> str:
    """Return the name of the vectors. Several arrays may be them."""
    usual = [name for name in NAMES if name in names]
    if not usual and len(names) != 1:
        raise ValueError(f"arrays with two axes are {', '.join(names)[:99] or 'missing'}; name one of them {NAMES[0]}")
    return [*usual, *names][0]


def _arrays(path: Path) -> Mapping[str, Any]:
    """Return what can be sliced of a file, by name. Its bytes are mapped."""
    if path.suffix == ".npy":
        return {"vectors": np.lib.format.open_memmap(path, mode="r")}
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return {member.filename.removesuffix(".npy"): _mapped(path, member) for member in archive.infolist()}
    if path.suffix != ".safetensors":
        raise ValueError("it must be .npy, .npz, .safetensors or .parquet")
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 # an extra

    try:
        file: Any = safe_open(path, framework="numpy")
        return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 # it can't be iterated over
    except SafetensorError as fault:
        raise ValueError(str(fault)) from fault


def _mapped(path: Path, member: zipfile.ZipInfo) -> AnyArray:
    """Map an array of an archive."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)  # of a zip's local header: two lengths, then what has them
        file.seek(int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little"), 1)
        if member.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
            fix = f"numpy.savez('plain.npz', **numpy.load({path.name!r})) writes it as needed"
            raise ValueError(f"array {member.filename} is compressed; {fix}")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            raise ValueError(f"array {member.filename} holds Python objects")
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")


def _parquet(path: Path) -> tuple[int, int, str, Callable[[], Blocks], Callable[[], Iterator[Any]]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 # an extra

    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    name = _vectors_of([field.name for field in file.schema_arrow if str(field.type).startswith(LISTS)])
    ids = [key for key in IDS if key in names][:1]
    batch = next(file.iter_batches(1, columns=[name]), None)
    if batch is None:  # the number of rows that the file claims may be wrong
        raise ValueError("it has no rows")
    first = batch[0].flatten().to_numpy(zero_copy_only=False)

    def read() -> Blocks:
        for batch in file.iter_batches(BLOCK, columns=[name]):
            batch.validate(full=True)
            vectors = batch[name]
            if vectors.null_count or {len(row) for row in vectors} != {len(first)}:
                raise ValueError(f"a row of {name} has not {len(first)} values")
            flat = vectors.flatten().to_numpy(zero_copy_only=False)
            yield flat.reshape(len(vectors), -1)

    def read_ids() -> Iterator[Any]:
        for batch in file.iter_batches(BLOCK, columns=ids) if ids else ():
            batch.validate(full=True)
            yield from batch[ids[0]].to_pylist()

    return file.metadata.num_rows, len(first), first.dtype.kind, read, read_ids
