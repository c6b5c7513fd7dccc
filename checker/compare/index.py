"""Judge whether a candidate fits the reference's index of vectors. Records, limits and words. Pure.

The verdict is independent of the one on outlier features. It asks whether the new file's vectors are those that the
index holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from robustcheck_onnx.checker.arrays import Array
from robustcheck_onnx.checker.evidence import Evidence, Interval
from robustcheck_onnx.checker.statistics.definitions import wilson_bounds
from robustcheck_onnx.checker.text import interval_text, number_text, short_provider
from robustcheck_onnx.checker.verdict.reasons import INDEX_REASONS, INDEX_STEPS
from robustcheck_onnx.thresholds.profile import Frozen

from .neighbours import KS, Block, Change, Metric, cosine, explain, lengths, margins, quantile, search, shares_kept
from .pairs import Compared

IndexVerdict = Literal["compatible", "re-embed", "undecided"]
Required = Literal["indication", "index"]
Share = Annotated[float, Field(ge=0, le=1)]
FEWEST_IMAGES: Final = 72  # from which the 5 % quantile has a lower bound
WORST: Final = 5  # images that are shown
TIED_SHARE: Final = 0.05  # of the neighbours that ties may hide before they are named as the reason
SAME_VECTOR: Final = 0.98  # cosine of a photo's vector in the index to the reference's
UNSOUND: Final = {
    *("duplicate_images", "near_duplicate_images", "images_not_varied", "nonfinite_representations"),
    *("constant_representations", "batch_dependent", "output_changed", "unchecked"),
}
"""reasons of a check for which vectors or images can't be taken as they were measured"""
SIGNS: Final[dict[IndexVerdict, str]] = {"compatible": "✓", "re-embed": "✗", "undecided": "?"}


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


