"""The scan: outlier features at the end of every block of a model, measured inside its own graph.

Information, not a verdict. Silent; progress goes to a callback.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import ImageFacts
from robustcheck_onnx.checker.images import (
    ImageSetState,
    ImageSource,
    Item,
    Skipped,
    check_bad,
    digest_of_set,
    open_images,
    prefetch,
)
from robustcheck_onnx.checker.measure import Prepared, Progress, prepare, stack
from robustcheck_onnx.checker.model import find_preprocessing, open_model
from robustcheck_onnx.checker.report import Time
from robustcheck_onnx.checker.runtime import BATCH_SIZE, SAME_OUTPUT, Array, Runner

from .depth import Depth
from .plan import measuring_model, plan_scan
from .records import Layer, ScanModel, ScanReport, notes_of_scan, summary

MAX_IMAGES = 64  # by default: a profile needs no tight interval
PROBE_IMAGES = 5  # images that shapes are read from and outputs compared on
NAMED_SKIPS = 20  # skipped images named in the report
DECODERS = 2  # threads that decode ahead of the model
AHEAD = 64  # decoded images that may wait


def scan(
    model: str | Path,
    *,
    images_at: str | Path | None = None,
    max_images: int = MAX_IMAGES,
    max_bad: float = 0.01,
    seed: int = 0,
    preprocess: str | None = None,
    tensor: str | None = None,
    pool: str | None = None,
    blocks: Sequence[str] = (),
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    progress: Callable[[Progress], None] | None = None,
) -> ScanReport:
    """Measure outlier features at the end of every block of a model, and at its representation.

    Args:
        model: path of the ONNX file.
        images_at: as for a check; None = the bundled photos.
        max_images: use at most so many.
        max_bad: largest share of images, 0–1, that may be unusable.
        seed: fixes the order in which images are taken.
        preprocess: as for a check.
        tensor, pool: the representation, as for a check.
        blocks: measure these tensors instead of the ends of blocks found by rule.
        device: auto, cpu, cuda, cuda:N or tensorrt.
        batch_size: images that the model gets at once.
        progress: called after every batch.

    Raises:
        UsageError: as for a check; no such tensor among `blocks`.
        CannotAssessError: as for a check; no block was found; an opset below 11; nothing finite to measure.
        EnvironmentFaultError: as for a check.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    opened = open_model(model, tensor=tensor, pool=pool)
    contract = opened.contract
    preprocessing = find_preprocessing(
        opened.path, preprocess, contract.preprocessing if contract else None, opened.image_input.size
    )
    source = open_images(images_at, seed=seed, limit=max_images)
    if source.kind == "tensors" and preprocessing.source != "assumed":
        preprocessing = preprocessing.model_copy(update={"source": "tensors"})

    def prepare_one(item: Item) -> Prepared | Skipped:
        return prepare(item, opened, preprocessing.preprocessing)

    probe = _first_usable(source, prepare_one)
    plan = plan_scan(opened, probe, device, blocks, preprocessing=preprocessing.preprocessing)
    own = Runner(opened, device, preprocessing=preprocessing.preprocessing).run(probe)
    runner = Runner(
        measuring_model(opened, plan),
        device,
        preprocessing=preprocessing.preprocessing,
        batch_size=batch_size,
        also=(replace(opened, graph_bytes=b"", added_output=False),),
    )
    differences = [_difference(own.representation, runner.represent(probe)[1])]
    if own.class_output is not None:
        again = runner.run(probe).class_output
        assert again is not None
        differences.append(_difference(own.class_output, again))
    depths = [Depth(tap) for tap in plan.taps]
    seen = _run(runner, depths, source, prepare_one, max_bad, batch_size, progress)
    layers = tuple(
        Layer(
            kind=block.kind,
            tensor=block.tensor,
            form=tap.form,
            width=tap.features,
            positions=tap.positions,
            measured=tap.measured,
            class_token=tap.class_token,
            statistics=depth.statistics(),
        )
        for block, tap, depth in zip(plan.blocks, plan.taps, depths, strict=True)
    )
    if not any(layer.statistics.n_images for layer in layers):
        raise CannotAssessError(
            f"{opened.path}: number of images with finite, not constant values is 0 of {seen.n_read - seen.n_skipped} "
            "at every block; at least one is needed",
            f"robustcheck inspect {shlex.quote(str(opened.path))}",
        )
    facts = ScanModel(
        file=str(opened.path),
        digest=opened.digest,
        source=f"{contract.source.library} {contract.source.name} ({contract.source.weights})" if contract else "",
        tensor=opened.representation.tensor,
        pool=opened.representation.pool,
        rule=plan.rule,
        n_left_out=plan.n_left_out,
        output_difference=max(differences),
        output_unchanged=max(differences) <= SAME_OUTPUT[opened.precision],
    )
    begins = next((index for index, layer in enumerate(layers) if layer.statistics.has_outliers), None)
    wall_s = time.perf_counter() - clock
    return ScanReport(
        tool_version=version("robustcheck-onnx"),
        model=facts,
        layers=layers,
        begins=begins,
        summary=summary(layers, begins),
        preprocessing=preprocessing,
        images=seen,
        execution=runner.execution,
        notes=notes_of_scan(opened, facts, layers, preprocessing, seen, runner.execution),
        time=Time(
            started=started.isoformat(timespec="seconds"),
            wall_s=round(wall_s, 3),
            images_per_s=round((seen.n_read - seen.n_skipped) / wall_s, 2) if wall_s > 0 else None,
        ),
    )


