"""Run the image sets of `shift` through a model. Labelled ones become accuracies, and scores are passed on.

What a call names is read here: labelled image sets, class maps, and an earlier report of the model.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from robustcheck_onnx.checker.arrays import AnyArray, Bools
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Preprocessing
from robustcheck_onnx.checker.images.source import ImageSource, Skipped, digest_of_set
from robustcheck_onnx.checker.isolation import Tell
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import ImagesRead, Prepared, named_skips, stack
from robustcheck_onnx.checker.measure.run import Inputs
from robustcheck_onnx.checker.model.open import ModelFile
from robustcheck_onnx.checker.report.record import Report, read_one
from robustcheck_onnx.checker.runtime.runner import Runner
from robustcheck_onnx.checker.statistics.definitions import wilson
from robustcheck_onnx.checker.storage.places import Place, Url, parse_place
from robustcheck_onnx.checker.text import quoted
from robustcheck_onnx.checker.verdict.gate import skipped_note

from . import labels
from .records import Judged, SetResult, Target
from .robustness import ALIASES

NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.\-]*)=(.+)", re.S)


class Spec(NamedTuple):
    """An image set as the user names it."""

    name: str
    place: Place
    shift: str | None
    """which known set it was said to be: imagenet1k, one of published.SHIFTS, or None"""


def parse_spec(text: str, option: str, what: str = "a labelled image set") -> Spec:
    """Split `[NAME=]PATH` into name, path and known set. Without a name, it is the path's last part.

    A path that exists is a path, whatever signs it has. Raises UsageError for an empty path.
    """
    name, path = _named(text)
    if not path.strip():
        raise UsageError(f"{option} is {text!r}; it must be {what}, [NAME=]PATH", f"{option} FOLDER")
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
    found = None if Path(text).exists() else NAMED.fullmatch(text)
    return (found[1], found[2]) if found else ("", text)


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
    known = Counter(spec.shift for spec in labelled if spec.shift)
    for what, counts in (("name", every), ("set", known)):
        if double := [each for each, count in counts.items() if count > 1]:
            raise UsageError(
                f"{what} of {counts[double[0]]} image sets is {double[0]!r}; it must be another one for each",
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


def judged_before(given: str | Path | Report, digest: str) -> Judged:
    """Return the verdict of an earlier check. It is in a report of the same model, or in its file.

    Raises as `report.read_one`, and UsageError for a report about a model with another digest.
    """
    report = given if isinstance(given, Report) else read_one(Path(given))
    where = "report" if isinstance(given, Report) else f"report {given}"
    of_report = report.evidence.model.digest
    if of_report != digest:
        raise UsageError(
            f"{where}: model of the report has digest {of_report}; this model has {digest}, and they must be the same",
            "robustcheck model.onnx --images photos/ -o json=report.json",
        )
    return verdict_of(report, where)


def verdict_of(report: Report, where: str) -> Judged:
    """Return the verdict of a check, with its basis. `where` says in words where the report comes from."""
    return Judged(
        verdict=report.verdict.verdict,
        reasons=tuple(reason.id for reason in report.verdict.reasons),
        profile=f"{report.profile.id} {report.profile.digest}",
        n_images=report.evidence.statistics.n_images,
        tensor=report.evidence.model.tensor,
        origin=where,
    )


class ImageSet(NamedTuple):
    """An image set that has not run yet."""

    spec: Spec
    source: ImageSource
    labels: tuple[str, ...]
    """one an image; empty where they are not known"""
    map: labels.ClassMap

    @property
    def right(self) -> list[tuple[int, ...]]:
        """The right classes of each image of the source."""
        return [self.map.indices[label] for label in self.labels] or [()] * len(self.source)

    def facts(self, read: ImagesRead) -> dict[str, Any]:
        """Return the fields of `SetResult` and of `Target`."""
        return {
            "name": self.spec.name,
            "source": str(self.spec.place),
            "n_available": self.source.n_found,
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


def read_notes(read: SetResult | Target) -> list[str]:
    """Note which images of a set were not measured."""
    notes = skipped_note(read.n_skipped, read.n_read, read.skipped, read.name)
    if read.n_read < read.n_available:
        notes.append(f"{read.name}: {read.n_read} of {read.n_available} images, drawn by seed.")
    return notes


@dataclass(frozen=True)
class _Labelled(Prepared):
    """One image, ready for the model."""

    right: tuple[int, ...]
    """the classes that are right for it"""


def with_labels(
    specs: Sequence[Spec],
    sources: Sequence[ImageSource],
    read: Sequence[tuple[str, ...]],
    maps: Mapping[str, str],
    scores: labels.Scores,
) -> list[ImageSet]:
    """Return labelled sets with the class map of each.

    Args:
        specs, sources: the sets, the in-distribution one first.
        read: their labels (`labels.labels_of`).
        maps: class maps of the call, by name.
        scores: of the model.

    Raises UsageError as `labels.class_map`.
    """
    folders = sorted(set(read[0] if read else ()))
    return [
        ImageSet(
            spec,
            source,
            known,
            labels.class_map(
                maps.get(spec.name, maps.get("")),
                known,
                scores,
                where=str(spec.place),
                shift=spec.shift,
                sorted_names=folders,
            ),
        )
        for spec, source, known in zip(specs, sources, read, strict=True)
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


def class_names(opened: ModelFile) -> tuple[str, ...]:
    """Return the names of a model's classes in its contract. Empty where it has none."""
    return opened.contract.zero_shot.classes if opened.contract and opened.contract.zero_shot else ()


