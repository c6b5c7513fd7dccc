"""Measurements that merge: shards against a single run, several tensors in one pass."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import Evidence
from robustcheck_onnx.checker.images.source import Skipped, open_images
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import SHARD_IMAGES, Job, Measurement, conclude, merge, nothing_yet
from robustcheck_onnx.checker.model.graph import Graph
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from robustcheck_onnx.thresholds import profile
from support import PHOTOS, lookup, onnx_models
from support.measuring import assert_same, never_decided, parts
from support.measuring import job as new_job

N_IMAGES = SHARD_IMAGES + 150
SIZE_PX = 16  # small, since decoding and describing photos is not what is tested


def measured(job: Job) -> tuple[tuple[Evidence, ...], Measurement]:
    """Shard by shard, merged in order."""
    opened = measure.open_job(job)
    facts = measure.probe(opened)
    total = nothing_yet(len(job.tensors))
    for index in range(facts.n_shards):
        total = merge(total, measure.measure_shard(opened, index))
    return conclude(job, facts, total, profile.load()), total


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More photos than one shard holds; two of them are damaged."""
    folder = tmp_path_factory.mktemp("many")
    paths = lookup.write_lookup_images(folder, N_IMAGES, photos=PHOTOS, size_px=SIZE_PX)
    for path in (paths[100], paths[600]):
        path.write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return folder


def vectors(n: int = N_IMAGES, d: int = 48) -> np.ndarray:
    rng = np.random.default_rng(5)
    h = rng.standard_t(5, size=(n, d)) + rng.normal(0, 0.5, d)
    h[:, 3] += 9
    h[7] = 1.0  # constant: counted, not used
    h[11, 2] = np.nan
    return h


def two_tensors(path: Path) -> Path:
    """Two outputs, the vectors and a part of them, as exports have `representation` and `pooled`."""
    lookup.write_lookup_model(path, vectors(), size_px=SIZE_PX)
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(20), "some"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["representation", "some"], ["pooled"], axis=1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, ["batch", 20]))
    contract = json.loads(model.metadata_props[0].value)
    contract["tensors"]["pooled"] = {"meaning": "a part", "rule": "pooled"}
    model.metadata_props[0].value = json.dumps(contract)
    onnx.save(model, path)
    return path


def test_shards_merged_in_their_order_are_a_single_run(photos: Path, tmp_path: Path) -> None:
    model = lookup.write_lookup_model(tmp_path / "m.onnx", vectors(), size_px=SIZE_PX)
    report = check(model, images=photos, thresholds=never_decided())
    (evidence,), total = measured(new_job(model, str(photos)))
    assert report.evidence.images.n_skipped == 2
    assert report.evidence.statistics.n_constant == report.evidence.statistics.n_nonfinite == 1
    assert_same(evidence.model_dump(), report.evidence.model_dump())
    with pytest.raises(CannotAssessError, match=rf"unusable images is 2 of {N_IMAGES}"):
        measured(new_job(model, str(photos), max_bad=0.001))
    source = open_images(photos)
    loaded = [source.load(index) for index in range(len(source))]
    assert list(total.images.digests) == [item.digest for item in loaded if not isinstance(item, Skipped)]
    assert [bad.name for bad in total.images.skipped] == [item.name for item in loaded if isinstance(item, Skipped)]


def test_merging_is_associative_and_has_a_neutral_element(photos: Path, tmp_path: Path) -> None:
    """Of everything: images, statistics, gallery, content."""
    model = lookup.write_lookup_model(tmp_path / "m.onnx", vectors(), size_px=SIZE_PX)
    opened = measure.open_job(new_job(model, str(photos), max_images=300))
    facts = measure.probe(opened)
    a, b, c, whole = parts(opened, (0, 13), (13, 130), (130, 300), (0, 300))
    one = conclude(opened.job, facts, whole, profile.load())[0].model_dump()
    for total in (merge(merge(a, b), c), merge(a, merge(b, c)), merge(nothing_yet(1), whole)):
        assert_same(conclude(opened.job, facts, total, profile.load())[0].model_dump(), one)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        merge(a, nothing_yet(2))


