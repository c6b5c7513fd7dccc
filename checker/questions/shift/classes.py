"""Tell what labels mean as classes of a model.

A class map says which class indices count as right for a label, and which classes compete for the prediction.
"""

import csv
import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ....thresholds import DATA
from ....thresholds.published import IMAGENET
from ....thresholds.records import unique_keys
from ...arrays import AnyArray, Bools, float64
from ...errors import UsageError
from ...text import Texts, quoted

IMAGENET_CLASSES = 1000  # of ImageNet-1k
SYNSET = re.compile(r"n\d{8}")
INDEX = re.compile(r"\d{1,6}")
SYNSET_OR_INDEX = re.compile(rf"{SYNSET.pattern}|{INDEX.pattern}")
BUILT_IN = {"imagenet": IMAGENET, "imagenet-r": "imagenet_r", "imagenet-a": "imagenet_a"}
"""Words of --classes that mean a table of the package → its set."""
WORDS = (*BUILT_IN, "sorted", "names")
SHOWN = 200  # characters of a label in a message
MAX_FILE_BYTES = 16_000_000  # a map of ImageNet-21k takes less than one
_HINT = "--classes MAP.json, a JSON object: label → class index or list of class indices"
Classes = tuple[int, ...]  # indices of a model's classes


class Scores(NamedTuple):
    """What is known of a model's class scores."""

    n_classes: int
    names: Texts = ()
    """of the classes, where the file's contract has them"""


class ClassMap(NamedTuple):
    """What the labels of one image set mean."""

    indices: Mapping[str, Classes]
    """label → class indices that count as right"""
    compete: Classes
    """class indices among which the prediction is made, sorted"""
    how: str
    """in words, for the report"""
    label_set: str
    """imagenet1k, imagenet_r, imagenet_a: the label set of that name; file: the user's own, where only its classes
    compete; else empty"""


def class_map(
    spec: str | None,
    labels: Sequence[str],
    scores: Scores,
    *,
    where: str,
    shift: str | None = None,
    sorted_names: Sequence[str] = (),
) -> ClassMap:
    """Return the class map of one image set, checked against all its labels.

    Args:
        spec: one of WORDS or a JSON file; None: by the labels themselves (synset ids, indices, the class names of the
            file's contract), and for ImageNet-R and -A that set's 200 classes.
        labels: of every image.
        scores: of the model.
        where: names the set in messages.
        shift: what the set was said to be: one of published.SHIFTS, imagenet1k, or None.
        sorted_names: for "sorted": the class folders of the in-distribution set.

    Raises:
        UsageError: no such map, a map that is not readable or not complete, a label that it does not have, an index
            beyond the model's classes, another number of classes than the map is for.
    """
    if spec is None and shift == "objectnet":
        raise UsageError(
            f"{where}: class map is missing; ObjectNet's folders are not ImageNet classes",
            "--classes objectnet=MAP.json, a JSON object: folder → list of ImageNet class indices",
        )
    if spec is None and shift in ("imagenet_r", "imagenet_a"):
        spec = shift.replace("_", "-")
    if spec is None:
        mapping = _by_labels(labels, scores, where)
    elif spec in BUILT_IN:
        mapping = _built_in(BUILT_IN[spec], scores, where)
    elif spec == "sorted":
        if len(sorted_names) != scores.n_classes:
            raise UsageError(
                f"{where}: number of classes is {scores.n_classes}; --classes sorted needs as many class folders in "
                f"the in-distribution set, which has {len(sorted_names)}",
                _HINT,
            )
        in_order = enumerate(sorted(sorted_names))
        indices = {name: (index,) for index, name in in_order}
        mapping = _among_all(indices, scores, "the in-distribution set's class folders in order")
    elif spec == "names":
        mapping = _by_names(scores, where)
    else:
        mapping = _from_file(spec, scores)
    if unknown := Counter(label for label in labels if label not in mapping.indices):
        label, count = min(unknown.items())
        near = difflib.get_close_matches(label[:SHOWN], mapping.indices, 1)
        closest = f"; the closest is {near[0]!r}" if near else ""
        raise UsageError(
            f"{where}: label is {label!r:.{SHOWN}} ({count} images; {len(unknown)} such labels); it must be one of "
            f"{mapping.how}{closest}",
            _HINT,
        )
    return mapping


