"""Turn labelled image sets into accuracies of a model.

What a call names is read here: labelled image sets and class maps.

A class map says which class indices count as right for a label, and which classes compete for the prediction.
"""

import csv
import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ....thresholds import DATA
from ....thresholds.profile import unique_keys
from ....thresholds.published import IMAGENET
from ...arrays import AnyArray, Bools, float64
from ...core.evidence import Preprocessing
from ...core.images.source import ImageSource, Skipped, digest_of_set
from ...core.measure.loop import batches, decode
from ...core.measure.opening import Inputs
from ...core.measure.prepare import Prepared, stack
from ...core.measure.sums import ImagesRead, named_skips
from ...core.model.open import ModelFile
from ...core.progress import Tell
from ...core.runtime.runner import Runner
from ...core.statistics.intervals import wilson
from ...errors import CannotAssessError, UsageError, unfit
from ...outside.image_sets.open import open_images
from ...outside.storage.places import Place, Url, as_typed, parse_place
from ...text import Fields, Texts, frozen, quoted
from .robustness import ALIASES, SetResult

NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.\-]*)=(.+)", re.S)
IMAGENET_CLASSES = 1000  # of ImageNet-1k
SYNSET = re.compile(r"n\d{8}")
INDEX = re.compile(r"\d{1,6}")
BUILT_IN = {"imagenet": IMAGENET, "imagenet-r": "imagenet_r", "imagenet-a": "imagenet_a"}
"""Words of --classes that mean a table of the package → its set."""
WORDS = (*BUILT_IN, "sorted", "names")
SHOWN = 200  # characters of a label in a message
MAX_FILE_BYTES = 16_000_000  # a map of ImageNet-21k takes less than one
_HINT = "--classes MAP.json, a JSON object: label → class index or list of class indices"
Classes = tuple[int, ...]  # indices of a model's classes


class Spec(NamedTuple):
    """An image set as the user names it."""

    name: str
    place: Place
    shift: str | None
    """which known set it was said to be: imagenet1k, one of published.SHIFTS, or None"""


def parse_spec(text: str, option: str, subject: str = "a labelled image set") -> Spec:
    """Split `[NAME=]PATH` into name, path and known set. Without a name, it is the path's last part.

    A path that exists is a path, whatever signs it has. Raises UsageError for an empty path.
    """
    name, path = _named(text)
    if not path.strip():
        raise UsageError(f"{option} is {text!r}; it must be {subject}, [NAME=]PATH", f"{option} FOLDER")
    place = parse_place(path)
    if not name:
        if isinstance(place, Url):
            return Spec(PurePosixPath(str(place)).stem or str(place), place, None)
        full = place.expanduser().resolve()
        return Spec((full.name if full.is_dir() else full.stem) or path, place, None)
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return Spec(name, place, next((shift for shift, names in ALIASES.items() if key in names), None))


def _named(text: str) -> tuple[str, str]:
    """Split `[NAME=]VALUE`. A path that exists is a value, whatever signs it has."""
    match = None if Path(text).exists() else NAMED.fullmatch(text)
    return (match[1], match[2]) if match else ("", text)


class Call(NamedTuple):
    """The image sets of a call, with their class maps. Maps are by name ("" = of those without an own one)."""

    inside: Spec
    shifted: list[Spec]
    maps: dict[str, str]
    targets: list[Spec]


def parse_call(
    inside: str, shifted: Sequence[str], classes: Sequence[str], targets: Sequence[str] = (), *, alone: bool = False
) -> Call:
    """What a call names.

    A target may be one of the shifted sets: then its accuracy is both measured and predicted.

    alone: whether the in-distribution set may stand without a shifted and a target one.
    Raises UsageError: neither a shifted nor a target set where one is needed, one set twice, two sets of one name,
    two maps for one set, a map for none.
    """
    first = parse_spec(inside, "--in")
    others = [parse_spec(text, "--shifted") for text in shifted]
    unlabelled = [parse_spec(text, "--target", "an image set") for text in targets]
    if not others and not unlabelled and not alone:
        raise UsageError(
            "--shifted is missing; at least one shifted set is needed, or a --target",
            "--in photos/ --shifted sketches/",
        )
    labelled = (first, *others)
    for specs, option in ((labelled, "--shifted sketches/"), ((first, *unlabelled), "--target new-photos/")):
        places = [same_place(spec) for spec in specs]
        for i, spec in enumerate(specs):
            if places[i] in places[:i]:
                raise UsageError(
                    f"{spec.place}: image set is given twice; every set must be another one", f"--in photos/ {option}"
                )
    different = dict.fromkeys((same_place(spec), spec.name) for spec in (*labelled, *unlabelled))
    names, every = [spec.name for spec in labelled], Counter(name for _, name in different)
    shifts = Counter(spec.shift for spec in labelled if spec.shift)
    for label, counts in (("name", every), ("set", shifts)):
        if double := [key for key, count in counts.items() if count > 1]:
            raise UsageError(
                f"{label} of {counts[double[0]]} image sets is {double[0]!r}; it must be another one for each",
                "--shifted NAME=FOLDER",
            )
    maps: dict[str, str] = {}
    for text in classes:
        name, value = _named(text)
        if name and name not in names:
            raise UsageError(
                f"--classes is {text!r}; {name} is not an image set of this call ({', '.join(names)})",
                f"--classes {first.name}={quoted(value)}",
            )
        if name in maps:
            raise UsageError(
                f"--classes names a map for {name or 'all sets'} twice; one is enough", f"--classes {value}"
            )
        maps[name] = value
    return Call(first, others, maps, unlabelled)


