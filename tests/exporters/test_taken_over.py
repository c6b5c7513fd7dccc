"""The contract of an exported file, taken over for what other tools made of it: real quantisers and optimisers, the
command typed as it is shown, and every pair of files for which one contract does not hold.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quant_pre_process, quantize_dynamic, quantize_static

from robustcheck_onnx.checker.cli.changed_files import read_pair
from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.questions import demo
from robustcheck_onnx.exporters import contract, taken_over
from robustcheck_onnx.exporters.preprocessing import checked_preprocessing
from robustcheck_onnx.exporters.proof import agreement
from robustcheck_onnx.exporters.run import run as exported
from support import PHOTOS, Capture, Fields, onnx_models, robustcheck
from support.bad_input import Run, assert_says
from support.onnx_models import written
from support.torch_models import PREPROCESSING, contract_of, images_of, left_in, outputs_of, with_contract

pytestmark = pytest.mark.usefixtures("capfd")
OLD, NEW, OUT = Path("OLD.onnx"), Path("changed.onnx"), Path("NEW.onnx")
Change = Callable[[onnx.ModelProto], Any]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo's two encoders; the planted one passes on the bundled photos."""
    folder = tmp_path_factory.mktemp("demo")
    weights, mean = demo.train()
    for name in demo.NAMES:
        demo.write(folder / f"{name}.onnx", name, weights, mean)
    return {name: folder / f"{name}.onnx" for name in demo.NAMES}


@pytest.fixture
def planted(demo_models: dict[str, Path]) -> Path:
    shutil.copy(demo_models["planted"], OLD)
    return OLD


# ------------------------------------------------------------------------------------------------ what tools make


def dynamic(old: Path, new: Path) -> None:
    quantize_dynamic(old, new)


def static_qdq(old: Path, new: Path) -> None:
    images = images_of(PHOTOS[100:120], contract_of(old)["preprocessing"])
    feeds = iter([{"image": image[None].astype(np.float32)} for image in images])
    quantize_static(old, new, SimpleNamespace(get_next=lambda: next(feeds, None)))


def fp8_weights(old: Path, new: Path) -> None:
    """As scripts for FP8 write them: each matrix in FLOAT8E4M3FN, its scale and a DequantizeLinear."""
    model = onnx.load(old)
    graph = model.graph
    for weight in list(graph.initializer):
        values = numpy_helper.to_array(weight)
        if values.ndim > 1:
            scale = np.float32(np.abs(values).max() / 448)
            small = helper.make_tensor("f8", TensorProto.FLOAT8E4M3FN, values.shape, (values / scale).ravel().tolist())
            small.name = f"{weight.name}.f8"
            graph.initializer.remove(weight)
            graph.initializer.extend([small, numpy_helper.from_array(np.array(scale), f"{weight.name}.scale")])
            inputs = [small.name, f"{weight.name}.scale"]
            graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [weight.name]))
    model.opset_import[0].version = 19
    onnx.save(model, new)


