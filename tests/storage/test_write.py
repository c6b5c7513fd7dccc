"""Writing reports: whole or not at all, and nothing but the report."""

import os
from pathlib import Path

from robustcheck_onnx.checker import text
from robustcheck_onnx.checker.cli import output
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.storage import stores
from robustcheck_onnx.checker.storage.places import parse_place
from support import Patch, onnx_models, raised


def test_a_report_is_written_through_no_link_and_no_name_that_is_taken(tmp_path: Path, monkeypatch: Patch) -> None:
    """In a shared folder anyone can guess a process number; whatever stands under a name is another process's."""
    victim, target = tmp_path / "victim", tmp_path / "r.json"
    victim.write_text("mine")
    (tmp_path / f".r.json.{os.getpid()}.tmp").symlink_to(victim)
    monkeypatch.setattr(stores, "token_hex", lambda n: "0" * n)
    taken = tmp_path / ".r.json.00000000.tmp"
    taken.symlink_to(victim)
    raised(EnvironmentFaultError, "report is not written", stores.write_whole, target, "{}")
    taken.unlink()
    stores.write_whole(target, "{}")
    assert (victim.read_text(), target.read_text(), target.is_symlink()) == ("mine", "{}", False)
    assert not taken.exists()


def test_a_report_replaces_no_sidecar_no_image_and_no_model(tmp_path: Path) -> None:
    """A slip of the hand: `-o json=m.robustcheck.json` reads like a report of m.onnx."""
    onnx_models.save(onnx_models.encoder(), tmp_path / "m.onnx", external=True)
    (tmp_path / "list.txt").write_text("a.jpg\n")
    named = (f"file://{tmp_path}/m.onnx", f"local://{tmp_path}/list.txt", "memory://m/other.onnx")
    reads = [parse_place(text) for text in named]
    for name in ("m.robustcheck.json", "preprocessor_config.json", "photo.PNG", "other.onnx"):
        target = tmp_path / name
        output.check_target(target, reads)  # nothing is there
        target.write_text('{"size": [8, 8]}')
        if name.endswith(".json"):
            output.check_target(target, [tmp_path / "photos"])  # beside no model, it is replaced as ever
        fault = raised(UsageError, "a report must not replace it", output.check_target, target, reads)
        assert fault.hint != f"-o json={target}"
        target.write_text(text.error_json("m", "h", 3))
        output.check_target(target, reads)  # a document of ours
    for name in ("m.onnx", "m.onnx.data", "list.txt"):
        for place in (tmp_path / name, parse_place(f"file://{tmp_path}/{name}")):
            raised(UsageError, "a report must not replace it", output.check_target, place, reads)