def class_scores(runner: Runner, preprocessing: Preprocessing) -> labels.Scores:
    """Return how many classes the model scores. The model runs on one black image."""
    opened = runner.model
    black = np.zeros((1, *preprocessing.size, 3), dtype=np.float32)
    output = runner.run(black).class_output
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
    return labels.Scores(columns, names)


def measure_labelled(
    runner: Runner,
    each: ImageSet,
    inputs: Inputs,
    progress: Tell | None,
    collect: Callable[[AnyArray], None] | None = None,
) -> Measured:
    """Measure the accuracy on one labelled set. collect: gets (image, class) scores."""
    read, seen, correct = ImagesRead(), set[tuple[int, ...]](), list[Bools]()
    for scores, right in run_set(runner, each, inputs, progress, read):
        seen.update(right)
        try:
            correct.append(labels.is_correct(scores, right, each.map.compete))
        except ValueError as fault:
            raise not_numbers(runner, str(each.spec.place)) from fault
        if collect is not None:
            collect(scores)
    whole = np.concatenate(correct)
    return Measured(each.result(read, len(seen), int(whole.sum())), read.digests, whole)


def run_set(
    runner: Runner, each: ImageSet, inputs: Inputs, progress: Tell | None, read: ImagesRead
) -> Iterator[tuple[AnyArray, list[tuple[int, ...]]]]:
    """Run an image set through a model. Yields (image, class) scores and the right classes of the images.

    read: counts the images.
    """
    run = inputs.job.options
    with measure.decode(replace(inputs, described=None), each.source, execution=runner.execution) as decoded:
        labelled = (
            image if isinstance(image, Skipped) else _Labelled(**vars(image), right=right)
            for image, right in zip(decoded, each.right, strict=True)
        )
        for batch in measure.batches(
            labelled, read, run.batch_size, n_images=len(each.source), progress=progress, label=lambda: each.spec.name
        ):
            output = runner.run(stack(batch)).class_output
            assert output is not None
            yield output, [image.right for image in batch]
    read.check_usable(each.source, run.max_bad, sampled=each.source.n_found > len(each.source))


def not_numbers(runner: Runner, where: str) -> CannotAssessError:
    """The error for class scores that are not numbers."""
    return CannotAssessError(
        f"{runner.model.path}: class scores on {where} are not all numbers; accuracy needs a prediction for every "
        "image",
        f"robustcheck inspect {quoted(runner.model.path)}",
    )
