"""The record of an index verdict: its numbers, its reasons, and the words of each line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ....thresholds.records import Frozen
from ...core.evidence import Interval
from ...core.verdict.index_reasons import INDEX_REASONS, INDEX_STEPS
from ...text import Texts, interval_text, number_text
from .machine import MachineLoss

Metric = Literal["cosine", "dot", "euclidean"]
Change = Literal["none", "normalised", "not normalised", "permuted", "rotated"]
IndexVerdict = Literal["compatible", "re-embed", "undecided"]
Required = Literal["indication", "index"]
Tested = Literal["by ids", "by vectors", "no"]
Share = Annotated[float, Field(ge=0, le=1)]
OTHER_VECTORS = ("other_index", "other_ids", "changed_index", "index_lengths")
"""reasons for which an index does not hold the reference's vectors"""
OUTRANKING = (*OTHER_VECTORS, "assumed_preprocessing", "runtime_differs")
"""reasons for which the measured vectors are not those that a search compares: nothing is known then"""
ACCEPT = "--accept-untested-index"
UNTESTED = "it was not tested whether the reference made the index"
SIGNS = {"compatible": "✓", "re-embed": "✗", "undecided": "?"}


class IndexOptions(Frozen):
    """What the index verdict is asked with. studies/results/index-pairs.md shows what real pairs have."""

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
    def allowances(self) -> Texts:
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

    def text(self, digits: int = 3, needed: str = "") -> str:
        """Return the number with its bounds, and with what is needed."""
        limit = self.needs or 0
        bounds = interval_text(self.low, self.high, [limit], missing="bounds need more photos", least=digits)
        return f"{number_text(self.estimate, digits)} ({bounds}{needed})"


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
    text_digest: str = ""
    """of the file of classes"""
    tested: Tested | None = None
    """how it was shown that the reference made that index"""
    ids: dict[str, int] = Field(default_factory=dict)
    """photos that have a vector there by its id, by the way in which the id matches"""
    n_ambiguous: int = 0
    """photos that several ids match, or whose id matches another photo, too"""
    n_repeated: int = 0
    """of these, photos whose id several vectors have"""
    n_ids: int = 0
    """of that index"""
    worst: tuple[WorstImage, ...] = ()
    ran: str = ""
    """what ran both, and how close their vectors are"""
    differs: Texts = ()
    """how the two files differ"""
    machine: MachineLoss | None = None
    """how far the vectors are from the reference's by reference arithmetic; None: it was not needed, or not possible"""

    def because(self, name: str, verdict: IndexVerdict, seen: str, next_step: str = "") -> IndexReport:
        """Return the report with one more reason. re-embed counts before undecided, and `OUTRANKING` before all.

        Where the index does not hold the reference's vectors, those are not what queries meet: nothing is known of
        the index, and embedding it again does not help if the wrong reference was named.
        """
        _, usual_step = INDEX_REASONS.get(name, ("", ""))
        step = next_step or usual_step or INDEX_STEPS[verdict]
        reason = IndexReason(id=name, verdict=verdict, seen=seen, next_step=step)
        reasons = [*self.reasons, reason]
        reasons.sort(key=lambda each: each.id not in OUTRANKING)
        worst = "re-embed" if "re-embed" in (self.verdict, verdict) else "undecided"
        if reasons[0].id in OUTRANKING:
            worst = "undecided"
        return self.model_copy(update={"reasons": tuple(reasons), "verdict": worst})

    @property
    def is_compatible(self) -> bool:
        """Return whether the verdict is `compatible`."""
        return self.verdict == "compatible"

    @property
    def reason(self) -> IndexReason | None:
        """The first reason for the verdict."""
        return next((r for r in self.reasons if r.verdict == self.verdict), None)

    @property
    def plain(self) -> str:
        """Return the verdict with its first reason, or the numbers that decide."""
        answer = f"{SIGNS[self.verdict]} vector index: {self.verdict}"
        reason = self.reason
        if reason is not None:
            return f"{answer}: {reason.seen}. {reason.next_step}"
        if self.is_compatible and self.tested == "no":
            answer += f", but {UNTESTED} (accepted by {ACCEPT})"
        decisive = [f"{name} {number.text()}" for name, number in self.numbers.items() if number.needs]
        return f"{answer}. Measured: {'; '.join(decisive)}."

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield label and text of each line, which are the same in every form for people."""
        for reason in self.reasons:
            yield reason.verdict, f"{reason.seen}. {reason.next_step}"
        yield "run by", self.ran
        if self.machine is not None:
            yield "machine", self.machine.text
        for name, number in self.numbers.items():
            needed = "" if number.needs is None else f"; {number.needs:g} is needed"
            yield name, number.text(5, needed)
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
        matched = [f"{n} by {way}" for way, n in self.ids.items()] or ["none"]
        unclear = {"have an id that several vectors have": self.n_repeated}
        unclear["are ambiguous"] = self.n_ambiguous - self.n_repeated
        left_out = [f"; {n} {why}, so not matched" for why, n in unclear.items() if n]
        return f"of {self.n_images} photos, matched: {', '.join(matched)}{''.join(left_out)}"
