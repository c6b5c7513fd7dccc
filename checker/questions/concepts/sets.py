"""Read a concept set: images, and which concepts each of them has.

Broden is the concept set of Network Dissection (Bau et al., CVPR 2017). Its index.csv names the images (below images/)
and, in a column for each category of category.csv, their labels, several with `;`: numbers of label.csv that hold for
the whole image, or masks (PNG, below images/) whose pixels are such numbers as red + 256 · green, 0 for none.
"""

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ...core.images.source import DecodedImage, ImageSource
from ...errors import UsageError
from ...outside.image_sets.listing import image_files
from ...outside.image_sets.manifests import label_column
from ...outside.image_sets.open import open_files, open_images
from ...outside.storage.places import is_ignored, local_path
from ...paths import SUFFIXES
from ...text import Texts, quoted

IMAGES = "images"
TABLES = ("index.csv", "category.csv", "label.csv")
NUMBER = re.compile(r"[0-9]{1,9}")
BELOW = re.compile(r"(?!/)(?!.*://)(?!(.*/)?\.\.(/|$)).+")  # a path below a folder: no URL, none from the root, no ..
SHOWN = 200  # characters of a cell in a message
Layout = Literal["folders", "manifest", "broden"]
LAYOUTS = (
    "a folder of folders named after concepts, a manifest (.csv, .jsonl) with the columns path and concept, or a "
    "Broden-layout folder"
)
PRESENT = 0.5  # a manifest's score from which a concept counts as present
MANIFESTS = (".csv", ".jsonl", ".ndjson")


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
    if layout == "broden":
        share = f"at least {min_coverage:.2%} of the pixels" if min_coverage else "any pixel"
        rule = f"a concept is present where a mask gives it {share}, or the image is labelled with it as a whole"
        listed = _broden(path, str(spec), seed, min_coverage)
    elif layout == "folders":
        rule = "a concept is present in the images of the folder with its name"
        listed = _folders(path, str(spec), seed)
    else:
        rule = f"a concept is present where a row names it, with a score of {PRESENT:g} or more if there is one"
        listed = _manifest(path, seed)
    source, by_digest = _unique_images(listed.source, max_images)
    concepts = {}
    for digest, same in by_digest.items():
        concepts[digest] = frozenset[str]().union(*map(listed.labels_of, same))
    names = listed.names.union(*concepts.values())
    if not names:
        raise UsageError(
            f"{spec}: no concepts found among {len(source)} images; a concept set is {LAYOUTS}",
            "robustcheck concepts --help",
        )
    return ConceptSet(source, concepts, tuple(sorted(names)), layout, rule)


NumberedRow = tuple[int, dict[str, str]]
"""line number of a row, and its cells by column"""


class Listed(NamedTuple):
    """The images of a concept set, as its files list them."""

    source: ImageSource
    labels_of: Callable[[str], Iterable[str]]
    """the concepts of an image by its name"""
    names: set[str]
    """concepts that the layout names, with an image or without"""


def _layout(path: Path) -> Layout:
    if path.is_dir():
        return "broden" if any((path / table).is_file() for table in TABLES) else "folders"
    if not path.exists():
        raise UsageError(f"{path}: concept set is missing; it must be {LAYOUTS}", f"ls {quoted(path.parent)}")
    if path.is_file() and path.suffix.lower() in MANIFESTS:
        return "manifest"
    raise UsageError(f"{path}: concept set is of no known layout; it must be {LAYOUTS}", "--concepts concepts.csv")


def _bad_row(path: Path, line: int, fault: str) -> UsageError:
    """Return the error of one row of a table or manifest."""
    return UsageError(f"{path}: row {line}{fault}", f"sed -n {line}p {quoted(path)}")


def _broden(folder: Path, spec: str, seed: int, min_coverage: float) -> Listed:
    """Read the tables of a Broden-layout folder; masks are read with their images.

    Raises UsageError: a table or column is missing, a number or name is none, an image is listed twice, none is listed.
    """
    index = folder / "index.csv"
    images = folder / IMAGES
    labels = _label_names(folder / "label.csv")
    table = _table(folder / "category.csv", ["name"])
    categories = [cells["name"] for _, cells in table]
    rows = {}  # by the image's name, below images/
    for line, cells in _table(index, ["image", *categories]):
        name = cells["image"]
        if not BELOW.fullmatch(name) or name in rows:
            raise _bad_row(
                index, line, f": image is {name!r:.{SHOWN}}; each row must name another image below {IMAGES}/"
            )
        rows[name] = (line, cells)

    def concepts_of(name: str) -> set[str]:
        """Return the labels of an image, over all categories. Raises UsageError: a mask or number that is none."""
        line, cells = rows[name]
        numbers = set()
        for category in categories:
            for part in filter(None, map(str.strip, cells[category].split(";"))):
                where = f"{index}: row {line}: {category} is {part:.{SHOWN}}"
                if NUMBER.fullmatch(part):
                    ids = {int(part)}
                else:
                    ids = _in_mask(images, part, where, min_coverage)
                if unknown := ids - labels.keys():
                    raise UsageError(
                        f"{where}; {min(unknown)} is not a number of label.csv",
                        f"head -3 {quoted(folder / 'label.csv')}",
                    )
                numbers |= ids
        return {labels[number] for number in numbers}

    source = open_files(images, list(rows), spec=spec, seed=seed)
    return Listed(source, concepts_of, set())


