"""Small faults in rooms that mutation testing does not cover, and which test finds each.

`python tests/faults.py draw` draws them into faults.json, in proportion to the rooms' nodes.
`python tests/faults.py run [NUMBERS] [--marks 'not long']` puts one after the other into the tree it stands in, runs
the tests of the room's folder and of those that depend on it until one fails, and puts the file back. A fault is found
again by its function and its lines, in another file, too; one whose lines are no more is told as gone.

Drawn at a62dd49, with seed 26; 61 to 63, the first of seed 27 in their room, took the places of 42, 46 and 47, whose
code is gone, and 10 that of one which changed nothing; 21 and 23 to 25 have the places and lines of today.
`found_before` is the test that found a fault at a62dd49, null where those asked (for two minutes: the nearest of its
room and of two folders more) did not.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
DRAWN: Final = Path(__file__).with_suffix(".json")
ROOMS: Final = {  # where the code stands, and the folders of tests to ask
    "forms": (("checker/report/**/*.py",), ("report",)),
    "settings": (
        tuple(f"checker/cli/{n}.py" for n in ("settings*", "options")),
        ("cli",),
    ),
    "images": (("checker/images/*.py",), ("images",)),
    "storage": (("checker/storage/*.py",), ("storage", "images", "report")),
    "exporters": (("exporters/*.py",), ("exporters", "model")),
    "compare": (("checker/compare/*.py",), ("compare",)),
    "shift": (("checker/shift/*.py",), ("shift",)),
    "directions": (("checker/directions/*.py",), ("directions",)),
    "verify": (("checker/verify/*.py",), ("verify",)),
    "calibrate": (("checker/calibrate/*.py",), ("calibrate", "thresholds")),
    "wall": (tuple(f"checker/{n}.py" for n in ("isolation", "child")), ("measure",)),
}
LAST: Final = ("project/test_doctests.py", "cli", "whole")  # of every room
GOING: Final = re.compile(  # files, functions and lines that are about to be deleted
    "(report/(evalresults|csv|gitlab|openmetrics|modelcard)|shift/(aline|dispersion|drop)|own_files).py"
    "|temperature|dispersion|aline|mano|nuclear|detector|no_cache|exit_zero|alias|ray_address"
)
FLIPPED: Final = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}  # fmt: skip


class Edit(NamedTuple):
    kind: str
    function: str
    node: ast.expr | ast.stmt
    text: str


def changes(node: ast.AST) -> Iterator[tuple[str, Any, str]]:
    """Give the small faults of one node: kind, the node to replace, and its new text."""
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            for other in FLIPPED[type(op)]:
                yield "comparison", node, f"({ast.unparse(ast.Compare(left, [other()], [right]))})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", node, f"({ast.unparse(operand)})"
        case ast.BoolOp(op=op, values=values):
            other_op = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield "and/or", node, f"({ast.unparse(ast.BoolOp(other_op, values))})"
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            yield "constant", node, str(value + 1)
        case ast.Return(value=ast.Constant(value=bool(value))):
            yield "default", node, f"return {not value}"
        case ast.If(body=[ast.Raise() | ast.Return() | ast.Continue()], orelse=[]):
            yield "statement", node, "pass"
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Continue() | ast.Break():
            yield "statement", node, "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "statement", node, "pass"
        case ast.Call(func=func, args=args, keywords=keywords):
            for left_out in keywords:
                if left_out.arg not in {None, "strict", "encoding", "file", "hint"}:
                    rest = [each for each in keywords if each is not left_out]
                    yield "argument", node, ast.unparse(ast.Call(func, args, rest))
            for i, (one, two) in enumerate(itertools.pairwise(args)):
                if (
                    ast.dump(one) != ast.dump(two)
                    and not isinstance(one, ast.Starred)
                    and not isinstance(two, ast.Starred)
                ):
                    yield "argument", node, ast.unparse(ast.Call(func, [*args[:i], two, one, *args[i + 2 :]], keywords))
            if isinstance(func, ast.Name) and func.id in {"min", "max"}:
                name = ast.Name("max" if func.id == "min" else "min")
                yield "min/max", node, ast.unparse(ast.Call(name, args, keywords))
            if isinstance(func, ast.Attribute) and func.attr == "get" and len(args) == 2:
                yield "default", args[1], "True" if ast.unparse(args[1]) == "None" else "None"
    if isinstance(node, ast.If | ast.IfExp) and not isinstance(node.test, ast.Compare | ast.UnaryOp | ast.BoolOp):
        yield "not", node.test, f"(not {ast.unparse(node.test)})"


def edits(node: ast.AST, names: tuple[str, ...] = (), *, is_inside: bool = False) -> Iterator[Edit]:
    """Give every small fault of the function bodies below a node: none of words, types, asserts or what is logged."""
    match node:
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.Expr(value=ast.Constant()):
            return
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="LOG")))):
            return
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.ClassDef(name=name, body=body):
            parts: list[ast.AST] = [each for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            names = (*names, name)
        case ast.FunctionDef(name=name, body=body) | ast.AsyncFunctionDef(name=name, body=body):
            parts, names, is_inside = list(body), (*names, name), True
        case ast.AnnAssign(value=value):
            parts = [value] if value else []
        case _:
            parts = list(ast.iter_child_nodes(node))
            if is_inside:
                yield from (Edit(kind, ".".join(names), part, text) for kind, part, text in changes(node))
    for part in parts:
        yield from edits(part, names, is_inside=is_inside)


def replaced(source: str, edit: Edit) -> tuple[str, str]:
    """Return the whole lines of an edit, before and after."""
    lines = source.splitlines()[edit.node.lineno - 1 : edit.node.end_lineno]
    head = lines[0].encode()[: edit.node.col_offset].decode()
    tail = lines[-1].encode()[edit.node.end_col_offset :].decode()
    return "\n".join(lines), head + edit.text + tail


def draw(seed: int, count: int) -> list[dict[str, Any]]:
    """Draw faults, one a function: the rooms by their nodes, then kinds alike, then places alike."""
    rng = random.Random(seed)
    nodes: dict[str, int] = {}
    drawable: dict[str, list[dict[str, Any]]] = {}
    for room, (globs, _) in ROOMS.items():
        nodes[room], drawable[room] = 0, []
        for path in sorted({path for pattern in globs for path in ROOT.glob(pattern)}):
            file, source = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
            if GOING.search(file):
                continue
            tree = ast.parse(source)
            nodes[room] += sum(1 for _ in ast.walk(tree))
            for edit in edits(tree):
                before, after = replaced(source, edit)
                if before.count("\n") < 6 and source.count(before) == 1 and not GOING.search(edit.function + before):
                    place = {"room": room, "file": file, "function": edit.function, "kind": edit.kind}
                    drawable[room].append(place | {"before": before, "after": after})
    shares = {room: count * n / sum(nodes.values()) for room, n in nodes.items()}
    counts = {room: int(share) for room, share in shares.items()}
    for room in sorted(shares, key=lambda room: counts[room] - shares[room])[: count - sum(counts.values())]:
        counts[room] += 1
    drawn: list[dict[str, Any]] = []
    for room, faults in drawable.items():
        for _ in range(counts[room]):
            used = {(each["file"], each["function"]) for each in drawn}
            left = [each for each in faults if (each["file"], each["function"]) not in used]
            kind = rng.choice(sorted({each["kind"] for each in left}))
            fault = rng.choice([each for each in left if each["kind"] == kind])
            drawn.append({"number": len(drawn) + 1} | fault)
    return drawn


def find(fault: dict[str, Any]) -> Path | None:
    """Find the file that holds the fault's function with its lines: its own, or the one that they moved to."""
    own: Path = ROOT / fault["file"]
    for path in (own, *(path for top in ("checker", "exporters") for path in sorted((ROOT / top).rglob("*.py")))):
        source = path.read_text(encoding="utf-8") if path.is_file() else ""
        if source.count(fault["before"]) == 1 and f"def {fault['function'].rpartition('.')[2]}(" in source:
            return path
    return None