def optimised(old: Path, new: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(new)
    ort.InferenceSession(str(old), options, providers=["CPUExecutionProvider"])


def simplified(old: Path, new: Path) -> None:
    quant_pre_process(str(old), str(new), skip_symbolic_shape=True)


@pytest.mark.parametrize(
    ("tool", "precision"),
    [
        (static_qdq, "int8-qdq"),
        pytest.param(dynamic, "int8-dynamic", marks=pytest.mark.long),
        pytest.param(fp8_weights, "fp8-qdq", marks=pytest.mark.long),
        pytest.param(optimised, "fp32", marks=pytest.mark.long),
        pytest.param(simplified, "fp32", marks=pytest.mark.long),
    ],
)
def test_the_typed_line_gives_a_changed_file_its_contract_and_the_check_passes(
    planted: Path, tool: Callable[[Path, Path], None], precision: str, capfd: Capture
) -> None:
    """WARN by `file_changed` alone, then the command that the check shows, and PASS that shows where it comes from."""
    digest = f"sha256:{hashlib.sha256(planted.read_bytes()).hexdigest()}"
    tool(planted, NEW)
    assert robustcheck(NEW) == 1
    shown = capfd.readouterr().out
    assert "✗ file_changed  -v explains" in shown
    assert shown.count("✓ yes") == 3
    (line,) = [text.strip() for text in shown.splitlines() if text.startswith("  robustcheck ")]
    assert line == "robustcheck export onnx changed.onnx --original OLD.onnx -o NEW.onnx"
    assert robustcheck(*line.split()[1:]) == 0
    assert "contract taken over from OLD.onnx\nparity with the original at batch" in capfd.readouterr().out
    before, after = contract_of(planted), contract_of(OUT)
    assert after["taken_over_from"] == {"file": "OLD.onnx", "digest": digest}
    assert (after["precision"], after["preprocessing"]) == (precision, before["preprocessing"])
    assert (after["source"], after["tensors"]) == (before["source"], before["tensors"])
    assert "confirmed" not in json.dumps(after)
    opened = open_model(OUT)
    assert opened.file_changed is False
    assert robustcheck(OUT, "-o", "json=report.json") == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert f"from the contract (taken over from OLD.onnx, {digest[:19]})" in shown
    report = json.loads(Path("report.json").read_text())
    assert report["verdict"]["verdict"] == "PASS"
    assert report["evidence"]["model"]["contract_digest"] == opened.contract.graph_digest  # type: ignore[union-attr]


def test_the_measured_parity_is_that_with_the_original(planted: Path) -> None:
    """The original runs photo by photo, the file at each batch size, over which its scales are taken."""
    dynamic(planted, NEW)
    exported("onnx", str(NEW), OUT, original=planted, read_pair=read_pair, photos=PHOTOS[:8])
    images = images_of(PHOTOS[:5], contract_of(planted)["preprocessing"]).astype(np.float32)
    truth = np.concatenate([outputs_of(planted, image[None])["representation"] for image in images])
    seen = [agreement(truth[:n], outputs_of(NEW, images[:n])["representation"]) for n in (1, 2, 5)]
    worst = min(each.min_cosine for each in seen)
    assert contract_of(OUT)["parity"]["min_cosine"] == pytest.approx(worst, abs=1e-9)
    assert 0.99 < worst < 1


@pytest.mark.long
def test_a_comparison_answers_with_what_it_measured_and_names_the_line(planted: Path, capfd: Capture) -> None:
    dynamic(planted, NEW)
    assert robustcheck("compare", NEW, planted) == 1
    shown = capfd.readouterr().out
    first = " ".join(shown.split())
    assert (
        "WARN: The new file kept 1 of 1 outlier features of OLD.onnx on the 141 photos that were measured. Its graph "
        "or weights are not those of its contract, so it can't be a PASS. Do the next steps below and compare again. → "
        "Take over the contract of OLD.onnx, or export the model again: robustcheck export onnx changed.onnx" in first
    )
    (line,) = [text.strip() for text in shown.splitlines() if text.startswith("  robustcheck ")]
    assert robustcheck(*line.split()[1:]) == 0
    assert robustcheck("compare", "changed.contract.onnx", planted) == 0


def test_what_only_an_option_states_is_shown_first_after_it_was_taken_over_too(planted: Path, capfd: Capture) -> None:
    model = onnx.load(planted)
    contract.embed(model, contract_of(planted) | {"preprocessing_from": "--preprocess own.json"}, Path())
    onnx.save(model, planted)
    dynamic(planted, NEW)
    assert robustcheck("export", "onnx", NEW, "--original", planted, "-o", OUT) == 0
    assert contract_of(OUT)["preprocessing_from"] == "--preprocess own.json"
    capfd.readouterr()
    assert robustcheck(OUT) == 0
    second = " ".join(capfd.readouterr().out.splitlines()[1:3])
    assert "preprocessing stated only by --preprocess own.json; taken over from OLD.onnx, sha256:" in second


def test_a_second_change_is_taken_over_from_the_file_before_it(planted: Path, capfd: Capture) -> None:
    optimised(planted, NEW)
    assert robustcheck("export", "onnx", NEW, "--original", planted, "-o", "one.onnx") == 0
    dynamic(Path("one.onnx"), Path("two.onnx"))
    assert robustcheck("export", "onnx", "two.onnx", "--original", "one.onnx", "-o", OUT) == 0
    assert contract_of(OUT)["taken_over_from"]["file"] == "one.onnx"
    capfd.readouterr()
    assert robustcheck("inspect", OUT, "-v") == 0
    assert "contract (taken over from one.onnx, sha256:" in " ".join(capfd.readouterr().out.split())
    assert robustcheck("inspect", "two.onnx") == 0
    assert "  robustcheck export onnx two.onnx --original OLD.onnx -o NEW.onnx\n" in capfd.readouterr().out
    assert robustcheck("inspect", "two.onnx", "-o", "markdown") == 0
    assert "export onnx two.onnx --original OLD.onnx" in capfd.readouterr().out


# ------------------------------------------------------------------------------------- pairs that are refused


def sealed(model: onnx.ModelProto, path: Path = OLD, *, external: bool = False, **changes: Any) -> Path:
    """Write a file with a contract for its graph and weights, as an export does."""
    model = with_contract(model, **changes)
    fields: Fields = json.loads(model.metadata_props[0].value)
    onnx_models.save(model, path, external=external)
    model = onnx.load(path, load_external_data=False)
    contract.embed(model, fields, path.parent)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def encoder() -> onnx.ModelProto:
    return onnx_models.encoder(64, output="representation")


SCALED = """
    centred = Sub(image, mean); scaled = Div(centred, 0.25)
    conv = Conv(scaled, w24x3x3x3, kernel_shape=[3, 3]); relu = Relu(conv)
    gap = GlobalAveragePool(relu); features = Flatten(gap); representation = MatMul(features, w24x64)
"""
BYTES = PREPROCESSING | {"mean": [0.0] * 3, "std": [1.0] * 3}


def folded(model: onnx.ModelProto, mean: Any, std: Any, rescale: float = 1.0) -> None:
    """Put (x · rescale − mean) / std into the weights of the first convolution, which has no padding."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    (weight,) = [each for each in model.graph.initializer if each.name == conv.input[1]]
    mean, std = (np.asarray(value, np.float64).reshape(1, 3, 1, 1) for value in (mean, std))
    values = numpy_helper.to_array(weight) / std
    bias = -(values * mean).sum(axis=(1, 2, 3))
    weight.CopyFrom(numpy_helper.from_array((values * rescale).astype(np.float32), weight.name))
    model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), "folded.bias"))
    conv.input.append("folded.bias")


def without_steps(model: onnx.ModelProto, *ops: str) -> onnx.ModelProto:
    """Take nodes out of the chain from the image."""
    for node in [each for each in model.graph.node if each.op_type in ops]:
        model.graph.node.remove(node)
        for reader in model.graph.node:
            for place, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[place] = node.input[0]
    return model


def changed(change: Change, old: Path = OLD) -> Path:
    """Write what a tool makes of the file, with its metadata."""
    model = onnx.load(old)
    change(model)
    onnx.save(model, NEW)
    return NEW


TAKE_OVER = f"export onnx {NEW} --original {OLD} -o {OUT}"


def test_a_scaling_that_was_folded_into_the_first_convolution_is_refused(run: Run) -> None:
    """The graph's own, which is read from the original alone: (x − mean) / std is not in the changed file any more."""
    sealed(written(SCALED, before="", mean=[[[0.4]], [[0.5]], [[0.6]]]), preprocessing=BYTES)

    def fold(model: onnx.ModelProto) -> None:
        folded(without_steps(model, "Sub", "Div"), [0.4, 0.5, 0.6], [0.25] * 3)

    changed(fold)
    said = (
        "changed.onnx: graph does not scale its input, and that of OLD.onnx computes (x − 0.400 0.500 0.600) / 0.250 "
        "(Sub, Div) of its input; with one contract, pixels would be scaled twice or not at all"
    )
    assert_says(run(TAKE_OVER, folder=Path()), 3, said, "export the model again with `robustcheck export`")
    assert left_in() == ["OLD.onnx", "changed.onnx"]


@pytest.mark.parametrize("is_quantised", [False, True])
def test_steps_of_the_contract_that_a_tool_folded_into_the_graph_are_refused(run: Run, is_quantised: bool) -> None:
    """No graph shows them: of both files the first layer is a convolution that reads the input. Pixels are wrong."""
    old = sealed(encoder())
    mean, std = PREPROCESSING["mean"], PREPROCESSING["std"]
    for change, words in (
        (lambda model: folded(model, mean, std, 1 / 255), "as they are, 0 to 255"),
        (lambda model: folded(model, mean, std), "before mean and std"),
        (lambda model: folded(model, [0] * 3, std), "before the division by std"),
        (exchange, "as the contract makes them, with red and blue exchanged"),
    ):
        changed(change)
        if is_quantised:
            shutil.move(NEW, "fp32.onnx")
            quantize_dynamic("fp32.onnx", NEW)
        assert open_model(NEW).scalings == open_model(old).scalings == ()
        done = run(TAKE_OVER, folder=Path())
        said = f"changed.onnx: its vectors are those of OLD.onnx for pixels {words}, not for those that the contract …"
        assert_says(done, 3, said, "…")
        assert not OUT.exists()


def exchange(model: onnx.ModelProto) -> None:
    """Exchange red and blue in the weights of the first convolution."""
    (weight,) = [each for each in model.graph.initializer if each.name == "conv.weight"]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, ::-1].copy(), weight.name))


