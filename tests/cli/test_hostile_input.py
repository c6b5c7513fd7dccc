"""Files made to break a reader end with exit code 2 or 3 and one clear error, through the command; never with 70."""

import io
import json
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from robustcheck_onnx.checker.outside.storage.places import walk
from robustcheck_onnx.thresholds import profile
from support import PHOTOS, Made, lookup
from support.bad_input import Run
from support.onnx_models import classifier, written

DIGITS = "9" * 5000  # more than Python makes an integer of
DEEP = "[" * 100_000
CHECK = "check {} --images {} --preprocess imagenet -qq"


@pytest.fixture(autouse=True)
def _sound(here: Path) -> None:
    """model.onnx, which is sound, and three photos, in the current folder."""
    onnx.save(classifier(), "model.onnx")
    (here / "photos").unlink()
    (here / "photos").mkdir()
    for photo in PHOTOS[:3]:
        shutil.copy(photo, "photos")


@pytest.fixture
def refused(ends: Run) -> Made:
    """Type a command line, a check of some images else, that ends with such a code and such an error in two lines."""

    def refuse(code: int, said: str, images: str = "photos", model: str = "model.onnx", call: str = CHECK) -> None:
        done = ends(code, call.format(model, images))
        assert (done.stdout, len(done.stderr) < 3200) == ("", True)
        assert re.fullmatch(rf"error: (?!internal error).*{re.escape(said)}.*\n(hint: .*\n)*", done.stderr), done.stderr

    return refuse


# ------------------------------------------------------------------------------------------------- models


def with_weight(fields: str) -> bytes:
    """The model with these fields merged into its first weight; with external data, what it holds itself is gone."""
    model = classifier()
    if "external_data" in fields:
        model.graph.initializer[0].ClearField("raw_data")
        fields += "data_location: EXTERNAL"
    text_format.Merge(fields, model.graph.initializer[0])
    return bytes(model.SerializeToString())


def chain(length: int) -> bytes:
    """The model with a call of a function that calls another one, and so on."""
    model = classifier()
    model.graph.node.append(helper.make_node("f0", ["logits"], ["more"], domain="f"))
    for i in range(length):
        text = f'<domain: "f", opset_import: ["" : 18, "f" : 1]> f{i} (x) => (y) {{ y = f.f{i + 1}(x) }}'
        model.functions.append(onnx.parser.parse_function(text.replace(f"f.f{length}(", "Relu(")))
    model.opset_import.append(helper.make_opsetid("f", 1))
    return bytes(model.SerializeToString())


def external(**entries: str) -> str:
    return "".join(f'external_data {{ key: "{key}" value: "{value}" }} ' for key, value in entries.items())


NO_TEXT = with_weight(external(location="@@@@@")).replace(b"@@@@@", b"w\xff\xfeab")
MODELS = [
    (with_weight("dims: -1"), "its shape [16, 3, 3, 3, -1] and type float need -1728"),
    (with_weight(external(location="w.bin") + external(location="../passwd")), "has an entry twice"),
    (with_weight(external(location="a" * 5000)), "weights file aaaa"),
    (with_weight(external(location=r"w\000.bin")), r"weights file w\x00.bin is missing"),
    (with_weight(external(location="photos")), "weights file photos is missing"),
    (with_weight(external(location="w.bin", offset=DIGITS)), "offset, length and type must be known"),
    (NO_TEXT, "says b'w\\xff\\xfeab'; it must be UTF-8"),
    (chain(10_000), "functions can't be expanded (Function call chain depth exceeds"),
]


def test_models(refused: Made) -> None:
    Path("w.bin").write_bytes(bytes(4096))
    models = MODELS[:]
    for contract, said in CONTRACTS:
        model = classifier()
        helper.set_model_props(model, {lookup.CONTRACT_KEY: "@" * len(contract)})
        models.append((model.SerializeToString().replace(b"@" * len(contract), contract), said))
    for content, said in models:
        Path("bad.onnx").write_bytes(content)
        refused(3, said, model="bad.onnx")


def test_no_feature_at_all(refused: Made) -> None:
    text = "flat = Flatten(image); none = Slice(flat, [0], [0], [1])"
    onnx.save(written(text, ("none", TensorProto.FLOAT, ("n", 0)), before=""), "bad.onnx")
    refused(3, "shape of none is (3, 0); it must have features", model="bad.onnx --tensor none")


