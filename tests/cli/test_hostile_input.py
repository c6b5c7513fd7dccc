"""Files made to break a reader end with exit code 2 or 3 and one clear error, through the command; never with 70."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.thresholds import profile
from support import PHOTOS, lookup, onnx_models

pytestmark = pytest.mark.usefixtures("capsys")  # the command mends its process's streams: these are the test's own

DIGITS = "9" * 5000  # more than Python makes an integer of
MANY = 2**62
Model = onnx.ModelProto
Change = Callable[[Model], object]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """model.onnx, which is sound, and three photos; the current folder."""
    onnx.save(onnx_models.classifier(), tmp_path / "model.onnx")
    (tmp_path / "photos").mkdir()
    for photo in PHOTOS[:3]:
        shutil.copy(photo, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and error of a check that is refused in two short lines."""
    defaults = {"--images": "photos", "--preprocess": "imagenet"}
    model = [] if words[0].endswith(".onnx") or words[0] == "profiles" else ["model.onnx"]
    more = [word for key, value in defaults.items() if key not in words for word in (key, value)]
    call = [*model, *words, *(more if words[0] != "profiles" else [])]
    code = cli.main(call if words[0] == "profiles" else ["check", *call, "-qq"])
    out, err = capsys.readouterr()
    error, *hints = err.splitlines()
    assert out == ""
    assert error.startswith("error: ")
    assert "internal error" not in error
    assert len(error) < 3000
    assert [hint for hint in hints if not hint.startswith("hint: ")] == []
    return code, error


# ------------------------------------------------------------------------------------------------- models


def weight(model: Model) -> TensorProto:
    first: TensorProto = model.graph.initializer[0]
    return first


def put(**fields: object) -> Change:
    def change(model: Model) -> None:
        for name, value in fields.items():
            setattr(weight(model), name, value)

    return change


def shaped(*dims: int) -> Change:
    def change(model: Model) -> None:
        del weight(model).dims[:]
        weight(model).dims.extend(dims)

    return change


def in_segments(model: Model) -> None:
    weight(model).segment.end = 4


def external(*entries: tuple[str, str]) -> Change:
    def change(model: Model) -> None:
        weight(model).ClearField("raw_data")
        weight(model).data_location = TensorProto.EXTERNAL
        for key, value in entries:
            weight(model).external_data.add(key=key, value=value)

    return change


def both(*changes: Change) -> Change:
    return lambda model: [change(model) for change in changes]


def function(name: str, *calls: str) -> onnx.FunctionProto:
    """A function that calls others, one after the other; Relu where it calls none."""
    values = ["x", *(f"t{i}" for i in range(len(calls) - 1)), "y"]
    nodes = [helper.make_node(call, [values[i]], [values[i + 1]], domain="f") for i, call in enumerate(calls)]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["x"], ["y"], nodes or [helper.make_node("Relu", ["x"], ["y"])], opsets)


def calling(*functions: onnx.FunctionProto) -> Change:
    """Put a call of the first function behind the model."""

    def change(model: Model) -> None:
        output = model.graph.output[0].name
        last = next(node for node in model.graph.node if output in node.output)
        last.output[0] = "before"
        model.graph.node.append(helper.make_node(functions[0].name, ["before"], [output], domain="f"))
        model.functions.extend(functions)
        model.opset_import.append(helper.make_opsetid("f", 1))

    return change


def sliced_to_nothing(model: Model) -> None:
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Slice", ["flat", "a", "a", "b"], ["none"]),
    ]
    for name, value in (("a", 0), ("b", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    model.graph.node.extend(nodes)
    model.graph.output.append(helper.make_tensor_value_info("none", TensorProto.FLOAT, ["n", 0]))


def a_giant(model: Model) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([MANY], np.int64), "size"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["giant"]))
    model.graph.output.append(helper.make_tensor_value_info("giant", TensorProto.FLOAT, None))


