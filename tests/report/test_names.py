"""Names that are no text, in the forms that write a path's bytes."""

from __future__ import annotations

import json

from robustcheck_onnx.checker.report import forms
from robustcheck_onnx.checker.report.record import Failed


def test_a_name_that_is_no_text_has_a_place() -> None:
    for name, uri in (
        ("m\udcff.onnx", "m%FF.onnx"),  # a byte that is no UTF-8, as the file system gives it
        ("m\ud800.onnx", "m%ED%A0%80.onnx"),  # half a character, as a program can give it
        ("m\ud800\udcff.onnx", "m%ED%A0%80%ED%B3%BF.onnx"),
    ):
        failed = Failed(model=name, message=f"{name}: file is empty", hint="", exit_code=3)
        place = forms.FormOptions(working_folder="/repository", root="/repository")
        (result,) = json.loads(forms.render("sarif", [failed], place))["runs"][0]["results"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri
        (issue,) = json.loads(forms.render("gitlab", [failed], place))
        assert len(issue["fingerprint"]) >= 32
