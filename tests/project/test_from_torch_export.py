"""The page on files of torch.onnx.export: every command and the script are run, and print what the page shows."""

import os
import re
from pathlib import Path

import pytest

from support import BIN, ROOT, read_text, repository
from support.repository import load

PAGE = read_text("docs/from-torch-export.md")


@pytest.mark.long
def test_the_commands_do_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.syspath_prepend(ROOT / "studies")
    planted = load("studies/planted/encoder")
    size_px = planted.PREPROCESSING.size[0]
    torch.onnx.export(
        planted.planted_encoder().eval(),
        (torch.zeros(1, 3, size_px, size_px),),
        str(tmp_path / "plain.onnx"),
        input_names=["pixels"],
        output_names=["embedding"],
        dynamic_axes={"pixels": {0: "batch"}, "embedding": {0: "batch"}},
        dynamo=False,
    )
    (tmp_path / "photos").symlink_to(ROOT / "checker" / "photos")
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "index.py").write_text(script)
    typed = repository.commands_of(PAGE)
    place = next(i for i, command in enumerate(typed) if "--index" in command.text)
    typed.insert(place, repository.Command("python index.py"))
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "80"}
    ran = repository.run_commands(typed, tmp_path, environment)
    assert {command.text: code for command, code, _ in ran if code} == {}
    for command, _, output in ran:
        assert repository.missing(command, output) is None, (command.text, output)
