"""Run the image sets of `shift` through a model. Labelled ones become accuracies, and scores are passed on.

What a call names is read here: labelled image sets, class maps, and an earlier report of the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
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
from robustcheck_onnx.checker.model import ModelFile
from robustcheck_onnx.checker.report import Report, read_one
from robustcheck_onnx.checker.runtime import Runner
from robustcheck_onnx.checker.statistics import wilson
from robustcheck_onnx.checker.storage.places import Place, Url, parse_place
from robustcheck_onnx.checker.text import quoted

from . import labels
from .records import Judged, SetResult
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
    named = None if Path(text).exists() else NAMED.fullmatch(text)
    name, path = (named[1], named[2]) if named else ("", text)
    if not path.strip():
        raise UsageError(f"{option} is {text!r}; it must be {what}, [NAME=]PATH", f"{option} FOLDER")
    place = parse_place(path)
    if not named:
        if isinstance(place, Url):
            return Spec(PurePosixPath(str(place)).stem or str(place), place, None)
        full = place.expanduser().resolve()
        return Spec((full.name if full.is_dir() else full.stem) or path, place, None)
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return Spec(name, place, next((shift for shift, names in ALIASES.items() if key in names), None))


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
    _refuse_same_place((first, *others), "--in photos/ --shifted sketches/")
    _refuse_same_place((first, *unlabelled), "--in photos/ --target new-photos/")
    own = [
        spec for spec in unlabelled if (same_place(spec), spec.name) not in {(same_place(o), o.name) for o in others}
    ]
    names = Counter(spec.name for spec in (first, *others))
    every = names + Counter(spec.name for spec in own)
    known = Counter(spec.shift for spec in (first, *others) if spec.shift)
    for what, counts in (("name", every), ("set", known)):
        if double := [each for each, count in counts.items() if count > 1]:
            raise UsageError(
                f"{what} of {counts[double[0]]} image sets is {double[0]!r}; it must be another one for each",
                "--shifted NAME=FOLDER",
            )
    maps: dict[str, str] = {}
    for text in classes:
        named = None if Path(text).exists() else NAMED.fullmatch(text)
        name, value = (named[1], named[2]) if named else ("", text)
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


def _refuse_same_place(specs: Sequence[Spec], hint: str) -> None:
    places: set[Place] = set()
    for spec in specs:
        if same_place(spec) in places:
            raise UsageError(f"{spec.place}: image set is given twice; every set must be another one", hint)
        places.add(same_place(spec))


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


Scores = AnyArray


class LabelledSet(NamedTuple):
    """A labelled image set that has not run yet."""

    spec: Spec
    source: ImageSource
    labels: tuple[str, ...]
    map: labels.ClassMap

    @property
    def right(self) -> list[tuple[int, ...]]:
        """The right classes of each image of the source."""
        return [self.map.indices[label] for label in self.labels]


class UnlabelledSet(NamedTuple):
    """A target set that has not run yet."""

    spec: Spec
    source: ImageSource


@dataclass(frozen=True)
class _Labelled(Prepared):
    """One image, ready for the model."""

    right: tuple[int, ...]
    """the classes that are right for it"""


def class_output(opened: ModelFile) -> str:
    """The name of the model's class output. Raises CannotAssessError where it has none."""
    if opened.class_output is None:
        raise CannotAssessError(
            f"{opened.path}: class output is missing; accuracy needs a model with class scores",
            "robustcheck export … --zero-shot CLASSES.txt gives an image-text encoder a head, and --head NAME a torch "
            "model",
        )
    return opened.class_output