def _by_labels(labels: Sequence[str], scores: Scores, where: str) -> ClassMap:
    """Return the class map of labels that are all synset ids, class names or indices."""
    distinct = set(labels)
    if all(map(SYNSET.fullmatch, distinct)):
        return _built_in(IMAGENET, scores, where)
    if scores.names and distinct <= set(scores.names):
        return _by_names(scores, where)
    if all(map(INDEX.fullmatch, distinct)):
        if scores.n_classes == IMAGENET_CLASSES:
            return _built_in(IMAGENET, scores, where)
        beyond = [label for label in distinct if int(label) >= scores.n_classes]
        if beyond:
            raise UsageError(
                f"{where}: label is {min(beyond)!r:.{SHOWN}}; the model has {scores.n_classes} classes, 0 to "
                f"{scores.n_classes - 1}",
                _HINT,
            )
        return _among_all({label: (int(label),) for label in distinct}, scores, "class indices")
    ids = set(filter(SYNSET_OR_INDEX.fullmatch, distinct))
    odd = min(distinct - ids or distinct)
    near = difflib.get_close_matches(odd[:SHOWN], scores.names, 1)
    closest = f" (the closest of the file's class names is {near[0]!r})" if near else ""
    raise UsageError(
        f"{where}: label is {odd!r:.{SHOWN}}{closest}; without a class map labels must all be synset ids (n01440764), "
        "class indices, or the class names in the file's contract",
        _HINT + ("" if scores.names else ", or --classes sorted for class folders in alphabetical order"),
    )


def _built_in(label_set: str, scores: Scores, where: str) -> ClassMap:
    """Return a class map of ImageNet-1k's synset ids and indices.

    Of ImageNet-R and -A only their own 200 classes compete, as in timm.
    """
    if scores.n_classes != IMAGENET_CLASSES:
        raise UsageError(
            f"{where}: number of classes is {scores.n_classes}; ImageNet's synset ids and indices are for "
            f"{IMAGENET_CLASSES}",
            _HINT,
        )
    members = []
    indices: dict[str, Classes] = {}
    for index, row in enumerate(_table()):
        if label_set == IMAGENET or row[label_set]:
            members.append(index)
            indices |= dict.fromkeys((row["synset"], str(index), f"{index:03d}"), (index,))
    name = {IMAGENET: "ImageNet-1k", "imagenet_r": "ImageNet-R", "imagenet_a": "ImageNet-A"}[label_set]
    how = f"{name}'s {len(members)} synset ids or indices"
    return ClassMap(indices, tuple(members), how, label_set)


