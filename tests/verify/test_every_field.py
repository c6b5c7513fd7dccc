"""Each leaf of a PASS report is changed, one at a time, with a digest that is right: `verify` with a rerun must see it.

Each leaf becomes other values of its own type, other names of its enumeration in the schema, and its equal of another
type (true for 1, 1.0 for 1); each list loses and gains an item, each object a key. The second run is made once and
handed to `verify` for each change; a changed setting, with which the second run itself is made, is measured with.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import RobustcheckError
from robustcheck_onnx.checker.report import Report, read
from robustcheck_onnx.checker.report.record import result_digest_of
from robustcheck_onnx.checker.verify import checks, verify
from robustcheck_onnx.checker.verify.second_run import measure_again
from support import PHOTOS, lookup
from support.bad_input import COMMAND

pytestmark = pytest.mark.usefixtures("capsys")  # the command mends its process's streams: these are the test's own

BY_WHEN = "when and how fast it was measured: no second run can know; a signature covers it"
BY_WHOM = "what the caller of the check let through: it changes no PASS, and a report from Python has none"
BY_PLACE = "under which name the model's file lay there; its bytes are compared"
TRUE_TOO = "a check with this setting gives this very report: that is what the second run, made with it, shows"
NOT_SEEN = {
    "time": BY_WHEN,
    "time.started": BY_WHEN,
    "time.wall_s": BY_WHEN,
    "time.images_per_s": BY_WHEN,
    "time.cached": BY_WHEN,
    "gate": BY_WHOM,
    "gate.fail_on": BY_WHOM,
    "gate.accept": BY_WHOM,
    "evidence.model.file": BY_PLACE,
    "binding.settings.max_bad": TRUE_TOO,
    "binding.settings.batch_size": TRUE_TOO,
}
"""Fields of which another value, true to the schema, is not seen, and why"""
MOVED = 0.002  # of a number, or of 1 where it is smaller: 20 times what two runs may differ by

SCHEMA: dict[str, Any] = Report.model_json_schema(mode="serialization")
Path_ = tuple[str | int, ...]
Change = tuple[str, Path_, Callable[[dict[str, Any]], object]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a planted outlier feature, 64 photos, and the report of the command: PASS."""
    folder = tmp_path_factory.mktemp("every")
    rng = np.random.default_rng(3)
    h = rng.normal(size=(64, 400)) + rng.normal(0, 0.5, 400)
    h[:, 7] += 20
    lookup.write_lookup_images(folder / "photos", 64, photos=PHOTOS)
    lookup.write_lookup_model(folder / "model.onnx", h * rng.uniform(0.5, 2, (64, 1)))
    words = [COMMAND, "model.onnx", "--images", "photos", "-qq", "-o", "json=r.json"]
    assert subprocess.run(words, cwd=folder, check=False).returncode == 0
    return folder


@pytest.fixture(scope="module")
def second(place: Path) -> Report:
    ((report, _),) = read(place / "r.json")
    return measure_again(report, place / "model.onnx", str(place / "photos"))


# ----------------------------------------------------------------------------------------------- the changes


def name_of(path: Path_) -> str:
    return ".".join(str(part) for part in path)


def types_of(path: Path_) -> list[dict[str, Any]]:
    """The schemas that a value at this path may have."""
    found = [SCHEMA]
    for part in path:
        inner: list[dict[str, Any]] = []
        for each in flat(found):
            if isinstance(part, int):
                items = each.get("prefixItems", [])
                inner += [items[part]] if part < len(items) else [each["items"]] if "items" in each else []
            elif part in each.get("properties", {}):
                inner.append(each["properties"][part])
            elif isinstance(each.get("additionalProperties"), dict):
                inner.append(each["additionalProperties"])
        found = inner
    return list(flat(found))


def flat(schemas: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for schema in schemas:
        if "$ref" in schema:
            yield from flat([SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]])
        elif "anyOf" in schema:
            yield from flat(schema["anyOf"])
        else:
            yield schema