def _in_mask(images: Path, name: str, where: str, min_coverage: float) -> set[int]:
    """Return the numbers that have enough of a mask's pixels."""
    if not BELOW.fullmatch(name) or not name.lower().endswith(".png"):
        raise UsageError(f"{where}; it must be a number of label.csv, or a PNG below {IMAGES}/", f"ls {quoted(images)}")
    mask = open_files(images, [name], spec=name).load(0)
    if not isinstance(mask, DecodedImage) or mask.notes:
        why = getattr(mask, "reason", "")
        if isinstance(mask, DecodedImage):
            why = ", ".join(mask.notes)
        raise UsageError(
            f"{where}; the mask must be a PNG with red, green and blue ({why})", f"file {quoted(images / name)}"
        )
    pixels = np.asarray(mask.image, np.int64)
    labels = pixels[..., 0] + 256 * pixels[..., 1]
    numbers, counts = np.unique(labels, return_counts=True)
    is_enough = counts >= min_coverage * counts.sum()
    return set(numbers[(numbers > 0) & is_enough].tolist())


def _label_names(path: Path) -> dict[int, str]:
    labels = {}
    for line, cells in _table(path, ["number", "name"]):
        number = cells["number"]
        name = cells["name"]
        if not NUMBER.fullmatch(number) or int(number) in labels or not name:
            raise _bad_row(
                path,
                line,
                f" is number {number!r:.{SHOWN}}, name {name!r:.{SHOWN}}; each must have its own number and a name",
            )
        labels[int(number)] = name
    times = Counter(labels.values())
    for index, label in labels.items():
        if times[label] > 1:
            labels[index] = f"{label} ({index})"
    return labels


def _table(path: Path, needed: list[str]) -> list[NumberedRow]:
    """Return line number and cells by column of each row of a CSV table, without blanks at the ends of cells."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            for name in needed:
                if name not in (reader.fieldnames or ()):
                    raise UsageError(
                        f"{path}: column {name} is missing; this table of a Broden-layout folder has "
                        f"{', '.join(needed)}",
                        f"head -1 {quoted(path)}",
                    )
            rows = []
            for row in reader:
                cells = {name: row[name].strip() for name in needed}
                rows.append((reader.line_num, cells))
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise UsageError(
            f"{path}: table is not readable ({reason}); a Broden-layout folder has {', '.join(TABLES)}",
            f"ls {quoted(path.parent)}",
        ) from fault
    if not rows:
        raise UsageError(f"{path}: no rows found; at least one is needed", f"cat {quoted(path)}")
    return rows


def _folders(folder: Path, spec: str, seed: int) -> Listed:
    """List the concept folders; a folder that links to another is a concept of its own."""
    try:
        inside = sorted(path for path in folder.iterdir() if not is_ignored(path.name))
    except OSError as fault:
        raise UsageError(
            f"{folder}: folder cannot be read ({fault.strerror}); a concept set must be readable",
            f"ls -ld {quoted(folder)}",
        ) from fault
    concepts = [path for path in inside if path.is_dir()]
    files = []
    for concept in concepts:
        images = image_files(concept)
        if not images:
            raise UsageError(
                f"{concept}: no images found; each folder of a concept set holds images of its concept",
                f"ls {quoted(concept)}",
            )
        files += [f"{concept.name}/{image}" for image in images]
    files += [path.name for path in inside if path.is_file() and path.suffix.lower() in SUFFIXES]
    source = open_files(folder, files, spec=spec, seed=seed)
    names = {path.name for path in concepts}
    return Listed(source, lambda name: name.split("/")[:-1][:1], names)


def _manifest(path: Path, seed: int) -> Listed:
    rows = label_column(path, "concept")
    scores = label_column(path, "score")
    if rows and all(cell is None for _, _, cell in rows):
        raise UsageError(
            f"{path}: column concept is missing; a manifest of concepts has the columns path and concept, and perhaps "
            "score",
            f"head -1 {quoted(path)}",
        )
    present: dict[str, set[str]] = {}
    names = set()
    for (line, image, cell), (_, _, score) in zip(rows, scores, strict=True):
        has = present.setdefault(image, set())
        if cell is None or cell == "":
            continue  # an image without any of the concepts
        if isinstance(cell, bool) or not isinstance(cell, (str, int)) or not str(cell).strip():
            raise _bad_row(path, line, f": concept is {cell!r:.{SHOWN}}; it must be a name")
        concept = str(cell).strip()
        names.add(concept)
        value = _score(score)
        if not 0 <= value <= 1:
            raise _bad_row(path, line, f": score is {score!r:.{SHOWN}}; it must be a number, 0 to 1")
        if value >= PRESENT:
            has.add(concept)
    return Listed(open_images(str(path), seed=seed), present.__getitem__, names)


def _score(cell: object) -> float:
    """Return the score of a row: 1 where the row has none, NaN for what is not a number."""
    if cell is None or cell == "":
        return 1.0
    try:
        return math.nan if isinstance(cell, bool) else float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _unique_images(source: ImageSource, limit: int | None) -> tuple[ImageSource, dict[str, list[str]]]:
    """Return the first file of those with the same bytes, and the names of all of them by digest.

    A file that can't be read stays: it is skipped, with its reason, when it is its turn.
    """
    places: dict[str, int] = {}  # a manifest names one image in several rows
    for index, name in enumerate(source.entries.names()):
        places.setdefault(name, index)
    same: dict[str | int, list[str]] = {}  # by digest; by its place where an image has none
    for name, index in places.items():
        same.setdefault(source.digest(index) or index, []).append(name)
    chosen = list(same.items())[:limit]
    firsts = [places[names[0]] for _, names in chosen]
    entries = source.entries.take(np.array(firsts, np.int64))
    by_digest = {digest: names for digest, names in chosen if isinstance(digest, str)}
    return replace(source, entries=entries, n_available=len(same)), by_digest