def run(fault: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Put one fault in, ask folder after folder, and put the file back."""
    path = find(fault)
    if path is None:
        return {"number": fault["number"], "caught_by": None, "is_gone": True}
    content, times, started_s = path.read_bytes(), path.stat(), time.monotonic()
    asked = [name for name in dict.fromkeys((*ROOMS[fault["room"]][1], *LAST)) if (ROOT / "tests" / name).exists()]
    result: dict[str, Any] = {"number": fault["number"], "caught_by": None, "asked": [], "is_whole": True}
    try:
        path.write_text(content.decode().replace(fault["before"], fault["after"]), encoding="utf-8")
        for folder in asked[: options.folders]:
            left_s = max(5.0, options.cap - (time.monotonic() - started_s))
            place = ROOT / "tests" / folder
            tests = [place] if place.is_file() else list(place.rglob("test_*.py"))
            tests.sort(key=lambda test: (_far(test, path), test))
            failed = ask(tests, left_s, options)
            result["asked"].append(folder)
            result["is_whole"] &= failed != "time"
            if failed not in {None, "time"}:
                result["caught_by"] = failed
                break
            if failed == "time":
                break
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return result | {"seconds": round(time.monotonic() - started_s, 1)}


def _far(test: Path, changed: Path) -> int:
    """Tell how far a file of tests is from a module: 0 has its name, 1 names it in its text, 2 does not."""
    if set(changed.stem.split("_")) & set(test.stem.split("_")):
        return 0
    return 2 - (re.search(rf"\b{changed.stem}\b", test.read_text(encoding="utf-8")) is not None)


def ask(tests: list[Path], left_s: float, options: argparse.Namespace) -> str | None:
    """Run tests until one fails; return its name, "time" if they took too long, None if all passed."""
    names = [str(test.relative_to(ROOT)) for test in tests]
    command = [str(ROOT / ".venv/bin/python"), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
    command += [
        *(("-m", options.marks) if options.marks else ()),
        *(f"--deselect={n}" for n in options.deselect),
        *names,
    ]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            out = process.communicate(timeout=left_s)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            return "time"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode in {0, 5}:  # all passed; none was selected
        return None
    if process.returncode not in {1, 2}:  # no test has failed
        sys.exit(f"pytest ended with {process.returncode}: {out[-500:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", out, re.MULTILINE)
    return failed[1] if failed else f"exit code {process.returncode}: {out[-200:]}"


def main() -> None:
    """Draw or run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["draw", "run"])
    parser.add_argument("numbers", nargs="*", type=int, help="of faults to run; all, if none is given")
    parser.add_argument("--seed", type=int, default=26)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--marks", default="not long", help="as -m of pytest")
    parser.add_argument("--folders", type=int, default=9, help="asked at most")
    parser.add_argument("--cap", type=float, default=1800.0, help="seconds a fault")
    parser.add_argument("--deselect", action="append", default=[], help="as --deselect of pytest")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "faults-results.json", help="JSON; results are added to it"
    )
    options = parser.parse_args()
    if options.do == "draw":
        DRAWN.write_text(json.dumps(draw(options.seed, options.count), indent=1, ensure_ascii=False) + "\n")
        return
    options.results.parent.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the file is put back
    for fault in json.loads(DRAWN.read_text(encoding="utf-8")):
        if (not options.numbers or fault["number"] in options.numbers) and "equivalent" not in fault:
            result = run(fault, options)
            sys.stdout.write(json.dumps(result) + "\n")
            earlier = json.loads(options.results.read_text()) if options.results.is_file() else []
            others = [each for each in earlier if each["number"] != result["number"]]
            options.results.write_text(
                json.dumps(sorted([*others, result], key=lambda r: r["number"]), indent=1) + "\n"
            )


if __name__ == "__main__":
    main()
