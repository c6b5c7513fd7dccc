"""The index verdict: same images, neighbours, files of vectors, baselines with vectors, exit codes."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import save_file
from scipy import linalg, stats

import robustcheck_onnx as rc
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.questions.compare import baseline, vectors
from robustcheck_onnx.checker.questions.compare.index import FEWEST_IMAGES, compare_vectors
from robustcheck_onnx.checker.questions.compare.index_report import IndexOptions, IndexReport, Metric
from robustcheck_onnx.checker.questions.compare.neighbours import KS, quantile
from robustcheck_onnx.checker.questions.compare.similarity import lengths, procrustes
from robustcheck_onnx.checker.questions.compare.vectors import Block, open_vectors
from robustcheck_onnx.checker.text import sha256_of
from support import TORN_NPY, Capture, Patch, but, normal, raised, read_json, read_text, robustcheck
from support.comparisons import Array, Workshop, numbers, planted, rotation, rounded

H = planted(d=64, n=100)


def index_of(
    candidate: Array,
    reference: Array = H,
    index: Iterable[Block] | None = None,
    ids: Iterable[str] = (),
    **options: object,
) -> IndexReport:
    images = [(f"{row}.jpg", f"digest {row}") for row in range(len(candidate))]
    text = normal(9, reference.shape[1], seed=4)
    return compare_vectors(candidate, reference, images, IndexOptions.model_validate(options), text, index, ids)


def block(rows: Array) -> Block:
    return rows, lengths(rows)


def recalls(report: IndexReport) -> list[float | None]:
    return [number.estimate for name, number in report.numbers.items() if name.endswith("in the index")]


@pytest.mark.long
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_are_those_of_scikit_learn(metric: Metric) -> None:
    sklearn = pytest.importorskip("sklearn.neighbors")
    old, index = H + normal(*H.shape, seed=1), normal(20_000, 64, seed=2) + H.mean(axis=0)
    blocks = map(block, np.split(index, (7, 9000)))
    truth = sklearn.NearestNeighbors(n_neighbors=10, metric=metric, algorithm="brute").fit(index)
    pairs = list(zip(*(truth.kneighbors(each, return_distance=False) for each in (H, old)), strict=True))
    shares = [np.mean([len({*a[:k]} & {*b[:k]}) / k for a, b in pairs]) for k in KS]
    assert recalls(index_of(H, old, blocks, metric=metric)) == shares
    assert 0.1 < shares[-1] < 0.9


def test_neighbours_that_cannot_be_told_apart_are_not_kept() -> None:
    one, other, mean = normal(200, 512, seed=1), normal(200, 512, seed=2), normal(1, 512, seed=7)
    same, feature = np.repeat(mean, 200, axis=0), 1e4 * np.eye(1, 512)
    some, almost = (500 * mean + one, 500 * mean + other), (feature + one, feature + other)
    for candidate, reference in (some, almost, (same, mean + 1e-4 * one), (same, same)):
        report = index_of(candidate, reference)
        assert (report.verdict, report.reasons[0].id) == ("undecided", "ties"), report.reasons
        assert (report.numbers["recall@10 among the photos"].low or 0) < 0.2
    by_dot = index_of(100 * mean + one, 100 * mean + other, metric="dot")  # all find the same few
    assert by_dot.reasons[0].id == "same_for_all"
    assert (index_of(np.ones_like(H)).numbers["recall@1 among the photos"].high or 1) < 0.2
    ids, twice = [f"{row}.jpg" for row in range(100)], np.concatenate([H, H])  # in an index, each vector twice
    for names in ((), (*ids, *"x" * 100)):  # one is not the photo's own by its id
        assert recalls(index_of(H, index=[block(twice)], ids=names)) == [1, 1, 1]
    assert (recalls(index_of(H, H + 0.05 * normal(*H.shape), [block(twice)], names))[-1] or 0) > 0.8


def test_any_scale_of_the_vectors_is_compared() -> None:
    for scale, metric in itertools.product((1e-30, 1e-25, 1e25), (None, "cosine", "dot", "euclidean")):
        rows = scale * H
        for candidate in (rows, rows + 0.02 * scale * normal(*H.shape)):
            report = index_of(candidate, rows, [block(rows.astype(np.float32))], metric=metric)
            assert report.verdict == "compatible", report.reasons
            assert (recalls(report)[-1] or 0) > 0.9
        assert index_of(normal(*H.shape, seed=5) * scale, rows, metric=metric).verdict == "re-embed"


def test_quantiles_and_procrustes_are_scipys() -> None:
    for n in (40, FEWEST_IMAGES - 1, FEWEST_IMAGES, 368, 1024):
        x = normal(n, seed=n)
        for p in (0.5, 0.05, 0.01, 0.99):
            truth, found = stats.quantile_test(x, p=p).confidence_interval(0.95), quantile(x, p)
            estimate = np.quantile(x, p, method="inverted_cdf")
            assert_array_equal(numbers(found.low, found.high, found.estimate), [*truth, estimate])
    for n, d in ((200, 30), (20, 50)):
        x, y = normal(n, d, seed=1), normal(n, d, seed=2)
        assert_allclose(procrustes(x, y), x @ linalg.orthogonal_procrustes(x, y)[0], atol=1e-10)


def test_each_change_has_its_verdict_and_its_word() -> None:
    order, lengths = default_rng(0).permutation(64), np.linalg.norm(H, axis=1, keepdims=True)
    for candidate, verdict, ids in (
        (H, "compatible", set()),
        (H + 0.02 * normal(*H.shape), "compatible", set()),
        (H[:, order], "re-embed", {"permuted", "cosine"}),
        (H @ rotation(64), "re-embed", {"rotated", "cosine"}),
        (2 * H, "undecided", {"length"}),
        (H / lengths, "undecided", {"length"}),
        (np.roll(H, 1, axis=0), "re-embed", {"cosine", "recall@10"}),
        ((H + np.roll(H, 1, axis=0)) / 2, "re-embed", {"recall@10"}),
        (normal(*H.shape, seed=5), "re-embed", {"cosine", "recall@10"}),  # a rotation fits it, and keeps no neighbours
    ):
        report = index_of(candidate)
        assert report.verdict == verdict, report.reasons
        assert ids <= {reason.id for reason in report.reasons}
    turned = H @ rotation(64)
    median = np.quantile((H * turned / lengths**2).sum(axis=1), 0.5, method="inverted_cdf")
    assert index_of(turned).numbers["cosine, median"].estimate == pytest.approx(median, abs=1e-12)
    assert index_of(2 * H, metric="cosine").verdict == "compatible"
    assert index_of(2 * H, metric="euclidean").verdict == "re-embed"
    dead = H * (np.arange(64) > 9)  # ten features are 0 in all photos
    changed = index_of(H / lengths), index_of(dead[:, order], dead), index_of(H + 10 * (np.arange(64) == 3))
    assert [report.change for report in changed] == ["normalised", "permuted", "none"]
    few = index_of(H[: FEWEST_IMAGES - 1], H[: FEWEST_IMAGES - 1])
    assert (few.verdict, few.reasons[0].id) == ("undecided", "cosine")  # no lower bound of the 5 % quantile


def test_a_class_that_stays_is_counted() -> None:
    text, other = normal(9, 64, seed=4), H + normal(*H.shape, seed=3)
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    kept = (H @ unit.T).argmax(axis=1) == (other @ unit.T).argmax(axis=1)
    assert index_of(H, other).numbers["top-1 class kept"].estimate == kept.mean()


def test_an_index_is_read_from_each_kind_of_file(tmp_path: Path, monkeypatch: Patch) -> None:
    """Those that can hold ids do."""
    monkeypatch.setattr(vectors, "BLOCK", 32)
    ids, half = [f"{row}.jpg" for row in range(len(H))], H.astype(np.float16)
    np.save(tmp_path / "v.npy", half)
    np.savez(tmp_path / "v.npz", ids=np.array(ids), vectors=half, more=half[:2])
    save_file({"embeddings": half}, tmp_path / "v.safetensors")
    pq.write_table(pa.table({"id": ids, "vector": [*half]}), tmp_path / "v.parquet", row_group_size=30)
    for suffix, named in (("npy", []), ("npz", ids), ("safetensors", []), ("parquet", ids)):
        file = open_vectors(tmp_path / f"v.{suffix}", "--index")
        blocks = list(file.blocks())
        assert max(len(rows) for rows, *_ in blocks) == 32
        assert_array_equal(np.concatenate([rows for rows, *_ in blocks]), half)
        assert list(file.ids()) == named
        report = index_of(H, index=blocks, ids=named)
        assert recalls(report) == [1, 1, 1]
        assert (report.verdict, report.tested) == ("compatible", "by ids" if named else "by vectors")


BAD_FILES = """\
missing.npy | No such file
cube.npy | arrays with two axes are missing
ints.npy | of kind i
zero.npy | vector 3 is zero or not finite
inf.npy | vector 70 is zero or not finite
pickle.npy | Python objects
two.npz | arrays with two axes are a, b
small.npz | is compressed
ragged.parquet | a row of vector has not 1 values
empty.parquet | no rows
text.csv | must be .npy, .npz, .safetensors or .parquet
type.npy | invalid syntax
struct.parquet | arrays with two axes are missing
archive.npy | the magic string is not correct
short.npy | .
torn.npy | .
text.npy | .
text.npz | .
text.safetensors | .
text.parquet | ."""


def test_bad_files_of_vectors(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    zero, broken = H.copy(), H.copy()
    zero[3], broken[70, 2] = 0, np.inf
    cube, ints, pickle = np.zeros((2, 2, 2)), np.ones((4, 4), int), np.array([[{}]], dtype=object)
    for name, array in {"cube": cube, "ints": ints, "zero": zero, "inf": broken, "pickle": pickle}.items():
        np.save(name, array)
    np.savez("two.npz", a=H, b=H)
    np.savez_compressed("small.npz", vectors=H)
    Path("short.npy").write_bytes(Path("zero.npy").read_bytes()[:-9])
    Path("torn.npy").write_bytes(TORN_NPY)
    pq.write_table(pa.table({"vectors": [{"inner": [1.0, 2.0]}] * 4}), "struct.parquet")
    # NumPy evaluates what comes after the comma
    Path("type.npy").write_bytes(Path("zero.npy").read_bytes().replace(b"'<f", b"',f"))
    Path("archive.npy").write_bytes(Path("two.npz").read_bytes())
    bad_text = np.array(["a.jpg"] * 4).view(np.uint32)
    bad_text[7] = 0x110000
    np.savez("ids.npz", vectors=np.eye(4), ids=bad_text.view("U5"))
    raised(UsageError, "ids.npz: .*an id is not text", list, open_vectors(Path("ids.npz"), "--index").ids())
    for suffix in ("npy", "npz", "safetensors", "parquet", "csv"):
        Path(f"text.{suffix}").write_text("no vectors")
    pq.write_table(pa.table({"vector": [[1.0], [1.0, 2.0]]}), "ragged.parquet")
    pq.write_table(pa.table({"vector": pa.array([], pa.list_(pa.float32()))}), "empty.parquet")
    for row in BAD_FILES.splitlines():
        name, said = row.split(" | ")
        with pytest.raises(UsageError, match=f"{name}: file of --index can't be used .*{said}"):
            list(open_vectors(Path(name), "--index").blocks())


CALLS = """\
1 | turned.onnx reference.onnx --require index
1 | turned.onnx reference.onnx --require indication
1 | turned.onnx reference.onnx --require index,indication
0 | weak.onnx same.onnx --require index
1 | weak.onnx same.onnx
1 | --strict -o html=report.html --require index -- turned.onnx reference.onnx
2 | near.onnx reference.onnx --require both | --require is 'both'
2 | near.onnx reference.onnx --metric angle | 'angle' is not one of 'cosine', 'dot', 'euclidean'
2 | near.onnx reference.onnx --strict | before --
2 | near.onnx --write-baseline b.npz --require index | nothing is compared
2 | near.onnx reference.onnx --text index.npy | --text index.npz
2 | near.onnx reference.onnx --index turned.npy | its shape is (384, 80), so it is transposed
0 | near.onnx reference.onnx --index index.npz --text text.npy --require index,indication"""


def test_the_command_and_the_assertion(workshop: Workshop, capsys: Capture, monkeypatch: Patch) -> None:
    h = planted()
    vectors_by_name = {"reference": h, "turned": h @ rotation(384), "near": rounded(h)}
    vectors_by_name |= dict.fromkeys(("weak", "same"), normal(80, 384) + 1)
    reference, turned, near, *_ = (workshop.model(name, rows) for name, rows in vectors_by_name.items())
    monkeypatch.chdir(workshop.folder)
    names = sorted(path.name for path in workshop.photos.iterdir())
    np.savez("index.npz", vectors=np.concatenate([h, normal(200, 384)]), ids=[*names, *"x" * 200])
    np.save("text.npy", normal(5, 384))
    np.save("turned.npy", h.T)
    call = f"compare --images {workshop.photos} --device cpu -o json=report.json"
    for row in CALLS.splitlines():
        code, words, *said = row.split(" | ")
        assert robustcheck(*f"{call} {words}".split()) == int(code), words
        assert "".join(said) in capsys.readouterr().err
    report = read_json("report.json")["index"]
    assert (report["verdict"], report["n_vectors"], report["tested"]) == ("compatible", 280, "by ids")
    assert report["ids"] == {"whole name": len(names)}
    assert {"recall@10 in the index", "top-1 class kept"} <= report["numbers"].keys()
    page = read_text(workshop.folder / "report.html")
    assert all(said in page for said in ("data:image/jpeg", "It holds small copies of photos"))
    others = reference, workshop.photos
    assert rc.assert_same_index(near, *others, device="cpu").index is not None
    raised(rc.IndexVerdictError, "re-embed: rotated", rc.assert_same_index, turned, *others, device="cpu")
    junit = ElementTree.fromstring(workshop.run(turned, reference).to_junit())
    assert [each.tag for each in junit.findall(".//*[@classname='robustcheck.index']/*")] == ["skipped"]  # not required


def test_a_baseline_keeps_vectors_where_asked(workshop: Workshop) -> None:
    h = planted()
    reference, turned = workshop.model("reference", h), workshop.model("turned", h @ rotation(384))
    for name, verdicts in (("old.json", ("undecided", "undecided")), ("old.npz", ("compatible", "re-embed"))):
        file = workshop.folder / name
        first = rc.compare(reference, images=workshop.photos, device="cpu", write_baseline=file)
        for candidate, verdict, held in zip((reference, turned), verdicts, ("compatible", "re-embed"), strict=True):
            reports = [workshop.run(candidate, None, baseline=each) for each in (file, first.next_baseline)]
            assert [each.index and each.index.verdict for each in reports] == [verdict, held]
            assert [each.baseline_digest for each in reports] == [sha256_of(file.read_bytes()), ""]
    other = workshop.folder / "other.npz"
    domains = {"ai.onnx": 17} | {f"com.example.{n}": n for n in range(8)}
    model = {"evidence__model__opset": domains, "evidence__model__size_bytes": 4 * 2**20}
    nodes = {"Split": 999} | {f"Op{n}": n for n in range(1, 9)}
    assert first.next_baseline is not None
    baseline.write(other, but(first.next_baseline, nodes=nodes, **model))
    differs = vars(workshop.run(reference, None, baseline=other).index)["differs"]
    assert differs[:3] == ("size 4 MiB → 0.119 MiB", "opset 17 → 18", "nodes Split 999 → 0")
    assert re.fullmatch(r"and \d+ more types of nodes", differs[-1])
    assert (len(differs), "com.example" in str(differs)) == (9, False)
    whole, narrow = file.read_bytes(), workshop.folder / "narrow.npy"
    np.save(narrow, np.eye(2))
    same = {"baseline": file, "write_baseline": file}
    raised(UsageError, "have 2 features", workshop.run, turned, None, index=IndexOptions(file=narrow), **same)
    assert file.read_bytes() == whole  # after an error
    report = workshop.run(workshop.model("twice", 2 * h), None, **same)  # a WARN does not replace it: test_models.py
    assert report.baseline_digest == sha256_of(whole)
    assert first.next_baseline != report.next_baseline == baseline.read(file)
    stored = dict(np.load(file))
    rows = stored["vectors"]
    for vectors_, said in (
        (rows[::-1], "digest does not match the vectors"),
        (rows[:, 1:], "its vectors have the shape"),
        (0 * rows, "zero or not finite"),
    ):
        np.savez(file, **stored | {"vectors": vectors_})
        raised(UsageError, f"old.npz: .*{said}", baseline.read, file)
    for damaged, said in (
        (whole.replace(whole[5000:5004], b"\0\0\1\0"), "baseline is not"),
        (re.sub(rb"(?s)(PK\x01\x02.{4}).", lambda found: found[1] + b"\1", whole), "encrypted"),  # each member's flag
    ):
        file.write_bytes(damaged)
        raised(UsageError, f"old.npz: .*{said}", baseline.read, file)
