"""What `mypy --strict` says of a user's script: every name has a type, nothing is Any, and mistakes are found."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import robustcheck_onnx as rc
from support import ROOT

REVEALED = {
    'rc.check("model.onnx", images="photos/")': "Report",
    'rc.check(b"", images=[Path("a.jpg")], max_images=64, thresholds="default-2")': "Report",
    "rc.check(onnx.ModelProto(), images=[Image.new('RGB', (8, 8))])": "Report",
    "rc.check('m.onnx', images=[np.zeros((8, 8, 3), np.uint8)])": "Report",
    "rc.check('m.onnx', images=np.zeros((4, 3, 8, 8), np.float32)).passed": "bool",
    "rc.check('m.onnx').evidence.statistics.kurtosis.low": "float | None",
    "rc.check('m.onnx').verdict.reasons": "tuple[Reason, ...]",
    "rc.check('m.onnx').plot()": "Figure",
    "rc.check('m.onnx').to_frame()": "DataFrame",
    "rc.compare('a.onnx', 'b.onnx').to_frame()": "DataFrame",
    "rc.scan('m.onnx').to_frame()": "DataFrame",
    "rc.directions('m.onnx', head='head.npy', seed=3)": "DirectionsReport",
    "rc.directions('m.onnx', labelled='photos/').to_frame()": "DataFrame",
    "rc.compare('a.onnx', 'b.onnx', images='photos/')": "CompareReport",
    "rc.compare('a.onnx', baseline='b.json').next_baseline": "Baseline | None",
    "rc.scan('m.onnx', images='photos/', blocks=['x'])": "ScanReport",
    "rc.concepts('m.onnx', 'concepts/', of='axes', seed=3)": "ConceptsReport",
    "rc.concepts('m.onnx', 'concepts.csv').to_frame()": "DataFrame",
    "rc.measure_shift('m.onnx', images='photos/', shifted='sketches/')": "ShiftReport",
    "rc.verify('report.json', 'm.onnx', images='photos/')": "Verification",
    "rc.measure(np.zeros((4, 8)))": "Statistics",
    "rc.measure(Tensor())": "Statistics",
    "rc.Accumulator().merge(rc.Accumulator()).result().top3_share": "Interval",
    "rc.assert_robust('m.onnx', images='photos/', seed=3)": "Report",
    "rc.gate_model_version('name', 3, 'report.json', images='photos/')": "Verification",
    "rc.log_report(rc.check('m.onnx'))": "str",
    "rc.__version__": "str",
}
MISTAKES = {
    "rc.chekc('m.onnx')": "attr-defined",
    "rc.check('m.onnx', imagess='photos/')": "call-arg",
    "rc.check('m.onnx', seed='3')": "arg-type",
    "rc.check('m.onnx', images=3)": "arg-type",
    "rc.check(3)": "arg-type",
    "rc.assert_robust('m.onnx', max_image=64)": "call-arg",
    "rc.assert_robust('m.onnx', max_images='64')": "arg-type",
    "rc.verify('report.json', 'm.onnx', image_set='photos/')": "call-arg",
    "rc.gate_model_version('name', 3, 'report.json', imags='photos/')": "call-arg",
    "rc.measure('m.onnx')": "arg-type",
    "rc.measure_shift('m.onnx', images='photos/', inside='photos/', shifted='s')": "call-arg",
}
HEAD = """\
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import robustcheck_onnx as rc
from PIL import Image


class Tensor:  # as torch's says it
    def __array__(self, dtype: Any = None) -> Any: ...

"""
N_HEAD = HEAD.count("\n")


@pytest.mark.long
def test_a_strict_user_sees_types_and_mistakes(tmp_path: Path) -> None:
    """In one run, as mypy takes seconds to start; each line of the script is a case."""
    fixture = (
        "def test_it(assert_robust: rc.AssertRobust) -> None:",
        "    reveal_type(assert_robust('m.onnx', seed=1))",
        "    assert_robust('m.onnx', sead=1)",
    )
    lines = [*(f"reveal_type({code})" for code in REVEALED), *MISTAKES, *fixture]
    (tmp_path / "user.py").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "pandas").mkdir()  # pandas itself has no types; who wants them installs pandas-stubs
    (tmp_path / "pandas" / "__init__.pyi").write_text("class DataFrame: ...\n", encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\ndisallow_any_unimported = True\n"
        f"mypy_path = {ROOT / '.typings'}\ncache_dir = {tmp_path / 'cache'}\n"
        "[mypy-onnxruntime.*,fsspec.*,pyarrow.*,ray.*,yaml.*]\nignore_missing_imports = True\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "user.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if (match := re.match(r"user\.py:(\d+): (?:note|error): (.*)", line)) is not None:
            said.setdefault(int(match[1]) - N_HEAD - 1, match[2])
    for index, (code, expected) in enumerate(REVEALED.items()):
        revealed = re.fullmatch(r'Revealed type is "(.*)"', said[index])
        assert revealed is not None, (code, said[index])
        short = re.sub(r"[A-Za-z_]+(?:\.[A-Za-z_]+)*\.([A-Za-z_]+)", r"\1", revealed[1])
        assert short == expected, code
    for index, (code, error) in enumerate(MISTAKES.items(), len(REVEALED)):
        assert said.get(index, "").endswith(f"[{error}]"), (code, said.get(index))
    last = len(REVEALED) + len(MISTAKES)
    assert said[last + 1].endswith('checker.report.record.Report"')
    assert said[last + 2].endswith("[call-arg]")
    assert len(said) == last + 2, done.stdout


def test_no_public_signature_says_any() -> None:
    """Functions and methods of the face, as they are written."""
    import inspect

    found = []
    for name in rc.__all__:
        value = getattr(rc, name)
        functions = [value] if inspect.isfunction(value) else []
        if inspect.isclass(value):
            properties = [each.fget for each in vars(value).values() if isinstance(each, property)]
            functions = [each for each in (*vars(value).values(), *properties) if inspect.isfunction(each)]
        for function in functions:
            if function.__module__.startswith("pydantic") or function.__name__.startswith("_") != (
                function.__name__ == "__call__"
            ):
                continue
            written = function.__annotations__
            parameters = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
            assert written.keys() >= {*parameters, "return"}, function
            found += [f"{name}.{function.__name__}" for text in written.values() if re.search(r"\bAny\b", str(text))]
    assert found == []


def test_options_of_assert_robust_are_those_of_check() -> None:
    """`check` writes its own; `assert_robust` hands them on."""
    import inspect
    from typing import get_type_hints

    from robustcheck_onnx.checker.evidence import RunOptions
    from robustcheck_onnx.checker.pipeline import CheckOptions

    hints = get_type_hints(rc.check)
    own = get_type_hints(CheckOptions).keys() - get_type_hints(RunOptions).keys()
    parameters = inspect.signature(rc.check).parameters.keys()
    assert parameters == {"model", "images", "progress", "options", *own}
    assert all(get_type_hints(CheckOptions)[name] == hints[name] for name in own)


def test_options_of_gate_model_version_are_those_of_verify() -> None:
    import inspect
    from typing import get_type_hints

    from robustcheck_onnx.checker.verify import VerifyOptions

    hints, options = get_type_hints(rc.verify), get_type_hints(VerifyOptions)
    assert inspect.signature(rc.verify).parameters.keys() == {"report_file", "model", "today", *options}
    assert all(options[name] == hints[name] for name in options)
