"""What `inspect` and `doctor` show: everything, uncut, at 80 and 120 columns, and as JSON; can the file pass?"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustcheck_onnx.checker.cli.verbs.look_up import doctor_json, render_doctor
from robustcheck_onnx.checker.core.preprocessing import CLIP
from robustcheck_onnx.checker.core.runtime.doctor import MachineFinding
from robustcheck_onnx.checker.core.verdict.reasons import RULES
from robustcheck_onnx.checker.questions.inspection import Inspected, inspected
from robustcheck_onnx.checker.report import terminal
from robustcheck_onnx.checker.report.document import document_of
from robustcheck_onnx.thresholds import profile as profiles
from support import Fields, but, lookup
from support.bad_input import Done, Run
from support.onnx_models import classifier, encoder, save, weight, with_int8_branches, written
from support.screens import printed

pytestmark = pytest.mark.usefixtures("here")

FINDINGS = [
    MachineFinding(check="Python", status="ok", detail="3.11.7"),
    MachineFinding(check="CUDA", status="fail", detail="old driver", fix="pip install 'onnxruntime-gpu[cuda,cudnn]'"),
]


def fits(renderable: object, width: int) -> str:
    text = printed(renderable, width)
    assert all(len(line) <= width or line.startswith(("  robustcheck ", "  pip ")) for line in text.splitlines())
    return text


def of_file(path: Path, **options: Any) -> Inspected:
    return inspected(path, profiles.load(), **options)


def lines(found: Inspected, width: int = 80, **options: bool) -> str:
    return fits(terminal.render_document(document_of(found), **options), width)


def why(found: Inspected) -> list[str]:
    return [reason.id for reason in found.can_pass.reasons]


def answer(found: Inspected) -> str:
    """The answer, without the breaks of the layout; it comes first."""
    text = lines(found)
    assert len(text.splitlines()) <= 15
    return " ".join(text.partition("\n\n")[0].partition("Can this file pass? ")[2].split())


def asked(found: Done) -> str:
    """What `inspect` printed, without the breaks of the layout."""
    return " ".join(found.stdout.split())


def squeezed(text: str) -> str:
    """Without the blanks and breaks of the layout."""
    return "".join(text.split())


def test_everything_is_there_and_nothing_is_cut(here: Path) -> None:
    folder = here / ("a-long-folder-name-" * 6)
    folder.mkdir()
    path = save(classifier(512, output="output"), folder / "m.onnx", external=True)
    found = of_file(path)
    facts = found.facts
    parts = [str(path), found.digest, facts["model_digest"], *(each["digest"] for each in facts["external"])]
    parts += [f"{facts['size_bytes']} bytes", "tensor features", facts["representation"]["why"]]
    parts += ["head_input, assumed: the graph does not show it", "activation:Relu", "set one with --tensor NAME"]
    parts += ["(512, 16)", "NCHW float32", "8 by 8 px", "ai.onnx 18", "none: the tensor was found by rule"]
    parts += ["assumed: ImageNet values", "0.485, 0.456, 0.406"]
    for width in (80, 120):
        text = squeezed(lines(found, width, verbose=True))
        assert [part for part in parts if squeezed(part) not in text] == []


def test_contract_and_alternatives(here: Path) -> None:
    found = of_file(lookup.write_lookup_model(Path("m.onnx"), np.eye(4), source={"random_weights": True}))
    assert "untrained" in why(found)
    text = squeezed(lines(found, 120, verbose=True))
    for said in ("schema 1; lookup lookup embedding matrix, random weights, synthetic:", "Head none found"):
        assert squeezed(said) in text
    assert squeezed("before pooling") not in text  # nothing is pooled
    words = "input of the last linear layer (MatMul) before embedding"
    row = {"tensor": "features", "op": "Flatten", "rule": "pooled", "why": words}
    assert of_file(save(encoder(), here / "e.onnx")).facts["alternatives"] == [row]


def test_json_of_inspect(here: Path) -> None:
    found = of_file(save(classifier(), here / "m.onnx"))
    content: Fields = json.loads(found.to_json())
    outputs = [{"name": "logits", "dtype": "float", "shape": [None, 10]}]
    head = {"op": "Gemm", "weight_shape": [10, 16], "classes": 10}
    expected: Fields = {"class_output": "logits", "preprocessing_not_known": None, "contract": None}
    expected |= {"schema": "robustcheck.inspect/2", "digest": found.digest, "head": head, "outputs": outputs}
    assert content.items() >= expected.items()
    assert (content["representation"]["tensor"], content["representation"]["shape"]) == ("features", [None, 16])
    assert content["preprocessing"][0] == {"field": "size", "value": "8, 8", "source": "model input"}
    mend = RULES["end_not_calibrated"].next_step
    assert "`robustcheck shift MODEL" in mend
    seen = "`features` is the output of an activation (Relu)"
    reason = {"id": "end_not_calibrated", "kind": "not_applicable", "seen": seen, "next_step": mend}
    assert (content["can_pass"]["answer"], content["can_pass"]["reasons"][1]) == ("no", reason)


def test_doctor() -> None:
    text, one = (fits(render_doctor(FINDINGS[:n]), 80) for n in (2, 1))
    assert "✗ fail CUDA" in text
    assert f"\n  {FINDINGS[1].fix}\n" in fits(render_doctor(FINDINGS), 40)
    assert text.endswith("\n1 thing must be fixed: type what is shown, then robustcheck doctor.\n")
    assert one.endswith("\nChecks run here; nothing needs a fix.\n")
    assert fits(render_doctor(FINDINGS, ascii_only=True), 80).isascii()
    assert doctor_json(FINDINGS)["findings"][1]["fix"] == FINDINGS[1].fix


def test_ascii(here: Path) -> None:
    path = save(classifier(), here / "modèle.onnx")
    Path("modèle.robustcheck.json").write_text("[]")
    text = lines(of_file(path), 120, verbose=True, ascii_only=True)
    told = ["not known: " in text, "mod\\xe8le.onnx" in text, "modele" in text]
    assert (text.isascii(), told) == (True, [True, True, False])  # a name is exact


# ------------------------------------------------------------------------------------------- can this file pass?


BEFORE = """
    one = Conv(image, w24x3x3x3, kernel_shape=[3, 3]); mixed = MatMul(one, w6x6); signed = Mul(mixed, one)
    features = ReduceMean(signed, [2, 3], keepdims=0)