def same_place(spec: Spec) -> Place:
    """Return one place for all spellings of a set."""
    return spec.place if isinstance(spec.place, Url) else spec.place.expanduser().resolve()


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


class Scores(NamedTuple):
    """What is known of a model's class scores."""

    n_classes: int
    names: Texts = ()
    """of the classes, where the file's contract has them"""


def open_sets(specs: Sequence[Spec], inputs: Inputs) -> list[ImageSource]:
    """Open the image sets of a call. One of them may be the job's, which is open already."""
    run = inputs.job.options
    return [
        inputs.source
        if as_typed(spec.place) == run.images
        else open_images(spec.place, seed=run.seed, limit=run.max_images)
        for spec in specs
    ]


def labels_of(source: ImageSource) -> Texts:
    """Return the labels of a set, in its order.

    A folder (or glob): the first folder of the image's path below it, as torchvision's ImageFolder. A manifest: its
    column `label`. Raises UsageError for an image without a label and for a kind of image set that has none.
    """
    label_place, hint = "folder of its class", "name the folder whose sub-folders are the classes"
    if source.kind in ("folder", "glob"):
        labels = [entry.name.partition("/")[0] if "/" in entry.name else "" for entry in source.entries]
    elif source.kind == "manifest":
        label_place, hint = "cell in the column label", f"head -3 {quoted(source.spec)}"
        labels = [entry.label or "" for entry in source.entries]
    else:
        raise UsageError(
            f"{source.spec}: image set is of kind {source.kind}; labels come from folders (one per class) or "
            "a manifest with a column label",
            "name a folder of class folders, or a .csv with the columns path,label",
        )
    without = [entry.name for entry, label in zip(source.entries, labels, strict=True) if not label]
    if without:
        raise UsageError(
            f"{source.spec}: image {min(without)} has no label ({len(without)} of {len(labels)} have none); "
            f"every image needs a {label_place}",
            hint,
        )
    return tuple(labels)


