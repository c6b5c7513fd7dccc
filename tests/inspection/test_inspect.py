"""What `inspect` and `doctor` show: everything, uncut, at 80 and 120 columns, and as JSON; can the file pass?"""

import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from rich.console import Console, RenderableType

from robustcheck_onnx.checker.cli.verbs.look_up import doctor_json, render_doctor
from robustcheck_onnx.checker.evidence import CLIP
from robustcheck_onnx.checker.inspection.run import Inspected, inspected
from robustcheck_onnx.checker.report import layout
from robustcheck_onnx.checker.report.document import document_of
from robustcheck_onnx.checker.runtime.doctor import MachineFinding
from robustcheck_onnx.checker.verdict.reasons import RULES
from robustcheck_onnx.thresholds import profile as profiles
from support import Capture, Fields, but, lookup, robustcheck
from support.onnx_models import classifier, encoder, save, weight
from support.written import written

FINDINGS = [
    MachineFinding(check="Python", status="ok", detail="3.11.7"),
    MachineFinding(
        check="CUDA", status="fail", detail="the driver is too old", fix="pip install 'onnxruntime-gpu[cuda,cudnn]'"
    ),
]


def shown(renderable: RenderableType, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    console.print(renderable, crop=False)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width or line.startswith(("  robustcheck ", "  pip ")) for line in text.splitlines())
    return text


def of_file(path: Path, **options: Any) -> Inspected:
    return inspected(path, profiles.load(), **options)


def lines(found: Inspected, width: int, **options: bool) -> str:
    return shown(layout.of_document(document_of(found), **options), width)


def why(found: Inspected) -> list[str]:
    return [reason.id for reason in found.can_pass.reasons]


def answer(found: Inspected, width: int = 80) -> str:
    """The answer, without the breaks of the layout; it comes first."""
    text = lines(found, width)
    assert len([line for line in text.splitlines() if not line.startswith("/")]) <= 15  # a long path has its own
    return " ".join(text.partition("\n\n")[0].partition("Can this file pass? ")[2].split())


def squeezed(text: str) -> str:
    """Without the blanks and breaks of the layout."""
    return "".join(text.split())


def test_everything_is_there_and_nothing_is_cut(tmp_path: Path) -> None:
    folder = tmp_path / ("a-long-folder-name-" * 6)
    folder.mkdir()
    path = save(classifier(512, output="output"), folder / "m.onnx", external=True)
    found = of_file(path)
    facts = found.facts
    digests = [found.digest, facts["model_digest"], *(each["digest"] for each in facts["external"])]
    for width in (80, 120):
        text = squeezed(lines(found, width, verbose=True))
        for part in (
            *(str(path), *digests, f"{facts['size_bytes']} bytes", "tensor features", facts["representation"]["why"]),
            *("head_input, assumed: the graph does not show it", "activation:Relu", "set one with --tensor NAME"),
            *("(512, 16)", "NCHW float32", "8 by 8 px", "ai.onnx 18", "none: the tensor was found by rule"),
            *("assumed: ImageNet values", "0.485, 0.456, 0.406"),
        ):
            assert squeezed(part) in text


def test_contract_and_alternatives(tmp_path: Path) -> None:
    path = lookup.write_lookup_model(tmp_path / "m.onnx", np.eye(4), source={"random_weights": True})
    found = of_file(path)
    assert "untrained" in why(found)
    text = squeezed(lines(found, 120, verbose=True))
    assert squeezed("schema 1; lookup lookup embedding matrix, random weights, synthetic:") in text
    assert squeezed("Head none found") in text
    assert squeezed("before pooling") not in text  # nothing is pooled
    path = save(encoder(), tmp_path / "e.onnx")
    words = "input of the last linear layer (MatMul) before embedding"
    row = {"tensor": "features", "op": "Flatten", "rule": "pooled", "why": words}
    assert of_file(path).facts["alternatives"] == [row]