SOUND = json.dumps(lookup.lookup_contract())
CONTRACTS = [
    (b'{"x": "\xff\xfe"}', "contract is ambiguous ('utf-8' codec can't decode byte 0xff"),
    (f'{{"x": {DIGITS}}}'.encode(), "Exceeds the limit (4300 digits)"),
    (SOUND.replace('"lookup"', r'"\ud800"').encode(), "contract does not match schema 1"),
    (SOUND.replace('"mean": [0.0', '"mean": [1e999').encode(), "preprocessing.mean.0: Input should be a finite"),
]


# ------------------------------------------------------------------------------------------------- archives


def member(name: bytes, content: bytes, kind: bytes = b"0", size: bytes = b"") -> bytes:
    """A tar header with any bytes for a size, and a sum that is right; and what it is the header of."""
    made = bytearray(512)
    made[: len(name)], made[100:108], made[156:157], made[257:265] = name, b"0000644\0", kind, b"ustar\x0000"
    made[124:136] = (size or b"%011o\0" % len(content)).ljust(12, b"\0")
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made) + content + bytes(-len(content) % 512)


def pax(*entries: str) -> bytes:
    """A pax header of records "key=value"; the length of a record counts its own digits."""
    records = ""
    for entry in entries:
        length = len(entry) + 2
        records += f"{length + len(str(length + len(str(length))))} {entry}\n"
    return member(b"x", records.encode(), b"x")


PHOTO = b"\xff\xd8\xff\xe0" + bytes(600)
MEMBER = member(b"a.jpg", PHOTO) + bytes(1024)
TARS = [
    member(b"a.jpg", PHOTO, size=b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7),
    member(b"a.jpg", PHOTO, size=b"zzzzzzzzzzz"), pax(f"size={DIGITS}") + MEMBER,
    member(b"x", f"{DIGITS} path=a\n".encode(), b"x") + MEMBER,
    pax("GNU.sparse.major=1", "GNU.sparse.minor=0", f"GNU.sparse.realsize={DIGITS[:20]}") + MEMBER,
    pax("path=a.jpg") * 3000 + MEMBER, member(b"././@LongLink", b"a.jpg\0", b"L") * 3000 + MEMBER,
]  # fmt: skip


def test_tar_files(refused: Made) -> None:
    name = "long" * 40 + ".jpg"
    with tarfile.open(fileobj=io.BytesIO(pax(f"path={name}") + MEMBER)) as archive:  # these headers are sound
        assert [(found.name, found.size) for found in archive.getmembers()] == [(name, len(PHOTO))]
    for content in TARS:
        Path("bad.tar").write_bytes(content)
        refused(3, "bad.tar: tar file is damaged", "bad.tar")


HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999999,3,8,8), }".ljust(117) + b"\n"
ARRAYS = [
    ({"a.txt": b"hello"}, 3, "member a.txt is not an array; all must be"),
    ({"a.npy": b"hello"}, 3, "member a is not an array; all must be"),
    ({"a.npy": b"\x93NUMPY\x01\x00\x76\x00" + HUGE}, 3, "file is not a plain array (Python int too large"),
    ({}, 3, "no usable images"),
]


