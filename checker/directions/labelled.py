"""The labelled sets of a call: their labels as classes of the head, and accuracy on them as `shift` reports it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustcheck_onnx.checker import measure
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import Options
from robustcheck_onnx.checker.images.source import ImageSource, digest_of_set, open_images
from robustcheck_onnx.checker.measure import Collected, Inputs
from robustcheck_onnx.checker.model import ModelFile
from robustcheck_onnx.checker.runtime import LinearHead
from robustcheck_onnx.checker.shift import SetResult, call, labels
from robustcheck_onnx.checker.statistics import wilson
from robustcheck_onnx.checker.storage.places import as_typed
from robustcheck_onnx.checker.text import quoted

from .analysis import Labelled, correct


class LabelledSet(NamedTuple):
    """A labelled set with its class map, before the model has run on it."""

    spec: call.Spec
    source: ImageSource
    labels: tuple[str, ...]
    map: labels.ClassMap


def parse_sets(
    labelled: str | Path | None, shifted: Sequence[str | Path], classes: Sequence[str]
) -> tuple[list[call.Spec], dict[str, str]]:
    """The sets that a call names, the in-distribution one first, and the class map of each (`shift.call.parse_call`).

    Raises UsageError as that, and for shifted sets or class maps without an in-distribution set.
    """
    if labelled is not None:
        named = call.parse_call(str(labelled), [str(each) for each in shifted], classes, alone=True)
        return [named.inside, *named.shifted], named.maps
    for option, values in (("--shifted", shifted), ("--classes", classes)):
        if values:
            raise UsageError(
                f"{option} is given without --in; accuracy starts from labelled in-distribution images",
                f"--in photos/ {option} {quoted(values[0])}",
            )
    return [], {}


def with_maps(
    specs: Sequence[call.Spec],
    inputs: Inputs,
    run: Options,
    maps: dict[str, str],
    head: LinearHead,
    opened: ModelFile,
) -> list[LabelledSet]:
    """Open the labelled sets and understand their labels; the in-distribution set comes first."""
    names = opened.contract.zero_shot.classes if opened.contract and opened.contract.zero_shot else ()
    known = labels.Scores(len(head.bias), names if len(names) == len(head.bias) else ())
    prepared: list[LabelledSet] = []
    for spec in specs:
        is_open = not prepared and as_typed(spec.place) == run.images
        source = inputs.source if is_open else open_images(spec.place, seed=run.seed, limit=run.max_images)
        of_images = labels.labels_of(source)
        folders = sorted(set(prepared[0].labels if prepared else of_images))
        which = maps.get(spec.name, maps.get(""))
        class_map = labels.class_map(
            which, of_images, known, where=str(spec.place), shift=spec.shift, sorted_names=folders
        )
        prepared.append(LabelledSet(spec, source, of_images, class_map))
    return prepared


def put_labels(each: LabelledSet, collected: Collected) -> Labelled:
    """Put the label of each usable image beside its representation; skipped images have none."""
    right, names = [], iter(collected.names)
    name = next(names, None)
    for entry, label in zip(each.source.entries, each.labels, strict=True):
        if entry.name == name:
            right.append(each.map.indices[label])
            name = next(names, None)
    return Labelled(each.spec.name, collected.representations, right, each.map.compete)


def result_of(each: LabelledSet, collected: Collected, labelled: Labelled, head: LinearHead) -> SetResult:
    """Measure the accuracy of the whole head on a labelled set."""
    read = collected.read
    return SetResult(
        name=each.spec.name,
        source=str(each.spec.place),
        shift=each.spec.shift,
        label_set=each.map.label_set,
        labels=each.map.how,
        n_labels=len(set(labelled.right)),
        n_compete=len(each.map.compete),
        n_available=each.source.n_found,
        n_read=read.n_read,
        n_skipped=len(read.skipped),
        skipped=measure.named_skips(read.skipped),
        digest=digest_of_set(list(collected.digests)),
        accuracy=wilson(correct(head, labelled), len(labelled.right)),
    )