def class_map(
    spec: str | None,
    labels: Sequence[str],
    scores: Scores,
    *,
    where: str,
    shift: str | None = None,
    sorted_names: Sequence[str] = (),
) -> ClassMap:
    """Return the class map of one image set. It is checked against all its labels.

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
        indices = {name: (index,) for index, name in enumerate(sorted(sorted_names))}
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
    """Read labels that speak for themselves; mixtures do not."""
    distinct = set(labels)
    if all(SYNSET.fullmatch(label) for label in distinct):
        return _built_in(IMAGENET, scores, where)
    if scores.names and distinct <= set(scores.names):
        return _by_names(scores, where)
    if all(INDEX.fullmatch(label) for label in distinct):
        if scores.n_classes == IMAGENET_CLASSES:
            return _built_in(IMAGENET, scores, where)
        beyond = sorted(label for label in distinct if int(label) >= scores.n_classes)
        if beyond:
            raise UsageError(
                f"{where}: label is {beyond[0]!r:.{SHOWN}}; the model has {scores.n_classes} classes, 0 to "
                f"{scores.n_classes - 1}",
                _HINT,
            )
        return _among_all({label: (int(label),) for label in distinct}, scores, "class indices")
    ids = {label for label in distinct if SYNSET.fullmatch(label) or INDEX.fullmatch(label)}
    odd = min(distinct - ids or distinct)
    near = difflib.get_close_matches(odd[:SHOWN], scores.names, 1)
    closest = f" (the closest of the file's class names is {near[0]!r})" if near else ""
    raise UsageError(
        f"{where}: label is {odd!r:.{SHOWN}}{closest}; without a class map labels must all be synset ids (n01440764), "
        "class indices, or the class names in the file's contract",
        _HINT + ("" if scores.names else ", or --classes sorted for class folders in alphabetical order"),
    )


def _built_in(label_set: str, scores: Scores, where: str) -> ClassMap:
    """Return a class map of ImageNet-1k.

    Labels are synset ids or indices; of ImageNet-R and -A only their own 200 classes compete, as in timm.
    """
    if scores.n_classes != IMAGENET_CLASSES:
        raise UsageError(
            f"{where}: number of classes is {scores.n_classes}; ImageNet's synset ids and indices are for "
            f"{IMAGENET_CLASSES}",
            _HINT,
        )
    members = [i for i, (_, sets) in enumerate(_table()) if label_set == IMAGENET or label_set in sets]
    indices = {name: (i,) for i in members for name in (_table()[i][0], str(i), f"{i:03d}")}
    name = {IMAGENET: "ImageNet-1k", "imagenet_r": "ImageNet-R", "imagenet_a": "ImageNet-A"}[label_set]
    return ClassMap(indices, tuple(members), f"{name}'s {len(members)} synset ids or indices", label_set)


@cache
def _table() -> tuple[tuple[str, frozenset[str]], ...]:
    """Return synset id and subsets of every ImageNet-1k class.

    They are in order (thresholds/data/imagenet_classes.csv).
    """
    with (DATA / "imagenet_classes.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            (row["synset"], frozenset(name for name in ("imagenet_r", "imagenet_a") if row[name]))
            for row in csv.DictReader(file)
        )


def synset_index() -> dict[str, int]:
    """Synset id → class index of ImageNet-1k."""
    return {synset: index for index, (synset, _) in enumerate(_table())}


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
    """Read a class map from a JSON file.

    It is `{label: index | synset | [...]}`, or `{"labels": {...}, "compete": "mapped" | "all"}`.
    """
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
        compete, read = read.get("compete", compete), read["labels"]
    if compete not in ("mapped", "all"):
        raise UsageError(f"{spec}: compete is {compete!r}; it must be mapped or all", look)
    if not isinstance(read, dict) or not read:
        kind = "empty" if read == {} else f"a JSON {type(read).__name__}"
        raise UsageError(f"{spec}: class map is {kind}; it must be an object: label → class index or indices", look)
    indices = {label: _indices(spec, label, value, scores) for label, value in read.items()}
    chosen = (
        set(range(scores.n_classes)) if compete == "all" else {index for group in indices.values() for index in group}
    )
    for label, group in indices.items():
        if chosen <= set(group):
            raise UsageError(
                f"{spec}: classes of {label!r} are all that compete; no prediction could be wrong",
                'add other labels, or "compete": "all"',
            )
    kind = "file" if compete == "mapped" else ""
    return ClassMap(indices, tuple(sorted(chosen)), f"the {len(indices)} labels of {path.name}", kind)


def _indices(spec: str, label: str, value: object, scores: Scores) -> Classes:
    indices = []
    for one in value if isinstance(value, list) and value else [value]:
        index: object = one
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
    """Return whether each image is predicted right.

    The largest of its competing class scores is one of its right classes.

    scores: (image, class), any real dtype, larger = more likely (logits or probabilities); infinities are fine.
    right: class indices that count as right, for each image, all among `compete`.
    A tie between a right and a wrong class is wrong: equal scores are not a prediction. Returns (image,) bool.
    Raises ValueError for a NaN among the competing scores.

    >>> is_correct(np.array([[0.1, 0.9, 2.0]]), [(1,)], (0, 1)).tolist()
    [True]
    """
    chosen = float64(scores)[:, list(compete)]
    if np.isnan(chosen).any():
        raise ValueError("class scores hold NaN; a prediction needs numbers")
    place = {index: column for column, index in enumerate(compete)}
    mask = np.zeros(chosen.shape, dtype=np.bool_)
    for row, group in enumerate(right):
        mask[row, [place[index] for index in group]] = True
    best_right = np.where(mask, chosen, -np.inf).max(axis=1)
    return np.asarray(best_right > np.where(mask, -np.inf, chosen).max(axis=1))


class ImageSet(NamedTuple):
    """An image set that has not run yet."""

    spec: Spec
    source: ImageSource
    labels: Texts
    """one an image; empty where they are not known"""
    map: ClassMap

    @property
    def right(self) -> list[Classes]:
        """The right classes of each image of the source."""
        return [self.map.indices[label] for label in self.labels] or [()] * len(self.source)

    def facts(self, read: ImagesRead) -> Fields:
        """Return the fields of `SetResult` and of `Target`."""
        return {
            "name": self.spec.name,
            "source": str(self.spec.place),
            "n_available": self.source.n_available,
            "n_read": read.n_read,
            "n_skipped": len(read.skipped),
            "skipped": named_skips(read.skipped),
            "digest": digest_of_set(read.digests),
        }

    def result(self, read: ImagesRead, n_labels: int, n_correct: int) -> SetResult:
        """Return the record of a labelled set. `n_correct` usable images are predicted right."""
        return SetResult(
            **self.facts(read),
            shift=self.spec.shift,
            label_set=self.map.label_set,
            labels=self.map.how,
            n_labels=n_labels,
            n_compete=len(self.map.compete),
            accuracy=wilson(n_correct, read.n_usable),
        )


class Measured(NamedTuple):
    """A labelled image set as the model went through it."""

    result: SetResult
    digests: Sequence[str]
    correct: Bools
    """whether each usable image is predicted right"""


@frozen
class _Labelled(Prepared):
    """One image, ready for the model."""

    right: Classes
    """the classes that are right for it"""


def with_labels(
    specs: Sequence[Spec],
    sources: Sequence[ImageSource],
    read: Sequence[Texts],
    maps: Mapping[str, str],
    scores: Scores,
) -> list[ImageSet]:
    """Return labelled sets with the class map of each.

    Args:
        specs, sources: the sets, the in-distribution one first.
        read: their labels (`labels_of`).
        maps: class maps of the call, by name.
        scores: of the model.

    Raises UsageError as `class_map`.
    """
    folders = sorted(set(read[0] if read else ()))
    return [
        ImageSet(
            spec,
            source,
            labels,
            class_map(
                maps.get(spec.name, maps.get("")),
                labels,
                scores,
                where=str(spec.place),
                shift=spec.shift,
                sorted_names=folders,
            ),
        )
        for spec, source, labels in zip(specs, sources, read, strict=True)
    ]


def class_output(opened: ModelFile) -> str:
    """The name of the model's class output. Raises CannotAssessError where it has none."""
    if opened.class_output is None:
        raise CannotAssessError(
            f"{opened.path}: class output is missing; accuracy needs a model with class scores",
            "robustcheck export … --zero-shot CLASSES.txt gives an image-text encoder a head, and --head NAME a torch "
            "model",
        )
    return opened.class_output