def test_json_of_inspect(tmp_path: Path) -> None:
    found = of_file(save(classifier(), tmp_path / "m.onnx"))
    content: Fields = json.loads(found.to_json())
    outputs = [{"name": "logits", "dtype": "float", "shape": [None, 10]}]
    head = {"op": "Gemm", "weight_shape": [10, 16], "classes": 10}
    expected: Fields = {"class_output": "logits", "preprocessing_not_known": None, "contract": None}
    expected |= {"schema": "robustcheck.inspect/2", "digest": found.digest, "head": head, "outputs": outputs}
    assert {name: content[name] for name in expected} == expected
    assert (content["representation"]["tensor"], content["representation"]["shape"]) == ("features", [None, 16])
    assert content["preprocessing"][0] == {"field": "size", "value": "8, 8", "source": "model input"}
    assert content["can_pass"]["answer"] == "no"
    seen = "`features` is the output of an activation (Relu)"
    mend = RULES["end_not_calibrated"].next_step
    assert "`robustcheck shift MODEL" in mend
    reason = {"id": "end_not_calibrated", "kind": "not_applicable", "seen": seen, "next_step": mend}
    assert content["can_pass"]["reasons"][1] == reason


def test_doctor() -> None:
    text = shown(render_doctor(FINDINGS), 80)
    assert "✗ fail CUDA" in text
    assert f"\n  {FINDINGS[1].fix}\n" in shown(render_doctor(FINDINGS), 40)
    assert text.endswith("\n1 thing must be fixed: type what is shown, then robustcheck doctor.\n")
    assert shown(render_doctor(FINDINGS[:1]), 80).endswith("\nChecks run here; nothing must be fixed.\n")
    assert shown(render_doctor(FINDINGS, ascii_only=True), 80).isascii()
    assert doctor_json(FINDINGS)["findings"][1]["fix"] == FINDINGS[1].fix


def test_ascii(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "modèle.onnx")
    (tmp_path / "modèle.robustcheck.json").write_text("[]")
    text = lines(of_file(path), 120, verbose=True, ascii_only=True)
    assert text.isascii()
    assert "not known: " in text
    assert "mod\\xe8le.onnx" in text
    assert "modele" not in text  # a name is exact


# ------------------------------------------------------------------------------------------- can this file pass?


BEFORE = """
    one = Conv(image, w24x3x3x3, kernel_shape=[3, 3]); mixed = MatMul(one, w6x6); signed = Mul(mixed, one)
    features = ReduceMean(signed, [2, 3], keepdims=0)
"""
WIDE = "embedding = MatMul(features, w24x512)"


def linear_encoder(
    path: Path, end: str = WIDE, *, size: int | None = 8, batch: int | str = "batch", **weights: Any
) -> Path:
    """Write a signed network that a projection ends."""
    image = ("image", TensorProto.FLOAT, (batch, 3, size, size))
    return save(written(end, before=BEFORE, inputs=[image], **weights), path)


def test_a_file_of_the_calibrated_kinds_can_pass(tmp_path: Path) -> None:
    found = of_file(linear_encoder(tmp_path / "m.onnx"), preprocess="clip")
    assert (found.can_pass.answer, found.can_pass.reasons) == ("yes", ())
    assert answer(found) == "yes: the thresholds are for models like this one; the numbers decide"


def test_a_reason_stands_in_the_answer_with_what_helps(tmp_path: Path) -> None:
    path = linear_encoder(tmp_path / "m.onnx")
    assert answer(of_file(path), 1000) == (
        "no, because neither the file, a sidecar nor an option gives the preprocessing → Name what the model was "
        f"trained with (clip, imagenet or a JSON file): robustcheck {path} --preprocess imagenet"
    )


def test_of_several_reasons_the_answer_names_the_one_that_no_option_mends(tmp_path: Path) -> None:
    path = save(classifier(512, output="output"), tmp_path / "MODEL.onnx")
    found = of_file(path)
    assert squeezed(f"→ Measure accuracy on labelled photos instead: `robustcheck shift {path} --in") in squeezed(
        lines(found, 80, verbose=True)
    )
    assert why(found) == ["assumed_preprocessing", "assumed_tensor", "end_not_calibrated", "width_not_calibrated"]
    assert answer(found) == (
        "no, because `features` is the output of an activation (Relu) → Measure it on its own task, or compare it with "
        "its original. To waive it: robustcheck init"
    )
    named = f"If that is what you deploy, say so: `robustcheck {path} --tensor features`."
    assert found.can_pass.reasons[1].next_step == named
    confirmed = of_file(path, tensor="features", preprocess="clip")  # what the steps say takes these reasons away
    assert why(confirmed) == ["end_not_calibrated", "width_not_calibrated"]


