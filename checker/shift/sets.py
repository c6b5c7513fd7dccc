"""Image sets of `shift`, run through a model: labelled ones become accuracies, and scores are handed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from robustcheck_onnx.checker import measure
from robustcheck_onnx.checker.arrays import AnyArray, Bools
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import Preprocessing
from robustcheck_onnx.checker.images.source import ImageSource, Skipped, digest_of_set
from robustcheck_onnx.checker.measure import ImagesRead, Inputs, Prepared, Tell, stack
from robustcheck_onnx.checker.model import ModelFile
from robustcheck_onnx.checker.runtime import Runner
from robustcheck_onnx.checker.statistics import wilson
from robustcheck_onnx.checker.text import quoted

from . import labels
from .call import Spec
from .records import SetResult

Scores = AnyArray


class LabelledSet(NamedTuple):
    """An image set with its class map, before the model has run on it."""

    spec: Spec
    source: ImageSource
    labels: tuple[str, ...]
    map: labels.ClassMap

    @property
    def right(self) -> list[tuple[int, ...]]:
        """The classes that are right, for each image of the source."""
        return [self.map.indices[label] for label in self.labels]


class UnlabelledSet(NamedTuple):
    """A target set, before the model has run on it."""

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
    """How many classes the model scores, asked of the model itself with one black image."""
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
    """Run one set through the model: its accuracy, and the digests of its images.

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
        skipped=measure.named_skips(read.skipped),
        digest=digest_of_set(digests),
        accuracy=wilson(n_correct, len(digests)),
    )
    return result, digests


def measure_unlabelled(
    runner: Runner, each: UnlabelledSet, inputs: Inputs, progress: Tell | None, collect: Callable[[Scores], None]
) -> ImagesRead:
    """Run one set without labels through the model; collect is shown (image, class) scores."""
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
