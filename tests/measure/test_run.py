"""Measurements that merge: shards against a single run, several tensors in one pass."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.evidence import Evidence, Int8Sums
from robustcheck_onnx.checker.core.measure.job import Job
from robustcheck_onnx.checker.core.measure.loop import DECODERS, count_decoders, measure_images
from robustcheck_onnx.checker.core.measure.opening import open_job
from robustcheck_onnx.checker.core.measure.probe import probe
from robustcheck_onnx.checker.core.measure.sums import conclude, merge, nothing_yet
from robustcheck_onnx.checker.core.model.file import Graph
from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.core.runtime.batch_trial import batch_differences
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.outside.image_sets.open import of_job
from robustcheck_onnx.checker.outside.workers import measure_all
from robustcheck_onnx.thresholds import profile
from support import Patch, but, lookup, raised
from support.measuring import N_IMAGES, SIZE_PX, assert_same, never_decided, vectors
from support.measuring import job as new_job
from support.onnx_models import classifier, encoder, save


def measured(job: Job) -> tuple[Evidence, ...]:
    return measure_all(job, profile.load())


def two_tensors(path: Path, h: np.ndarray) -> Path:
    """Two outputs, the vectors and a part of them, as exports have `representation` and `pooled`."""
    contract = lookup.lookup_contract(size_px=SIZE_PX)
    contract["tensors"]["pooled"] = {"meaning": "a part", "rule": "pooled"}
    pooled = ("pooled", onnx.TensorProto.FLOAT, ("batch", 20))
    then = f"pooled = Gather(representation, {[*range(20)]}, axis=1)"
    return lookup.write_lookup_model(path, h, size_px=SIZE_PX, contract=contract, then=then, outputs=[pooled])


BY_ORDER = {"statistics": {"two_sidedness"}}


def test_shards_merged_in_their_order_are_a_single_run(photos: Path, tmp_path: Path) -> None:
    model = lookup.write_lookup_model(tmp_path / "m.onnx", vectors(), size_px=SIZE_PX)
    report = check(model, images=photos, thresholds=never_decided())
    (evidence,) = measured(new_job(model, photos))
    assert report.evidence.images.n_skipped == 2
    assert report.evidence.statistics.n_constant == report.evidence.statistics.n_nonfinite == 1
    # shards don't know which images came first, and two-sidedness goes by the first 50
    assert_same(evidence.model_dump(exclude=BY_ORDER), report.evidence.model_dump(exclude=BY_ORDER))
    strict = new_job(model, photos, max_bad=0.001)
    raised(CannotAssessError, f"unusable images is 2 of {N_IMAGES}", measured, strict)
    # of a part of the set, the share rounds up to a whole image
    (part,) = measured(new_job(model, photos, max_bad=0.001, max_images=300))
    assert (part.images.n_skipped, part.stopped) == (1, "image limit")


def test_a_single_image_is_measured_and_cannot_pass(photos: Path, tmp_path: Path) -> None:
    model = lookup.write_lookup_model(tmp_path / "m.onnx", vectors(), size_px=SIZE_PX)
    report = check(model, images=photos, max_images=1)
    assert report.evidence.statistics.n_images == 1
    assert report.evidence.model.batch_difference is None
    assert {"too_few_images", "unchecked"} <= {reason.id for reason in report.verdict.reasons}


def test_merging_is_associative_and_has_a_neutral_element(photos: Path, tmp_path: Path) -> None:
    """Of everything: images, statistics, gallery, content."""
    model = lookup.write_lookup_model(tmp_path / "m.onnx", vectors(), size_px=SIZE_PX)
    opened = open_job(new_job(model, photos, max_images=300), of_job)
    facts = probe(opened)
    entries = opened.source.entries
    a, b, c, whole = (
        measure_images(opened, replace(opened.source, entries=entries[start:end]))
        for start, end in ((0, 13), (13, 130), (130, 300), (0, 300))
    )
    one = conclude(opened.job, facts, whole, profile.load())[0].model_dump(exclude=BY_ORDER)
    for total in (merge(merge(a, b), c), merge(a, merge(b, c)), merge(nothing_yet(1), whole)):
        assert_same(conclude(opened.job, facts, total, profile.load())[0].model_dump(exclude=BY_ORDER), one)
    raised(ValueError, "argument 2 is longer", merge, a, nothing_yet(2))


def test_batch_invariance_is_that_of_the_session_that_measures(tmp_path: Path, monkeypatch: Patch) -> None:
    """The model's own outputs are made to differ, so that graph optimisation is lowered."""
    path = save(classifier(), tmp_path / "m.onnx")
    other, with_output = classifier(bias=False).SerializeToString(), open_model(path).graph.with_addition()
    monkeypatch.setattr(Graph, "with_addition", lambda graph: with_output)
    monkeypatch.setattr(Graph, "own", lambda graph: other)
    levels = []

    def tried(runner: Runner, *arguments: Any) -> tuple[float | None, ...]:
        levels.append(runner.execution.optimization)
        return batch_differences(runner, *arguments)

    monkeypatch.setattr("robustcheck_onnx.checker.core.measure.probe.batch_differences", tried)
    facts = probe(open_job(new_job(path, max_images=8), of_job))
    assert levels == [facts.executions[0].optimization] == ["none"]
    assert (facts.models[0].output_difference or 0) > 0.1


def test_int8_sums_that_saturate_on_one_worker_alone_are_not_merged(tmp_path: Path) -> None:
    facts = probe(open_job(new_job(save(classifier(), tmp_path / "m.onnx"), max_images=8), of_job))
    exact, less = (
        replace(facts, executions=(but(facts.executions[0], int8_sums=Int8Sums(plain=plain, exact=1)),))
        for plain in (1, 0.5)
    )
    assert (exact.differs_from(exact), exact.differs_from(less)) == ("", "execution")


def assert_as_alone(job: Job, n_passes: int) -> tuple[Evidence, ...]:
    """Tensors measured together, in as many passes, have the evidence of each alone."""
    assert len(open_job(job, of_job).runners) == n_passes
    together = measured(job)
    for tensor, found in zip(job.tensors, together, strict=True):
        assert measured(replace(job, named=(tensor,))) == (found,)
    return together


def test_several_outputs_are_measured_in_one_pass(photos: Path, tmp_path: Path) -> None:
    model = two_tensors(tmp_path / "m.onnx", vectors())
    together = assert_as_alone(new_job(model, photos, tensors=(None, "pooled")), 1)
    read = [(found.model.tensor, found.statistics.n_features) for found in together]
    assert read == [("representation", 48), ("pooled", 20)]


def test_a_tensor_inside_the_graph_is_measured_beside_an_output(photos: Path, tmp_path: Path) -> None:
    model = save(encoder(), tmp_path / "m.onnx")
    few = {"preprocess": "imagenet", "max_images": 40, "max_bad": 1}
    together = assert_as_alone(new_job(model, photos, tensors=("embedding", "features"), **few), 2)
    assert None not in {found.model.output_difference for found in together}


def test_a_tensor_without_a_representation_is_named(photos: Path, tmp_path: Path) -> None:
    h = vectors()
    h[:, :20] = 1
    model = two_tensors(tmp_path / "m.onnx", h)
    job = new_job(model, photos, tensors=(None, "pooled"), max_images=40)
    raised(CannotAssessError, "representations of pooled is 0 of 40", measured, job)


def test_a_gpu_is_fed_by_all_cores() -> None:
    counts = [count_decoders(on_gpu=gpu, threads=n) for gpu, n in ((False, 16), (True, 16), (True, 1))]
    assert counts == [DECODERS, 16, DECODERS]
