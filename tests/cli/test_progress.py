"""Work is never silent: stages and numbers on a terminal, a plain line from time to time elsewhere, nothing with -q."""

import io
import itertools
import json
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

from robustcheck_onnx.checker.cli import output, process
from robustcheck_onnx.checker.cli.output import progress_line
from robustcheck_onnx.checker.isolation import Progress, tell_stage
from robustcheck_onnx.thresholds import profile
from support import Patch
from support.measuring import never_narrow
from support.screens import OnATerminal, Terminal, stages_of
from support.walls import wait_until

MEASURED = Progress(64, 80, 12.34, "kurtosis 1–2 against 3")


def test_elsewhere_a_plain_line_comes_again_and_again(monkeypatch: Patch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert output.EVERY_S == 10
    with progress_line(0):
        assert log.getvalue() == ""  # a short run says nothing
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=itertools.count(0, 10).__next__))
    monkeypatch.setattr(output, "EVERY_S", 0.01)
    with progress_line(0, "m.onnx") as line:
        assert line is not None
        monkeypatch.setattr(sys, "stderr", io.StringIO())  # as an exporter does while a library works
        tell_stage(line, "opening the model")
        wait_until(lambda: log.getvalue().count("opening") > 1)  # a stage that takes long
        line(MEASURED)
        wait_until(lambda: "measuring" in log.getvalue())
    seconds, told = zip(*re.findall(r"m\.onnx: (\d+) s: (.*)\n", log.getvalue()), strict=True)
    assert list(map(int, seconds)) == [10 * n for n in range(1, log.getvalue().count("\n") + 1)]
    stages = ["opening the model", "measuring, 64 of 80 images, 12.3 images/s, kurtosis 1–2 against 3"]
    assert [*dict.fromkeys(told)][-2:] == stages


def test_a_full_stderr_ends_no_run(monkeypatch: Patch) -> None:
    monkeypatch.setattr(output, "EVERY_S", 0.001)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        failed, write = threading.Event(), full.write

        def watched(text: str) -> int:
            failed.set()
            return write(text)

        full.write = watched  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stderr", full)
        with progress_line(0) as line:
            assert line is not None
            tell_stage(line, "opening")
            failed.wait()
        monkeypatch.undo()
        full.close = lambda: None  # type: ignore[method-assign] # what waits in its buffer can't be written either


def test_a_name_forges_no_line() -> None:
    shown = Progress(0, 0, 0.0, "", "opening")
    assert output.plain_line(shown, "a\nb.onnx", 12.4) == "a\\nb.onnx: 12 s: opening"


def test_a_terminal_shows_stages_and_images_and_stdout_holds_the_document(
    here: Path, on_a_terminal: OnATerminal
) -> None:
    Path("all.json").write_text(profile.to_json(never_narrow()))
    line = r"measuring +{}\d+/80 +\d+\.\d images/s .*\d against \d"  # how far from its threshold
    stages = ["opening the model and the images", "loading the model", "trying the model on a few images"]
    for columns, bar in ((80, ""), (110, "(━| |╸|╺)*")):
        code, lines, out = on_a_terminal("pass.onnx --images photos --thresholds all.json -o json", columns)
        assert (code, json.loads(out)["verdict"]["verdict"]) == (1, "WARN")
        assert any(re.match(line.format(bar), shown) for shown in lines)
        assert [shown for shown in lines if len(shown) > columns or "…" in shown or ("━" in shown and not bar)] == []
        assert bar or stages_of(lines) == ["starting", *stages, "first images", "measuring"]
    assert on_a_terminal("pass.onnx --images photos -q")[:2] == (0, [])
    _, lines, _ = on_a_terminal("./pass.onnx warn.onnx --images photos -o json", 100)
    expected = [f"{name}.onnx: {stage}" for name in ("pass", "warn") for stage in ("starting", *stages, "first images")]
    assert [stage for stage in stages_of(lines) if "measuring" not in stage] == expected
    (far := here / ("a" * 90)).mkdir()
    (far / "text.onnx").write_text("text")
    _, lines, _ = on_a_terminal(f"pass.onnx {far.name}/text.onnx --images photos -o json")
    assert f"head -c 200 {far.name}/text.onnx" in lines  # a command is whole, also while progress is shown


STAGES = {
    "compare pass.onnx pass.onnx": "loading the candidate, loading the reference, trying the models on a few images",
    "scan pass.onnx": "opening the model and the images, finding the blocks",
    "verify report.json pass.onnx": "reading the report and the model, comparing the images, loading the model",
}


def test_other_verbs_show_their_work(on_a_terminal: OnATerminal) -> None:
    assert on_a_terminal("pass.onnx --images photos -qq -o json=report.json")[0] == 0
    for call, stages in STAGES.items():
        code, lines, _ = on_a_terminal(f"{call} --images photos")
        assert code in ({0, 3} if "scan" in call else {0})  # this model has no blocks
        assert set(stages_of(lines)) >= set(stages.split(", "))


def test_on_a_terminal_errors_wrap_between_words_have_a_colour_and_commands_are_whole(monkeypatch: Patch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    path, command = "a/" * 20 + "b.onnx", "robustcheck a-model.onnx --images photos"
    for colourless, red, cyan, end in (("", "\x1b[31m", "\x1b[36m", "\x1b[0m"), ("1", "", "", "")):
        monkeypatch.setenv("NO_COLOR", colourless)
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        process.say(f"{path}: the model is bad; mend it", command)
        process.say("", "leave out the option that is wrong")
        assert stream.getvalue().splitlines() == [
            *(f"{red}error:{end}", f"{path}:", "the model is bad; mend it", f"{cyan}hint:{end}", command),
            *(f"{cyan}hint:{end} leave out the option", "that is wrong"),
        ]