def class_scores(runner: Runner, preprocessing: Preprocessing) -> labels.Scores:
    """Return how many classes the model scores. The model runs on one black image."""
    opened = runner.model
    black = np.zeros((1, *preprocessing.size, 3), dtype=np.float32)
    output = runner.run(black).class_output
    assert output is not None
    columns, head = output.shape[1], opened.head.classes if opened.head else None
    if columns < 2 or head not in (None, columns):
        raise CannotAssessError(
            f"{opened.path}: class output {opened.class_output!r} has {columns} values an image"
            + (f", its last linear layer {head}" if head else "")
            + "; one score for each of at least two classes is needed",
            "export the model without ArgMax or TopK at its end",
        )
    names = opened.contract.zero_shot.classes if opened.contract and opened.contract.zero_shot else ()
    if names and len(names) != columns:
        raise CannotAssessError(
            f"{opened.path}: number of class names in the contract is {len(names)}; the model has {columns} classes",
            "export the model again with `robustcheck export`",
        )
    return labels.Scores(columns, names)


def measure_labelled(
    runner: Runner,
    each: LabelledSet,
    inputs: Inputs,
    progress: Tell | None,
    collect: Callable[[Scores, Bools], None] | None = None,
) -> tuple[SetResult, list[str]]:
    """Measure the accuracy on one labelled set. The digests of its images come with it.

    collect: is shown (image, class) scores, and whether each image was predicted right.
    """
    n_correct, read = 0, ImagesRead()
    seen: set[tuple[int, ...]] = set()
    with measure.decode(replace(inputs, described=None), each.source, execution=runner.execution) as decoded:
        labelled = (
            image if isinstance(image, Skipped) else _Labelled(**vars(image), right=right)
            for image, right in zip(decoded, each.right, strict=True)
        )
        for batch in _batches(labelled, read, inputs, each, progress):
            output = runner.run(stack(batch)).class_output
            assert output is not None
            right = [image.right for image in batch]
            seen.update(right)
            try:
                correct = labels.is_correct(output, right, each.map.compete)
            except ValueError as fault:
                raise not_numbers(runner, str(each.spec.place)) from fault
            n_correct += int(correct.sum())
            if collect is not None:
                collect(output, correct)
    digests = _usable(read, each.source, inputs)
    result = SetResult(
        name=each.spec.name,
        source=str(each.spec.place),
        shift=each.spec.shift,
        label_set=each.map.label_set,
        labels=each.map.how,
        n_labels=len(seen),
        n_compete=len(each.map.compete),
        n_available=each.source.n_found,
        n_read=read.n_read,
        n_skipped=len(read.skipped),
        skipped=named_skips(read.skipped),
        digest=digest_of_set(digests),
        accuracy=wilson(n_correct, len(digests)),
    )
    return result, digests


def measure_unlabelled(
    runner: Runner, each: UnlabelledSet, inputs: Inputs, progress: Tell | None, collect: Callable[[Scores], None]
) -> ImagesRead:
    """Run one unlabelled set through the model. `collect` gets (image, class) scores."""
    read = ImagesRead()
    with measure.decode(replace(inputs, described=None), each.source, execution=runner.execution) as decoded:
        for batch in _batches(decoded, read, inputs, each, progress):
            output = runner.run(stack(batch)).class_output
            assert output is not None
            collect(output)
    _usable(read, each.source, inputs)
    return read


def not_numbers(runner: Runner, where: str) -> CannotAssessError:
    """The error for class scores that are not numbers."""
    return CannotAssessError(
        f"{runner.model.path}: class scores on {where} are not all numbers; accuracy needs a prediction for every "
        "image",
        f"robustcheck inspect {quoted(runner.model.path)}",
    )


def _batches(
    decoded: Any, read: ImagesRead, inputs: Inputs, each: LabelledSet | UnlabelledSet, progress: Tell | None
) -> Any:
    return measure.batches(
        decoded,
        read,
        inputs.job.options.batch_size,
        n_images=len(each.source),
        progress=progress,
        label=lambda: each.spec.name,
    )


def _usable(read: ImagesRead, source: ImageSource, inputs: Inputs) -> list[str]:
    read.check_usable(source, inputs.job.options.max_bad, sampled=source.n_found > len(source))
    return list(read.digests)
