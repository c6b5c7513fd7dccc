"""One pass that keeps every representation and all scores, against the runner and the weights themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import Options
from robustcheck_onnx.checker.isolation import Progress
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import Job
from robustcheck_onnx.checker.runtime.head import read_head
from robustcheck_onnx.checker.runtime.runner import Runner
from support.onnx_models import classifier, encoder, save
from support.written import written

CLASSES, FEATURES = 10, 16


def collected(path: Path, **options: Any) -> tuple[measure.Inputs, measure.Collected, list[Progress]]:
    told: list[Progress] = []
    inputs = measure.read_head_input(Job(path, Options(device="cpu", max_images=11, **options)))
    runner = Runner(inputs.models[0], "cpu", preprocessing=inputs.preprocessing.preprocessing, batch_size=4)
    return inputs, measure.collect(runner, inputs, progress=told.append, label="photos"), told


def test_rows_are_those_of_the_images_in_their_order(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "model.onnx")
    inputs, found, told = collected(path, batch_size=4)
    assert found.representations.shape == (11, FEATURES)
    assert found.names == tuple(inputs.source.entries.names())
    assert len(set(found.digests)) == 11
    assert found.scores is not None
    head = read_head(inputs.models[0])
    np.testing.assert_allclose(head.scores(found.representations), found.scores, rtol=1e-4, atol=1e-5)
    assert told[-1].n_done == 11
    assert {each.interval for each in told if not each.stage} == {"photos"}


def test_an_encoder_has_no_scores(tmp_path: Path) -> None:
    _, found, _ = collected(save(encoder(), tmp_path / "encoder.onnx"))
    assert found.scores is None
    assert found.representations.shape == (11, FEATURES)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = written("embedding = Mul(features, nan)", nan=np.nan)
    with pytest.raises(CannotAssessError, match="representation has values that are not finite"):
        collected(save(model, tmp_path / "nan.onnx"))
