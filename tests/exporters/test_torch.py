"""Exports of the user's own torch code: what is read of it, refusals, nothing left behind, nothing printed."""

import importlib
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from robustcheck_onnx.checker.model.file import read_onnx
from robustcheck_onnx.exporters.contract import file_digest
from robustcheck_onnx.exporters.errors import ExportError, quiet
from support import PHOTOS, Capture, Fields, Patch, profile, raised
from support.lazy import torch
from support.user_modules import contract_of, exported, images_of, left_in, outputs_of

pytestmark = pytest.mark.usefixtures("my_vision")


@pytest.mark.long
def test_factories_with_one_tensor_and_with_a_dict() -> None:
    record = exported("torch", "my_vision:encoder")
    read = contract_of(record.path)
    meaning = {"meaning": "representation returned by the module", "rule": "encoder_output"}
    assert read["tensors"] == {"representation": meaning}
    assert (read["source"]["weights"], record.outputs) == ("trained by hand", {"representation": 5})
    assert record.size_bytes == record.path.stat().st_size
    file = read_onnx(record.path)
    assert f"{read['graph_digest']} {file.beginning}" in [entry.value for entry in file.proto.metadata_props]
    assert left_in() == ["m.onnx"]
    first, second = (exported("torch", "my_vision:dictionary", f"{name}.onnx") for name in "ab")
    read = contract_of(first.path)
    assert {n: t["rule"] for n, t in read["tensors"].items()} == {"representation": "head_input", "logits": "logits"}
    assert read["source"]["synthetic"] == "nothing planted, only said"
    assert first.outputs == {"representation": 6, "logits": 5}
    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.mark.long
def test_head_names_the_representation(tmp_path: Path, monkeypatch: Patch) -> None:
    """head=6, the last linear layer: its input is the representation, its output the logits."""
    monkeypatch.syspath_prepend(tmp_path)
    network = importlib.import_module("my_vision")._network()
    torch.save(network.state_dict(), "w.pth")
    record = exported("torch", "my_vision:encoder", weights="w.pth", head="6")
    read = contract_of(record.path)
    weights = (read["source"]["weights"], read["source"]["weights_digest"])
    assert weights == ("w.pth", file_digest(Path("w.pth")))
    assert read["tensors"]["representation"] == {"meaning": "input of 6", "rule": "head_input"}
    images = images_of(PHOTOS[:5], read["preprocessing"])
    outputs = outputs_of(record.path, images)
    with torch.no_grad():
        truth = network.eval()[:-1](torch.from_numpy(images))
        assert_allclose(outputs["representation"], truth.numpy(), atol=1e-5)
        assert_allclose(outputs["logits"], network[-1](truth).numpy(), atol=1e-5)


TORCH_REFUSALS: list[tuple[str, Fields, int, str]] = [
    ("encoder:", {}, 2, "encoder:: name has no colon; it must be package.module:factory"),
    ("no_such_module:make", {}, 2, "module no_such_module is not found"),
    ("my_vision:nothing", {}, 2, "my_vision has no function nothing"),
    ("my_vision:raises", {}, 3, "factory raised KeyError: 'no such thing'"),
    ("my_vision:not_a_module", {}, 3, "factory returned int; it must return a torch.nn.Module"),
    ("my_vision:silent_about_weights", {}, 2, "weights are not given; random weights are refused"),
    ("my_vision:silent_about_preprocessing", {}, 2, "preprocessing is not given"),
    ("my_vision:encoder", {"head": "fc"}, 2, "head fc is not found; linear layers: 5, 6"),
    ("my_vision:encoder", {"weights": "absent.pth"}, 4, "absent.pth: weights file is missing"),
    ("my_vision:encoder", {"weights": "w.pth", "random_weights": True}, 2, "use one of them"),
    ("my_vision:encoder", {"photos": [Path("my_vision.py")] * 4}, 2, "number of parity photos is 4; it must be"),
    ("my_vision:encoder", {"photos": [Path("my_vision.py")] * 5}, 2, "my_vision.py: photo is unreadable"),
    ("my_vision:always_training", {}, 3, "stays in training mode after eval()"),
    ("my_vision:tokens", {}, 3, "output representation has shape (1, 3, 1024) for one image"),
    ("my_vision:not_finite", {}, 3, "output representation is not finite on real photos"),
    ("my_vision:untraceable", {}, 3, "torch could not export it"),
]


@pytest.mark.long
def test_torch_refusals() -> None:
    for name, options, code, text in TORCH_REFUSALS:
        caught = raised(ExportError, "", exported, "torch", name, **options)
        assert text in caught.message
        assert (caught.exit_code, left_in()) == (code, [])


@pytest.mark.long
def test_nothing_is_printed(capfd: Capture, recwarn: pytest.WarningsRecorder) -> None:
    exported("torch", "my_vision:chatty")
    assert capfd.readouterr().out == ""
    assert not [w for w in recwarn if "warned by the model" in str(w.message)]


@pytest.mark.process
def test_torch_is_imported_when_used() -> None:
    """`run` imports all that is needed before a source is known."""
    code = "import sys; import robustcheck_onnx.exporters.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=profile.PATIENCE_S).returncode == 0


def test_quiet_gives_back_what_it_took() -> None:
    before = logging.getLogger().handlers[:]
    with pytest.raises(KeyError), quiet() as said:  # noqa: PT012
        print("one")  # noqa: T201
        logging.getLogger().warning("two")
        warnings.warn("three", stacklevel=1)
        raise KeyError
    assert logging.getLogger().handlers == before
    assert list(said) == ["warning: two", "warning: three", "one"]
    assert said.quoted(2) == " [warning: three | one]"