OWN: Final = "in its own vectors"
SAME_LENGTH: Final = 0.9  # of the median of the shorter vector's length divided by the longer one's


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
    worst: tuple[WorstImage, ...] = ()
    ran: str = ""
    """what ran both, and how close their vectors are"""
    differs: tuple[str, ...] = ()
    """how the two files differ"""

    def because(self, name: str, verdict: IndexVerdict, seen: str, next_step: str = "") -> IndexReport:
        """Return the report with one more reason. re-embed counts before undecided."""
        step = next_step or INDEX_REASONS.get(name, ("", ""))[1] or INDEX_STEPS[verdict]
        reason = IndexReason(id=name, verdict=verdict, seen=seen, next_step=step)
        worst = "re-embed" if "re-embed" in (self.verdict, verdict) else "undecided"
        return self.model_copy(update={"reasons": (*self.reasons, reason), "verdict": worst})

    @property
    def reason(self) -> IndexReason | None:
        """The first reason for the verdict."""
        return next((each for each in self.reasons if each.verdict == self.verdict), None)

    @property
    def plain(self) -> str:
        """Return the verdict with its first reason, or the numbers that decide."""
        decide = [f"{name} {number_text(n.estimate)} ({_bounds(n)})" for name, n in self.numbers.items() if n.needs]
        because = (
            f": {self.reason.seen}. {self.reason.next_step}" if self.reason else f". Measured: {'; '.join(decide)}."
        )
        return f"{SIGNS[self.verdict]} index: {self.verdict}{because}"

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield label and text of each line. They are the same in every form for people."""
        for reason in self.reasons:
            yield reason.verdict, f"{reason.seen}. {reason.next_step}"
        yield "run by", self.ran
        for name, number in self.numbers.items():
            needs = "" if number.needs is None else f"; {number.needs:g} is needed"
            yield name, f"{number_text(number.estimate, 5)} ({_bounds(number)}{needs})"
        if self.n_vectors:
            yield "index", f"{self.options.file}, {self.n_vectors:,} vectors"
        if self.differs:
            yield "files differ", "; ".join(self.differs)


def _bounds(number: Number) -> str:
    return interval_text(number.low, number.high, [number.needs or 0], missing="bounds need more photos")


def compare_vectors(
    candidate: Array,
    reference: Array,
    images: Sequence[tuple[str, str]],
    options: IndexOptions,
    text: Array | None,
    index: Iterable[Block] | None,
) -> IndexReport:
    """Measure the two vectors of each image, and judge each number.

    Args:
        candidate, reference: (image, feature), as wide.
        images: name and digest of each.
        options: what `compatible` needs.
        text: (class, feature) embeddings.
        index: the vectors of a file.
    """
    names, digests = [PurePath(name).name for name, _ in images], [digest for _, digest in images]
    metric: Metric = options.metric or "cosine"
    cosines, sizes = cosine(candidate, reference), lengths(reference)
    ratios = lengths(candidate) / sizes
    numbers, tied = dict[str, Number](), dict[str, float]()

    def add(name: str, interval: Interval, needs: float | None = None) -> None:
        numbers[name] = Number(**interval.model_dump(), needs=needs)

    for name, values, at in (("cosine", cosines, 0), ("distance", lengths(candidate - reference) / sizes, 1)):
        add(f"{name}, median", quantile(values, 0.5))
        add(f"{name}, worst 5 %", quantile(values, abs(at - 0.05)), None if at else options.min_cosine)
        add(f"{name}, worst 1 %", quantile(values, abs(at - 0.01)))
    add("length, relative", quantile(ratios, 0.5))
    needed = None if options.metric == "cosine" else SAME_LENGTH
    add("length kept", quantile(np.minimum(ratios, 1 / ratios), 0.5), needed)
    photos = search(
        [candidate, np.roll(reference, 1, axis=0), reference], [(reference, sizes, digests)], metric, digests
    )
    own = search([candidate], [(candidate, lengths(candidate), digests)], metric, digests)
    in_file = None if index is None else search([candidate, reference], index, metric, names)
    searched = {"among the photos": photos, OWN: own} | ({} if in_file is None else {"in the index": in_file})
    kept_own = 1.0
    for where, found in searched.items():
        theirs = (photos if where == OWN else found).ranked[-1]
        # of equal vectors one search is that of both: products of other shapes differ by rounding
        ours = theirs if np.array_equal(candidate, reference) else found.ranked[0]
        counted = [k for k in KS if k <= found.n_vectors - bool(found.own)]
        for k in counted:
            least, most = shares_kept(ours, theirs, k, metric)
            decides = where != OWN and k == counted[-1]
            add(name := f"recall@{k} {where}", _share(least, most), options.min_recall if decides else None)
            if most.mean() - least.mean() > TIED_SHARE:
                tied[name] = float(most.mean())
            kept_own = min(kept_own, least.mean()) if where == OWN else kept_own
    if text is not None:
        now, before = margins(candidate, reference, text)
        add("top-1 class kept", _share(now > 0), options.min_recall)
        add("margin moved", quantile(now - before, 0.5))
    change, after = explain(candidate, reference, options.min_cosine)
    if change == "rotated" and kept_own < options.min_recall:
        change = "none"  # a rotation fits few vectors well, whatever they are; after one all neighbours are kept
    report = IndexReport(
        options=options,
        n_images=len(images),
        numbers=numbers,
        change=change,
        worst=tuple(
            WorstImage(name=images[row][0], digest=images[row][1], cosine=cosines[row])
            for row in np.argsort(cosines, kind="stable")[:WORST]
        ),
        n_vectors=0 if in_file is None else in_file.n_vectors,
    )
    if change in ("permuted", "rotated"):
        seen = f"{change}: after undoing it, the cosine of the same image is {number_text(after)} (worst 5 %)"
        report = report.because(change, "re-embed", seen)
    k = max(k for k in KS if k < len(images))
    _, another, theirs = photos.ranked
    shared = float(shares_kept(another, theirs, k, metric)[0].mean())
    if shared >= options.min_recall:
        seen = f"the query of another photo finds the same neighbours, too (recall {number_text(shared)})"
        report = report.because("same_for_all", "undecided", seen)
    if in_file is not None and in_file.own and (nearest := min(in_file.own)) < SAME_VECTOR:
        seen = f"a photo's vector in the index has cosine {number_text(nearest)} to the reference's"
        report = report.because("other_index", "undecided", seen)
    return _judged(report, tied)


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


def _share(values: Array | Any, most: Array | Any = None) -> Interval:
    """Return the mean of shares, one per image, with its Wilson interval.

    The variance of a share is at most that of a yes or no with the same mean, so the interval is wide enough.

    most: what the shares are at most; the upper bound is that of their mean.
    """
    means = [float(np.mean(each)) for each in (values, values if most is None else most)]
    (low, _), (_, high) = (wilson_bounds(mean, len(values)) for mean in means)
    return Interval(estimate=means[0], low=low, high=high)


def concluded(report: IndexReport, both: Sequence[Compared], nodes: Sequence[Counter[str]]) -> IndexReport:
    """Add what differs between the files, and what makes the numbers unsure.

    Args:
        report: of the vectors.
        both: candidate and reference.
        nodes: of each file's graph, by type; none where those of one are not known.
    """
    evidence = [each.evidence for each in both]
    n_varied = min(evidence[0].images.sanity.n_varied, report.n_images)
    if unsound := sorted(UNSOUND & {reason.id for each in both for reason in each.verdict.reasons}):
        step = f"Run `robustcheck explain {unsound[0]}`."
        report = report.because("unsound", "undecided", f"a check finds {', '.join(unsound)}", step)
    ran = " against ".join(f"{short_provider(e.execution.providers[0])} {e.execution.runtime}" for e in evidence)
    if n := report.numbers:
        ran += f": cosine {number_text(n['cosine, median'].estimate, 5)}"
        ran += f", recall@1 {number_text(n['recall@1 among the photos'].estimate)}"
        if n_varied < FEWEST_IMAGES:
            seen = f"{n_varied} images differ clearly from each other; {FEWEST_IMAGES} are needed"
            report = report.because("too_few_images", "undecided", seen)
    new, old = (_facts(e, n) for e, n in zip(evidence, nodes, strict=True))
    differs = tuple(
        f"{name} {old.get(name, 0)} → {new.get(name, 0)}" for name in {**old, **new} if old.get(name) != new.get(name)
    )
    return report.model_copy(update={"ran": ran, "differs": differs})


def _facts(evidence: Evidence, nodes: Counter[str]) -> dict[str, str]:
    """Return what may differ between two files."""
    model = evidence.model
    facts = {"precision": evidence.execution.precision, "exporter": model.producer, "bytes": f"{model.size_bytes:,}"}
    for what, values in (
        ("opset", model.opset),
        ("preprocessing", dict(evidence.preprocessing.preprocessing)),
        ("nodes", nodes),
    ):
        facts |= {f"{what} {name}": str(value) for name, value in values.items()}
    return facts
