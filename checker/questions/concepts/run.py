"""Find the concepts of a labelled set along single directions.

One pass over the images, then linear algebra. Information, not a verdict. Silent; progress goes to a callback.

Broden is the concept set of Network Dissection (Bau et al., CVPR 2017). Its index.csv names the images (below images/)
and, in a column for each category of category.csv, their labels, several with `;`: numbers of label.csv that hold for
the whole image, or masks (PNG, below images/) whose pixels are such numbers as red + 256 · green, 0 for none.
"""

from __future__ import annotations  # help() names the types as the package does

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Unpack

import numpy as np

from ...arrays import Bools, Floats
from ...core.evidence import Options, RunOptions
from ...core.images.source import ImageSource, Picture
from ...core.measure.collect import Collected, collect, difference_of_head, n_features, read_head_input
from ...core.measure.job import Job
from ...core.measure.opening import Inputs, model_read, open_runner, question_notes, read_inputs
from ...core.model.open import ModelFile
from ...core.progress import Progress, Tell, tell_stage
from ...core.runtime.head import LinearHead, head_from_file, read_head
from ...core.verdict.notes import execution_notes, image_notes
from ...errors import CannotAssessError, UsageError, unfit
from ...outside.image_sets.listing import image_files, label_column
from ...outside.image_sets.open import open_files, open_images
from ...outside.isolation import NO_LIMITS, Limits, apart
from ...outside.storage.places import is_ignored, local_path
from ...paths import SUFFIXES
from ...report.record import Clock, Time
from ...text import VERSION, Texts, count_text, frozen, quoted
from . import directions
from .directions import MIN_SHUFFLES, OF, Directions, search
from .document import ENCODED_AP, ERROR_RATE, Concept, ConceptSetFacts, ConceptsModel, ConceptsReport, NotJudged

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
    asked = Asked(concept_set, of, head, min_positives, min_coverage, shuffles)
    path = local_path(model, "model")
    if isolate:
        keywords = run.model_dump(exclude={"images"})
        return apart(concepts, str(model), limits)(model, progress=progress, **vars(asked), **keywords)
    limits.refuse_here()
    return _find(Job(path, run), asked, clock, progress)


@frozen
class Asked:
    """What is asked of a concept set. It has the arguments of `concepts`, and refuses some values."""

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


def _find(job: Job, asked: Asked, clock: Clock, progress: Tell | None) -> ConceptsReport:
    """Measure the images, and search directions for the concepts."""
    run = job.options
    tell_stage(progress, "opening the model and the concept set")
    dataset = open_concepts(
        asked.concept_set, seed=run.seed, max_images=run.max_images, min_coverage=asked.min_coverage
    )
    inputs, own_head, why = _open(job, dataset, asked)
    (opened,) = inputs.models
    tell_stage(progress, "loading the model")
    runner = open_runner(inputs)
    head = own_head
    if asked.head is not None:  # before minutes of images
        head = head_from_file(local_path(asked.head, "head"), n_features(runner, inputs))
    collected = collect(runner, inputs, progress=progress)
    if own_head is not None:
        difference_of_head(own_head, collected, opened)
    h, present = collected.representations, _labels(collected, dataset)
    judged, left_out = split(present, dataset.names, asked.min_positives)
    if not judged:
        raise CannotAssessError(
            f"{asked.concept_set}: none of {len(dataset.names)} concepts has at least {asked.min_positives} of the "
            f"{len(h)} images with it, and as many without; at least one is needed",
            "add images, of the concepts and without them; or --min-positives N, the report shows what chance gives",
        )
    looked_at, source = _directions(asked.of, head, h, opened)
    names, positives = [dataset.names[i] for i in judged], [np.flatnonzero(present[:, i]) for i in judged]
    stage = "ranking the images along each direction"
    tell_stage(progress, stage)

    def tell(done: int) -> None:
        tell_stage(progress, f"{stage}, {done} of {looked_at.n} done")

    measured = search(h, looked_at, positives, n_shuffles=asked.shuffles, seed=run.seed, progress=tell)
    concepts_ = directions.judge(measured, names, [len(indices) for indices in positives])
    n_established, n_encoded = sum(c.established for c in concepts_), sum(c.encoded for c in concepts_)
    images = collected.read.facts(inputs.source)
    return ConceptsReport(
        tool_version=VERSION,
        model=ConceptsModel(**model_read(opened), n_features=h.shape[1]),
        concept_set=ConceptSetFacts(
            source=str(asked.concept_set),
            layout=dataset.layout,
            rule=dataset.rule,
            n_concepts=len(dataset.names),
            n_without=int((~present.any(axis=1)).sum()),
            min_positives=asked.min_positives,
        ),
        n_encoded=n_encoded,
        n_established=n_established,
        summary=f"{n_established} of {len(concepts_)} judged concepts {'is' if n_established == 1 else 'are'} "
        f"established: a single direction detects {'it' if n_established == 1 else 'them'} with average precision 0.9 "
        f"or more, beyond chance; {n_encoded} {'reaches' if n_encoded == 1 else 'reach'} 0.9.",
        concepts=concepts_,
        not_judged=left_out,
        directions=directions.direction_facts(measured, names, looked_at, source),
        chance=directions.chance_facts(measured, run.seed),
        preprocessing=inputs.preprocessing,
        images=images,
        execution=runner.execution,
        notes=(
            *question_notes(inputs),
            *image_notes(images),
            *(f"Image set: {finding.seen}." for finding in images.sanity.findings),
            *filter(None, [why]),
            *_set_notes(dataset, looked_at, present[:, judged], concepts_),
            *execution_notes(runner.execution),
        ),
        time=Time.until_now(clock, len(h)),
    )