CHAIN = [*(function(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(40)), function("f40")]
LONG = [*(function(f"f{i}", f"f{i + 1}") for i in range(9999)), function("f9999")]


MODELS: list[tuple[Change, str]] = [
    (put(raw_data=bytes(4)), "has 4 bytes; its shape [16, 3, 3, 3] and type float need 1728"),
    (put(data_type=999), "is number 999; ONNX has no such type"),
    (put(data_type=TensorProto.STRING), "its shape [16, 3, 3, 3] and type string need 3456"),
    (in_segments, "is in segments; it must be whole"),
    (shaped(*[MANY] * 300), "has 300 dimensions; at most 32 are possible"),
    (shaped(*[1] * 16000), "has 16,000 dimensions; at most 32 are possible"),
    (shaped(-1, 3, 3, 3), "its shape [-1, 3, 3, 3] and type float need -108"),
    (external(("location", "w.bin"), ("location", "../../etc/passwd")), "has an entry twice"),
    (external(("location", "../../etc/passwd"), ("location", "w.bin")), "has an entry twice"),
    (external(("location", "a" * 5000)), "weights file aaaa"),
    (external(("location", "a/" * 5000 + "b")), "is missing; the model keeps its weights in it"),
    (external(("location", "w\0.bin")), r"weights file w\x00.bin is missing"),
    (external(("location", "photos")), "weights file photos is missing"),
    (external(("location", "w.bin"), ("offset", DIGITS)), "offset, length and type must be known"),
    (both(external(("location", "w.bin")), shaped(*[MANY] * 300)), "has 300 dimensions"),
    (calling(function("f0", "f0")), "functions can't be expanded (Cycle detected"),
    (calling(function("f0", "f1"), function("f1", "f0")), "functions can't be expanded (Cycle detected"),
    (calling(function("f0"), function("f0")), "functions can't be expanded (Model contains multiple"),
    (calling(*LONG), "functions can't be expanded (Function call chain depth exceeds"),
    (calling(*CHAIN), "functions expand to more than 100,000 nodes"),
    (a_giant, "constants that the graph computes hold 4,611,686,018,427,387,904 values"),
]


def test_models(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change, said in MODELS:
        (here / "w.bin").write_bytes(bytes(4096))
        model = onnx_models.classifier()
        change(model)
        (here / "bad.onnx").write_bytes(model.SerializeToString())
        code, error = refused(capsys, "bad.onnx")
        assert code == 3
        assert said in error


def test_ten_thousand_functions_are_no_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx_models.classifier()
    calling(*(function(f"f{i}") for i in range(10_000)))(model)
    (here / "many.onnx").write_bytes(model.SerializeToString())
    assert cli.main(["check", "many.onnx", "--images", "photos", "--preprocess", "imagenet", "-qq"]) == 1
    assert capsys.readouterr() == ("", "")


def test_no_feature_at_all(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx_models.classifier()
    sliced_to_nothing(model)
    onnx.save(model, here / "bad.onnx")
    code, error = refused(capsys, "bad.onnx", "--tensor", "none")
    assert (code, "shape of none is (1, 0); it must have features" in error) == (3, True)


def test_what_is_no_utf_8_beside_the_weights(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Protobuf takes any bytes for a text, and gives them as bytes."""
    for value in ("location", "@@@@@"):
        model = onnx_models.classifier()
        external(("location", "w.bin") if value != "location" else ("location", "@@@@@"), ("@@@@@", "1"))(model)
        (here / "bad.onnx").write_bytes(model.SerializeToString().replace(b"@@@@@", b"w\xff\xfeab"))
        code, error = refused(capsys, "bad.onnx")
        assert (code, r"says b'w\xff\xfeab'; it must be UTF-8 text" in error) == (3, True)


SOUND = json.dumps(lookup.lookup_contract())


CONTRACTS: list[tuple[bytes, str]] = [
    (b'{"x": "\xff\xfe"}', "contract is ambiguous ('utf-8' codec can't decode byte 0xff"),
    (f'{{"x": {DIGITS}}}'.encode(), "Exceeds the limit (4300 digits)"),
    (f'{{"schema_version": {DIGITS}}}'.encode(), "Exceeds the limit (4300 digits)"),
    (b"[" * 100_000, "contract is nested too deeply"),
    (SOUND.replace('"lookup"', r'"\ud800"').encode(), "contract breaks schema 1"),
    (SOUND.replace("[64, 64]", f"[{DIGITS[:4000]}, 64]").encode(), "should be less than or equal to 8192"),
    (SOUND.replace('"mean": [0.0', '"mean": [1e999').encode(), "preprocessing.mean.0: Input should be a finite"),
]


def test_contracts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for contract, said in CONTRACTS:
        model = onnx_models.classifier()
        helper.set_model_props(model, {lookup.CONTRACT_KEY: "@" * len(contract)})
        (here / "bad.onnx").write_bytes(model.SerializeToString().replace(b"@" * len(contract), contract))
        code, error = refused(capsys, "bad.onnx")
        assert code == 3
        assert said in error


# ------------------------------------------------------------------------------------------------- archives

PHOTO = b"\xff\xd8\xff\xe0" + bytes(600)


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A tar header with any bytes for a size, and a sum that is right."""
    made = bytearray(512)
    made[: len(name)], made[100:108], made[156:157], made[257:265] = name, b"0000644\0", kind, b"ustar\x0000"
    made[124 : 124 + len(size)] = size
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def block(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def record(key: bytes, value: bytes) -> bytes:
    """A record of a pax header: its length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    return str(length + (len(str(length)) + len(rest) > length)).encode() + rest


def pax(*records: bytes) -> bytes:
    body = b"".join(records)
    return header(b"x", b"%011o\0" % len(body), b"x") + block(body)


MEMBER = header(b"a.jpg", b"%011o\0" % len(PHOTO)) + block(PHOTO) + bytes(1024)
NAMED = record(b"path", b"a.jpg")
SPARSE = (
    record(b"GNU.sparse.major", b"1"),
    record(b"GNU.sparse.minor", b"0"),
    record(b"GNU.sparse.realsize", b"9" * 20),
)


TARS: list[bytes] = [
    header(b"a.jpg", b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7) + block(PHOTO),
    header(b"a.jpg", b"\x80" + b"\xff" * 11) + block(PHOTO),
    header(b"a.jpg", b"\xff" * 12) + block(PHOTO),
    header(b"a.jpg", b"zzzzzzzzzzz\0") + block(PHOTO),
    pax(record(b"size", b"1" + b"0" * 30)) + MEMBER,
    pax(record(b"size", DIGITS.encode())) + MEMBER,
    pax(record(b"size", b"-5")) + MEMBER,
    pax(DIGITS.encode() + b" path=a\n") + MEMBER,
    pax(*SPARSE) + MEMBER,
    pax(NAMED) * 3000 + MEMBER,
    (header(b"././@LongLink", b"%011o\0" % 6, b"L") + block(b"a.jpg\0")) * 3000 + MEMBER,
]


def test_tar_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in TARS:
        (here / "bad.tar").write_bytes(content)
        code, error = refused(capsys, "--images", "bad.tar")
        assert code == 3
        assert "bad.tar: tar file is damaged" in error


def test_the_tar_headers_of_these_tests_are_sound(here: Path) -> None:
    """With a size that is right, and one header before it, the member is read."""
    (here / "good.tar").write_bytes(pax(record(b"path", b"long" * 40 + b".jpg")) + MEMBER)
    with tarfile.open(here / "good.tar") as archive:
        (member,) = archive.getmembers()
    assert (member.name, member.size) == ("long" * 40 + ".jpg", len(PHOTO))


def npz(**members: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


def npy(array: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.save(made, array)
    return made.getvalue()


START = b"\x93NUMPY\x01\x00\x76\x00"
HUGE = START + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999999,3,8,8), }".ljust(117) + b"\n"


ARRAYS: list[tuple[bytes, int, str]] = [
    (npz(**{"a.txt": b"hello"}), 3, "member a.txt is no array; all must be"),
    (npz(**{"a.npy": b"hello"}), 3, "member a is no array; all must be"),
    (npz(**{"a.npy": npy(np.zeros((3, 3, 8, 8), np.float32)), "b.txt": b"x"}), 3, "member b.txt is no array"),
    (npz(**{"a.npy": HUGE}), 3, "file is not a plain array (Python int too large"),
    (npz(**{"a.npy": npy(np.array(["a"]))}), 2, "array a: shape is (1,)"),
    (npz(), 3, "number of usable images is 0"),
]


def test_arrays(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content, code, said in ARRAYS:
        (here / "bad.npz").write_bytes(content)
        answer, error = refused(capsys, "--images", "bad.npz")
        assert (answer, said in error) == (code, True), error


def test_arrow_paths(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither NUL, nor integers, nor bytes that are no UTF-8, nor a type that Arrow can't turn into Python."""
    pa = pytest.importorskip("pyarrow", reason="the extra data is not installed")
    offsets = pa.py_buffer(np.array([0, 3, 6], np.int32).tobytes())
    no_text = pa.Array.from_buffers(pa.utf8(), 2, [None, offsets, pa.py_buffer(b"\xff\xfea\xff\xfeb")])
    columns = {
        "column is image (string)": pa.array(["a\0b.jpg", "c.jpg"]),
        "image (int64)": pa.array([1, 2]),
        "struct<path: int64>": pa.array([{"path": 1}]),
        "image (null)": pa.nulls(3),
        "run_end_encoded": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["a.jpg"])),
        "number of usable images is 0 of 1": pa.array([{"bytes": None, "path": "a\0b.jpg"}]),
        "Arrow file is damaged": pa.StructArray.from_arrays(
            [pa.array([None, None], pa.binary()), no_text], ["bytes", "path"]
        ),
    }
    for said, column in columns.items():
        table = pa.table({"image": column})
        with pa.OSFile("bad.arrow", "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        code, error = refused(capsys, "--images", "bad.arrow")
        assert code in (2, 3)
        assert said.removeprefix("column is ") in error, error


# ---------------------------------------------------------------------------------------------------- texts


LISTS: list[tuple[str, str, str]] = [
    ("bad.jsonl", f'{{"image": "a.jpg", "label": {DIGITS}}}\n', "row 1 is not JSON (Exceeds the limit"),
    ("bad.jsonl", "[" * 100_000 + "\n", "row 1 is not JSON (maximum recursion depth"),
    ("bad.jsonl", '{"image": "\\ud800.jpg", "label": "\\udfff"}\n', "there is no such file"),
    ("bad.jsonl", '{"image": 5}\n', "row 1: image is 5; it must be the path of an image"),
    ("bad.txt", "a" * 100_000 + "\n", "row 1: path is aaaa"),
    ("bad.csv", "image,label\n" + '"' + "x" * 200_000 + '",1\n', "row 2 is not CSV (field larger than"),
]


def test_lists(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content, said in LISTS:
        (here / name).write_text(content, encoding="utf-8")
        code, error = refused(capsys, "--images", name)
        assert (code, said in error) == (2, True), error


def test_labels(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in (DIGITS, "x" * 100_000, "\ud800", "٣" * 5000):
        photos = sorted((here / "photos").iterdir())
        rows = [json.dumps({"image": str(photo), "label": str(i)}) for i, photo in enumerate(photos)]
        (here / "good.jsonl").write_text("\n".join(rows), encoding="utf-8")
        (here / "bad.jsonl").write_text(json.dumps({"image": str(photos[0]), "label": label}), encoding="utf-8")
        words = [
            "shift",
            "model.onnx",
            "--in",
            "good.jsonl",
            "--shifted",
            "bad.jsonl",
            "--preprocess",
            "imagenet",
            "-q",
        ]
        assert cli.main(words) == 2
        error = capsys.readouterr().err.splitlines()[0]
        assert error.startswith("error: bad.jsonl: label is '")
        assert len(error) < 3000


SEALED = profile.to_json(profile.load())


PROFILES: list[tuple[str, str]] = [
    (SEALED.replace('"min_images": 50', f'"min_images": {DIGITS}'), "is not JSON (Exceeds the limit"),
    (SEALED.replace('"schema_version": 1', f'"schema_version": {DIGITS}'), "is not JSON (Exceeds the limit"),
    (SEALED.replace('"min_images": 50', f'"min_images": {DIGITS[:400]}'), "digest does not match the content"),
    (SEALED.replace('"minimum": 7.858', f'"minimum": {DIGITS[:400]}'), "Input should be a valid number"),
    (SEALED.replace("default-2", "\\ud800"), "digest does not match the content"),
    ("[" * 100_000, "nested too deeply"),
]


def test_profiles(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content, said in PROFILES:
        assert content != SEALED
        (here / "bad.json").write_text(content, encoding="utf-8")
        for words in (("--thresholds", "bad.json"), ("profiles", "show", "bad.json")):
            code, error = refused(capsys, *words)
            assert (code, said in error) == (2, True), error


SETTINGS: list[tuple[str, str]] = [
    (f"seed = {DIGITS}\n", "is no TOML (Exceeds the limit (4300 digits)"),
    (f"seed = {DIGITS[:400]}\n", "an integer has 1329 bits; TOML's have 63 and a sign"),
    (f"seed = 0x{'f' * 5000}\n", "an integer has 20000 bits"),
    ("a = " + "[" * 100_000 + "\n", "nested too deeply"),
    ("a." * 50_000 + "b = 1\n", "line 1 has more than 500 dots"),
    ("# " + "x" * (1 << 20) + "\n", "it has 1048579 bytes, more than 1048576"),
]


def test_settings_and_suites(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content, said in SETTINGS:
        (here / "bad.toml").write_text(content, encoding="utf-8")
        code, error = refused(capsys, "--config", "bad.toml")
        assert (code, said in error) == (2, True), error
        assert cli.main(["calibrate", "--suite", "bad.toml", "--out", "o.json"]) == 2
        error = capsys.readouterr().err.splitlines()[0]
        assert "internal error" not in error
        assert "suite is not TOML" in error


def test_tables(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in (f'{{"schema_version": {DIGITS}}}', f'{{"schema_version": 1, "n": {DIGITS}}}', "[" * 100_000):
        (here / "bad.jsonl").write_text(row + "\n", encoding="utf-8")
        assert cli.main(["calibrate", "--from-evidence", "bad.jsonl", "--out", "o.json"]) == 2
        assert "line 1: row is not JSON (" in capsys.readouterr().err.splitlines()[0]


# -------------------------------------------------------------------------------------------------- folders


@pytest.mark.long  # the paths alone are seconds of work
def test_folders_two_thousand_deep(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = (here / "photos").resolve() / PHOTOS[0].name
    (here / "deep").mkdir()
    before = Path.cwd()
    try:
        os.chdir("deep")
        for _ in range(1800):
            Path("d").mkdir()
            os.chdir("d")
        shutil.copy(photo, "a.jpg")
    finally:
        os.chdir(before)
    for images in ("deep", "deep/**/*.jpg"):
        assert cli.main(["check", "model.onnx", "--images", images, "--preprocess", "imagenet", "-qq"]) == 1
    assert capsys.readouterr() == ("", "")
    assert cli.main(["check", "deep", "--images", "photos", "-qq"]) == 2
    assert "deep: number of .onnx files in the folder is 0" in capsys.readouterr().err
    _remove(here / "deep")


def _remove(folder: Path) -> None:
    """shutil.rmtree calls itself for each level."""
    tops = [top for top, _, _ in _walked(folder)]
    for top in reversed(tops):
        for name in os.listdir(top):  # noqa: PTH208
            path = os.path.join(top, name)  # noqa: PTH118
            (os.rmdir if os.path.isdir(path) else os.remove)(path)  # noqa: PTH112


def _walked(folder: Path) -> list[tuple[str, list[str], list[str]]]:
    from robustcheck_onnx.checker.storage import walk

    return list(walk(folder, lambda fault: fault))


def test_links_that_double_at_each_level_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two links to their own folder: 2^40 names of every file before the system says that there are too many links."""
    for name in ("a", "b"):
        (here / "photos" / name).symlink_to(here / "photos")
    for images in ("photos", "photos/**/*.jpg", "photos/**"):
        call = ["check", "model.onnx", "--images", images, "--preprocess", "imagenet", "-o", "json"]
        assert cli.main(call) == 1
        assert json.loads(capsys.readouterr().out)["evidence"]["images"]["n_available"] == 3
    assert cli.main(["check", "**/*.onnx", "--images", "photos", "--preprocess", "imagenet", "-q"]) == 1
    assert capsys.readouterr().out.count("model.onnx") == 1
