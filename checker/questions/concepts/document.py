"""Records of what `robustcheck concepts` measured, and their document. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ....thresholds.records import Frozen, ReprArgs
from ...core.evidence import Execution, ImageFacts, PreprocessingFacts
from ...report import frames
from ...report.document import (
    Cell,
    Column,
    Document,
    Facts,
    Section,
    Table,
    TableRow,
    document_of,
    facts_of_run,
    histogram,
    measured,
    name,
)
from ...report.record import ModelRead, Time
from ...report.shown import Shown
from ...text import Texts, count_text, name_text, number_text

if TYPE_CHECKING:
    import pandas as pd

ENCODED_AP = 0.9  # Crabbé et al., TMLR 2024, eq. 5
Of = Literal["head", "features", "axes"]
ERROR_RATE = 0.05  # at which a concept without any relation to the representation is called beyond chance, over all
BINS = 20  # of the histograms of AP
CLAIM = (
    "The number of concepts is not an indicator of robustness: it goes with language supervision (Crabbé et al., TMLR "
    "2024, arXiv 2310.13040 v2)."
)
LIMITS = (
    "Information, not a verdict. A concept that is established is one that a single direction separates from these "
    "other images, by whatever sets its images apart: perhaps the camera, the background, the size or compression of "
    "the files, or the folder they come from, and not what its name says. The shuffles take the images as "
    "independent: near-copies, crops of one photo or frames of one film count as several, and can establish a concept"
    " that is one photo. The same number on another concept set, or with other images, means something else. That a "
    "concept is not found along one direction does not say that the model lacks it: several directions together may "
    "hold it. Concepts that stand for each other in the set (sky and blue) cannot be told apart."
)


class DirectionScore(Frozen):
    """A direction that tells a concept."""

    direction: int
    """its number, from 0, by falling strength; of features the feature's own"""
    sign: Literal[1, -1]
    """whether the concept is where h·v is large (1) or small (−1)"""
    ap: float
    """average precision"""


class Concept(Frozen):
    """One concept, judged."""

    name: str
    n_images: int
    """images that have it"""
    ap: float
    """the largest average precision over all directions and signs"""
    encoded: bool
    """AP ≥ 0.9: what the paper counts"""
    established: bool
    """AP ≥ 0.9 and beyond chance, corrected over concepts"""
    needed: float | None
    """AP that a direction must exceed to be beyond chance; None: none can"""
    p: float
    """of the best direction, corrected over directions, signs and concepts; at least 1 / (1 + shuffles)"""
    chance: tuple[float, float, float]
    """median, 95 % and largest of the best AP over all shuffles"""
    n_directions: int
    """directions that tell it: AP ≥ 0.9 and beyond chance"""
    best: tuple[DirectionScore, ...]
    """the first few directions by AP, whether they reach 0.9 or not"""


class NotJudged(Frozen):
    """A concept that was left out."""

    name: str
    n_images: int
    reason: str


class DirectionConcepts(Frozen):
    """A direction that tells at least one established concept."""

    direction: int
    strength: float | None
    """singular value of the head's weight, or SD along a principal axis; None of a feature"""
    concepts: Texts
    """by falling AP"""


class DirectionFacts(Frozen):
    """The directions that were searched, each with both signs."""

    of: Of
    source: str
    """what they are, in words"""
    n: int
    n_telling: int
    """that tell at least one established concept"""
    n_polysemantic: int
    """that tell two or more"""
    telling: tuple[DirectionConcepts, ...]
    """most concepts first"""


class ChanceFacts(Frozen):
    """How chance was measured."""

    shuffles: int
    seed: int
    error_rate: float
    """at which a concept without any relation to the representation is established, over all judged concepts"""
    correction: str = (
        "Westfall–Young max-T: a concept's best AP, standardised by its own shuffles, must exceed the largest over all "
        "judged concepts and both signs of all directions in 95 % of the shuffles"
    )
    edges: tuple[float, ...]
    """of the bins of AP below"""
    shuffled: tuple[int, ...]
    """best APs of all concepts in all shuffles, a bin"""
    measured: tuple[int, ...]
    """best APs of the concepts as they are, a bin"""


class ConceptSetFacts(Frozen):
    """The concept set."""

    source: str
    layout: Literal["folders", "manifest", "broden"]
    rule: str
    """when a concept counts as present, in words"""
    n_concepts: int
    n_without: int
    """usable images without any concept"""
    min_positives: int
    """images with a concept, and without it, that are needed to judge it"""


class ConceptsModel(ModelRead):
    """The model, and the tensor that was read."""

    n_features: int


