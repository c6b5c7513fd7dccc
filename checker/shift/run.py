"""Accuracy under a distribution shift, where the user has labelled images, and what it says beside the verdict.

One loop runs the model. Silent; progress goes to a callback.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker import pipeline
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Preprocessing
from robustcheck_onnx.checker.images import (
    ImageSource,
    Item,
    Picture,
    Skipped,
    apply_uint8,
    check_bad,
    digest_of_set,
    open_images,
    prefetch,
)
from robustcheck_onnx.checker.measure import Progress
from robustcheck_onnx.checker.model import Contract, ModelFile, find_preprocessing, open_model
from robustcheck_onnx.checker.report import Time
from robustcheck_onnx.checker.runtime import Runner
from robustcheck_onnx.checker.statistics import CONFIDENCE, wilson

from . import labels
from .call import Spec, parse_call, read_report, verdict_of
from .robustness import (
    CLAIM,
    IMAGES,
    LABEL_SET,
    WORDS,
    ModelUsed,
    SetResult,
    Shifted,
    ShiftReport,
    agree,
    comparable_accuracies,
    put_beside,
)

NAMED_SKIPS = 20  # skipped images named in the report
DECODERS = 2  # threads that decode ahead of the model
AHEAD = 64  # decoded images that may wait


@dataclass(frozen=True)
class _Image:
    digest: str
    pixels: npt.NDArray[np.uint8]


class _Opened(NamedTuple):
    """A set whose labels are understood; nothing of it has run."""

    spec: Spec
    source: ImageSource
    labels: tuple[str, ...]
    map: labels.ClassMap


def measure_shift(
    model: str | Path,
    inside: str,
    shifted: Sequence[str],
    *,
    classes: Sequence[str] = (),
    baseline: str = "timm",
    report: Path | None = None,
    preprocess: str | None = None,
    device: str = "auto",
    seed: int = 0,
    max_images: int | None = None,
    max_bad: float = 0.01,
    batch_size: int = 32,
    progress: Callable[[Progress], None] | None = None,
) -> ShiftReport:
    """Measure a classifier's top-1 accuracy on labelled sets, and compare with the verdict of the check.

    Args:
        model: ONNX file with class scores.
        inside, shifted: labelled image sets, `[NAME=]PATH`; a folder of class folders, or a manifest with labels.
        classes: class maps, `[NAME=]MAP` (see labels.class_map).
        baseline: one of yardstick.SOURCES.
        report: JSON report of an earlier check of this model; None = the check runs on the images of `inside`.
        preprocess, device, seed, max_images, max_bad, batch_size, progress: as in pipeline.check; max_images is of
            each set.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: see each class; nothing is measured half.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    first, others, maps = parse_call(inside, shifted, classes)
    opened = open_model(model)
    judged = read_report(report, opened.digest) if report is not None else None
    output = _class_output(opened)
    contract = opened.contract
    found = find_preprocessing(
        Path(model), preprocess, contract.preprocessing if contract else None, opened.image_input.size
    )
    sources = [open_images(spec.place, seed=seed, limit=max_images) for spec in (first, *others)]
    read = [labels.labels_of(source) for source in sources]
    runner = Runner(opened, device, preprocessing=found.preprocessing, batch_size=batch_size)
    scores = _scores(runner, found.preprocessing)
    folders = sorted(set(read[0]))
    sets = [
        _Opened(
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
        for spec, source, known in zip((first, *others), sources, read, strict=True)
    ]
    measured = [_measure(runner, each, found.preprocessing, max_bad, batch_size, progress) for each in sets]
    (inner, inner_digests), *rest = measured
    for result, _ in rest:
        if result.digest == inner.digest:
            raise UsageError(
                f"{result.source}: images are those of {inner.source}; a shifted set must have other images",
                "--in photos/ --shifted sketches/",
            )
    if judged is None:
        checked = pipeline.check(
            model,
            images=first.place,
            preprocess=preprocess,
            device=device,
            seed=seed,
            max_images=max_images,
            max_bad=max_bad,
            batch_size=batch_size,
            progress=progress,
        )
        judged = verdict_of(checked, "checked now on the images of --in")
    beside = tuple(put_beside(inner, inner_digests, result, digests, baseline) for result, digests in rest)
    wall_s = time.perf_counter() - clock
    n_images = inner.accuracy.n + sum(each.result.accuracy.n for each in beside)
    return ShiftReport(
        tool_version=version("robustcheck-onnx"),
        model=ModelUsed(
            file=str(opened.path),
            digest=opened.digest,
            source=_source(contract),
            class_output=output,
            n_classes=scores.n_classes,
            random_weights=contract.source.random_weights if contract else None,
            synthetic=contract.source.synthetic if contract else "",
        ),
        confidence=CONFIDENCE,
        in_distribution=inner,
        shifted=beside,
        accuracies=comparable_accuracies(inner, beside),
        baseline=baseline,
        verdict=judged,
        agreement=agree(judged, inner, beside, baseline),
        preprocessing=found.preprocessing,
        preprocessing_source=found.source,
        execution=runner.execution,
        seed=seed,
        notes=_notes(inner, beside, found.source, opened),
        claim=CLAIM,
        time=Time(
            started=started.isoformat(timespec="seconds"),
            wall_s=round(wall_s, 3),
            images_per_s=round(n_images / wall_s, 2) if wall_s > 0 else None,
        ),
    )


def _source(contract: Contract | None) -> str:
    if contract is None:
        return ""
    source = contract.source
    return f"{source.library} {source.name} ({'random weights' if source.random_weights else source.weights})"


def _class_output(opened: ModelFile) -> str:
    if opened.class_output is None:
        raise CannotAssessError(
            f"{opened.path}: class output is missing; accuracy needs a model with class scores",
            "robustcheck export … --zero-shot CLASSES.txt gives an image-text encoder a head, and --head NAME a torch "
            "model",
        )
    return opened.class_output


def _scores(runner: Runner, preprocessing: Preprocessing) -> labels.Scores:
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


def _measure(
    runner: Runner,
    each: _Opened,
    preprocessing: Preprocessing,
    max_bad: float,
    batch_size: int,
    progress: Callable[[Progress], None] | None,
) -> tuple[SetResult, list[str]]:
    """Run one set through the model: its accuracy, and the digests of its images."""
    clock = time.perf_counter()

    def prepare(item: Item) -> _Image | Skipped:
        if not isinstance(item, Picture):
            assert isinstance(item, Skipped)  # labels_of refuses tensors
            return item
        try:
            return _Image(item.digest, apply_uint8(preprocessing, item.image))
        except CannotAssessError as fault:  # a strip that cannot be resized: this image's fault, not the run's
            return Skipped(item.name, fault.message)

    skipped: list[Skipped] = []
    digests: list[str] = []
    seen: set[tuple[int, ...]] = set()
    waiting: list[tuple[_Image, tuple[int, ...]]] = []
    n_correct = 0
    with contextlib.closing(prefetch(each.source, prepare, workers=DECODERS, window=AHEAD)) as decoded:
        for number, (item, label) in enumerate(zip(decoded, each.labels, strict=True), 1):
            if isinstance(item, Skipped):
                skipped.append(item)
            else:
                right = each.map.indices[label]
                waiting.append((item, right))
                digests.append(item.digest)
                seen.add(right)
            if waiting and (len(waiting) == batch_size or number == len(each.source)):
                n_correct += _count(runner, waiting, each.map.compete, str(each.spec.place))
                waiting = []
                if progress is not None:
                    rate = number / (time.perf_counter() - clock)
                    progress(Progress(number, len(each.source), rate, each.spec.name))
    sampled = each.source.n_found > len(each.source)
    check_bad(len(each.source), len(skipped), max_bad, skipped, str(each.spec.place), sampled=sampled)
    result = SetResult(
        name=each.spec.name,
        source=str(each.spec.place),
        shift=each.spec.shift,
        label_set=each.map.label_set,
        labels=each.map.how,
        n_labels=len(seen),
        n_compete=len(each.map.compete),
        n_available=each.source.n_found,
        n_read=len(each.source),
        n_skipped=len(skipped),
        skipped=tuple((bad.name, bad.reason) for bad in skipped[:NAMED_SKIPS]),
        digest=digest_of_set(digests),
        accuracy=wilson(n_correct, len(digests)),
    )
    return result, digests


def _count(runner: Runner, batch: Sequence[tuple[_Image, tuple[int, ...]]], compete: Sequence[int], where: str) -> int:
    """How many images of a batch are predicted right."""
    output = runner.run(np.stack([image.pixels for image, _ in batch])).class_output
    assert output is not None
    try:
        return int(labels.is_correct(output, [right for _, right in batch], compete).sum())
    except ValueError as fault:
        raise CannotAssessError(
            f"{runner.model.path}: class scores on {where} are not all numbers; accuracy needs a prediction for every "
            "image",
            f"robustcheck inspect {shlex.quote(str(runner.model.path))}",
        ) from fault


def _notes(inner: SetResult, beside: Sequence[Shifted], preprocessing: str, opened: ModelFile) -> tuple[str, ...]:
    notes = []
    if preprocessing == "assumed":
        notes.append("preprocessing is not known and was assumed (ImageNet values); accuracies may be too low")
    if opened.contract and opened.contract.source.random_weights:
        notes.append("the weights are random: accuracies are those of an untrained model")
    if opened.contract and opened.contract.source.synthetic:
        notes.append(f"the model is synthetic: {opened.contract.source.synthetic}")
    results = (inner, *(each.result for each in beside))
    if any(result.label_set in LABEL_SET.values() and result.label_set != "file" for result in results):
        notes.append("the model's 1000 classes are taken to be in ImageNet-1k's order")
    if len({result.n_compete for result in results}) > 1:
        notes.append("the sets are measured among different numbers of classes; their difference is also due to that")
    for each in beside:
        if each.in_both:
            notes.append(f"{each.in_both} images are in both {inner.name} and {each.result.name}")
    for result in results:
        whole = IMAGES.get(result.shift or "", result.n_available)
        if result.n_available != whole:
            notes.append(
                f"{result.name} has {result.n_available} images; {WORDS[result.shift or '']} as published has {whole}"
            )
        if result.n_skipped:
            notes.append(f"{result.n_skipped} images of {result.name} could not be used and are not counted")
        if result.n_read < result.n_available:
            notes.append(f"{result.name}: {result.n_read} of {result.n_available} images, drawn by seed")
    return tuple(notes)
