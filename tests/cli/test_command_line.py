"""The reading of a command line before typer: verb, arguments, options, and where documents go."""

import shlex
from pathlib import Path

from typer.core import TyperGroup
from typer.main import get_command

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli.command_line import CommandLine, read
from support import Patch

GROUP = get_command(cli.app)
assert isinstance(GROUP, TyperGroup)


def line(words: str) -> CommandLine:
    assert isinstance(GROUP, TyperGroup)
    return read(shlex.split(words), GROUP)


def test_where_documents_go(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        ("check m.onnx -o json=r.json --output junit", [("json", "r.json"), ("junit", "")]),
        ("check m.onnx -qo json=r.json -ohtml=r --output=junit=-", [("json", "r.json"), ("html", "r"), ("junit", "")]),
        ("check --bogus m.onnx --no-time=3 -xo json=r.json --max-bad", [("json", "r.json")]),
        ("check --images -o m.onnx -o json", [("json", "")]),  # the first -o is a path of images
        ("check -o json -o json=- -o 'json={model}.json' m.onnx", [("json", ""), ("json", "m.json")]),
        ("check -- -o json=r.json", []),
        ("scan m.onnx -o terminal=r.txt -o json=r.json", [("json", "r.json")]),
        ("profiles shw default -o json", [("json", "")]),
        ("chek m.onnx -o json=r.json", [("json", "r.json")]),
        ("export timm resnet18 -o json", []),  # an ONNX file of that name
        ("sign r.json m.onnx --key k.pem -o json", []),
        ("", []),
    ]  # fmt: skip
    for words, documents in rows:
        assert line(words).documents() == documents, words


def test_arguments_and_options_are_told_apart_as_the_verb_declares_them() -> None:
    read_line = line("check --images a.onnx -vv -q b/M.ONNX --seed -1 --isolated -- -c.onnx")
    assert read_line.verb == "check"
    assert read_line.arguments == ("b/M.ONNX", "-c.onnx")
    assert read_line.model == "b/M.ONNX"
    assert read_line.options == {
        "images": ("a.onnx",), "verbose": ("", ""), "quiet": ("",), "seed": ("-1",), "isolated": ("",)
    }  # fmt: skip
    assert line("mlflow gate encoder 3 r.json --no-rerun").arguments == ("gate", "encoder", "3", "r.json")
    assert line("check s3://key:secret@bucket/m.onnx").model == "s3://***@bucket/m.onnx"