"""
WIDE = "embedding = MatMul(features, w24x512)"


def linear_encoder(end: str = WIDE, *, name: str = "m.onnx", size: Any = 8, batch: Any = "batch", **given: Any) -> Path:
    """Write a signed network that a projection ends."""
    image = ("image", TensorProto.FLOAT, (batch, 3, size, size))
    return save(written(end, before=BEFORE, inputs=[image], **given), Path(name))


def test_a_file_of_the_calibrated_kinds_can_pass() -> None:
    found = of_file(linear_encoder(), preprocess="clip")
    assert (found.can_pass.answer, found.can_pass.reasons) == ("yes", ())
    assert answer(found) == "yes: the thresholds are for models like this one; the numbers decide"


def test_a_reason_stands_in_the_answer_with_what_helps() -> None:
    assert answer(of_file(linear_encoder())) == (
        "only with --preprocess, because neither the file, a sidecar nor an option gives the preprocessing → Name "
        "what the model was trained with, `--preprocess imagenet` for ImageNet's values or `--preprocess FILE` for "
        "others. If it was trained like CLIP: robustcheck m.onnx --preprocess clip"
    )


def test_of_several_reasons_the_answer_names_the_one_that_no_option_mends() -> None:
    path = save(classifier(512, output="output"), Path("MODEL.onnx"))
    found = of_file(path)
    step = "→ If it gives class scores, measure accuracy on labelled photos instead: `robustcheck shift MODEL.onnx --in"
    assert squeezed(step) in squeezed(lines(found, verbose=True))
    assert why(found) == ["assumed_preprocessing", "assumed_tensor", "end_not_calibrated", "width_not_calibrated"]
    assert answer(found) == (
        "no, because `features` is the output of an activation (Relu) → Measure it on its own task, or compare it with "
        "its original. To accept it: robustcheck MODEL.onnx --waivers FILE"
    )
    named = "If that is what you deploy, say so: `robustcheck MODEL.onnx --tensor features`."
    assert found.can_pass.reasons[1].next_step == named
    confirmed = of_file(path, tensor="features", preprocess="clip")  # what the steps say takes these reasons away
    assert why(confirmed) == ["end_not_calibrated", "width_not_calibrated"]


def test_a_width_that_the_graph_leaves_open_is_not_known() -> None:
    """The projection is cut to a width that no shape inference can tell."""
    end = """
        places = NonZero(w6x6); n = Shape(places, start=1, end=2); chosen = Slice(w24x512, [0], n, [1])
        embedding = MatMul(features, chosen)
    """
    found = of_file(linear_encoder(end), preprocess="clip")
    assert found.facts["representation"]["shape"] == (None, None)
    assert (found.can_pass.answer, why(found)) == ("unknown", ["width_not_calibrated"])
    assert answer(found) == (
        "unknown, because the graph does not show how many features `embedding` has; profile default-4 holds for 384 "
        "to 2048 → Measure it: robustcheck m.onnx"
    )


def test_a_dynamically_quantised_file_can_pass_for_batches_of_one_image() -> None:
    end = """
        a, scale, zero = DynamicQuantizeLinear(features); whole = MatMulInteger(a, proj, zero)
        float = Cast(whole, to=FLOAT); embedding = Mul(float, scale)
    """
    proj = (20 * weight(24, 512)).astype(np.int8)
    for batch in ("batch", 1):
        found = of_file(linear_encoder(end, batch=batch, proj=proj), preprocess="clip")
        assert found.can_pass.answer == "yes"
        noted = "`robustcheck m.onnx --batch-size 1` gives a verdict for batches of one image"
        assert (noted in answer(found)) == (batch == "batch")


def test_quantisers_in_a_graph_inside_a_node_are_not_promised_a_verdict_for_batches_of_one_image() -> None:
    model = with_int8_branches((20 * weight(192, 24)).astype(np.int8))
    model.graph.node.append(helper.make_node("MatMul", ["embedding", "proj"], ["image_embeds"]))
    model.graph.initializer.append(numpy_helper.from_array(weight(24, 512), "proj"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("image_embeds", 1, ("n", 512)))
    found = of_file(save(model, "m.onnx"), preprocess="clip")
    assert (found.facts["precision"], found.can_pass.answer) == ("int8", "yes")
    noted = "in a graph inside a node: if a representation changes with its batch, the verdict is WARN"
    assert noted in answer(found)


def test_int8_weights_whose_sums_saturate_are_noted() -> None:
    end = """
        a, scale, zero = DynamicQuantizeLinear(features); whole = MatMulInteger(a, proj, zero)
        float = Cast(whole, to=FLOAT); embedding = Mul(float, scale)
    """
    proj = np.full((24, 512), 20, np.int8)
    proj[:2] = 100  # one pair of twelve
    for weights, expected in ((proj, 1 / 12), (proj // 2, 0)):
        found = of_file(linear_encoder(end, proj=weights), preprocess="clip")
        assert found.facts["saturating_pairs"] == pytest.approx(expected)
        noted = "int8 sums saturate for this file (8.3 % of the pairs of weights can exceed 16 bits)"
        assert (noted in " ".join(lines(found).split())) == (expected > 0)


def test_nothing_is_needed_where_the_size_is_open(ends: Run) -> None:
    linear_encoder(size=None)
    text = asked(ends(0, "inspect m.onnx"))
    said = "preprocessing is missing, and the input size is dynamic; an option or sidecar must give it"
    assert f"preprocessing ? by ? px, not known: {said}" in text
    assert (
        f"Can this file pass? only with --preprocess, because {said} → robustcheck m.onnx --preprocess clip (or" in text
    )
    assert "Can this file pass? yes" in asked(ends(0, "inspect m.onnx --preprocess clip"))


def test_a_sidecar_that_is_none_is_shown_and_one_that_was_asked_for_is_an_error(ends: Run) -> None:
    linear_encoder()
    sidecar = "m.robustcheck.json"
    Path(sidecar).write_text("[1]")
    content = json.loads(ends(0, "inspect m.onnx -o json").stdout)
    assert content["preprocessing"] is None
    assert content["preprocessing_not_known"] == f"{sidecar}: content is a JSON list; it must be an object"
    assert (content["can_pass"]["answer"], content["can_pass"]["reasons"][0]["id"]) == ("no", "assumed_preprocessing")
    ends(2, f"inspect m.onnx --preprocess {sidecar}")


def test_a_folder_stands_for_its_model(here: Path, ends: Run) -> None:
    for name in ("one/m.onnx", "two/onnx/m.onnx"):
        (here / name).parent.mkdir(parents=True)
        path = linear_encoder(name=str(here / name))
        of_folder, of_model = (ends(0, f"inspect {place}").stdout for place in (here / name[:3], path))
        assert of_folder == of_model
        assert f"Inspection{path}" in squeezed(of_model)  # a long path has a line of its own


def test_a_folder_with_several_models_or_none(ends: Run) -> None:
    Path("a hub/onnx").mkdir(parents=True)
    ends(2, "inspect 'a hub'", "a hub: no .onnx file found in the folder, or in its folder onnx")
    for name in ("text_model", "vision_model", "vision_model_fp16"):
        linear_encoder(name=f"a hub/onnx/{name}.onnx")
    listed = "onnx/text_model.onnx, onnx/vision_model.onnx, onnx/vision_model_fp16.onnx"
    said = f"a hub: number of models in the folder is 3 ({listed}); inspect takes one"
    ends(2, "inspect 'a hub'", said, "hint: robustcheck inspect 'a hub/onnx/vision_model.onnx'\n")


def test_a_file_that_cannot_be_opened_cannot_pass(ends: Run) -> None:
    Path("m.onnx").touch()
    said, hint = "model file is empty (0 bytes); an ONNX protobuf is needed", "download or export it again"
    done = ends(3, "inspect m.onnx", "error: m.onnx: model file is empty")
    shown = asked(done).partition("Inspection ")[2].partition(" ━")[0]
    assert shown == f"m.onnx Can this file pass? no, because {said} → {hint}"
    content = json.loads(ends(3, "inspect m.onnx -o json").stdout)
    assert content["error"]["exit_code"] == 3
    reason = {"id": "not_assessable", "kind": "not_established", "seen": said, "next_step": hint}
    assert content["can_pass"] == {"answer": "no", "reasons": [reason], "note": None}


def test_a_wrong_call_says_nothing_about_the_file(ends: Run) -> None:
    linear_encoder()
    for words in ("gone.onnx", "m.onnx --tensor gone", "m.onnx --preprocess gone"):
        assert ends(2, f"inspect {words}").stdout == ""
    values = but(CLIP, size=(8, 8), resize_size=(8, 8)).model_dump_json()
    (own := Path("pre.json")).write_text(values)
    ends(0, "inspect m.onnx --preprocess pre.json")
    ends(2, "inspect m.onnx --preprocess pre.json -o pre.json", "pre.json: report path is a file that is there already")
    assert own.read_text() == values  # an input stays
    save(written("left = Conv(image, w24x3x3x3); right = Conv(image, w24x3x3x3)", "left", "right"), Path("m.onnx"))
    done = ends(2, "inspect m.onnx")  # the file's own fault: nothing was asked for
    assert "Can this file pass? no, because representation is not clear" in asked(done)


def test_the_profile_of_the_option_answers(ends: Run) -> None:
    path = linear_encoder("embedding = MatMul(features, w24x256)")
    assert why(of_file(path, preprocess="clip")) == ["width_not_calibrated"]
    wide = profiles.seal(but(profiles.load(), id="wide", min_features=2))
    Path("wide.json").write_text(profiles.to_json(wide))
    content = json.loads(ends(0, "inspect m.onnx --preprocess clip -o json --thresholds wide.json").stdout)
    assert (content["can_pass"]["answer"], content["profile"]) == ("yes", {"id": "wide", "digest": wide.digest})


def test_the_commands_in_hints_run(ends: Run) -> None:
    """Each hint is typed as it stands, up to what it offers besides; of a check its words, with inspect."""
    Path("a hub/onnx").mkdir(parents=True)
    for name in ("onnx/model.onnx", "onnx/text_model.onnx", "other.onnx"):
        linear_encoder(name=f"a hub/{name}", size=None)
    sidecar = Path("a hub/open_clip_config.json")
    sidecar.write_text('{"preprocess_cfg": {"size": [8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}')
    for given in (f"'{sidecar}'", "clip"):
        words = f"'a hub/onnx/model.onnx' --preprocess {given}"
        ends(2, "check 'a hub/onnx/model.onnx'", f"hint: robustcheck {words}")
        assert "Can this file pass? yes" in ends(0, f"inspect {words}").stdout
        sidecar.unlink(missing_ok=True)  # then nothing says the preprocessing, and the size is open
