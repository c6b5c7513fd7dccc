"""Turn labelled image sets into accuracies of a model, from the names of sets and class maps in a call on."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ...arrays import AnyArray, Bools
from ...core.images.source import ImageSource, Skipped, digest_of_set
from ...core.measure.loop import batches, decode
from ...core.measure.opening import Inputs
from ...core.measure.prepare import Prepared, stack
from ...core.measure.sums import ImagesRead, named_skips
from ...core.model.open import ModelFile
from ...core.preprocessing import Preprocessing
from ...core.progress import Tell
from ...core.runtime.runner import Runner
from ...core.statistics.intervals import wilson
from ...errors import CannotAssessError, UsageError, unfit
from ...outside.image_sets.open import open_images
from ...outside.storage.places import Place, Url, as_typed, parse_place
from ...text import Fields, Texts, frozen, quoted
from .classes import Classes, ClassMap, Scores, class_map, is_correct
from .robustness import ALIASES, SetResult

NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.\-]*)=(.+)", re.S)


class Spec(NamedTuple):
    """An image set as the user names it."""

    name: str
    place: Place
    shift: str | None
    """which known set it was said to be: imagenet1k, one of published.SHIFTS, or None"""


def parse_spec(text: str, option: str, subject: str = "a labelled image set") -> Spec:
    """Split `[NAME=]PATH` into name (the path's last part where none is given), path and known set.

    A path that exists is a path, whatever signs it has. Raises UsageError for an empty path.
    """
    name, path = _named(text)
    if not path.strip():
        raise UsageError(f"{option} is {text!r}; it must be {subject}, [NAME=]PATH", f"{option} FOLDER")
    place = parse_place(path)
    if not name:
        if isinstance(place, Url):
            stem = PurePosixPath(str(place)).stem
            return Spec(stem or str(place), place, None)
        full = place.expanduser().resolve()
        last = full.name if full.is_dir() else full.stem
        return Spec(last or path, place, None)
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    for shift, names in ALIASES.items():
        if key in names:
            return Spec(name, place, shift)
    return Spec(name, place, None)


def _named(text: str) -> tuple[str, str]:
    """Split `[NAME=]VALUE`, unless it is a path that exists."""
    match = None if Path(text).exists() else NAMED.fullmatch(text)
    return (match[1], match[2]) if match else ("", text)


class NamedSets(NamedTuple):
    """The image sets of a call, with their class maps."""

    inside: Spec
    shifted: list[Spec]
    maps: dict[str, str]
    """by name; "" = of those without an own one"""
    targets: list[Spec]


def parse_call(
    inside: str, shifted: Sequence[str], classes: Sequence[str], targets: Sequence[str] = (), *, alone: bool = False
) -> NamedSets:
    """Read the image sets and class maps that a call names.

    A target may be one of the shifted sets: then its accuracy is both measured and predicted.

    alone: whether the in-distribution set may be the only one.
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
        places = set[Place]()
        for spec in specs:
            if same_place(spec) in places:
                raise UsageError(
                    f"{spec.place}: image set is given twice; every set must be another one", f"--in photos/ {option}"
                )
            places.add(same_place(spec))
    specs = (*labelled, *unlabelled)
    different = dict.fromkeys((same_place(spec), spec.name) for spec in specs)
    every = Counter(name for _, name in different)
    shifts = Counter(spec.shift for spec in labelled if spec.shift)
    for label, counts in (("name", every), ("set", shifts)):
        for key, count in counts.items():
            if count > 1:
                raise UsageError(
                    f"{label} of {count} image sets is {key!r}; it must be another one for each",
                    "--shifted NAME=FOLDER",
                )
    names = [spec.name for spec in labelled]
    maps = {}
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
    return NamedSets(first, others, maps, unlabelled)


def same_place(spec: Spec) -> Place:
    """Return one place for all spellings of a set."""
    return spec.place if isinstance(spec.place, Url) else spec.place.expanduser().resolve()


def open_sets(specs: Sequence[Spec], inputs: Inputs) -> list[ImageSource]:
    """Open the image sets of a call, but for that of the job, which is open already."""
    run = inputs.job.options
    sources = []
    for spec in specs:
        if as_typed(spec.place) == run.images:
            sources.append(inputs.source)
        else:
            sources.append(open_images(spec.place, seed=run.seed, limit=run.max_images))
    return sources


def labels_of(source: ImageSource) -> Texts:
    """Return the labels of a set, in its order.

    A folder (or glob): the first folder of the image's path below it, as torchvision's ImageFolder. A manifest: its
    column `label`. Raises UsageError for an image without a label and for a kind of image set that has none.
    """
    label_place = "folder of its class"
    hint = "name the folder whose sub-folders are the classes"
    if source.kind in ("folder", "glob"):
        labels = [entry.name.partition("/")[0] if "/" in entry.name else "" for entry in source.entries]
    elif source.kind == "manifest":
        label_place = "cell in the column label"
        hint = f"head -3 {quoted(source.spec)}"
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


class ImageSet(NamedTuple):
    """An image set that has not run yet."""

    spec: Spec
    source: ImageSource
    labels: Texts
    """one an image; empty where they are not known"""
    map: ClassMap

    @property
    def right(self) -> list[Classes]:
        """Return the right classes of each image of the source."""
        if not self.labels:
            return [()] * len(self.source)
        return [self.map.indices[label] for label in self.labels]

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
        """Return the record of a labelled set of which `n_correct` usable images are predicted right."""
        return SetResult(
            **self.facts(read),
            shift=self.spec.shift,
            label_set=self.map.label_set,
            labels=self.map.how,
            n_labels=n_labels,
            n_compete=len(self.map.compete),
            accuracy=wilson(n_correct, read.n_usable),
        )


class LabelledResult(NamedTuple):
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
    sets = []
    for spec, source, labels in zip(specs, sources, read, strict=True):
        named = maps.get(spec.name, maps.get(""))
        where = str(spec.place)
        folders = sorted(set(read[0]))  # of the in-distribution set
        mapping = class_map(named, labels, scores, where=where, shift=spec.shift, sorted_names=folders)
        sets.append(ImageSet(spec, source, labels, mapping))
    return sets


def class_output(opened: ModelFile) -> str:
    """Return the name of the model's class output. Raises CannotAssessError where it has none."""
    if opened.class_output is None:
        raise CannotAssessError(
            f"{opened.path}: class output is missing; accuracy needs a model with class scores",
            "robustcheck export … --zero-shot CLASSES.txt gives an image-text encoder a head, and --head NAME a torch "
            "model",
        )
    return opened.class_output


def class_names(opened: ModelFile) -> Texts:
    """Return the names of a model's classes in its contract, none where it has no names."""
    zero_shot = opened.contract and opened.contract.zero_shot
    return zero_shot.classes if zero_shot else ()


def class_scores(runner: Runner, preprocessing: Preprocessing) -> Scores:
    """Return how many classes the model scores, by running it on one black image."""
    opened = runner.model
    black = np.zeros((1, *preprocessing.size, 3), dtype=np.float32)
    output = runner.run(black).class_output
    assert output is not None
    columns = output.shape[1]
    n_of_head = opened.head.classes if opened.head else None
    if columns < 2 or n_of_head not in (None, columns):
        head = f", its last linear layer {n_of_head}" if n_of_head else ""
        raise CannotAssessError(
            f"{opened.path}: class output {opened.class_output!r} has {columns} values per image{head}; one score for "
            "each of at least two classes is needed",
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
) -> LabelledResult:
    """Measure the accuracy on one labelled set. collect: gets (image, class) scores."""
    read = ImagesRead()
    seen = set[Classes]()
    correct = list[Bools]()
    for scores, right in run_set(runner, images, inputs, progress, read):
        seen.update(right)
        try:
            correct.append(is_correct(scores, right, images.map.compete))
        except ValueError as fault:
            raise not_numbers(runner, str(images.spec.place)) from fault
        if collect is not None:
            collect(scores)
    all_correct = np.concatenate(correct)
    result = images.result(read, len(seen), int(all_correct.sum()))
    return LabelledResult(result, read.digests, all_correct)


def run_set(
    runner: Runner, images: ImageSet, inputs: Inputs, progress: Tell | None, read: ImagesRead
) -> Iterator[tuple[AnyArray, list[Classes]]]:
    """Run an image set through a model, and yield (image, class) scores and the right classes of the images.

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
    read.require_share(images.source, run.max_bad, sampled=images.source.is_limited)


def not_numbers(runner: Runner, where: str) -> CannotAssessError:
    """Return the error for class scores that are not numbers."""
    return unfit(
        runner.model.path, f"class scores on {where} are not all numbers; accuracy needs a prediction for every image"
    )
