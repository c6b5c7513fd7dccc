"""The rule against torch: the tensor that a forward hook sees at the last linear layer of real architectures."""

from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner

pytestmark = pytest.mark.long

# architecture, image edge (px), its last linear layer, what ends the representation, torch's new exporter or its old
ARCHITECTURES = [
    ("squeezenet1_1", 64, "classifier.1", "activation:Relu", "dynamo"),
    ("mobilenet_v3_small", 64, "classifier.3", "activation:HardSwish", "dynamo"),
    ("vit_b_16", 32, "heads.head", "normalisation", "dynamo"),
    ("squeezenet1_1", 64, "classifier.1", "activation:Relu", "legacy"),
    ("resnet18", 64, "fc", "activation:Relu", "legacy"),
    ("swin_t", 64, "head", "normalisation", "legacy"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's, of its own exporters
@pytest.mark.parametrize(("name", "edge_px", "layer", "ends", "exporter"), ARCHITECTURES)
def test_head_input_equals_the_hook(
    tmp_path: Path, name: str, edge_px: int, layer: str, ends: str, exporter: str
) -> None:
    torch = pytest.importorskip("torch", reason="needs the export extra")
    torchvision = pytest.importorskip("torchvision", reason="needs the export extra")
    dynamo = exporter == "dynamo"
    torch.manual_seed(0)
    size = {"image_size": edge_px} if name.startswith("vit") else {}
    network = getattr(torchvision.models, name)(weights=None, **size).eval()
    for parameter in network.get_submodule(layer).parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # zero biases, as some start with, are left out by the exporter
    batch = torch.randn(3, 3, edge_px, edge_px)
    seen = []
    network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    with torch.inference_mode():
        network(batch)
    (expected,) = seen
    if expected.ndim == 4:
        expected = expected.mean((2, 3))
    path = tmp_path / "m.onnx"
    axes = (
        {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "external_data": True}
        if dynamo
        else {"dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}}}
    )
    torch.onnx.export(
        network, (batch,), path, dynamo=dynamo, verbose=False, input_names=["input"], output_names=["output"], **axes
    )
    model = open_model(path)
    assert model.head is not None
    found = model.representation
    assert (found.rule, found.assumed, str(found.ends_in), model.head.classes) == ("head_input", False, ends, 1000)
    run = Runner(model, "cpu")
    pixels = batch.numpy().transpose(0, 2, 3, 1)
    assert_allclose(run.run(pixels).representation, expected.numpy(), rtol=1e-3, atol=1e-4)
    assert run.output_difference(pixels) < 1e-4
    (difference,) = run.batch_invariances(pixels)
    assert difference is not None
    assert difference < 1e-3