def others(value: Any, path: Path_) -> Iterator[Any]:
    """Values that a leaf could have instead."""
    types = types_of(path)
    named = [each for schema in types for each in (*schema.get("enum", ()), schema.get("const"))]
    yield from (each for each in named if each not in (value, None))
    if isinstance(value, bool):
        yield from (not value, int(value))
    elif isinstance(value, int):
        yield from (value + 1, float(value))
        yield from [bool(value)] * (value in (0, 1))
    elif isinstance(value, float):
        yield value + MOVED * max(1.0, abs(value))
        yield from [int(value)] * value.is_integer()
    elif isinstance(value, str):
        yield from (value + "x", "" if value else "y")
    else:
        samples = {"string": "x", "integer": 1, "number": 0.5, "boolean": True}
        yield from (samples[schema["type"]] for schema in types if schema.get("type") in samples)
        yield {}
    if value is not None:
        yield None


def at(document: Any, path: Path_) -> Any:
    for part in path:
        document = document[part]
    return document


def changes(document: Any, path: Path_ = ()) -> Iterator[Change]:
    """Every change of a leaf, list or object, and where."""
    value = at(document, path)
    *outer, last = path or ("",)

    def put(new: Any) -> Callable[[dict[str, Any]], object]:
        return lambda whole: at(whole, tuple(outer)).__setitem__(last, new)

    if isinstance(value, dict):
        for key in list(value):
            yield f"without {key}", path, lambda whole, key=key: at(whole, path).pop(key)  # type: ignore[misc]
            yield from changes(document, (*path, key))
        yield "with a key more", path, lambda whole: at(whole, path).update(x=next(iter(value.values()), "x"))
        if path:
            yield "null", path, put(None)
    elif isinstance(value, list):
        if value:
            yield "an item less", path, lambda whole: at(whole, path).pop()
        yield "an item more", path, put([*value, value[-1] if value else "x"])
        yield "null", path, put(None)
        for index in range(len(value)):
            yield from changes(document, (*path, index))
    else:
        for other in others(value, path):
            yield f"{value!r} became {other!r}", path, put(other)