def test_a_width_that_the_graph_leaves_open_is_not_known(tmp_path: Path) -> None:
    """The projection is cut to a width that no shape inference can tell."""
    end = """
        places = NonZero(w6x6); n = Shape(places, start=1, end=2); chosen = Slice(w24x512, [0], n, [1])
        embedding = MatMul(features, chosen)
    """
    path = linear_encoder(tmp_path / "m.onnx", end)
    found = of_file(path, preprocess="clip")
    assert found.facts["representation"]["shape"] == (None, None)
    assert (found.can_pass.answer, why(found)) == ("unknown", ["width_not_calibrated"])
    assert answer(found, 1000) == (
        "unknown, because the graph does not show how many features `embedding` has; profile default-3 holds for 384 "
        f"to 2048 → Measure it: robustcheck {path}"
    )


def test_a_dynamically_quantised_file_can_pass_for_batches_of_one_image(tmp_path: Path) -> None:
    end = """
        a, scale, zero = DynamicQuantizeLinear(features); whole = MatMulInteger(a, proj, zero)
        float = Cast(whole, to=FLOAT); embedding = Mul(float, scale)
    """
    proj = (20 * weight(24, 512)).astype(np.int8)
    for batch in ("batch", 1):
        path = linear_encoder(tmp_path / "m.onnx", end, batch=batch, proj=proj)
        found = of_file(path, preprocess="clip")
        assert found.can_pass.answer == "yes"
        noted = f"`robustcheck {path} --batch-size 1` gives a verdict for batches of one image"
        assert (noted in answer(found)) == (batch == "batch")


def test_nothing_is_needed_where_the_size_is_open(tmp_path: Path, capsys: Capture) -> None:
    path = linear_encoder(tmp_path / "m.onnx", size=None)
    assert robustcheck("inspect", path) == 0
    text = " ".join(capsys.readouterr().out.split())
    said = "preprocessing is missing, and the input size is dynamic; an option or sidecar must give it"
    assert f"preprocessing ? by ? px, not known: {said}" in text
    assert f"Can this file pass? no, because {said} → robustcheck {path} --preprocess clip (or" in text
    assert robustcheck("inspect", path, "--preprocess", "clip") == 0
    assert "Can this file pass? yes" in capsys.readouterr().out


