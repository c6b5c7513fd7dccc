"""What every form of the report keeps to: known as ours, errors told, paths, names, any words."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report import forms
from robustcheck_onnx.checker.report.forms import names_of, path_in_repository
from robustcheck_onnx.checker.report.record import Failed
from robustcheck_onnx.checker.storage import stores
from support import raised, reports
from support.form_readers import junit, metrics
from support.outcomes import FAILED, HOSTILE_REPORT, NAME, NOTHING, PASSING, PLACE, WARNING, failed, text_of


def test_a_document_is_known_as_ours() -> None:
    several = [FAILED, HOSTILE_REPORT, PASSING]
    for form in forms.TEXTS:
        for outcomes in ([PASSING], [WARNING], [NOTHING], [HOSTILE_REPORT], [FAILED], several):
            if len(outcomes) == 1 or form not in forms.ONE_MODEL:
                assert stores.OURS.match(text_of(form, *outcomes).encode()[: stores.OURS_WITHIN_BYTES]), outcomes
    for report, only_ascii in itertools.product((PASSING, WARNING), (False, True)):
        assert stores.OURS.match(reports.terminal_text(report, 100, ascii_only=only_ascii).encode())


def test_a_stranger_s_file_is_not_taken_for_ours() -> None:
    for stranger in (
        "",
        "# robustcheck\n\nOur notes about robustcheck: PASS",
        '{"tools": ["robustcheck"]}',
        '<?xml version="1.0"?>\n<testsuites name="pytest"><testsuite name="robustcheck"/></testsuites>',
        '{"$schema": "x", "version": "2.1.0", "runs": [{"tool": {"driver": {"name": "ruff"}}}]}',
        '[{"check_name": "ruff:E501"}]',
        "---\nlicense: mit\n---\n# robustcheck",
        "# TYPE up gauge\nup 1\n# EOF",
        "<!DOCTYPE html><html><head><title>robustcheck</title></head></html>",
        "import robustcheck",
    ):
        assert not stores.OURS.match(stranger.encode()), stranger


def test_an_error_has_a_document_in_every_form_that_says_so_and_no_pass() -> None:
    for form in forms.NAMES:
        text = forms.render_error(form, "m.onnx: model is bad; it must not be", "ls -l", 3, "m.onnx")
        told = (
            'robustcheck_error{model="m.onnx"} 1' if form == "openmetrics" else "m.onnx: model is bad; it must not be"
        )
        assert told in text
        assert not re.search(r'verdict"?[:=]\s*"?\**PASS', text)
        assert stores.OURS.match(text.encode()[: stores.OURS_WITHIN_BYTES])


def test_a_form_for_one_model_refuses_two() -> None:
    for form in forms.TEXTS:
        if form in forms.ONE_MODEL:
            raised(UsageError, "it holds one model only", forms.render, form, [PASSING, WARNING], PLACE)
        else:
            forms.render(form, [PASSING, WARNING], PLACE)


def test_paths_are_told_from_the_repository() -> None:
    for model, working_folder, root, expected in (
        ("m.onnx", "/repo/sub", "/repo", "sub/m.onnx"),
        ("/repo/a/m.onnx", "/elsewhere", "/repo", "a/m.onnx"),
        ("/opt/m.onnx", "/repo", "/repo", "/opt/m.onnx"),
        ("../../x/m.onnx", "/repo/sub", "/repo", "/x/m.onnx"),
        ("/repository/m.onnx", "/repo", "/repo", "/repository/m.onnx"),
        ("hf://a/b/m.onnx", "/repo", "/repo", "hf://a/b/m.onnx"),
        ("a/http://b.onnx", "/repo", "/repo", "a/http:/b.onnx"),
        ("", "/repo", "/repo", "robustcheck"),
    ):
        assert path_in_repository(model, working_folder, root) == expected


def test_the_repository_is_the_nearest_folder_with_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / ".git").write_text("gitdir: elsewhere")  # a work tree has a file there
    monkeypatch.chdir(tmp_path / "a" / "b")
    options = forms.FormOptions()
    assert (options.working_folder, options.root) == (str(tmp_path / "a" / "b"), str(tmp_path / "a"))


def test_the_same_model_twice_has_two_names() -> None:
    assert names_of([PASSING, PASSING, Failed(model="", message="", hint="", exit_code=3)]) == [
        "models/rn50-openai.onnx",
        "models/rn50-openai.onnx (2)",
        "robustcheck",
    ]


@given(st.lists(NAME, min_size=1, max_size=3))
def test_any_names_parse_in_every_form(names: Sequence[str]) -> None:
    outcomes = [failed(model=name, message=name) for name in names]
    assert [s.attrib["name"] for s in junit(*outcomes)] == names_of(outcomes)
    assert len(metrics(*outcomes)["robustcheck_error"]) == len(names)
    json.loads(text_of("sarif", *outcomes))
    json.loads(text_of("gitlab", *outcomes))