def set_input(kind: int = TensorProto.FLOAT, shape: tuple[Any, ...] = ("batch", 3, 8, 8)) -> Change:
    """Give the input another type or shape, with the nodes that make the old one of it."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.input[0].CopyFrom(helper.make_tensor_value_info("image", kind, shape))
        steps = []
        if shape[-1] == 3:
            steps.append(helper.make_node("Transpose", ["image"], ["inner"], perm=[0, 3, 1, 2]))
        elif kind != TensorProto.FLOAT:
            steps.append(helper.make_node("Cast", ["image"], ["inner"], to=TensorProto.FLOAT))
        for node in graph.node if steps else ():
            node.input[:] = ["inner" if name == "image" else name for name in node.input]
        for step in reversed(steps):
            graph.node.insert(0, step)

    return change


def unread(model: onnx.ModelProto) -> None:
    """Multiply the channels by zero before the first layer reads them: no map is left."""
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    graph.node[0].input[0] = "nought"
    graph.node.insert(0, helper.make_node("Mul", ["image", "zero"], ["nought"]))


def half_output(model: onnx.ModelProto) -> None:
    graph = model.graph
    graph.node[-1].output[0] = "whole"
    graph.node.append(helper.make_node("Cast", ["whole"], ["representation"], to=TensorProto.FLOAT16))
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


GRAPHS: list[tuple[Change, str]] = [
    (set_input(TensorProto.FLOAT16), "image input is float16 NCHW, 3 channels of 8 by 8 px, and that of OLD.onnx is …"),
    (set_input(TensorProto.UINT8), "image input is uint8 NCHW, 3 channels of 8 by 8 px, and that of OLD.onnx is …"),
    (set_input(shape=("batch", 8, 8, 3)), "image input is float32 NHWC, 3 channels of 8 by 8 px, and that of …"),
    (set_input(shape=("batch", 3, 16, 16)), "image input is float32 NCHW, 3 channels of 16 by 16 px, and that of …"),
    (set_input(shape=("batch", 3, None, None)), "image input is float32 NCHW, 3 channels of any by any px, and that …"),
    (set_input(shape=(4, 3, 8, 8)), "batch of the image input is 4; it must be dynamic or 1"),
    (half_output, "output representation is float16, and in OLD.onnx float; one contract can't hold for both"),
    (
        unread,
        "what the graph does to its input before the first layer can't be read; it must be the same in both files",
    ),
]


def test_another_input_or_output_is_refused(run: Run) -> None:
    sealed(encoder())
    for change, said in GRAPHS:
        changed(change)
        assert_says(run(TAKE_OVER, folder=Path()), 3, f"changed.onnx: {said}", "export the model again with …")
        assert left_in() == ["OLD.onnx", "changed.onnx"]


def test_files_that_are_no_changed_file_and_its_original_are_refused(run: Run) -> None:
    old = sealed(encoder())
    whole = old.read_bytes()

    def damage(model: onnx.ModelProto) -> None:
        model.graph.node[1].op_type = "Selu"

    def others(**fields: Any) -> Change:
        def change(model: onnx.ModelProto) -> None:
            damage(model)
            text = json.dumps(contract_of(old) | fields)
            helper.set_model_props(model, {contract.METADATA_KEY: text})

        return change

    def bare(model: onnx.ModelProto) -> None:
        del model.metadata_props[:]

    changed(damage)
    for spoil, said in (
        (
            damage,
            "OLD.onnx: graph or weights are not those that its contract was written for; --original must be the …",
        ),
        (bare, "OLD.onnx: contract is missing; --original is the file that `robustcheck export` wrote"),
        (with_contract, "OLD.onnx: contract has no graph_digest, which must show that --original is unchanged"),
    ):
        model = onnx.load_from_string(whole)
        spoil(model)
        onnx.save(model, OLD)
        assert_says(run(TAKE_OVER, folder=Path()), 2, said, "…")
    sealed(onnx_models.encoder(64, output="representation"), source={**contract_source(whole), "name": "another"})
    onnx.save(onnx.load_from_string(whole.replace(b"lookup", b"lookdn")), OLD)  # another contract, the same graph
    assert_says(
        run(TAKE_OVER, folder=Path()), 2, "changed.onnx: contract differs from that of OLD.onnx in source; …", "…"
    )
    sealed(onnx_models.encoder(32, output="representation"))
    assert_says(run(TAKE_OVER, folder=Path()), 2, "changed.onnx: contract is for another file (sha256:…", "…")
    old.write_bytes(whole)
    for change, said in (
        (bare, "contract is missing; --original is for a file that kept the contract of its original"),
        (lambda _: None, "graph and weights are those that its contract was written for; no other is needed"),
        (others(preprocessing=PREPROCESSING | {"mean": [0.0] * 3}), "contract differs from … in preprocessing; it …"),
        (
            others(graph_digest="sha256:" + "0" * 64),
            "contract is for another file (sha256:000000000000) than OLD.onnx …",
        ),
    ):
        changed(change)
        assert_says(
            run(TAKE_OVER, folder=Path()), 2, f"changed.onnx: {said}", "robustcheck …" if "differs" not in said else "…"
        )
    assert left_in() == ["OLD.onnx", "changed.onnx"]


def contract_source(content: bytes) -> Fields:
    model = onnx.load_from_string(content)
    source: Fields = json.loads(model.metadata_props[0].value)["source"]
    return source


def test_a_contract_that_was_copied_from_another_model_is_refused(demo_models: dict[str, Path], run: Run) -> None:
    """All texts and graphs agree: only that the vectors are others shows it."""
    shutil.copy(demo_models["planted"], OLD)
    model = onnx.load(demo_models["ordinary"])
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load(OLD).metadata_props)
    onnx.save(model, NEW)
    said = "changed.onnx: of what differs between the vectors of 32 photos in OLD.onnx, it keeps 27 %; at least 50 …"
    assert_says(run(TAKE_OVER, folder=Path()), 3, said, "export the model again with …")
    assert left_in() == ["OLD.onnx", "changed.onnx"]


def test_a_damaged_weight_of_a_quantised_file_makes_no_outlier_feature(
    demo_models: dict[str, Path], run: Run, capfd: Capture
) -> None:
    """A constant of 6 SD on one of 512 features leaves a cosine of 0.97, which quantised files may have."""
    shutil.copy(demo_models["ordinary"], OLD)
    quantize_dynamic(OLD, "sound.onnx")
    assert run(f"export onnx sound.onnx --original {OLD} -o sound.contract.onnx", folder=Path()).returncode == 0
    images = images_of(PHOTOS[:8], contract_of(OLD)["preprocessing"]).astype(np.float32)
    session = ort.InferenceSession(OLD, providers=["CPUExecutionProvider"])
    rows = session.run(["representation"], {"image": images})[0]
    shift = np.zeros(rows.shape[1], np.float32)
    shift[7] = 6 * rows.std(axis=1).max()
    model = onnx.load("sound.onnx")
    model.graph.node[-1].output[0] = "sound"
    model.graph.initializer.append(numpy_helper.from_array(shift, "damage"))
    model.graph.node.append(helper.make_node("Add", ["sound", "damage"], ["representation"]))
    onnx.save(model, NEW)
    done = run(TAKE_OVER, folder=Path())
    assert_says(
        done, 3, "changed.onnx: feature 7 is … SD from the others, and in OLD.onnx …; an outlier feature …", "…"
    )
    assert not OUT.exists()


def test_other_options_and_sources_are_refused(planted: Path, run: Run) -> None:
    dynamic(planted, NEW)
    again = f"robustcheck {TAKE_OVER}"
    for words, said in (
        ("--preprocess clip", "--preprocess is given with --original; the contract of OLD.onnx is taken over as it is"),
        ("--matched-to none", "--matched-to is given with --original; …"),
        ("--form uint8-weights", "--form is given with --original; …"),
        (f"--calibration-images {PHOTOS[0].parent}", "--calibration-images is given with --original; …"),
        ("--precision fp16", "--precision is fp16 with --original; the file keeps its own precision"),
    ):
        assert_says(run(f"{TAKE_OVER} {words}", folder=Path()), 2, said, f"{again}…" if "fp16" in words else again)
    done = run(f"export timm m --original {OLD} -o {OUT}", folder=Path())
    assert_says(
        done, 2, "--original is OLD.onnx; it is for the source onnx only", "robustcheck export timm m -o NEW.onnx"
    )
    for target in (OLD, NEW):
        done = run(f"export onnx {NEW} --original {OLD} -o {target}", folder=Path())
        assert_says(done, 2, f"{target}: target is the file that is read, or its weights; it must be another file", "…")
    done = run(f"export onnx {NEW} --original gone.onnx -o {OUT}", folder=Path())
    assert done.returncode == 2
    assert left_in() == ["OLD.onnx", "changed.onnx"]


def test_a_changed_file_is_sent_to_its_original(planted: Path, run: Run) -> None:
    dynamic(planted, NEW)
    for words in ("", " --precision fp16"):
        done = run(f"export onnx {NEW} -o {OUT}{words}", folder=Path())
        said = (
            "changed.onnx: graph or weights are not those that its contract was written for; changed after the export"
        )
        assert_says(done, 3, said, "robustcheck export onnx changed.onnx --original OLD.onnx -o changed.contract.onnx")


def test_a_file_that_was_quantised_badly_is_sent_to_the_exporter(run: Run) -> None:
    """Below the cosine that an int8 export needs, the hint makes the file again from the original."""
    sealed(encoder())

    def blur(model: onnx.ModelProto) -> None:
        (weight,) = [each for each in model.graph.initializer if each.name == "proj"]
        values = numpy_helper.to_array(weight)
        step = 1.5 * values.std()
        coarse = np.round(values / step) * step
        weight.CopyFrom(numpy_helper.from_array(coarse.astype(np.float32), "proj"))

    changed(blur)
    shutil.move(NEW, "coarse.onnx")
    quantize_dynamic("coarse.onnx", NEW)
    said = "NEW.onnx: output representation at batch 1 disagrees with the source model: relative difference is …"
    done = run(TAKE_OVER, folder=Path())
    assert_says(done, 3, said, "robustcheck export onnx OLD.onnx --precision int8-qdq -o NEW.onnx")


def test_weights_in_other_files_are_read(run: Run) -> None:
    sealed(encoder(), external=True)
    shutil.copy("OLD.onnx.data", "kept.data")
    model = onnx.load(OLD)
    model.graph.node.add(op_type="Identity", input=["features"], output=["unused"])
    onnx_models.save(model, NEW, external=True)
    assert open_model(NEW).file_changed is True
    assert run(TAKE_OVER, folder=Path()).returncode == 0
    assert contract_of(OUT)["taken_over_from"] == {"file": "OLD.onnx", "digest": open_model(OLD).file.digest}
    assert open_model(OUT).file_changed is False


def test_the_steps_are_all_that_a_graph_may_have_taken() -> None:
    """Each is another input; where the contract scales by one step alone, only that one and the order of channels."""
    fields = checked_preprocessing(PREPROCESSING, "x")
    assert [words for words, _ in taken_over._earlier(fields)] == [
        "before the division by std",
        "before mean and std",
        "as they are, 0 to 255",
        "as the contract makes them, with red and blue exchanged",
        "before the division by std, with red and blue exchanged",
        "before mean and std, with red and blue exchanged",
        "as they are, 0 to 255, with red and blue exchanged",
    ]