def test_batch_invariance_is_that_of_the_session_that_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own outputs are made to differ, so that graph optimisation is lowered."""
    onnx.save(onnx_models.classifier(), tmp_path / "m.onnx")
    other = onnx_models.classifier()
    bias = onnx.numpy_helper.from_array(np.full(10, 9, np.float32), "fc.bias")
    next(w for w in other.graph.initializer if w.name == "fc.bias").CopyFrom(bias)
    with_output = open_model(tmp_path / "m.onnx").graph.whole()
    monkeypatch.setattr(Graph, "whole", lambda graph: with_output)
    monkeypatch.setattr(Graph, "own", lambda graph: other.SerializeToString())
    levels = []
    real = Runner.batch_invariances

    def batch_invariances(self: Runner, pixels: Any) -> tuple[float | None, ...]:
        levels.append(self.execution.optimization)
        return real(self, pixels)

    monkeypatch.setattr(Runner, "batch_invariances", batch_invariances)
    facts = measure.probe(measure.open_job(new_job(tmp_path / "m.onnx", max_images=8)))
    assert levels == [facts.executions[0].optimization] == ["none"]


def test_several_outputs_are_measured_in_one_pass(photos: Path, tmp_path: Path) -> None:
    model = two_tensors(tmp_path / "m.onnx")
    opened = measure.open_job(new_job(model, str(photos), tensors=(None, "pooled")))
    assert len(opened.runners) == 1
    assert opened.models[1].graph is opened.models[0].graph
    together, _ = measured(opened.job)
    assert [found.model.tensor for found in together] == ["representation", "pooled"]
    assert [found.statistics.n_features for found in together] == [48, 20]
    for tensor, found in zip((None, "pooled"), together, strict=True):
        (alone,), _ = measured(new_job(model, str(photos), tensors=(tensor,)))
        assert alone == found


def test_a_tensor_inside_the_graph_is_measured_beside_an_output(photos: Path, tmp_path: Path) -> None:
    nodes, weights = onnx_models.pooled(24)
    weights["proj"] = onnx_models.weight(24, 16)
    nodes.append(("MatMul", ["features", "proj"], ["embedding"]))
    outputs = [("embedding", onnx.TensorProto.FLOAT, ("batch", 16))]
    model = onnx_models.save(onnx_models.build(nodes, outputs, weights), tmp_path / "m.onnx")
    job = new_job(
        model, str(photos), tensors=("embedding", "features"), preprocess="imagenet", max_images=40, max_bad=1
    )
    opened = measure.open_job(job)
    assert len(opened.runners) == 2
    together, _ = measured(job)
    for tensor, found in zip(job.tensors, together, strict=True):
        (alone,), _ = measured(replace(job, named=(tensor,)))
        assert alone == found
        assert found.model.output_difference is not None


def test_a_tensor_without_a_representation_is_named(photos: Path, tmp_path: Path) -> None:
    model = onnx.load(two_tensors(tmp_path / "m.onnx"))
    model.graph.node[-1].CopyFrom(onnx.helper.make_node("Sub", ["flat", "flat"], ["pooled"]))
    model.graph.node.insert(
        len(model.graph.node) - 1, onnx.helper.make_node("Gather", ["representation", "some"], ["flat"], axis=1)
    )
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(CannotAssessError, match="representations of pooled is 0 of 40"):
        measured(new_job(tmp_path / "m.onnx", str(photos), tensors=(None, "pooled"), max_images=40))


def test_a_gpu_is_fed_by_all_cores(tmp_path: Path) -> None:
    model = lookup.write_lookup_model(tmp_path / "m.onnx", vectors(), size_px=SIZE_PX)
    assert measure.open_job(new_job(model), threads=16).runners[0].execution.threads == 16
    assert measure.count_decoders(on_gpu=False, threads=16) == measure.DECODERS
    assert measure.count_decoders(on_gpu=True, threads=16) == 16
    assert measure.count_decoders(on_gpu=True, threads=1) == measure.DECODERS