def _first_usable(source: ImageSource, prepare: Callable[[Item], Prepared | Skipped]) -> Array:
    found: list[Prepared] = []
    skipped: list[Skipped] = []
    for item in source.items():
        prepared = prepare(item)
        if isinstance(prepared, Skipped):
            skipped.append(prepared)
            continue
        found.append(prepared)
        if len(found) == PROBE_IMAGES:
            break
    check_bad(len(found) + len(skipped), len(skipped), 1.0, skipped, source.spec or "bundled photos")
    return stack(found)


def _run(
    runner: Runner,
    depths: Sequence[Depth],
    source: ImageSource,
    prepare: Callable[[Item], Prepared | Skipped],
    max_bad: float,
    batch_size: int,
    progress: Callable[[Progress], None] | None,
) -> ImageFacts:
    """Run all images and add them up."""
    clock, total = time.perf_counter(), len(source)
    *ends, n_numbers = np.cumsum([depth.tap.n_numbers for depth in depths])
    sanity, notes = ImageSetState(), Counter[str]()
    skipped: list[Skipped] = []
    digests: list[str] = []
    waiting: list[Prepared] = []
    with contextlib.closing(prefetch(source, prepare, workers=DECODERS, window=AHEAD)) as decoded:
        for number, item in enumerate(decoded, 1):
            if isinstance(item, Skipped):
                skipped.append(item)
            else:
                waiting.append(item)
                sanity.add(item.sketch)
                notes.update(item.notes)
                digests.append(item.digest)
            if waiting and (len(waiting) == batch_size or number == total):
                rows = runner.run(stack(waiting)).representation
                if rows.shape[1] != n_numbers:
                    raise CannotAssessError(
                        f"{runner.model.path}: statistics of an image are {rows.shape[1]} numbers; {n_numbers} were "
                        "planned from its first images: the number of tokens must not depend on the images",
                        f"robustcheck scan {shlex.quote(str(runner.model.path))} --block TENSOR",
                    )
                for depth, part in zip(depths, np.split(rows, ends, axis=1), strict=True):
                    depth.update(part)
                waiting = []
                if progress is not None:
                    progress(Progress(number, total, number / (time.perf_counter() - clock), ""))
    where = source.spec or "bundled photos"
    check_bad(total, len(skipped), max_bad, skipped, where, sampled=source.n_found > total)
    return ImageFacts(
        source=where,
        bundled=source.kind == "bundled",
        n_available=source.n_found,
        n_read=total,
        n_skipped=len(skipped),
        skipped=tuple((bad.name, bad.reason) for bad in skipped[:NAMED_SKIPS]),
        notes=dict(sorted(notes.items())),
        digest=digest_of_set(digests),
        seed=source.seed,
        sanity=sanity.facts(),
    )


def _difference(expected: Array, actual: Array) -> float:
    """Largest difference relative to the root mean square, over images; 0 where equal, not finite values included."""
    left, right = expected.astype(np.float64), actual.astype(np.float64)
    if np.array_equal(left, right, equal_nan=True):
        return 0.0
    scale = np.sqrt((left**2).mean(axis=1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(left == right, 0.0, np.abs(left - right) / scale)
    return float(np.nan_to_num(relative, nan=1e9, posinf=1e9).max())