def _directions(of: str | None, head: LinearHead | None, h: Floats, opened: ModelFile) -> tuple[Directions, str]:
    """Return the directions of the representations, and what they are in words. Refuse to go on without any."""
    tensor = opened.representation.tensor
    if of == "features":
        looked_at, source = directions.of_features(h.shape[1]), f"the features of {tensor}"
    elif head is None:
        looked_at, source = directions.of_axes(h), f"principal axes of {tensor}, these images"
    else:
        looked_at, source = directions.of_head(head.weight), f"right singular vectors of the weight of {head.source}"
    if looked_at.n == 0:
        raise unfit(
            opened.path,
            f"no directions found ({source}); the head must have a weight other than 0, or the "
            "representations must differ",
        )
    return looked_at, source


def _open(job: Job, concept_set: ConceptSet, asked: Asked) -> tuple[Inputs, LinearHead | None, str]:
    """Open the model for a call. Where its head gives the directions, the tensor is the input of the head.

    Returns that head, too, and a note on a choice that the user did not make.
    """
    inputs = read_inputs(job, lambda _: concept_set.source)
    if asked.of in ("features", "axes") or asked.head is not None:
        return inputs, None, ""
    (opened,) = inputs.models
    try:
        read = read_head(opened)
    except CannotAssessError as fault:
        if asked.of == "head":
            raise
        return inputs, None, f"No head was read ({fault.message}): principal axes are looked at."
    if job.options.tensor is None:
        return read_head_input(job, lambda _: concept_set.source), read, ""
    if opened.head is None or opened.head.tensor != opened.representation.tensor:
        if asked.of == "head":
            raise UsageError(
                f"{opened.path}: --tensor is {opened.representation.tensor}; the head of the model acts on another one",
                "leave out --tensor, or --of axes",
            )
        return inputs, None, "The head acts on another tensor: principal axes are looked at."
    return inputs, read, ""


def _labels(collected: Collected, concept_set: ConceptSet) -> Bools:
    """(image, concept): whether it is present."""
    column = {name: index for index, name in enumerate(concept_set.names)}
    present = np.zeros((len(collected.digests), len(column)), bool)
    for row, digest in enumerate(collected.digests):
        if digest not in concept_set.concepts:
            raise CannotAssessError(
                f"{collected.names[row]}: image has other bytes than when its concepts were read; images must not "
                "change during a run",
                "run again when nothing writes to the concept set",
            )
        present[row, [column[name] for name in concept_set.concepts[digest]]] = True
    return present


