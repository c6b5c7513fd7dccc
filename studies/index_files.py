"""What does `compare --index` answer for files that hold an index, or something else: results/index-files.md.

    python studies/index_files.py DEMO_OUT    # a few minutes on two cores

DEMO_OUT is the folder that `robustcheck demo` writes: a trained EfficientNet-Lite0, and an encoder with a planted
feature on top of it. The index of each holds the vectors of the 141 bundled photos and of 7 crops of each photo, as a
baseline keeps them. Each file is made from these vectors. A model that looks up the vectors of
the photos is compared with itself by the command line with --require index, so that only the index decides.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from robustcheck_onnx.checker.cli import app
from robustcheck_onnx.checker.questions.compare import compare
from support import lookup

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "studies" / "results" / "index-files.md"
PHOTOS = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
N_CROPS = 7  # of each photo: a baseline keeps 1,024 vectors
Array = npt.NDArray[np.float32]


class Index(NamedTuple):
    """The vectors of the photos come first, those of the crops last."""

    rows: Array
    ids: list[str]


class Case(NamedTuple):
    """A file to be judged."""

    what: str
    make: Callable[[Index, Index, Path], object]
    """writes a file from the model's index and another model's"""
    answer: str
    """what is right"""
    reason: str = ""
    """several are joined by "or": which one depends on how alike the vectors of the model are"""
    options: str = ""


def crops(folder: Path) -> None:
    """Write crops of each photo, which are what else an index holds."""
    draw = np.random.default_rng(0)
    for photo in PHOTOS:
        picture = Image.open(photo).convert("RGB")
        for place in range(N_CROPS):
            size = int(min(picture.size) * draw.uniform(0.3, 0.6))
            left, top = (int(draw.integers(edge - size + 1)) for edge in picture.size)
            picture.crop((left, top, left + size, top + size)).save(folder / f"{photo.stem}-{place:02}.png")


def command(words: str) -> int:
    """Run robustcheck and return its exit code."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return app.main(words.split())


def embedded(model: Path, images: Path) -> Index:
    """Embed all images of a folder, as the product does for a baseline."""
    first = compare(model, images=str(images), device="cpu")
    assert first.next_baseline is not None
    vectors = first.next_baseline.vectors
    assert vectors is not None
    names = {f"sha256:{sha256(path.read_bytes()).hexdigest()}": path.name for path in images.glob("*.*g")}
    ids = [names[digest] for digest in vectors.digests]
    order = np.argsort(ids)
    return Index(vectors.rows[order], [ids[row] for row in order])


def npz(change: Callable[[Array], npt.NDArray[Any]], named: Callable[[str], str] | None = str) -> Callable[..., object]:
    """Return what writes changed vectors with ids, or without."""

    def write(index: Index, _: Index, path: Path) -> None:
        ids: dict[str, Any] = {} if named is None else {"ids": np.array([named(name) for name in index.ids])}
        np.savez(path, vectors=change(index.rows), **ids)

    return write


def same(rows: Array) -> Array:
    return rows