def forged(document: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The document with a change, and a digest that is right."""
    made: dict[str, Any] = json.loads(json.dumps(document))  # a copy, ten times as fast as copy.deepcopy
    change(made)
    if isinstance(made.get("binding"), dict) and "result_digest" in made["binding"]:
        made["binding"]["result_digest"] = result_digest_of(made)
    return made


# ------------------------------------------------------------------------------------------------- the tests


def sees(place: Path, document: dict[str, Any]) -> bool:
    """Whether `verify` with a rerun says of a forged report that it does not hold, or refuses it."""
    (place / "forged.json").write_text(json.dumps(document), encoding="utf-8")
    try:
        code = int(verify(place / "forged.json", place / "model.onnx", images=place / "photos").exit_code)
    except RobustcheckError as fault:
        code = fault.exit_code
    return {0: False, 2: True, 3: True}[code]


def test_the_report_itself_holds(place: Path, second: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads((place / "r.json").read_text(encoding="utf-8"))
    assert document["verdict"]["verdict"] == "PASS"
    assert document["gate"] is not None
    assert not sees(place, document)
    monkeypatch.setattr(checks, "measure_again", lambda *_, **__: second)
    assert not sees(place, document)


def test_every_changed_leaf_is_seen(place: Path, second: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads((place / "r.json").read_text(encoding="utf-8"))
    result = ("binding", "result_digest")
    unseen: dict[str, list[str]] = {}
    tried: Counter[str] = Counter()
    for what, path, change in changes(document):
        tried[name_of(path[:1])] += 1
        if path == result:
            made = copy.deepcopy(document)
            change(made)
        else:
            made = forged(document, change)
        with monkeypatch.context() as changed:
            if path[:2] != ("binding", "settings"):  # a forged setting is what the second run is made with
                changed.setattr(checks, "measure_again", lambda *_, **__: second)
            if not sees(place, made):
                unseen.setdefault(name_of(path), []).append(what)
    assert unseen.keys() == NOT_SEEN.keys(), unseen
    # nothing was left out of the walk
    assert set(tried) == {"", *document}
    assert tried.total() > 3 * sum(1 for _ in leaves(document)) / 2
    assert {
        part for name in unseen for part in unseen[name] if part.startswith(("without", "an item", "with a"))
    } == set()


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (("notes", 0), "A real model.", 3),
        (("evidence", "statistics", "kurtosis", "low"), 8.5, 3),
        (("evidence", "model", "synthetic"), "", 3),
        (("evidence", "images", "source"), "imagenet", 3),
        (("evidence", "images", "n_available"), 50_000, 3),
        (("evidence", "execution", "runtime"), "0.9.0", 3),
        (("profile", "limits", 0), "PASS means robust.", 3),
        (("reference", 0, "checkpoint"), "mine", 3),
        (("gate", "rule"), "an expert has looked at it", 3),
        (("binding", "settings", "seed"), 1, 3),
        (("binding", "settings", "engine"), "ray", 3),
        (("binding", "versions", "numpy"), "1.0", 3),
        (("schema_version",), True, 2),
        (("schema_version",), 2.0, 2),
        (("time", "wall_s"), 0.001, 0),
    ],
)
def test_some_of_them_through_the_command(place: Path, path: Path_, value: Any, code: int) -> None:
    document = json.loads((place / "r.json").read_text(encoding="utf-8"))
    made = forged(document, lambda whole: at(whole, path[:-1]).__setitem__(path[-1], value))
    (place / "forged.json").write_text(json.dumps(made), encoding="utf-8")
    words = ["verify", str(place / "forged.json"), str(place / "model.onnx"), "--images", str(place / "photos"), "-qq"]
    assert cli.main(words) == code


# ------------------------------------------------------------------------------------ what is said to be elsewhere

ENVIRONMENT = {
    ("evidence", "execution", "runtime"): "0.9.0",
    ("evidence", "execution", "device"): "another processor",
    ("evidence", "execution", "threads"): 96,
    ("evidence", "images", "source"): "elsewhere/imagenet",
    ("binding", "versions", "numpy"): "1.0",
}


def claims_another_machine(whole: dict[str, Any]) -> None:
    for path, value in ENVIRONMENT.items():
        at(whole, path[:-1])[path[-1]] = value


def moved(whole: dict[str, Any], factor: float = 1.004) -> None:
    claims_another_machine(whole)
    whole["evidence"]["statistics"]["centred_kurtosis"] *= factor


def moved_far(whole: dict[str, Any]) -> None:
    moved(whole, 1.006)


def test_a_report_never_loosens_the_tolerance_and_the_one_who_verifies_can(place: Path) -> None:
    """Three digits more than two runs differ by: under another runtime's name they were let through."""
    document = json.loads((place / "r.json").read_text(encoding="utf-8"))

    files = (place / "forged.json", place / "model.onnx")
    for change, elsewhere, code in (
        (moved, False, 3),
        (moved, True, 0),
        (moved_far, True, 3),
        (claims_another_machine, True, 0),
    ):
        files[0].write_text(json.dumps(forged(document, change)), encoding="utf-8")
        result = verify(*files, images=place / "photos", elsewhere=elsewhere)
        assert result.exit_code == code, (change, elsewhere, result)
    files[0].write_text(json.dumps(forged(document, claims_another_machine)), encoding="utf-8")
    (finding,) = (each for each in verify(*files, images=place / "photos").findings if each.check == "rerun")
    assert "; --elsewhere accepts that, if you know that the report was made on another machine" in finding.seen
    words = ["verify", *map(str, files), "--images", str(place / "photos"), "-qq"]
    assert cli.main(words) == 3
    assert cli.main([*words, "--elsewhere"]) == 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("notes", 0), "A real model."),
        (("claim",), "It is robust."),
        (("reference",), []),
        (("evidence", "model", "synthetic"), ""),
        (("evidence", "model", "why"), "because"),
        (("evidence", "execution", "precision"), "int8"),
        (("evidence", "images", "n_available"), 50_000),
        (("evidence", "statistics", "features", 0, "index"), 8),
        (("evidence", "gallery", "shown", 0, "name"), "another.png"),
        (("binding", "settings", "seed"), 1),
        (("evidence", "statistics", "spread"), 0.9),
    ],
)
def test_elsewhere_loosens_nothing_but_the_environment(
    place: Path, second: Report, path: Path_, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Least of all `precision`, by which the tolerance goes: it is that of the model here."""
    document = json.loads((place / "r.json").read_text(encoding="utf-8"))
    made = forged(document, lambda whole: at(whole, path[:-1]).__setitem__(path[-1], value))
    (place / "forged.json").write_text(json.dumps(made), encoding="utf-8")
    if path[0] != "binding":
        monkeypatch.setattr(checks, "measure_again", lambda *_, **__: second)
    files = (place / "forged.json", place / "model.onnx")
    assert verify(*files, images=place / "photos", elsewhere=True).exit_code == 3