def split(present: Bools, names: Sequence[str], min_positives: int) -> tuple[list[int], tuple[NotJudged, ...]]:
    """Return the concepts that can be judged, and the others.

    Args:
        present: (image, concept).
        names: of the concepts.
        min_positives: images with a concept, and without it, that are needed.
    """
    judged, others = [], []
    for index, (name, count) in enumerate(zip(names, present.sum(axis=0).tolist(), strict=True)):
        without = len(present) - count
        if min(count, without) >= min_positives:
            judged.append(index)
            continue
        few = f"{count_text(count, 'image')} with it" if count < min_positives else f"{without} without it"
        others.append(NotJudged(name=name, n_images=count, reason=f"{few}; {min_positives} are needed"))
    return judged, tuple(others)


def _set_notes(concept_set: ConceptSet, looked_at: Directions, present: Bools, judged: Sequence[Concept]) -> list[str]:
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


IMAGES = "images"
TABLES = ("index.csv", "category.csv", "label.csv")
NUMBER = re.compile(r"[0-9]{1,9}")
BELOW = re.compile(r"(?!/)(?!.*://)(?!(.*/)?\.\.(/|$)).+")  # a path below a folder: no URL, none from the root, no ..
SHOWN = 200  # characters of a cell in a message
Row = tuple[int, dict[str, str]]
"""line number, and cells by column"""
Layout = Literal["folders", "manifest", "broden"]
LAYOUTS = (
    "a folder of folders named after concepts, a manifest (.csv, .jsonl) with the columns path and concept, or a "
    "Broden-layout folder"
)
PRESENT = 0.5  # a manifest's score from which a concept counts as present
MANIFESTS = (".csv", ".jsonl", ".ndjson")
LabelsOf = Callable[[str], Iterable[str]]
"""the concepts of an image by its name"""


@dataclass(frozen=True, eq=False)
class ConceptSet:
    """Images, each once, and what is in each."""

    source: ImageSource
    """in seeded order; of files with the same bytes the first"""
    concepts: dict[str, frozenset[str]]
    """by the digest of the image"""
    names: Texts
    """of all concepts, sorted"""
    layout: Layout
    rule: str
    """when a concept counts as present, in words"""


def open_concepts(
    spec: str | Path, *, seed: int = 0, max_images: int | None = None, min_coverage: float = 0.0
) -> ConceptSet:
    """Open a concept set. Images are read for their digests, not decoded.

    Files with the same bytes are one image that has the concepts of all of them, however they are named.

    Args:
        spec: one of `LAYOUTS`.
        seed: of the order of the images.
        max_images: keep only the first so many different ones.
        min_coverage: of a Broden mask: the share of its pixels that a concept must have; 0 = any pixel.

    Raises:
        UsageError: as `images.open_images`; no such layout; no concept; a row or mask that can't be read; a coverage
            for a layout without masks, or outside 0 to 1.
    """
    path = local_path(spec, "concept set").expanduser()
    if max_images is not None and max_images < 1:
        raise UsageError(f"max_images is {max_images}; it must be at least 1", "--max-images 1000")
    if not 0 <= min_coverage <= 1:
        raise UsageError(f"min_coverage is {min_coverage:g}; it must be a share, 0 to 1", "--min-coverage 0.05")
    layout = _layout(path)
    if min_coverage and layout != "broden":
        raise UsageError(
            f"{spec}: concept set is of layout {layout}; --min-coverage is for the masks of a Broden-layout folder",
            "leave out --min-coverage",
        )
    labels_of: LabelsOf
    if layout == "broden":
        source, labels_of, names = _broden(path, str(spec), seed, min_coverage)
        share = f"at least {min_coverage:.2%} of the pixels" if min_coverage else "any pixel"
        rule = f"a concept is present where a mask gives it {share}, or the image is labelled with it as a whole"
    elif layout == "folders":
        source, labels_of, names = _folders(path, str(spec), seed)
        rule = "a concept is present in the images of the folder with its name"
    else:
        source, labels_of, names = _manifest(path, seed)
        rule = f"a concept is present where a row names it, with a score of {PRESENT:g} or more if there is one"
    source, by_digest = _unique_images(source, max_images)
    concepts = {digest: frozenset(c for name in same for c in labels_of(name)) for digest, same in by_digest.items()}
    names.update(*concepts.values())
    if not names:
        raise UsageError(
            f"{spec}: no concepts found among {len(source)} images; a concept set is {LAYOUTS}",
            "robustcheck concepts --help",
        )
    return ConceptSet(source, concepts, tuple(sorted(names)), layout, rule)