def normalised(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def rotated(rows: Array) -> Array:
    draw = np.random.default_rng(1)
    return np.asarray(rows @ np.linalg.qr(draw.normal(size=(rows.shape[1],) * 2))[0].astype(np.float32))


def permuted(rows: Array) -> Array:
    return np.asarray(rows[:, np.random.default_rng(1).permutation(rows.shape[1])])


def centred(rows: Array) -> Array:
    return np.asarray(rows - rows.mean(axis=0))


def reduced(rows: Array, n: int = 64) -> Array:
    """Return the first principal components."""
    directions = np.linalg.svd(centred(rows), full_matrices=False)[2][:n]
    return np.asarray(centred(rows) @ directions.T)


def rebuilt(rows: Array, n: int = 64) -> Array:
    """Return what is left in the vectors' own width after `reduced`."""
    directions = np.linalg.svd(centred(rows), full_matrices=False)[2][:n]
    return np.asarray(centred(rows) @ directions.T @ directions + rows.mean(axis=0))


def product_quantised(rows: Array, parts: int = 32, words: int = 128) -> Array:
    """Return the reconstructions of a product quantiser, by Lloyd's algorithm."""
    draw, out = np.random.default_rng(2), []
    for part in np.split(rows, parts, axis=1):
        centres = part[draw.choice(len(part), words, replace=False)]
        for _ in range(8):
            nearest = ((centres**2).sum(axis=1) - 2 * part @ centres.T).argmin(axis=1)
            for word in np.unique(nearest):
                centres[word] = part[nearest == word].mean(axis=0)
        out.append(centres[nearest])
    return np.concatenate(out, axis=1)


def scalar_quantised(rows: Array) -> Array:
    """Return the reconstructions of 8 bits per feature, between the smallest and largest value of each."""
    low = rows.min(axis=0)
    step = np.maximum(rows.max(axis=0) - low, 1e-12) / 255
    return np.asarray(np.round((rows - low) / step) * step + low)


def int8_rescaled(rows: Array) -> Array:
    step = np.abs(rows).max() / 127
    return np.asarray(np.round(rows / step) * step)


def int8_codes(rows: Array) -> Array:
    return np.asarray(np.round(rows / (np.abs(rows).max() / 127)).astype(np.int8))


def binary(rows: Array) -> Array:
    return np.asarray(np.where(centred(rows) > 0, 1, -1).astype(np.float32))


def bits(rows: Array) -> npt.NDArray[np.uint8]:
    return np.packbits(centred(rows) > 0, axis=1)


def noise(rows: Array) -> Array:
    return np.random.default_rng(3).normal(size=rows.shape).astype(np.float32)


def one_replaced(rows: Array) -> Array:
    return np.concatenate([rows[-1:], rows[1:]])


def twelve_replaced(rows: Array) -> Array:
    return np.concatenate([rows[-12:], rows[12:]])


def other_half(index: Index, other: Index, path: Path) -> None:
    """Write an index of which every second vector was made again by another model."""
    rows = np.where(np.arange(len(index.rows))[:, None] % 2 == 0, index.rows, other.rows)
    np.savez(path, vectors=rows, ids=index.ids)


def other_half_without_ids(index: Index, other: Index, path: Path) -> None:
    other_half(index, other, path)
    np.savez(path, vectors=np.load(path)["vectors"])


def other_model(index: Index, other: Index, path: Path) -> None:
    np.savez(path, vectors=other.rows, ids=other.ids)


def other_model_without_ids(index: Index, other: Index, path: Path) -> None:
    np.savez(path, vectors=other.rows)


def shuffled(index: Index, _: Index, path: Path) -> None:
    """Write the ids in another order."""
    np.savez(path, vectors=index.rows, ids=np.random.default_rng(4).permutation(index.ids))


def half_without(index: Index, _: Index, path: Path) -> None:
    """Write an index in which every second photo is missing."""
    rows = np.r_[0 : len(PHOTOS) : 2, len(PHOTOS) : len(index.rows)]
    np.savez(path, vectors=index.rows[rows], ids=np.array(index.ids)[rows])


def first(n: int, *, ids: bool = True) -> Callable[..., object]:
    """Return what writes the first vectors alone."""

    def write(index: Index, _: Index, path: Path) -> None:
        named: dict[str, Any] = {"ids": np.array(index.ids[:n])} if ids else {}
        np.savez(path, vectors=index.rows[:n], **named)

    return write


def of_crops(index: Index, _: Index, path: Path) -> None:
    """Write an index in which none of the photos is."""
    np.savez(path, vectors=index.rows[len(PHOTOS) :])


UNSURE = "other_index or untested_index"
ACCEPT = "--accept-untested-index"
CASES = (
    Case("right, ids are the names", npz(same), "compatible"),
    Case("right, ids `photos/a.jpg`", npz(same, lambda name: f"photos/{name}"), "compatible"),
    Case("right, ids are whole paths", npz(same, lambda name: f"/data/2026/{name}"), "compatible"),
    Case("right, ids with backslashes", npz(same, lambda name: f"photos\\{name}"), "compatible"),
    Case("right, ids without suffix", npz(same, lambda name: PurePath(name).stem), "compatible"),
    Case(
        "right, ids are other numbers",
        npz(same, lambda name: str(int(sha256(name.encode()).hexdigest()[:8], 16))),
        "compatible",
    ),
    Case("right, no ids", npz(same, None), "compatible"),
    Case("float16", npz(lambda rows: rows.astype(np.float16)), "compatible"),
    Case("normalised", npz(normalised), "compatible"),
    Case("normalised, `--metric cosine`", npz(normalised), "compatible", "", "--metric cosine"),
    Case("int8, rescaled", npz(int8_rescaled), "compatible"),
    Case("8 bits per feature, reconstructed", npz(scalar_quantised), "compatible"),
    Case("one vector of a photo replaced", npz(one_replaced), "compatible"),
    Case("half of the photos not in it, ids", half_without, "compatible"),
    Case("scaled, `--metric cosine`", npz(lambda rows: 3 * rows), "compatible", "", "--metric cosine"),
    Case("scaled", npz(lambda rows: 3 * rows), "undecided", "index_lengths"),
    Case(
        "doubled, `--metric euclidean`", npz(lambda rows: 2 * rows), "undecided", "index_lengths", "--metric euclidean"
    ),
    Case(
        "doubled, no ids, `--metric dot`",
        npz(lambda rows: 2 * rows, None),
        "undecided",
        "index_lengths",
        "--metric dot",
    ),
    Case("another model", other_model, "undecided", "other_index"),
    Case("another model, no ids", other_model_without_ids, "undecided", UNSURE),
    Case("noise", npz(noise), "undecided", "other_index"),
    Case("noise, no ids", npz(noise, None), "undecided", "other_index"),
    Case("ids shuffled", shuffled, "undecided", "other_ids"),
    Case("half of it made by another model", other_half, "undecided", "other_index"),
    Case("half of it made by another model, no ids", other_half_without_ids, "undecided", "untested_index"),
    Case("twelve vectors of photos replaced", npz(twelve_replaced), "undecided", "other_index"),
    Case("rotated", npz(rotated), "undecided", "changed_index"),
    Case("rotated, no ids", npz(rotated, None), "undecided", "other_index"),
    Case("features in another order", npz(permuted), "undecided", "changed_index"),
    Case("features in another order, no ids", npz(permuted, None), "undecided", UNSURE),
    Case("centred", npz(centred), "undecided", "changed_index"),
    Case("centred, no ids", npz(centred, None), "undecided", "other_index"),
    Case("PCA, same width", npz(rebuilt), "undecided", "changed_index"),
    Case("PCA, same width, no ids", npz(rebuilt, None), "undecided", "changed_index"),
    Case("PCA, 64 features", npz(reduced), "error"),
    Case("product-quantised, reconstructed", npz(product_quantised), "undecided", "changed_index"),
    Case("product-quantised, no ids", npz(product_quantised, None), "undecided", "changed_index"),
    Case("binary, ±1", npz(binary), "undecided", "changed_index"),
    Case("binary, bits", npz(bits), "error"),
    Case("int8 codes", npz(int8_codes), "error"),
    Case("empty", first(0), "error"),
    Case("10 vectors", first(10), "undecided", "untested_index"),
    Case("none of the photos in it", of_crops, "undecided", "untested_index"),
    Case(f"the same, `{ACCEPT}`", of_crops, "compatible", "", ACCEPT),
    Case(f"noise, no ids, `{ACCEPT}`", npz(noise, None), "undecided", "other_index", ACCEPT),
)
CODES = {"compatible": 0, "undecided": 1, "re-embed": 1, "error": 2}


def judged(case: Case, model: Path, index: Index, other: Index, folder: Path) -> tuple[str, int, str, str]:
    """Return answer, exit code, reason and what was seen, by the command."""
    path, report = folder / "index.npz", folder / "report.json"
    case.make(index, other, path)
    words = f"compare {model} {model} --images {folder / 'photos'} --index {path} --require index --device cpu"
    code = command(f"{words} {case.options} -o json={report}")
    answer = json.loads(report.read_text(encoding="utf-8"))
    if "error" in answer:
        return "error", code, "", answer["error"]["message"].split(": ", 1)[1]
    first_reason = next(iter(answer["index"]["reasons"]), {"id": "", "seen": f"tested {answer['index']['tested']}"})
    return answer["index"]["verdict"], code, first_reason["id"], first_reason["seen"]


def lines(models: dict[str, Path], folder: Path) -> Iterator[str]:
    """Yield the table's lines."""
    sources = {"photos": ROOT / "checker" / "photos", "crops": folder / "crops"}
    sources["crops"].mkdir()
    crops(sources["crops"])
    photos = lookup.write_lookup_images(folder / "photos", len(PHOTOS))
    indexes = {}
    for name, model in models.items():
        of_photos, of_crops = (embedded(model, images) for images in sources.values())
        ids = [path.name for path in photos] + of_crops.ids
        indexes[name] = Index(np.concatenate([of_photos.rows, of_crops.rows]), ids)
        lookup.write_lookup_model(folder / f"{model.stem}.onnx", of_photos.rows)
    for name, model in models.items():
        rows = indexes[name].rows
        other = Index(foreign(rows, indexes, name), indexes[name].ids)
        for case in CASES:
            answer, code, reason, seen = judged(case, folder / f"{model.stem}.onnx", indexes[name], other, folder)
            is_right = (answer, code) == (case.answer, CODES[case.answer]) and reason in case.reason.split(" or ")
            right = "yes" if is_right else f"**no**: {case.answer} {case.reason}"
            yield f"| {name} | {case.what} | {answer} | {code} | {reason} | {right} | {seen} |\n"


def foreign(rows: Array, indexes: dict[str, Index], name: str) -> Array:
    """Return the vectors of a model of this width: a random layer with rectified values over the other model."""
    (other,) = (index.rows for key, index in indexes.items() if key != name)
    layer = np.random.default_rng(5).normal(size=(other.shape[1], rows.shape[1]))
    return np.asarray(np.maximum(normalised(centred(other)) @ layer + 0.5, 0), np.float32)


START, END = "<!-- table -->\n", "<!-- end of table -->\n"


def main(demo: Path) -> None:
    """Judge every file, and write the table into the page."""
    os.environ["NO_COLOR"] = "1"
    models = {
        "EfficientNet-Lite0": demo / "efficientnet_lite0.onnx",
        "planted encoder": demo / "planted_outlier.onnx",
    }
    table = "| model | file | answer | exit code | reason | right? | what the report shows |\n"
    table += "|---|---|---|---:|---|---|---|\n"
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for line in lines(models, Path(folder)):
            print(line, end="", flush=True)
            table += line
    before, after = page[: page.index(START) + len(START)], page[page.index(END) :]
    PAGE.write_text(before + table + after, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    main(parser.parse_args().demo)