def test_arrays(refused: Made) -> None:
    for members, code, said in ARRAYS:
        with zipfile.ZipFile("bad.npz", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        refused(code, said, "bad.npz")


def test_arrow_paths(refused: Made) -> None:
    """Neither NUL, nor bytes that are not UTF-8, nor a type that Arrow can't turn into Python."""
    pa = pytest.importorskip("pyarrow", reason="the extra data is not installed")
    offsets = pa.py_buffer(np.array([0, 3, 6], np.int32).tobytes())
    no_text = pa.Array.from_buffers(pa.utf8(), 2, [None, offsets, pa.py_buffer(b"\xff\xfea\xff\xfeb")])
    run_ends = pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["a.jpg"]))
    damaged = pa.StructArray.from_arrays([pa.nulls(2, pa.binary()), no_text], ["bytes", "path"])
    for code, said, column in (
        (2, "run_end_encoded", run_ends), (3, "Arrow file is damaged", damaged),
        (3, "no usable images among 1", pa.array([{"bytes": None, "path": "a\0b.jpg"}])),
    ):  # fmt: skip
        table = pa.table({"image": column})
        with pa.OSFile("bad.arrow", "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        refused(code, said, "bad.arrow")


# ---------------------------------------------------------------------------------------------------- texts

SHIFT = "shift {} --in good.jsonl --shifted {} --preprocess imagenet -q"
PROFILE = "profiles show {1}"
CONFIG = "check {} --config {} --images photos --preprocess imagenet -qq"
SUITE = "calibrate --suite {1} --out o.json"
TABLE = "calibrate --from-evidence {1} --out o.json"
SEALED = profile.to_json(profile.load())
ROW = f'{{"image": "{PHOTOS[0]}", "label": "%s"}}'
TEXTS = [
    (CHECK, "jsonl", f'{{"image": "a.jpg", "label": {DIGITS}}}\n', "row 1 is not JSON (Exceeds the limit"),
    (CHECK, "jsonl", DEEP, "row 1 is not JSON (maximum recursion depth"),
    (CHECK, "jsonl", '{"image": "\\ud800.jpg", "label": "\\udfff"}\n', "it must be the path of an image"),
    (CHECK, "txt", "a" * 100_000, "row 1: path is aaaa"),
    (CHECK, "csv", "image,label\n" + '"' + "x" * 200_000 + '",1\n', "row 2 is not CSV (field larger than"),
    (SHIFT, "jsonl", ROW % "\\ud800", "bad.jsonl: label is '"),
    (PROFILE, "json", SEALED.replace('"min_images": 50', f'"min_images": {DIGITS}'), "is not JSON (Exceeds the limit"),
    (PROFILE, "json", SEALED.replace('m": 4.762', f'm": {DIGITS[:400]}'), "Input should be a valid number"),
    (PROFILE, "json", SEALED.replace("default-4", "\\ud800"), "digest does not match the content"),
    (PROFILE, "json", DEEP, "nested too deeply"),
    (CONFIG, "toml", f"seed = {DIGITS}\n", "is not TOML (Exceeds the limit (4300 digits)"),
    (CONFIG, "toml", f"seed = 0x{'f' * 5000}\n", "an integer has 20000 bits; TOML's have 63 and a sign"),
    (CONFIG, "toml", "a." * 50_000 + "b = 1\n", "line 1 has more than 500 dots"),
    (CONFIG, "toml", "# " + "x" * (1 << 20) + "\n", "it has more than 1,048,576 bytes"),
    (SUITE, "toml", f"a = {DEEP}\n", "suite is not TOML"),
    (TABLE, "jsonl", DEEP, "line 1: row is not JSON ("),
]


def test_texts(refused: Made) -> None:
    good = [json.dumps({"image": str(photo), "label": str(i)}) for i, photo in enumerate(PHOTOS[:3])]
    Path("good.jsonl").write_text("\n".join(good))
    for call, suffix, content, said in TEXTS:
        assert content != SEALED
        Path(f"bad.{suffix}").write_text(content)
        refused(2, said, f"bad.{suffix}", call=call)


# -------------------------------------------------------------------------------------------------- folders


@pytest.mark.long  # the paths alone are seconds of work
def test_folders_two_thousand_deep(here: Path, ends: Run, refused: Made) -> None:
    photo = here / "photos" / PHOTOS[0].name
    try:
        for _ in range(1800):
            Path("d").mkdir()
            os.chdir("d")
        shutil.copy(photo, "a.jpg")
    finally:
        os.chdir(here)
    for images in ("d", "d/**/*.jpg"):
        done = ends(1, CHECK.format("model.onnx", images))
        assert (done.stdout, done.stderr) == ("", "")
    refused(2, "d: no .onnx files found in the folder", model="d")
    for top, folders, files in reversed(list(walk(["d"], lambda fault: fault))):  # shutil.rmtree calls itself for each
        for name in files:
            os.remove(f"{top}/{name}")  # noqa: PTH107
        for name in folders:
            os.rmdir(f"{top}/{name}")  # noqa: PTH106


def test_links_that_double_at_each_level_end(ends: Run) -> None:
    """Two links to their own folder: 2^40 names of every file before the system says that there are too many links."""
    for name in ("a", "b"):
        Path("photos", name).symlink_to("../photos")
    for images in ("photos", "photos/**/*.jpg", "photos/**"):
        done = ends(1, f"check model.onnx --images {images} --preprocess imagenet -o json")
        assert json.loads(done.stdout)["evidence"]["images"]["n_available"] == 3
