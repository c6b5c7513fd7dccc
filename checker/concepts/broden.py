"""Read a folder laid out as Broden, the concept set of Network Dissection (Bau et al., CVPR 2017): index and masks.

index.csv names the images (below images/) and, in a column for each category of category.csv, their labels, several
with `;`: numbers of label.csv that hold for the whole image, or masks (PNG, below images/) whose pixels are such
numbers as red + 256 · green, 0 for none.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.images.source import Picture, open_files
from robustcheck_onnx.checker.text import quoted

IMAGES = "images"
TABLES = ("index.csv", "category.csv", "label.csv")
NUMBER = re.compile(r"[0-9]{1,9}")
BELOW = re.compile(r"(?!/)(?!.*://)(?!(.*/)?\.\.(/|$)).+")  # a path below a folder: no URL, none from the root, no ..
SHOWN = 200  # characters of a cell in a message
Row = tuple[int, dict[str, str]]
"""line number, and cells by column"""


@dataclass(frozen=True)
class Index:
    """The images of a folder and where their labels are."""

    folder: Path
    rows: dict[str, Row]
    """by the image's name"""
    categories: tuple[str, ...]
    labels: dict[int, str]
    """name of each number"""
    min_coverage: float

    @property
    def names(self) -> list[str]:
        """Of the images, below images/."""
        return list(self.rows)

    def concepts_of(self, name: str) -> set[str]:
        """The labels of an image, over all categories. Raises UsageError: a mask or number that is none."""
        line, cells = self.rows[name]
        numbers: set[int] = set()
        for category in self.categories:
            for part in filter(None, map(str.strip, cells[category].split(";"))):
                where = f"{self.folder / 'index.csv'}: row {line}: {category} is {part:.{SHOWN}}"
                found = {int(part)} if NUMBER.fullmatch(part) else self._in_mask(part, where)
                if unknown := found - self.labels.keys():
                    raise UsageError(
                        f"{where}; {min(unknown)} is no number of label.csv",
                        f"head -3 {quoted(self.folder / 'label.csv')}",
                    )
                numbers |= found
        return {self.labels[number] for number in numbers}

    def _in_mask(self, name: str, where: str) -> set[int]:
        """The numbers that have enough of a mask's pixels."""
        if not BELOW.fullmatch(name) or not name.lower().endswith(".png"):
            raise UsageError(
                f"{where}; it must be a number of label.csv, or a PNG below {IMAGES}/",
                f"ls {quoted(self.folder / IMAGES)}",
            )
        mask = open_files(self.folder / IMAGES, [name], spec=name).load(0)
        if not isinstance(mask, Picture) or mask.notes:
            why = ", ".join(mask.notes) if isinstance(mask, Picture) else getattr(mask, "reason", "")
            raise UsageError(
                f"{where}; the mask must be a PNG with red, green and blue ({why})",
                f"file {quoted(self.folder / IMAGES / name)}",
            )
        pixels = np.asarray(mask.image, np.int64)
        numbers, counts = np.unique(pixels[..., 0] + 256 * pixels[..., 1], return_counts=True)
        enough = (numbers > 0) & (counts >= self.min_coverage * counts.sum())
        return set(numbers[enough].tolist())


def read(folder: Path, min_coverage: float = 0.0) -> Index:
    """Read the tables of a folder; masks are read by `Index.concepts_of`.

    Args:
        folder: has the `TABLES` and images/.
        min_coverage: share of a mask's pixels that a label must have; 0 = any pixel.

    Raises:
        UsageError: a table or column is missing, a number or name is none, an image is listed twice, none is listed.
    """
    labels = _labels(folder / "label.csv")
    categories = tuple(cells["name"] for _, cells in _table(folder / "category.csv", ["name"]))
    rows: dict[str, Row] = {}
    for line, cells in _table(folder / "index.csv", ["image", *categories]):
        if not BELOW.fullmatch(cells["image"]) or cells["image"] in rows:
            raise UsageError(
                f"{folder / 'index.csv'}: row {line}: image is {cells['image']!r:.{SHOWN}}; each row must name another "
                f"image below {IMAGES}/",
                f"sed -n {line}p {quoted(folder / 'index.csv')}",
            )
        rows[cells["image"]] = (line, cells)
    return Index(folder, rows, categories, labels, min_coverage)


def _labels(path: Path) -> dict[int, str]:
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
    """The rows of a CSV table with its columns; cells without blanks at their ends."""
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
        raise UsageError(f"{path}: number of rows is 0; at least one is needed", f"cat {quoted(path)}")
    return rows