class ConceptsReport(Shown, Frozen):
    """The concepts found along single directions of a representation."""

    claim: str = CLAIM
    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    kind: Literal["concepts"] = "concepts"
    tool_version: str
    model: ConceptsModel
    concept_set: ConceptSetFacts
    encoded_ap: float = ENCODED_AP
    n_encoded: int
    """unique concepts as the paper counts them: some direction reaches AP ≥ 0.9"""
    n_established: int
    """of these, beyond chance"""
    summary: str
    concepts: tuple[Concept, ...]
    """judged: established first, then by AP"""
    not_judged: tuple[NotJudged, ...]
    directions: DirectionFacts
    chance: ChanceFacts
    preprocessing: PreprocessingFacts
    images: ImageFacts
    execution: Execution
    notes: Texts
    limits: str = LIMITS
    time: Time | None
    """None where the caller asked for no time block"""

    def __repr_args__(self) -> ReprArgs:
        """Show one line in repr, str and rich."""
        return [
            ("model", self.model.file),
            ("established", self.n_established),
            ("encoded", self.n_encoded),
            ("judged", len(self.concepts)),
            ("images", self.images.n_usable),
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame, one row per judged concept.

        Raises:
            EnvironmentFaultError: pandas is not installed.
        """
        rows: list[frames.Row] = [
            {
                "concept": concept.name,
                "n_images": concept.n_images,
                "ap": concept.ap,
                "chance_95": concept.chance[1],
                "p": concept.p,
                "n_directions": concept.n_directions,
                "encoded": concept.encoded,
                "established": concept.established,
            }
            for concept in self.concepts
        ]
        return frames.frame(rows, "concept")


def ap_text(value: float) -> str:
    """An average precision to 3 places, rounded down.

    >>> ap_text(0.89999), ap_text(0.9)
    ('0.899', '0.900')
    """
    return f"{int(value * 1000 + 1e-9) / 1000:.3f}"


SHORT = 10  # concepts in the short report
ON_A_PAGE = 50  # directions


@document_of.register(ConceptsReport)
def document_of_concepts(report: ConceptsReport) -> Document:
    """Return the document of a concept set."""
    model = report.model
    images = report.images
    chance = report.chance
    directions = report.directions
    n_images = images.n_usable
    hint = "-v shows all, and limits."
    left_out = []
    if report.not_judged:
        hint = f"{count_text(len(report.not_judged), 'concept')} not judged. {hint}"
        reasons = Facts(tuple((name(concept.name), concept.reason) for concept in report.not_judged))
        left_out.append(Section("Not judged", "", (reasons,)))
    first = (count_text(n_images, "image"), name(report.concept_set.source))
    table = Table(
        (
            Column("concept"),
            Column("images", right=True),
            Column("AP", right=True),
            Column("chance", right=True),
            Column("needed", right=True),
            Column("p", right=True),
            Column("directions", right=True),
            Column("best", no_wrap=True),
            Column("found", no_wrap=True),
        ),
        tuple(map(_concept, report.concepts)),
        f"AP: the best average precision of a direction; chance: 95 % of {chance.shuffles} shuffles stay at or below; "
        "needed: what is beyond chance, corrected over concepts; directions: how many detect it",
        most=SHORT,
    )
    facts = [("Representation", model.tensor), ("Features", model.n_features), ("Directions", directions.source)]
    run = [
        ("Concept set", report.concept_set.source),
        ("Rule", report.concept_set.rule),
        ("Digest of the images", images.digest),
        ("Seed", images.seed),
    ]
    edges = tuple(f"{edge:g}" for edge in chance.edges)
    return Document(
        question="concepts",
        title="Concepts",
        subject="concepts along single directions; their number is not an indicator of robustness",
        model=model,
        facts=(*facts_of_run(report, *first), f"{directions.n} directions, both signs", Cell(directions.source, "dim")),
        summary=report.summary,
        sections=(
            Section("Concepts", "next to what shuffled labels give", (table,), "short"),
            Section(
                "Chance",
                f"best AP, bins of {chance.edges[1]:g}; seed {chance.seed}",
                (
                    histogram(
                        f"{count_text(chance.shuffles, 'shuffle')} of all concepts", edges, chance.shuffled, "AP"
                    ),
                    histogram("concepts as they are", edges, chance.measured, "AP"),
                    f"{chance.correction}.",
                ),
            ),
            *_directions(report),
            *left_out,
            measured(report, facts, run, report.preprocessing.source),
        ),
        notes=report.notes,
        limits=report.limits,
        version=report.tool_version,
        line=f"{name_text(model.file, ascii_only=False)}: {report.n_established} of {len(report.concepts)} concepts "
        f"established, {report.n_encoded} with AP ≥ {report.encoded_ap:g}; not an indicator of robustness",
        tiles=(
            ("Established", report.n_established, "AP of 0.9 or more, and beyond chance"),
            ("Reach AP 0.9", report.n_encoded, f"of {len(report.concepts)} judged"),
            (
                "Directions that tell one",
                directions.n_telling,
                f"of {directions.n}; {directions.n_polysemantic} tell several",
            ),
            ("Images measured", n_images, f"{report.concept_set.n_without} without any concept"),
        ),
        hint=hint,
        claim=report.claim,
        notes_in_short=True,
    )


def _concept(concept: Concept) -> TableRow:
    best = concept.best[0]
    status = Cell("–", "dim")
    if concept.established:
        status = Cell("established", "pass")
    elif concept.encoded:
        status = Cell("within chance", "warn")
    return (
        name(concept.name),
        str(concept.n_images),
        Cell(ap_text(concept.ap), "bold"),
        ap_text(concept.chance[1]),
        "none" if concept.needed is None else ap_text(concept.needed),
        number_text(concept.p, 2),
        str(concept.n_directions),
        f"{'+' if best.sign > 0 else '−'}{best.direction}",
        status,
    )


def _directions(report: ConceptsReport) -> list[Section]:
    facts = report.directions
    rows = tuple((str(d.direction), name(", ".join(d.concepts))) for d in facts.telling[:ON_A_PAGE])
    if not rows:
        return []
    remark = f"{facts.n_telling} of {facts.n} tell a concept, {facts.n_polysemantic} tell several"
    if facts.n_telling > ON_A_PAGE:
        remark += f"; {facts.n_telling - ON_A_PAGE} more in JSON"
    return [Section("Directions", remark, (Facts(rows),))]
