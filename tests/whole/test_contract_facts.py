"""What a contract says of its file and its training, through the command: a changed file, matched vectors."""

import json
from pathlib import Path

import numpy as np
import onnx

from robustcheck_onnx.exporters.contract import graph_digest
from support import Capture, Fields, lookup, normal, onnx_models, robustcheck
from support.comparisons import Workshop, planted


def seal(path: Path, *, external: bool = False, **source: str) -> Path:
    """Write the contract of a look-up model into it anew, with its digest."""
    model = onnx.load(path)
    contract = lookup.lookup_contract(source=dict(source)) | {"graph_digest": graph_digest(model, path.parent)}
    onnx.helper.set_model_props(model, {lookup.CONTRACT_KEY: json.dumps(contract)})
    if external:
        onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=1024)
    else:
        onnx.save(model, path)
    return path


def checked(path: Path, photos: Path, capsys: Capture) -> tuple[int, set[str], Fields]:
    """The exit code, the reasons, and what the report says of the model."""
    code = robustcheck(path, "--images", photos, "--device", "cpu", "-o", "json")
    report = json.loads(capsys.readouterr().out)
    return code, {reason["id"] for reason in report["verdict"]["reasons"]}, report["evidence"]["model"]


def can_pass(path: Path, capsys: Capture) -> tuple[str, list[str]]:
    assert robustcheck("inspect", path, "-o", "json") == 0
    answer = json.loads(capsys.readouterr().out)["can_pass"]
    return answer["answer"], [reason["id"] for reason in answer["reasons"]]


def test_a_constant_behind_the_end_is_warn(workshop: Workshop, capsys: Capture) -> None:
    """Noise: WARN. One more vector added to it makes an outlier feature of all images, and clears all else."""
    path = seal(workshop.model("model", normal(80, 384)))
    model = onnx.load(path)
    model.doc_string = model.graph.node[0].name = "reviewed"  # words, and nothing that counts
    onnx.save(model, path)
    code, reasons, facts = checked(path, workshop.photos, capsys)
    assert (code, facts["file_changed"], "not_persistent" in reasons) == (1, False, True)
    model.graph.node[-1].output[0] = "before"
    nodes = onnx_models.graph(f"more = Constant(value_floats={[0.0] * 7 + [14.0] + [0.0] * 376})")
    more = onnx_models.build([*nodes, ("Add", ["before", "more"], ["representation"])], [])
    model.graph.node.extend(more.graph.node)
    onnx.save(model, path)
    assert checked(path, workshop.photos, capsys)[:2] == (1, {"file_changed"})


def test_one_changed_byte_of_a_weight_is_warn(workshop: Workshop, capsys: Capture) -> None:
    for external in (False, True):
        path = seal(workshop.model("model", planted()), external=external)
        code, reasons, facts = checked(path, workshop.photos, capsys)
        assert (code, reasons, facts["file_changed"]) == (0, set(), False)
        assert can_pass(path, capsys) == ("yes", [])
        file = path.with_name("model.data") if external else path
        content = bytearray(file.read_bytes())
        at = content.index(planted().astype(np.float32).tobytes())
        content[at] ^= 1  # the last bit of a number: the verdict of the numbers stays
        file.write_bytes(content)
        assert checked(path, workshop.photos, capsys)[:2] == (1, {"file_changed"})
        assert can_pass(path, capsys) == ("no", ["file_changed"])


def test_a_model_trained_to_match_vectors_is_warn(workshop: Workshop, capsys: Capture) -> None:
    path = workshop.model("model", planted())
    for matched_to, expected in (("none", (0, set[str]())), ("CLIP ViT-B/32", (1, {"trained_to_match"}))):
        code, reasons, facts = checked(seal(path, matched_to=matched_to), workshop.photos, capsys)
        assert ((code, reasons), facts["matched_to"]) == (expected, matched_to)
    assert robustcheck("inspect", path, "-v") == 0
    assert "trained to match: CLIP ViT-B/32" in " ".join(capsys.readouterr().out.split())