def _layout(path: Path) -> Layout:
    if path.is_dir():
        return "broden" if any((path / table).is_file() for table in TABLES) else "folders"
    if not path.exists():
        raise UsageError(f"{path}: concept set is missing; it must be {LAYOUTS}", f"ls {quoted(path.parent)}")
    if path.is_file() and path.suffix.lower() in MANIFESTS:
        return "manifest"
    raise UsageError(f"{path}: concept set is of no known layout; it must be {LAYOUTS}", "--concepts concepts.csv")


def _broden(folder: Path, spec: str, seed: int, min_coverage: float) -> tuple[ImageSource, LabelsOf, set[str]]:
    """Read the tables of a Broden-layout folder. Masks are read with their images.

    Raises UsageError: a table or column is missing, a number or name is none, an image is listed twice, none is listed.
    """
    index, images = folder / "index.csv", folder / IMAGES
    labels = _label_names(folder / "label.csv")
    categories = tuple(cells["name"] for _, cells in _table(folder / "category.csv", ["name"]))
    rows: dict[str, Row] = {}  # by the image's name, below images/
    for line, cells in _table(index, ["image", *categories]):
        if not BELOW.fullmatch(cells["image"]) or cells["image"] in rows:
            raise UsageError(
                f"{index}: row {line}: image is {cells['image']!r:.{SHOWN}}; each row must name another image below "
                f"{IMAGES}/",
                f"sed -n {line}p {quoted(index)}",
            )
        rows[cells["image"]] = (line, cells)

    def in_mask(name: str, where: str) -> set[int]:
        """Return the numbers that have enough of a mask's pixels."""
        if not BELOW.fullmatch(name) or not name.lower().endswith(".png"):
            raise UsageError(
                f"{where}; it must be a number of label.csv, or a PNG below {IMAGES}/", f"ls {quoted(images)}"
            )
        mask = open_files(images, [name], spec=name).load(0)
        if not isinstance(mask, Picture) or mask.notes:
            why = ", ".join(mask.notes) if isinstance(mask, Picture) else getattr(mask, "reason", "")
            raise UsageError(
                f"{where}; the mask must be a PNG with red, green and blue ({why})", f"file {quoted(images / name)}"
            )
        pixels = np.asarray(mask.image, np.int64)
        numbers, counts = np.unique(pixels[..., 0] + 256 * pixels[..., 1], return_counts=True)
        return set(numbers[(numbers > 0) & (counts >= min_coverage * counts.sum())].tolist())

    def concepts_of(name: str) -> set[str]:
        """Return the labels of an image, over all categories. Raises UsageError: a mask or number that is none."""
        line, cells = rows[name]
        numbers: set[int] = set()
        for category in categories:
            for part in filter(None, map(str.strip, cells[category].split(";"))):
                where = f"{index}: row {line}: {category} is {part:.{SHOWN}}"
                ids = {int(part)} if NUMBER.fullmatch(part) else in_mask(part, where)
                if unknown := ids - labels.keys():
                    raise UsageError(
                        f"{where}; {min(unknown)} is not a number of label.csv",
                        f"head -3 {quoted(folder / 'label.csv')}",
                    )
                numbers |= ids
        return {labels[number] for number in numbers}

    return open_files(images, list(rows), spec=spec, seed=seed), concepts_of, set()


def _label_names(path: Path) -> dict[int, str]:
    labels: dict[int, str] = {}
    for line, cells in _table(path, ["number", "name"]):
        if not NUMBER.fullmatch(cells["number"]) or int(cells["number"]) in labels or not cells["name"]:
            raise UsageError(
                f"{path}: row {line} is number {cells['number']!r:.{SHOWN}}, name {cells['name']!r:.{SHOWN}}; each "
                "must have its own number and a name",
                f"sed -n {line}p {quoted(path)}",
            )
        labels[int(cells["number"])] = cells["name"]
    times = Counter(labels.values())
    return {number: name if times[name] == 1 else f"{name} ({number})" for number, name in labels.items()}