def class_names(opened: ModelFile) -> Texts:
    """Return the names of a model's classes in its contract. Empty where it has none."""
    return opened.contract.zero_shot.classes if opened.contract and opened.contract.zero_shot else ()


def class_scores(runner: Runner, preprocessing: Preprocessing) -> Scores:
    """Return how many classes the model scores. The model runs on one black image."""
    opened = runner.model
    output = runner.run(np.zeros((1, *preprocessing.size, 3), dtype=np.float32)).class_output
    assert output is not None
    columns, head = output.shape[1], opened.head.classes if opened.head else None
    if columns < 2 or head not in (None, columns):
        raise CannotAssessError(
            f"{opened.path}: class output {opened.class_output!r} has {columns} values per image"
            + (f", its last linear layer {head}" if head else "")
            + "; one score for each of at least two classes is needed",
            "export the model without ArgMax or TopK at its end",
        )
    names = class_names(opened)
    if names and len(names) != columns:
        raise CannotAssessError(
            f"{opened.path}: number of class names in the contract is {len(names)}; the model has {columns} classes",
            "export the model again with `robustcheck export`",
        )
    return Scores(columns, names)


def measure_labelled(
    runner: Runner,
    images: ImageSet,
    inputs: Inputs,
    progress: Tell | None,
    collect: Callable[[AnyArray], None] | None = None,
) -> Measured:
    """Measure the accuracy on one labelled set. collect: gets (image, class) scores."""
    read, seen, correct = ImagesRead(), set[Classes](), list[Bools]()
    for scores, right in run_set(runner, images, inputs, progress, read):
        seen.update(right)
        try:
            correct.append(is_correct(scores, right, images.map.compete))
        except ValueError as fault:
            raise not_numbers(runner, str(images.spec.place)) from fault
        if collect is not None:
            collect(scores)
    all_correct = np.concatenate(correct)
    return Measured(images.result(read, len(seen), int(all_correct.sum())), read.digests, all_correct)


def run_set(
    runner: Runner, images: ImageSet, inputs: Inputs, progress: Tell | None, read: ImagesRead
) -> Iterator[tuple[AnyArray, list[Classes]]]:
    """Run an image set through a model. Yields (image, class) scores and the right classes of the images.

    read: counts the images.
    """
    run = inputs.job.options
    with decode(replace(inputs, described=None), images.source, execution=runner.execution) as decoded:
        items = (
            image if isinstance(image, Skipped) else _Labelled(**vars(image), right=right)
            for image, right in zip(decoded, images.right, strict=True)
        )
        for batch in batches(
            items, read, run.batch_size, n_images=len(images.source), progress=progress, label=lambda: images.spec.name
        ):
            output = runner.run(stack(batch)).class_output
            assert output is not None
            yield output, [image.right for image in batch]
    read.check_usable(images.source, run.max_bad)


def not_numbers(runner: Runner, where: str) -> CannotAssessError:
    """The error for class scores that are not numbers."""
    return unfit(
        runner.model.path, f"class scores on {where} are not all numbers; accuracy needs a prediction for every image"
    )
