"""A contract for an ONNX file of another tool: `export onnx plain.onnx --preprocess clip -o model.onnx`."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from robustcheck_onnx.checker.cli.plain_files import stated_preprocessing
from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.core.preprocessing import CLIP
from robustcheck_onnx.checker.errors import RobustcheckError
from robustcheck_onnx.checker.questions.inspection import inspect_model
from robustcheck_onnx.exporters.preprocessing import Array
from robustcheck_onnx.thresholds.profile import load
from support import PHOTOS, Capture, onnx_models, raised, robustcheck
from support.bad_input import Run, assert_says
from support.onnx_models import written
from support.torch_models import contract_of, images_of, left_in, outputs_of

pytestmark = pytest.mark.usefixtures("capfd")
OUT = Path("model.onnx")
PROJECTION = "embedding = MatMul(features, w16x12)"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plain_encoder(name: str = "plain.onnx") -> Path:
    return onnx_models.save(onnx_models.encoder(64), name)


def exported(path: Path, *words: str) -> int:
    return robustcheck("export", "onnx", path, "-o", OUT, *words)


def photos_for(path: Path, n: int = 3) -> Array:
    """Some bundled photos by the contract in a file."""
    return np.asarray(images_of(PHOTOS[:n], contract_of(path)["preprocessing"]))


def test_a_plain_encoder_gets_its_contract_by_one_command(capfd: Capture) -> None:
    path = plain_encoder()
    assert exported(path, "--preprocess", "clip") == 0
    out, _ = capfd.readouterr()
    assert "MB, fp32, outputs representation)\nparity with the original at batch 1, 2, 5 on 5 photos: max" in out
    read = contract_of(OUT)
    assert read["preprocessing"]["mean"] == list(CLIP.mean)
    assert (read["preprocessing"]["size"], read["preprocessing_from"]) == ([8, 8], "--preprocess clip")
    assert (read["precision"], read["source"]["library"], read["source"]["name"]) == ("fp32", "onnx", "plain.onnx")
    images = photos_for(OUT)
    rows = outputs_of(OUT, images)
    truth = outputs_of(path, images)["embedding"]
    assert list(rows) == ["embedding", "representation"]  # what serves the file finds its output
    assert_array_equal(rows["representation"], truth)
    before, after = open_model(path), open_model(OUT)
    assert after.file_changed is False
    for field in ("rule", "pool", "ends_in", "shape"):
        assert getattr(after.representation, field) == getattr(before.representation, field)


def test_of_a_plain_classifier_it_is_the_input_of_the_last_layer() -> None:
    model = onnx_models.classifier(7)
    path = onnx_models.save(model, "plain.onnx")
    assert exported(path, "--preprocess", "imagenet") == 0
    assert contract_of(OUT)["tensors"]["representation"]["rule"] == "head_input"
    rows = outputs_of(OUT, photos_for(OUT))
    values = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    logits = rows["representation"] @ values["fc.weight"].T + values["fc.bias"]
    assert_allclose(logits, rows["logits"], rtol=1e-4, atol=1e-5)
    after = open_model(OUT)
    assert (str(after.representation.ends_in), after.class_output) == ("activation:Relu", "logits")


def test_a_contract_and_a_precision_are_one_command() -> None:
    path = plain_encoder()
    assert exported(path, "--preprocess", "clip", "--precision", "int8-dynamic") == 0
    assert contract_of(OUT)["precision"] == "int8-dynamic"
    assert "MatMulInteger" in {node.op_type for node in onnx.load(OUT).graph.node}
    images = photos_for(OUT, 1)
    rows, truth = outputs_of(OUT, images)["representation"], outputs_of(path, images)["embedding"]
    assert not np.array_equal(rows, truth)
    assert_allclose(rows, truth, atol=0.1 * np.abs(truth).max())


def test_a_file_that_another_tool_quantised_keeps_its_precision() -> None:
    quantize_dynamic(plain_encoder("fp32.onnx"), "plain.onnx", weight_type=QuantType.QInt8)
    assert exported(Path("plain.onnx"), "--preprocess", "clip") == 0
    assert contract_of(OUT)["precision"] == "int8-dynamic"


def test_a_sidecar_next_to_the_file_is_found() -> None:
    path = plain_encoder()
    fields = {"size": 8, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "resize_mode": "squash"}
    Path("open_clip_config.json").write_text(json.dumps({"preprocess_cfg": fields}))
    assert exported(path) == 0
    read = contract_of(OUT)
    assert (read["preprocessing"]["std"], read["preprocessing_from"]) == ([0.4, 0.5, 0.6], "open_clip_config.json")


def test_a_batch_of_one_is_compared_photo_by_photo(capfd: Capture) -> None:
    image = ("image", TensorProto.FLOAT, (1, 3, 8, 8))
    path = onnx_models.save(written(PROJECTION, inputs=[image]), "plain.onnx")
    assert exported(path, "--preprocess", "clip") == 0
    assert "at batch 1 on 5 photos" in capfd.readouterr().out
    assert contract_of(OUT)["parity"]["batches"] == [1]
    assert open_model(OUT).image_input.batch == 1


def test_the_contract_does_not_hide_who_stated_the_preprocessing() -> None:
    assert exported(plain_encoder(), "--preprocess", "clip") == 0
    facts = inspect_model(OUT, load()).preprocessing
    assert facts is not None
    assert (facts.source, facts.origin, facts.is_claimed) == ("contract", "contract (--preprocess clip)", True)


REFUSED = {
    "a guess": (
        onnx_models.classifier(512, output="output"),
        "the graph does not show whether … is the representation; a contract must …",
    ),
    "tokens": (
        written("tokens = Unsqueeze(features, [1])"),
        "representation tokens is (?, 1, 16), pooled by …; a contract is for a float output (image, feature)",
    ),
    "a batch of four": (
        written(PROJECTION, inputs=[("image", TensorProto.FLOAT, (4, 3, 8, 8))]),
        "image input is float32 NCHW, batch 4; a contract is for float32 NCHW, with a batch that is dynamic or 1",
    ),
    "the name is another tensor's": (
        written("representation = MatMul(features, w16x12); embedding = MatMul(representation, w12x12)"),
        "a tensor that is not the representation has the name representation; the representation is embedding",
    ),
}


def test_what_can_not_have_a_contract_is_refused_and_leaves_nothing(run: Run) -> None:
    for name, (model, said) in REFUSED.items():
        onnx_models.save(model, "plain.onnx")
        done = run("export onnx plain.onnx -o model.onnx --preprocess clip", folder=Path())
        assert (name, left_in()) == (name, ["plain.onnx"])
        assert_says(done, 3, f"plain.onnx: {said}", "…")


def test_weights_in_another_file_are_read() -> None:
    path = onnx_models.save(onnx_models.encoder(64), "plain.onnx", external=True)
    assert exported(path, "--preprocess", "clip") == 0
    images = photos_for(OUT)
    assert_array_equal(outputs_of(OUT, images)["representation"], outputs_of(path, images)["embedding"])
    assert open_model(OUT).file_changed is False


def test_without_a_stated_preprocessing_nothing_is_written(run: Run) -> None:
    plain_encoder()
    done = run("export onnx plain.onnx -o model.onnx --precision fp16", folder=Path())
    again = "robustcheck export onnx plain.onnx --preprocess clip --precision fp16 -o model.onnx  # or imagenet, or …"
    said = "plain.onnx: preprocessing is missing; the contract must state how photos become the input"
    assert_says(done, 2, said, again)
    assert left_in() == ["plain.onnx"]


def test_presets_are_for_every_source() -> None:
    assert stated_preprocessing("clip") == CLIP.model_dump()
    assert raised(RobustcheckError, "value is clp", stated_preprocessing, "clp").exit_code == 2
