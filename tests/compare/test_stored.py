"""Whether vectors that somebody else computed are those of a file: one model, and no reference."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from numpy.random import default_rng
from onnx import helper
from PIL import Image

import robustcheck_onnx as rc
from robustcheck_onnx.checker.core.evidence import ReferenceRun
from robustcheck_onnx.checker.core.measure.reference import ReferenceOutput
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.questions.compare import stored
from robustcheck_onnx.checker.questions.compare.index import compare_vectors
from robustcheck_onnx.checker.questions.compare.index_report import IndexOptions, IndexReport
from robustcheck_onnx.checker.questions.compare.vectors import VectorFile
from support import PHOTOS, Capture, Patch, normal, raised, read_json, robustcheck
from support.comparisons import Array, Workshop, planted, rotation
from support.lookup import lookup_contract
from support.onnx_models import build, graph

H = planted(d=64, n=100) + 2
NAMES = [f"photos/{row}.jpg" for row in range(100)]
PX = 64
EDGE = 96
N_PHOTOS = 80
"""of the bundled ones that the model runs on"""


def nothing_tried(_: Mapping[int, Any]) -> str:
    return ""


def file_of(rows: npt.NDArray[Any], ids: list[str] | None) -> VectorFile:
    n, width = rows.shape
    return VectorFile(Path("x.npz"), "--index", n, width, lambda: iter([rows]), lambda: iter(ids or []))


def judged(rows: npt.NDArray[Any], ids: list[str] | None, **options: object) -> IndexReport:
    """Compare the vectors of 100 photos with a file."""
    return stored.judge_stored(H, NAMES, file_of(rows, ids), IndexOptions.model_validate(options), nothing_tried)


# what the file holds | photos with an id | metric | verdict | reason, or how it was tested
CASES = """
same | 100 | | compatible | by ids
float16 | 100 | | compatible | by ids
normalised | 100 | | compatible | by ids
normalised | 100 | dot | re-embed | index_lengths
doubled | 100 | | undecided | index_lengths
doubled | 100 | cosine | compatible | by ids
doubled | 100 | euclidean | re-embed | index_lengths
permuted | 100 | | re-embed | permuted
permuted | 34 | | undecided | changed_index
rotated | 100 | | re-embed | changed_index
centred | 100 | | re-embed | changed_index
other checkpoint | 100 | | re-embed | other_index
other checkpoint | 35 | | re-embed | other_index
other checkpoint | 34 | | undecided | other_index
other checkpoint | 0 | | undecided | untested_index
1 replaced | 100 | | undecided | cosine
8 replaced | 100 | | undecided | other_index
same | 72 | | compatible | by ids
same | 71 | | undecided | cosine
rounded | 100 | | undecided | recall@10
rounded | 0 | | undecided | recall@10
near | 100 | | compatible | by ids
near | 0 | | compatible | by vectors
34 photos | 34 | | undecided | untested_index
same | 0 | | compatible | by vectors
in another order | 100 | | re-embed | other_ids
narrow | 100 | | re-embed | another_width"""


@pytest.fixture(scope="module")
def held() -> dict[str, npt.NDArray[Any]]:
    random, noise = default_rng(0), normal(100, 64, seed=5) + 2
    return {
        "same": H,
        "near": H + 0.1 * (noise - 2),
        "rounded": H + 0.35 * (noise - 2),
        "float16": H.astype(np.float16),
        "normalised": H / np.linalg.norm(H, axis=1, keepdims=True),
        "doubled": 2 * H,
        "permuted": H[:, random.permutation(64)],
        "rotated": H @ rotation(64),
        "centred": H - H.mean(axis=0),
        "other checkpoint": noise,
        "1 replaced": np.concatenate([noise[:1], H[1:]]),
        "8 replaced": np.concatenate([noise[:8], H[8:]]),
        "34 photos": H[:34],
        "in another order": H[random.permutation(100)],
        "narrow": H[:, :32],
    }


@pytest.mark.parametrize("row", CASES.splitlines()[1:])
def test_vectors_are_those_of_the_file_or_what_differs_is_named(row: str, held: dict[str, npt.NDArray[Any]]) -> None:
    what, n_ids, metric, verdict, expected = (cell.strip() for cell in row.split("|"))
    rows = held[what]
    ids = [name if place < int(n_ids) else f"other {place}" for place, name in enumerate(NAMES[: len(rows)])]
    report = judged(rows, ids if int(n_ids) else None, metric=metric or None)
    assert report.verdict == verdict
    assert (report.reason.id if report.reason else report.tested) == expected
    assert report.change == ("normalised" if what == "normalised" else "none")
    if report.reason:
        assert "reference" not in f"{report.reason.seen} {report.reason.next_step}"


def test_the_answer_is_never_laxer_than_that_of_a_comparison_with_the_file_that_made_the_vectors() -> None:
    noise, answers = normal(100, 64, seed=5), set[tuple[str, str]]()
    images = [(name, name) for name in NAMES]
    for step in np.geomspace(0.1, 0.7, 8):
        rows = H + step * noise
        blocks = [(rows, np.linalg.norm(rows, axis=1))]
        two_files = compare_vectors(H, rows, images, IndexOptions(), None, blocks, NAMES)
        one_file = judged(rows, NAMES)
        answers.add((one_file.verdict, two_files.verdict))
        if one_file.tested == "by ids":
            for name in ("cosine, worst 5 %", "recall@10 among the photos", "recall@10 in the index"):
                assert one_file.numbers[name].low == pytest.approx(two_files.numbers[name].low)
        assert (judged(rows, None).verdict == "compatible") == (two_files.verdict == "compatible")
    assert answers == {(answer, answer) for answer in ("compatible", "undecided", "re-embed")}


def test_other_preprocessing_is_tried_on_the_photos_whose_vectors_differ() -> None:
    tried = list[int]()

    def explains(others: Mapping[int, Any]) -> str:
        tried.extend(others)
        return "with color_order BGR"

    rows = np.concatenate([normal(60, 64, seed=5) + 2, H[60:]])
    reason = stored.judge_stored(H, NAMES, file_of(rows, NAMES), IndexOptions(), explains).reason
    assert reason is not None
    assert (reason.id, tried) == ("other_preprocessing", list(range(60)))
    assert reason.seen == "60 of 100 photos were preprocessed in another way: with color_order BGR"


def test_vectors_that_differ_by_this_machines_arithmetic_alone_are_undecided() -> None:
    def reference_of(exact: Array) -> ReferenceOutput:
        return ReferenceOutput(ReferenceRun(by="exact int8 sums", n_images=40), exact[:40].astype(np.float32))

    theirs = normal(100, 64, seed=5) + 2
    held = file_of(theirs, NAMES)
    for exact, expected in (
        (theirs + 0.01, ("undecided", "runtime_differs")),
        (H, ("re-embed", "other_index")),
    ):
        report = stored.judge_stored(H, NAMES, held, IndexOptions(), nothing_tried, reference_of(exact))
        assert report.reason is not None
        assert (report.verdict, report.reason.id) == expected
    for ids in (NAMES, None):  # the same vectors here, and others by reference arithmetic
        report = stored.judge_stored(
            H, NAMES, file_of(H + 0.01, ids), IndexOptions(), nothing_tried, reference_of(theirs)
        )
        assert report.reason is not None
        assert (report.verdict, report.reason.id) == ("undecided", "runtime_differs")


@dataclass
class Pooling:
    """A model that pools pixels in blocks of 8 and maps them, with its arithmetic in NumPy."""

    path: Path
    weights: Array

    def vectors(self, pixels: Callable[[Image.Image], npt.NDArray[np.uint8]]) -> Array:
        """Compute the vectors of the bundled photos whose pixels another tool made."""
        rows = []
        for photo in PHOTOS:
            values = pixels(Image.open(photo).convert("RGB")) / 255
            blocks = values.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
            rows.append(blocks.transpose(2, 0, 1).ravel() @ self.weights)
        return np.stack(rows)


def shortest(photo: Image.Image, edge: int = EDGE, resample: Image.Resampling = Image.Resampling.BICUBIC) -> Any:
    """Resize and crop as torchvision does."""
    width, height = photo.size
    size = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
    left, top = (round((length - PX) / 2) for length in size)
    return np.asarray(photo.resize(size, resample).crop((left, top, left + PX, top + PX)))


def squashed(photo: Image.Image) -> Any:
    return np.asarray(photo.resize((PX, PX), Image.Resampling.BICUBIC))


@pytest.fixture
def pooling(tmp_path: Path) -> Pooling:
    return pooling_model(tmp_path / "pooling.onnx")


def pooling_model(path: Path, *, seed: int = 1, contract: bool = True) -> Pooling:
    weights = normal(192, 64, seed=seed)
    nodes = graph(
        "blocks = AveragePool(image, kernel_shape=[8, 8], strides=[8, 8]); flat = Flatten(blocks)\n"
        "representation = MatMul(flat, weights)"
    )
    image = ("image", onnx.TensorProto.FLOAT, ("batch", 3, PX, PX))
    output = ("representation", onnx.TensorProto.FLOAT, ("batch", 64))
    model = build(nodes, [output], {"weights": weights.astype(np.float32)}, inputs=[image])
    steps: dict[str, Any] = {
        "size": [PX, PX],
        "resize_mode": "shortest",
        "resize_size": [EDGE, EDGE],
        "interpolation": "bicubic",
    }
    steps |= {"crop": "center", "rescale": 1 / 255, "mean": [0, 0, 0], "std": [1, 1, 1]}
    if contract:
        held = lookup_contract() | {"preprocessing": steps}
        helper.set_model_props(model, {"robustcheck.contract": json.dumps(held)})
    onnx.save(model, path)
    return Pooling(path, weights)


FILE_NAMES = [photo.name for photo in PHOTOS]


def answered(model: Pooling, rows: Array, ids: list[str] = FILE_NAMES) -> rc.VectorsReport:
    """Ask whether these vectors are those of a model."""
    file = model.path.with_suffix(".npz")
    np.savez(file, vectors=rows, ids=np.array(ids))
    index = IndexOptions(file=file)
    report = rc.compare(
        model.path, images=PHOTOS[0].parent, index=index, max_images=N_PHOTOS, device="cpu", isolate=False
    )
    assert isinstance(report, rc.VectorsReport)
    return report


def test_vectors_of_other_pixels_are_named_by_what_was_done_to_the_photos(pooling: Pooling) -> None:
    cases: dict[str, Callable[[Image.Image], Any]] = {
        "with color_order BGR,": lambda photo: shortest(photo)[..., ::-1],
        f"with resize_mode squash and resize_size {PX}×{PX},": squashed,
        f"with resize_mode squash and resize_size {PX}×{PX} and color_order BGR,": lambda p: squashed(p)[..., ::-1],
        f"with resize_size {PX}×{PX},": lambda photo: shortest(photo, PX),
    }
    for said, pixels in cases.items():
        report = answered(pooling, pooling.vectors(pixels))
        assert report.index.reason is not None
        assert (report.index.verdict, report.index.reason.id) == ("re-embed", "other_preprocessing"), said
        assert f"were preprocessed in another way: {said} the lowest cosine of 16 of them is 1.0" in report.answer
    blurred = pooling.vectors(lambda photo: shortest(photo.reduce(16).resize(photo.size)))
    reason = answered(pooling, blurred + normal(*blurred.shape, seed=3)).index.reason
    assert reason is not None
    assert reason.id in ("changed_index", "other_index")


def test_vectors_of_the_file_are_recognised_among_20_000(pooling: Pooling) -> None:
    own = pooling.vectors(shortest)
    report = answered(pooling, own)
    assert (report.index.verdict, report.exit_code, report.index.tested) == ("compatible", 0, "by ids")
    assert f"{N_PHOTOS} of {N_PHOTOS} photos have their own vector under their id (cosine 1.0" in report.answer
    rest = normal(20_000 - len(own), 64, seed=4) + own.mean(axis=0)
    order = default_rng(0).permutation(20_000)
    ids = [*FILE_NAMES, *(f"{number}.jpg" for number in range(len(rest)))]
    many = answered(pooling, np.concatenate([own, rest])[order], [ids[place] for place in order])
    assert (many.index.verdict, many.index.n_vectors) == ("compatible", 20_000)
    most = [name if place % 20 else f"x{place}" for place, name in enumerate(FILE_NAMES)]
    some = answered(pooling, own.astype(np.float16), most).index
    assert (some.verdict, sum(some.ids.values()) < N_PHOTOS) == ("compatible", True)
    other = pooling_model(pooling.path.with_name("other.onnx"), seed=2)
    assert answered(other, own).index.verdict == "re-embed"


def test_assumed_preprocessing_is_confirmed_by_equal_vectors_and_doubted_by_others(tmp_path: Path) -> None:
    model = pooling_model(tmp_path / "plain.onnx", contract=False)
    run: dict[str, Any] = {"images": PHOTOS[0].parent, "max_images": N_PHOTOS, "device": "cpu", "isolate": False}
    own = tmp_path / "own.npz"
    rc.compare(model.path, write_baseline=own, **run)
    by_values = rc.compare(model.path, index=IndexOptions(file=own), **run)
    assert isinstance(by_values, rc.VectorsReport)
    assert (by_values.index.verdict, by_values.index.tested) == ("compatible", "by vectors")
    assert stored.AS_ASSUMED in by_values.notes
    report = answered(model, model.vectors(lambda photo: shortest(photo)[..., ::-1]))
    assert report.index.reason is not None
    assert (report.index.verdict, report.index.reason.id) == ("undecided", "assumed_preprocessing")


# options | exit code | what is printed
CALLS = """\
--index same.npz | 0 | ✓ model.onnx: The vectors agree with those of this file: 80 of 80 photos
--index same.npz --require index | 0 | exit code 0: the index verdict is compatible
--index noise.npz | 1 | ✗ model.onnx: The vectors are not those of this file: 80 of 80 photos
--index noise.npz --strict | 1 | STOPPED · exit code 1: the index verdict is re-embed
--index few.npz --require index | 1 | ? model.onnx: It cannot be told whether
--index same.npz --require indication | 2 | --require is indication, without a reference
--index same.npz -o junit | 2 | --output is junit, which needs a reference
--index same.npz -o r.sarif | 2 | --output is r.sarif, which needs a reference
--index same.npz --text noise.npy | 2 | --text is given without a reference
--index same.npz --accept-untested-index | 2 | --accept-untested-index is given without a reference
--index same.npz --min-cosine 1 | 2 | --min-cosine is 1 without a reference
--index same.npz --tolerance 0.1 | 2 | --tolerance is 0.1 without a reference
--index same.npz -o predicate=p.json | 2 | --output is predicate=p.json, which needs a reference
--index short.npz | 2 | (ids has shape (79,) for 80 vectors; one id per vector needed)
--index column.npz | 2 | (names has shape (80, 1) for 80 vectors; one id per vector needed)
--index scalar.npz | 0 | 80 of 80 photos have their vector in the index, which has no ids
--index twice.npz | 0 | in the index, and several vectors have the id of each of 80 photos
--index swapped.npz | 1 | 10 of 80 are under the id of another photo
--index turned.npy | 2 | so it is transposed
--index missing.npz | 2 | missing.npz: file of --index can't be used
--baseline same.npz | 2 | same.npz: file is not a baseline; vectors that another tool computed are compared by --index
--write-baseline made.npz --index same.npz | 0 | The vectors agree with those of this file"""


def test_the_command_answers_by_exit_code_and_refuses_what_needs_a_reference(
    workshop: Workshop, capsys: Capture, monkeypatch: Patch
) -> None:
    h, names = planted(), [path.name for path in sorted(workshop.photos.iterdir())]
    workshop.model("model", h)
    monkeypatch.chdir(workshop.folder)
    np.savez("same.npz", vectors=h, ids=np.array(names))
    np.savez("noise.npz", vectors=normal(80, 384, seed=9), ids=np.array(names))
    np.savez("few.npz", vectors=h[:20], ids=np.array(names[:20]))
    np.save("noise.npy", normal(5, 384))
    np.savez("short.npz", vectors=h, ids=np.array(names[:79]))
    np.savez("column.npz", vectors=h, names=np.array(names)[:, None])
    np.savez("scalar.npz", vectors=h, name="of a model")
    np.savez("twice.npz", vectors=np.concatenate([h, h]), ids=np.array([*names, *names]))
    np.save("turned.npy", h.T)
    np.savez("swapped.npz", vectors=np.concatenate([np.roll(h[:10], 1, axis=0), h[10:]]), ids=np.array(names))
    for row in CALLS.splitlines():
        words, code, said = row.split(" | ")
        call = f"compare --images {workshop.photos} --device cpu -q {words} -- model.onnx"
        assert robustcheck(*call.split()) == int(code), words
        assert said in " ".join("".join(capsys.readouterr()).split()), words
    assert Path("made.npz").exists()
    twice = ["compare", "model.onnx", "--images", workshop.photos, "--index", "twice.npz", "-o", "markdown"]
    assert robustcheck(*twice) == 0
    assert "80 have an id that several vectors have, so not matched" in capsys.readouterr().out
    assert robustcheck("compare", "model.onnx", "--index", "same.npz") == 2
    assert "--images is missing; the photos whose vectors same.npz holds are needed" in capsys.readouterr().err


def test_the_report_is_whole_in_every_form(workshop: Workshop, capsys: Capture, monkeypatch: Patch) -> None:
    h, names = planted(), [path.name for path in sorted(workshop.photos.iterdir())]
    model = workshop.model("model", h)
    monkeypatch.chdir(workshop.folder)
    np.savez("same.npz", vectors=h / np.linalg.norm(h, axis=1, keepdims=True), ids=np.array(names))
    np.savez("noise.npz", vectors=normal(80, 384, seed=9), ids=np.array(names))
    call = ["compare", model, "--images", workshop.photos, "--device", "cpu", "--index", "same.npz", "--no-time"]
    assert robustcheck(*call, "-o", "json=r.json", "-o", "r.html", "-o", "markdown", "-o", "terminal=r.txt") == 0
    report = rc.VectorsReport.model_validate(read_json("r.json"))
    assert (report.document, report.gate.exit_code, report.index.change) == ("vectors", 0, "normalised")
    assert report.index.file_digest == f"sha256:{hashlib.sha256(Path('same.npz').read_bytes()).hexdigest()}"
    assert report.to_markdown() == capsys.readouterr().out
    for text in (Path("r.html").read_text("utf-8"), Path("r.txt").read_text("utf-8")):
        assert "index compatible" in text
        assert "the vectors in the index have one length" in " ".join(text.split())
    with pytest.raises(UsageError, match="outlier features were not judged"):
        assert report.passed
    index = IndexOptions(file=Path("noise.npz"))
    raised(rc.IndexVerdictError, "re-embed: 80 of 80", rc.assert_same_index, model, None, workshop.photos, index=index)
    same = IndexOptions(file=Path("same.npz"))
    assert rc.assert_same_index(model, images=workshop.photos, index=same).exit_code == 0
    raised(UsageError, "neither old nor index.file", rc.assert_same_index, model, images=workshop.photos)