def _table(path: Path, needed: list[str]) -> list[Row]:
    """Return the rows of a CSV table by column. Blanks at the ends of cells are left out."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise UsageError(
                    f"{path}: column {missing[0]} is missing; this table of a Broden-layout folder has "
                    f"{', '.join(needed)}",
                    f"head -1 {quoted(path)}",
                )
            rows = [(reader.line_num, {name: row[name].strip() for name in needed}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise UsageError(
            f"{path}: table is not readable ({reason}); a Broden-layout folder has {', '.join(TABLES)}",
            f"ls {quoted(path.parent)}",
        ) from fault
    if not rows:
        raise UsageError(f"{path}: no rows found; at least one is needed", f"cat {quoted(path)}")
    return rows


def _folders(folder: Path, spec: str, seed: int) -> tuple[ImageSource, LabelsOf, set[str]]:
    """Return the concept folders. A folder that links to another is a concept of its own."""
    try:
        inside = sorted(path for path in folder.iterdir() if not is_ignored(path.name))
    except OSError as fault:
        raise UsageError(
            f"{folder}: folder cannot be read ({fault.strerror}); a concept set must be readable",
            f"ls -ld {quoted(folder)}",
        ) from fault
    concepts = [path for path in inside if path.is_dir()]
    names: list[str] = []
    for concept in concepts:
        images = image_files(concept)
        if not images:
            raise UsageError(
                f"{concept}: no images found; each folder of a concept set holds images of its concept",
                f"ls {quoted(concept)}",
            )
        names += [f"{concept.name}/{image}" for image in images]
    names += [path.name for path in inside if path.is_file() and path.suffix.lower() in SUFFIXES]
    source = open_files(folder, names, spec=spec, seed=seed)
    return source, lambda name: name.partition("/")[:1] if "/" in name else (), {path.name for path in concepts}


def _manifest(path: Path, seed: int) -> tuple[ImageSource, LabelsOf, set[str]]:
    rows = label_column(path, "concept")
    scores = label_column(path, "score")
    if rows and all(cell is None for _, _, cell in rows):
        raise UsageError(
            f"{path}: column concept is missing; a manifest of concepts has the columns path and concept, and perhaps "
            "score",
            f"head -1 {quoted(path)}",
        )
    present: dict[str, set[str]] = {}
    names: set[str] = set()
    for (number, image, cell), (_, _, score) in zip(rows, scores, strict=True):
        has = present.setdefault(image, set())
        if cell is None or cell == "":
            continue  # an image without any of the concepts
        where = f"{path}: row {number}"
        if isinstance(cell, bool) or not isinstance(cell, (str, int)) or not str(cell).strip():
            raise UsageError(
                f"{where}: concept is {cell!r:.{SHOWN}}; it must be a name", f"sed -n {number}p {quoted(path)}"
            )
        concept = str(cell).strip()
        names.add(concept)
        if _score(score, where, f"sed -n {number}p {quoted(path)}") >= PRESENT:
            has.add(concept)
    return open_images(str(path), seed=seed), present.__getitem__, names


def _score(cell: object, where: str, hint: str) -> float:
    """Return the score of a row. It is 1 where the row has none."""
    if cell is None or cell == "":
        return 1.0
    try:
        value = math.nan if isinstance(cell, bool) else float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1:
        raise UsageError(f"{where}: score is {cell!r:.{SHOWN}}; it must be a number, 0 to 1", hint)
    return value


def _unique_images(source: ImageSource, limit: int | None) -> tuple[ImageSource, dict[str, list[str]]]:
    """Return each image once.

    It is the first file of those with the same bytes; the names of all of them come by digest.

    A file that can't be read stays: it is skipped, with its reason, when it is its turn.
    """
    places: dict[str, int] = {}  # a manifest names one image in several rows
    for index, name in enumerate(source.entries.names()):
        places.setdefault(name, index)
    same: dict[str | int, list[str]] = {}  # by digest; by its place where an image has none
    for name, index in places.items():
        same.setdefault(source.digest(index) or index, []).append(name)
    chosen = list(same.items())[:limit]
    entries = source.entries.take(np.array([places[names[0]] for _, names in chosen], np.int64))
    by_digest = {digest: names for digest, names in chosen if isinstance(digest, str)}
    return replace(source, entries=entries, n_available=len(same)), by_digest