def test_a_sidecar_that_is_none_is_shown_and_one_that_was_asked_for_is_an_error(
    tmp_path: Path, capsys: Capture
) -> None:
    path = linear_encoder(tmp_path / "m.onnx")
    sidecar = path.with_suffix(".robustcheck.json")
    sidecar.write_text("[1]")
    assert robustcheck("inspect", path, "-o", "json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["preprocessing"] is None
    assert content["preprocessing_not_known"] == f"{sidecar}: content is a JSON list; it must be an object"
    assert content["can_pass"]["answer"] == "no"
    assert content["can_pass"]["reasons"][0]["id"] == "assumed_preprocessing"
    assert robustcheck("inspect", path, "--preprocess", sidecar) == 2


@pytest.mark.parametrize("name", ["m.onnx", "onnx/m.onnx"])
def test_a_folder_stands_for_its_model(tmp_path: Path, name: str, capsys: Capture) -> None:
    (tmp_path / "onnx").mkdir()
    path = linear_encoder(tmp_path / name)
    assert [robustcheck("inspect", tmp_path), robustcheck("inspect", path)] == [0, 0]
    said = capsys.readouterr().out
    assert said == 2 * said[: len(said) // 2]
    assert f"Inspection{path}" in "".join(said.split())  # a long path has a line of its own


def test_a_folder_with_several_models_or_none(tmp_path: Path, capsys: Capture) -> None:
    assert robustcheck("inspect", tmp_path) == 2
    assert f"{tmp_path}: no .onnx file found in the folder, or in its folder onnx" in capsys.readouterr().err
    (tmp_path / "onnx").mkdir()
    for name in ("text_model", "vision_model", "vision_model_fp16"):
        linear_encoder(tmp_path / "onnx" / f"{name}.onnx")
    assert robustcheck("inspect", tmp_path) == 2
    said = capsys.readouterr().err
    listed = "onnx/text_model.onnx, onnx/vision_model.onnx, onnx/vision_model_fp16.onnx"
    assert f"{tmp_path}: number of models in the folder is 3 ({listed}); inspect takes one" in said
    assert f"hint: robustcheck inspect {tmp_path}/onnx/vision_model.onnx\n" in said


def test_a_file_that_cannot_be_opened_cannot_pass(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")
    assert robustcheck("inspect", path) == 3
    shown = capsys.readouterr()
    assert f"error: {path}: model file is empty" in shown.err
    assert " ".join(shown.out.split()).partition("Inspection ")[2].partition(" ━")[0] == (
        f"{path} Can this file pass? no, because model file is empty (0 bytes); an ONNX protobuf is needed "
        "→ download or export it again"
    )
    assert robustcheck("inspect", path, "-o", "json") == 3
    content = json.loads(capsys.readouterr().out)
    assert content["error"]["exit_code"] == 3
    said = "model file is empty (0 bytes); an ONNX protobuf is needed"
    reason = {"id": "not_assessable", "kind": "not_established", "seen": said}
    reasons = [reason | {"next_step": "download or export it again"}]
    assert content["can_pass"] == {"answer": "no", "reasons": reasons, "note": None}


def test_a_wrong_call_says_nothing_about_the_file(tmp_path: Path, capsys: Capture) -> None:
    path = linear_encoder(tmp_path / "m.onnx")
    for words in ([tmp_path / "gone.onnx"], [path, "--tensor", "gone"], [path, "--preprocess", "gone"]):
        assert robustcheck("inspect", *words) == 2
        assert capsys.readouterr().out == ""
    values = but(CLIP, size=(8, 8), resize_size=(8, 8)).model_dump_json()
    (own := tmp_path / "pre.json").write_text(values)
    assert robustcheck("inspect", path, "--preprocess", own) == 0
    assert robustcheck("inspect", path, "--preprocess", own, "-o", own) == 2
    assert own.read_text() == values  # an input stays
    assert "pre.json: report path is a file that this run reads" in capsys.readouterr().err
    two = written("left = Conv(image, w24x3x3x3); right = Conv(image, w24x3x3x3)", "left", "right")
    assert robustcheck("inspect", save(two, path)) == 2  # the file's own fault: nothing was asked for
    assert "Can this file pass? no, because representation is not clear" in " ".join(capsys.readouterr().out.split())


def test_the_profile_of_the_option_answers(tmp_path: Path, capsys: Capture) -> None:
    path = linear_encoder(tmp_path / "m.onnx", "embedding = MatMul(features, w24x256)")
    assert why(of_file(path, preprocess="clip")) == ["width_not_calibrated"]
    wide = profiles.seal(but(profiles.load(), id="wide", min_features=2))
    (tmp_path / "wide.json").write_text(profiles.to_json(wide))
    profile = ["--thresholds", tmp_path / "wide.json"]
    assert robustcheck("inspect", path, "--preprocess", "clip", "-o", "json", *profile) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["can_pass"]["answer"] == "yes"
    assert content["profile"] == {"id": "wide", "digest": wide.digest}


def test_the_commands_in_hints_run(tmp_path: Path, capsys: Capture) -> None:
    """Each hint is typed as it stands, up to what it offers besides; of a check its words, with inspect."""
    (tmp_path / "a hub" / "onnx").mkdir(parents=True)
    for name in ("onnx/model.onnx", "onnx/text_model.onnx", "other.onnx"):
        linear_encoder(tmp_path / "a hub" / name, size=None)
    config = '{"preprocess_cfg": {"size": [8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}'
    (tmp_path / "a hub" / "open_clip_config.json").write_text(config)

    def typed(call: list[str], code: int) -> list[str]:
        assert robustcheck(*call) == code
        text = " ".join(capsys.readouterr().err.split()).partition("hint: ")[2]
        return shlex.split(text.partition(", or ")[0].partition(" (or ")[0])[1:]

    model, sidecar = (str(tmp_path / "a hub" / name) for name in ("onnx/model.onnx", "open_clip_config.json"))
    assert typed(["inspect", str(tmp_path / "a hub")], 2) == ["inspect", model]
    for given in (sidecar, "clip"):
        check = typed(["check", model], 2)
        assert check == [model, "--preprocess", given]
        assert robustcheck("inspect", *check) == 0
        assert "Can this file pass? yes" in capsys.readouterr().out
        Path(sidecar).unlink(missing_ok=True)  # then nothing says the preprocessing, and the size is open