@cache
def _table() -> tuple[dict[str, str], ...]:
    """Return a row per ImageNet-1k class, in order (thresholds/data/imagenet_classes.csv)."""
    with (DATA / "imagenet_classes.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def synset_index() -> dict[str, int]:
    """Return the class index of ImageNet-1k by synset id."""
    return {row["synset"]: index for index, row in enumerate(_table())}


def _among_all(indices: Mapping[str, Classes], scores: Scores, how: str) -> ClassMap:
    """Return a class map in which all classes of the model compete."""
    return ClassMap(indices, tuple(range(scores.n_classes)), how, "")


def _by_names(scores: Scores, where: str) -> ClassMap:
    if not scores.names:
        raise UsageError(
            f"{where}: class names are not in the file's contract; --classes names needs them",
            "robustcheck export … --zero-shot CLASSES.txt",
        )
    count = Counter(scores.names)  # two classes of one name cannot be told apart by a label
    indices = {name: (index,) for index, name in enumerate(scores.names) if count[name] == 1}
    return _among_all(indices, scores, "the class names in the file's contract")


def _from_file(spec: str, scores: Scores) -> ClassMap:
    """Read a class map: `{label: index | synset | [...]}`, or `{"labels": {...}, "compete": "mapped" | "all"}`."""
    path = Path(spec)
    if not path.is_file():
        near = difflib.get_close_matches(spec, WORDS, 1)
        raise UsageError(
            f"--classes is {spec!r}; it must be one of {', '.join(WORDS)}, or a JSON file that exists",
            f"--classes {near[0] if near else 'MAP.json'}",
        )
    look = f"python -m json.tool {quoted(spec)}"
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(
                f"{spec}: class map is larger than {MAX_FILE_BYTES:,} bytes; a map is small", f"ls -l {spec}"
            )
        read = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError) as fault:
        raise UsageError(f"{spec}: class map is not readable JSON ({fault}); it must be an object", look) from fault
    compete = "mapped"
    if isinstance(read, dict) and isinstance(read.get("labels"), dict):
        if unknown := sorted(set(read) - {"labels", "compete"}):
            raise UsageError(f"{spec}: key {unknown[0]!r} is unknown; a map has labels and compete", look)
        compete = read.get("compete", compete)
        read = read["labels"]
    if compete not in ("mapped", "all"):
        raise UsageError(f"{spec}: compete is {compete!r}; it must be mapped or all", look)
    if not isinstance(read, dict) or not read:
        kind = "empty" if read == {} else f"a JSON {type(read).__name__}"
        raise UsageError(f"{spec}: class map is {kind}; it must be an object: label → class index or indices", look)
    indices = {label: _indices(spec, label, value, scores) for label, value in read.items()}
    chosen = set[int]().union(*indices.values())
    if compete == "all":
        chosen = set(range(scores.n_classes))
    for label, group in indices.items():
        if chosen <= set(group):
            raise UsageError(
                f"{spec}: classes of {label!r} are all that compete; no prediction could be wrong",
                'add other labels, or "compete": "all"',
            )
    kind = "file" if compete == "mapped" else ""
    how = f"the {len(indices)} labels of {path.name}"
    return ClassMap(indices, tuple(sorted(chosen)), how, kind)


def _indices(spec: str, label: str, value: object, scores: Scores) -> Classes:
    indices = []
    listed = value if isinstance(value, list) and value else [value]
    for one in listed:
        index = one
        if isinstance(one, str) and SYNSET.fullmatch(one) and scores.n_classes == IMAGENET_CLASSES:
            index = synset_index().get(one)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < scores.n_classes:
            raise UsageError(
                f"{spec}: class of {label!r:.{SHOWN}} is {one!r:.{SHOWN}}; the model has {scores.n_classes} classes, "
                f"0 to {scores.n_classes - 1}",
                f"robustcheck inspect MODEL.onnx, and correct {quoted(spec)}",
            )
        indices.append(index)
    return tuple(sorted(set(indices)))


def is_correct(scores: AnyArray, right: Sequence[Classes], compete: Sequence[int]) -> Bools:
    """Return whether the largest of each image's competing class scores is that of one of its right classes.

    scores: (image, class), any real dtype, larger = more likely (logits or probabilities); infinities are fine.
    right: class indices that count as right, for each image, all among `compete`.
    A tie between a right and a wrong class is wrong: equal scores are not a prediction. Returns (image,) bool.
    Raises ValueError for a NaN among the competing scores.

    >>> is_correct(np.array([[0.1, 0.9, 2.0]]), [(1,)], (0, 1)).tolist()
    [True]
    """
    columns = list(compete)
    chosen = float64(scores)[:, columns]
    if np.isnan(chosen).any():
        raise ValueError("class scores hold NaN; a prediction needs numbers")
    place = {index: column for column, index in enumerate(columns)}
    is_right = np.zeros(chosen.shape, dtype=np.bool_)
    for row, group in enumerate(right):
        columns_of_right = [place[index] for index in group]
        is_right[row, columns_of_right] = True
    best_right = np.where(is_right, chosen, -np.inf).max(axis=1)
    best_wrong = np.where(is_right, -np.inf, chosen).max(axis=1)
    return np.asarray(best_right > best_wrong)
