"""A concept set: images, each once, and the concepts of each, from folders, a manifest or a Broden-layout folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.images.listing import image_files, label_column
from robustcheck_onnx.checker.images.source import ImageSource, open_files, open_images
from robustcheck_onnx.checker.storage.places import SUFFIXES, is_ignored, local_path
from robustcheck_onnx.checker.text import quoted

from . import broden
from .broden import SHOWN

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
    names: tuple[str, ...]
    """of all concepts, sorted"""
    layout: Layout
    rule: str
    """when a concept counts as present, in words"""


def open_concepts(
    spec: str | Path, *, seed: int = 0, max_images: int | None = None, min_coverage: float = 0.0
) -> ConceptSet:
    """Open a concept set; images are read for their digests, not decoded.

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
    names: set[str] = set()
    labels_of: LabelsOf
    if layout == "broden":
        index = broden.read(path, min_coverage)
        source, labels_of = open_files(path / broden.IMAGES, index.names, spec=str(spec), seed=seed), index.concepts_of
        share = f"at least {min_coverage:.2%} of the pixels" if min_coverage else "any pixel"
        rule = f"a concept is present where a mask gives it {share}, or the image is labelled with it as a whole"
    elif layout == "folders":
        source, labels_of, names = _folders(path, str(spec), seed)
        rule = "a concept is present in the images of the folder with its name"
    else:
        source, labels_of, names = _manifest(path, seed)
        rule = f"a concept is present where a row names it, with a score of {PRESENT:g} or more if there is one"
    source, by_digest = _once(source, max_images)
    concepts = {digest: frozenset(c for name in same for c in labels_of(name)) for digest, same in by_digest.items()}
    names.update(*concepts.values())
    if not names:
        raise UsageError(
            f"{spec}: number of concepts is 0 among {len(source)} images; a concept set is {LAYOUTS}",
            "robustcheck concepts --help",
        )
    return ConceptSet(source, concepts, tuple(sorted(names)), layout, rule)


def _layout(path: Path) -> Layout:
    if path.is_dir():
        return "broden" if any((path / table).is_file() for table in broden.TABLES) else "folders"
    if not path.exists():
        raise UsageError(f"{path}: concept set is missing; it must be {LAYOUTS}", f"ls {quoted(path.parent)}")
    if path.is_file() and path.suffix.lower() in MANIFESTS:
        return "manifest"
    raise UsageError(f"{path}: concept set is of no known layout; it must be {LAYOUTS}", "--concepts concepts.csv")


def _folders(folder: Path, spec: str, seed: int) -> tuple[ImageSource, LabelsOf, set[str]]:
    """Each folder on its own: one that links to another is a concept of its own."""
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
                f"{concept}: number of images is 0; each folder of a concept set holds images of its concept",
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
                f"{where}: concept is {cell!r:.{SHOWN}}; it must be a name",
                f"sed -n {number}p {quoted(path)}",
            )
        concept = str(cell).strip()
        names.add(concept)
        if _score(score, where, f"sed -n {number}p {quoted(path)}") >= PRESENT:
            has.add(concept)
    return open_images(str(path), seed=seed), present.__getitem__, names


def _score(cell: object, where: str, hint: str) -> float:
    """The score of a row: 1 where it has none."""
    if cell is None or cell == "":
        return 1.0
    try:
        value = math.nan if isinstance(cell, bool) else float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1:
        raise UsageError(f"{where}: score is {cell!r:.{SHOWN}}; it must be a number, 0 to 1", hint)
    return value


def _once(source: ImageSource, limit: int | None) -> tuple[ImageSource, dict[str, list[str]]]:
    """Each image once: the first file of those with the same bytes, and the names of all of them by digest.

    A file that can't be read stays: it is skipped, with its reason, when it is its turn.
    """
    digests: dict[str, str | None] = {}  # by name: a manifest names one image in several rows
    same: dict[str, dict[str, None]] = {}
    kept: list[int] = []
    for index, name in enumerate(source.entries.names()):
        if name in digests:
            continue
        digest = digests[name] = source.digest(index)
        if digest is None or digest not in same:
            kept.append(index)
        if digest is not None:
            same.setdefault(digest, {})[name] = None
    chosen = kept[:limit]
    entries = source.entries.take(np.asarray(chosen, np.int64))
    first = {digests[name] for name in entries.names()}
    return (
        replace(source, entries=entries, n_found=len(kept)),
        {digest: list(names) for digest, names in same.items() if digest in first},
    )
