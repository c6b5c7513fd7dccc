"""Bad input through the real command: image sets that are missing, empty, damaged, or of the wrong shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.bad_input import Done, Row, check_row

KINDS = (
    "a folder, a glob, an image, a list (.txt), a manifest (.csv, .jsonl), .tar shards, .parquet, .arrow, .npy or .npz"
)
NEEDED = "at least one is needed: image files, .tar shards, .parquet or .arrow files"
ARRAY_HINT = "save float32 images (batch, channel, height, width) with numpy.save"


def image_rows() -> list[Row]:
    def row(images: str, code: int, message: str, hint: str) -> Row:
        return Row(f"pass.onnx --images {images}", code, message, hint)

    suffixes = "  # images are known by suffix: .jpg, .png, …"
    damaged_tar = "tar file is damaged (…); shards must be whole, plain tar files"
    return [
        row(
            "nope",
            2,
            f"nope: image set is not readable (No such file or directory); it must be {KINDS}",
            "--images FOLDER",
        ),
        row(
            "nope/*.jpg",
            3,
            f"nope/*.jpg: number of images is 0 among 0 files; {NEEDED}",
            f"ls nope/*.jpg{suffixes}",
        ),
        row("texts", 3, f"texts: number of images is 0 among 3 files; {NEEDED}", f"ls texts{suffixes}"),
        row("folder", 3, f"folder: number of images is 0 among 0 files; {NEEDED}", f"ls folder{suffixes}"),
        row("pipe", 2, f"pipe: image set is not a regular file or folder; it must be {KINDS}", "--images FOLDER"),
        row(
            "corrupt",
            3,
            "corrupt: number of usable images is 0 of 5 (….jpg: not an image that Pillow can decode; …); at least one "
            "is needed",
            "name a set of photos: --images FOLDER",
        ),
        row(
            "some",
            3,
            "some: number of unusable images is 4 of … (bad….png: damaged: …); at most 1.00% may be",
            "repair or remove them, or allow more: --max-bad SHARE",
        ),
        row(
            "shape.npy",
            2,
            "shape.npy: array: shape is (3, 64, 64); it must be (batch, 1 or 3 channels, height, width)",
            "transpose it: x.transpose(0, 3, 1, 2) for channels last",
        ),
        row(
            "complex.npy",
            2,
            "complex.npy: array: dtype is complex64; it must be float or unsigned integer",
            ARRAY_HINT,
        ),
        row(
            "objects.npy",
            3,
            "objects.npy: file is not a plain array (it holds Python objects); it must be npy or npz without objects",
            ARRAY_HINT,
        ),
        row(
            "text.npy",
            3,
            "text.npy: file is not a plain array (it starts with b'hello '); it must be npy or npz",
            ARRAY_HINT,
        ),
        row(
            "header.npy",
            3,
            "header.npy: file is not a plain array (…); it must be npy or npz without objects",
            ARRAY_HINT,
        ),
        row(
            "short.npy",
            3,
            "short.npy: file is not a plain array (…); it must be npy or npz without objects",
            ARRAY_HINT,
        ),
        row(
            "size.npy",
            2,
            "size.npy#…: tensor (channel, height, width) is (3, 32, 32); pass.onnx takes (3, 64, 64)",
            "robustcheck inspect pass.onnx",
        ),
        row(
            "grey.npy",
            2,
            "grey.npy#…: tensor (channel, height, width) is (1, 64, 64); pass.onnx takes (3, 64, 64)",
            "robustcheck inspect pass.onnx",
        ),
        row(
            "nan.npy",
            3,
            "nan.npy: number of usable images is 0 of 6 (nan.npy#…: values that are not finite; …); at least one is "
            "needed",
            "name a set of photos: --images FOLDER",
        ),
        row(
            "pickles.tar",
            2,
            "pickles.tar: number of images in 1 tar file(s) is 0; members must be images (.jpg, …)",
            "tar tf pickles.tar",
        ),
        row("short.tar", 3, f"short.tar: {damaged_tar}", "tar tf short.tar"),
        row("text.tar", 3, f"text.tar: {damaged_tar}", "tar tf text.tar"),
        row(
            "x.tar.gz",
            2,
            "x.tar.gz: shard is compressed; shards must be plain .tar so that images can be read in any order",
            "gunzip x.tar.gz (or the like), then name the .tar",
        ),
        row(
            "gone.csv",
            2,
            "gone.csv: row 3: path is photos/nope.png; there is no such file",
            "ls -l photos/nope.png  # paths are relative to the folder of gone.csv",
        ),
        row(
            "columns.csv",
            2,
            "columns.csv: row 2 has the columns name, label; one of path, image, file must name the image",
            "sed -n 1p columns.csv",
        ),
        row(
            "cells.csv",
            2,
            "cells.csv: row 2 has more cells than columns; quote cells that hold a comma",
            "sed -n 2p cells.csv",
        ),
        row("empty.csv", 2, "empty.csv: number of images listed is 0; at least one is needed", "cat empty.csv"),
        row(
            "bad.jsonl",
            2,
            "bad.jsonl: row 2 is not JSON (…); each row must be an object",
            "sed -n 2p bad.jsonl",
        ),
        row("list.jsonl", 2, "list.jsonl: row 1 is [1]; each row must be a JSON object", "sed -n 1p list.jsonl"),
        row("deep.jsonl", 2, "deep.jsonl: row 1 is not JSON (…); each row must be an object", "sed -n 1p deep.jsonl"),
        row(
            "binary.txt",
            2,
            "binary.txt: file is not readable UTF-8 text (…); a list or manifest must be",
            "file binary.txt",
        ),
    ]


@pytest.mark.parametrize("row", image_rows(), ids=lambda row: row.call.split()[-1])
def test_images(world: Path, row: Row, warm: Callable[..., Done]) -> None:
    check_row(world, row, warm)
