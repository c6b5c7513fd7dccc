"""Every place of the package that opens a file, and why it may. The first process parses nothing that others wrote."""

import ast
import re
from collections.abc import Iterator

from support import ROOT, read_text

ROOMS = ("checker", "exporters", "face", "thresholds")
OPENERS = r"open|open_memmap|fdopen|read_text|read_bytes|FileIO|fromfile|memmap|safe_open|urlopen|ParquetFile|ZipFile"
LOADERS = r"(json|np|onnx|pickle|tomllib|torch)\.load"
WHY = """
the one function: regular files, to a limit, without waiting:
    thresholds:read_start
a file of the package:
    checker/report/record:json_schema checker/questions/shift/classes:_table thresholds/published:_aliases
    thresholds/published:_data thresholds/published:_read
    thresholds/tables:table_text
a file of the system:
    checker/outside/isolation:Wall.n_side_by_side checker/outside/isolation:_own_bytes
    checker/core/model/watched:stamps_writes checker/core/runtime/devices:cpu_name
a stream of this process:
    checker/child:_read checker/child:main checker/cli/process:_mend_streams checker/cli/process:_silence
it is written:
    checker/questions/calibrate/table:append checker/cli/process:announce
    checker/outside/storage/documents:replacing checker/outside/storage/documents:write_atomically
what a child of this process has just written:
    checker/questions/calibrate/plan:_sizes
a number of bytes of a store's file:
    checker/outside/storage/stores:RemoteFile.open checker/outside/storage/stores:RemoteFile.stream
    checker/outside/storage/documents:_start_of checker/outside/storage/stores:download
the digest of a report that is signed; its bytes go into a hash alone:
    checker/core/model/watched:file_digest
behind the wall (`calibrate` and `export` read models of one's own in the first process):
    checker/questions/compare/baseline:_read_file checker/questions/compare/vectors:_arrays
    checker/questions/compare/vectors:_mapped checker/questions/compare/vectors:_parquet
    checker/questions/concepts/sets:_table checker/outside/image_sets/containers:ParquetTable._open
    checker/outside/image_sets/containers:_cell checker/outside/image_sets/containers:_read_span
    checker/outside/image_sets/containers:_tar_members checker/outside/image_sets/files:read_file
    checker/outside/image_sets/files:read_remote checker/outside/image_sets/containers:_arrays_in
    checker/outside/image_sets/manifests:_text checker/core/images/preprocess:_decode
    checker/core/model/file:_read_bytes checker/core/model/configs:read_object
    checker/core/model/watched:OpenFolder.__init__ checker/core/model/weights:_check_length
    checker/core/model/weights:pieces_of checker/core/model/watched:read_file checker/questions/check:check_stored
    checker/outside/representations:Saver.write checker/questions/head:head_from_file
    checker/questions/shift/classes:_from_file checker/outside/storage/hub:HubFile.stream
    checker/outside/storage/hub:library_of
of the Python API, on a file that its caller names:
    checker/outside/representations:load_representations
of `export`, which reads a model of one's own and judges nothing:
    exporters/digests:_tensor exporters/digests:file_digest exporters/files:parsed
    exporters/loading:read_checkpoint exporters/loading:weights_file exporters/photos:open_photo
    exporters/prompts:_lines exporters/proof:measure exporters/quantisation:_add_128
    exporters/quantisation:_refuse_all exporters/quantisation:halve exporters/quantisation:quantise
    exporters/quantisation:quantised exporters/run: exporters/run:_saved
"""
"""Under each reason MODULE:FUNCTION. A new place belongs behind the wall, or calls `thresholds.read_bytes`."""


def openers(node: ast.AST, where: str = "") -> Iterator[str]:
    """Yield the function of each mention of what opens a file, as in `open(path)`, `path.read_text` or `np.load`."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield from openers(child, f"{where}.{name}".lstrip("."))
                continue
            case ast.Name(id=name) if name != "read_bytes" and re.fullmatch(OPENERS, name):  # `thresholds.read_bytes`
                yield where
            case ast.Attribute(attr=name) if re.fullmatch(OPENERS, name) or re.fullmatch(LOADERS, ast.unparse(child)):
                yield where
        yield from openers(child, where)


def test_every_opening_of_a_file_has_a_reason() -> None:
    found = {
        f"{path.relative_to(ROOT).with_suffix('')}:{function}".replace("/__init__:", ":")
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for function in openers(ast.parse(read_text(path)))
    }
    listed = re.findall(r"\S+:\S*(?=[ \n])", re.sub(r"(?m)^\S.*$", "", WHY))
    assert (sorted(found - {*listed}), sorted({*listed} - found), len(listed)) == ([], [], len({*listed}))


def test_a_new_opening_is_seen() -> None:
    seen = "open(p)\np.open()\np.read_text()\nmap(Path.read_bytes, p)\nnp.load(p)\nos.open(p, 0)"
    assert list(openers(ast.parse(seen), "f")) == ["f"] * 6
    assert list(openers(ast.parse("read_bytes(p, 9)\nread_start(p, 9)\nprofile.load(p)\nis_open(p)"))) == []
    assert list(openers(ast.parse("class A:\n def f(p):\n  open(p)"))) == ["A.f"]
