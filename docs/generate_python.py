"""The page of the Python API, from signatures and docstrings; `generate.py` writes it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import robustcheck_onnx as rc
from robustcheck_onnx.checker.evidence import Options

GROUPS = {
    "Check": ("check", "CheckOptions", "Report", "Verdict", "Reason", "Progress"),
    "Measure representations": ("measure", "Accumulator", "Statistics", "Interval"),
    "Compare": ("compare", "CompareReport", "Baseline"),
    "Scan": ("scan", "ScanReport"),
    "Shift": ("measure_shift", "ShiftReport"),
    "Verify": ("verify", "Verification"),
    "In tests and pipelines": ("assert_robust", "AssertRobust", "VerdictError", "log_report", "gate_model_version"),
    "Judge your own evidence": ("judge", "Evidence", "DetectorResult"),
    "Errors": ("RobustcheckError", "UsageError", "CannotAssessError", "EnvironmentFaultError"),
}
HEAD = """\
# Python

```python
import robustcheck_onnx as rc

report = rc.check("model.onnx", images="photos/")
if report:  # true for PASS alone
    ...
report.verdict.verdict, report.kind, report.verdict.reasons
```

Functions return records and print nothing. Each verb has one result: a frozen record, which as text is a line, in a
notebook a summary, and in full its fields or `model_dump_json()`. `to_frame()` needs pandas, `plot()` matplotlib (the
extra `plot`). All of it is typed; `mypy --strict` finds a name or an option that is not there.

**Models** are paths or URLs; `check` and `assert_robust` also take the bytes of a file or an `onnx.ModelProto`.
**Images** are the path or URL of a set ([images](../images.md)); or the images themselves: an iterable of paths, of PIL
images, of uint8 arrays (height, width, RGB), or of preprocessed float arrays (channel, height, width). Those are
measured in your process, the report says so, and [`verify`](../verify.md) cannot measure it again. Photos in memory are
looked at as files are: duplicates, noise and synthetic images are found.

In a training or evaluation loop there is no file yet: add up the representations, and look at the numbers. There is no
verdict without a model.

```python
total = rc.Accumulator()
for batch in loader:
    total.update(encoder(batch))  # (image, feature), of NumPy, torch, …
total.result().kurtosis  # estimate, low, high
```
"""
SECTION = re.compile(r"^(Args|Returns|Raises):$")


def python_api() -> str:
    """Every name of the face, by what it is for."""
    lines = [HEAD]
    for title, names in GROUPS.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += [f"### {name}", "", *_entry(name, getattr(rc, name)), ""]
    return "\n".join(lines)


def _entry(name: str, value: Any) -> Iterator[str]:
    if inspect.isfunction(value):
        yield from _function(f"rc.{name}", value)
    elif name == "CheckOptions":
        yield "Keyword arguments of `check` and `assert_robust`."
        yield ""
        yield from _table({**_annotations(value), **_annotations(Options)}, _documented(Options), leave_out={"images"})
    elif issubclass(value, Exception):
        yield from _words(inspect.getdoc(value) or "")
    else:
        yield from _class(value)


def _class(value: type) -> Iterator[str]:
    yield from _words(inspect.getdoc(value) or "")
    documented = _documented(value)
    if fields := {name: kind for name, kind in _annotations(value).items() if not name.startswith("_")}:
        yield ""
        yield from _table(fields, documented)
    for name, member in vars(value).items():
        if name.startswith("_") and name != "__call__":
            continue
        if isinstance(member, property) and member.fget is not None:
            kind = member.fget.__annotations__.get("return", "")
            yield from ("", f"**`{name}`**: `{kind}`. {inspect.getdoc(member.fget) or ''}")
        elif inspect.isfunction(member) and not member.__module__.startswith("pydantic"):
            yield ""
            yield from _function(name, member)


def _function(name: str, function: Callable[..., Any]) -> Iterator[str]:
    signature = inspect.signature(function)
    shown: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        if parameter.name != "self":
            shown.append(_parameter(parameter))
    returns = str(signature.return_annotation)
    one = f"{name}({', '.join(shown)}) -> {returns}"
    several = f"{name}(\n" + "".join(f"    {each},\n" for each in shown) + f") -> {returns}"
    yield from ("```python", one if len(one) <= 100 else several, "```", "")
    yield from _words(inspect.getdoc(function) or "")


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    kind = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
    return f"{stars}{parameter.name}{kind}{default}"


def _words(doc: str) -> Iterator[str]:
    """A docstring in Markdown: sections become lists, the rest stays."""
    inside = ""
    item: list[str] = []

    def flush() -> Iterator[str]:
        if item:
            text = " ".join(part.strip() for part in item)
            head, colon, rest = text.partition(": ")
            yield f"- `{head}`: {rest}" if colon and inside in ("Args", "Raises") else f"- {text}"
            item.clear()

    for line in doc.splitlines():
        if match := SECTION.match(line):
            yield from flush()
            inside = match[1]
            yield from (f"**{inside}**", "")
        elif inside and line.startswith("    "):
            if not line.startswith("     ") and inside != "Returns":
                yield from flush()
            item.append(line)
        else:
            yield from flush()
            yield line
    yield from flush()


def _table(kinds: dict[str, str], documented: dict[str, str], leave_out: set[str] | None = None) -> Iterator[str]:
    yield from ("| name | type | what it is |", "|---|---|---|")
    for name, kind in kinds.items():
        if name not in (leave_out or set()):
            cells = (f"`{name}`", f"`{kind}`", documented.get(name, ""))
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _annotations(value: type) -> dict[str, str]:
    """Names and types as they are written, of the class itself."""
    return {
        node.target.id: ast.unparse(node.annotation) for node in _assigned(value) if isinstance(node.target, ast.Name)
    }


def _assigned(value: type) -> list[ast.AnnAssign]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    except OSError:
        return []
    assert isinstance(tree.body[0], ast.ClassDef)
    return [node for node in tree.body[0].body if isinstance(node, ast.AnnAssign)]


def _documented(value: type) -> dict[str, str]:
    """The string below each field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    assert isinstance(body, ast.ClassDef)
    said = {}
    for before, node in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
        ):
            said[before.target.id] = " ".join(str(node.value.value).split())
    return said
