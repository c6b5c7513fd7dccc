"""Find the files of an image set: a folder, a glob, a list, a manifest, or files that hold many images each."""

from __future__ import annotations

import glob
import os
import re
import shlex
import stat
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import STOCK
from robustcheck_onnx.checker.storage.places import (
    SUFFIXES,
    Place,
    Url,
    as_typed,
    expand,
    folder_files,
    is_ignored,
    nearest_path,
    parse_place,
    unreadable_folder,
)
from robustcheck_onnx.checker.storage.stores import RemoteFile, open_url

from . import containers, manifest
from .entries import Entries, Entry, File, file_entries, read_remote

Kind = Literal[
    "bundled", "image", "folder", "glob", "list", "manifest", "tar", "parquet", "arrow", "tensors", "paths", "pictures"
]

KINDS: Final = (
    "a folder, a glob, an image, a list (.txt), a manifest (.csv, .jsonl), .tar shards, .parquet, .arrow, .npy or .npz"
)
MOST_NAMES: Final = 100_000  # of one pattern with braces
_RANGE: Final = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_COMPRESSED_TARS: Final = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def suffix(name: str) -> str:
    """Return the ending of a name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 # a Path for each of a million names takes seconds


def parse_image_set(given: str | Place | None) -> Place | None:
    """Return the path or URL of an image set; None for the bundled photos, also by the word `bundled`.

    Raises UsageError for blanks, and as `parse_place`.
    """
    if isinstance(given, str) and not given.strip():  # an empty variable in a script; Path("") is the current folder
        raise UsageError(f"--images is {given!r}; it must be {KINDS}", "--images photos/")
    return None if given is None or given == STOCK else parse_place(given)


def list_images(place: Place) -> tuple[Kind, Entries]:
    """List all images of a set, unread and in no order yet.

    Raises UsageError, EnvironmentFaultError, CannotAssessError as `source.open_images`.
    """
    if is_pattern(as_typed(place)) and not (isinstance(place, Path) and os.path.lexists(place)):
        return _index_pattern(place)
    if isinstance(place, Url):
        return _index_url(place)
    spec, path = str(place), place.expanduser()
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as fault:
        if glob.has_magic(spec):
            return _index_glob(spec)
        reason = fault.strerror if isinstance(fault, OSError) else str(fault)
        near = nearest_path(path) if isinstance(fault, FileNotFoundError) else None
        raise UsageError(
            f"{spec}: image set is not readable ({reason}); it must be {KINDS}",
            f"--images {shlex.quote(str(near)) if near else 'FOLDER'}",
        ) from fault
    if stat.S_ISDIR(mode):
        return _by_content(spec, "folder", path, folder_files(path))
    if not stat.S_ISREG(mode):
        raise UsageError(f"{spec}: image set is not a regular file or folder; it must be {KINDS}", "--images FOLDER")
    return _of_file(spec, path)


def _of_file(spec: str, path: File) -> tuple[Kind, Entries]:
    ending = path.suffix.lower()
    if ending in manifest.ROWS:
        return "list" if ending == ".txt" else "manifest", manifest.manifest_entries(path)
    if ending in (".npy", ".npz"):
        return "tensors", Entries.of(containers.tensor_entries(path))
    if isinstance(path, RemoteFile) and path.is_signed and ending in SUFFIXES:  # its folder knows no key
        return "image", Entries.of([Entry(path.name, partial(read_remote, path))])
    if isinstance(path, RemoteFile) and path.is_signed:
        raise UsageError(
            f"{spec}: image set is behind a signed URL; only an image, a list, or an array may be", "copy it here first"
        )
    return _by_content(spec, "image", path.parent, [path.name])


def _index_url(url: Url) -> tuple[Kind, Entries]:
    """List the images of a URL as list_images does. Raises StoreError too, where the store can't be reached."""
    file, spec = open_url(url), str(url)
    if url.is_http:
        if file.suffix == "":
            raise UsageError(
                f"{spec}: image set is a folder of a web server, which can't list it; it must be a file",
                "name a list (.txt) of the images, which may lie beside it",
            )
        return _of_file(spec, file)
    try:
        kind = file.info()["type"]
    except FileNotFoundError as fault:
        if glob.has_magic(file.path):
            parts = file.path.split("/")
            first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
            folder = file
            for _ in parts[first:]:
                folder = folder.parent
            return _by_content(spec, "glob", folder, _visible(folder.names_like("/".join(parts[first:]))))
        raise UsageError(
            f"{spec}: image set is not readable (no such file or folder); it must be {KINDS}", "look at the URL"
        ) from fault
    if kind == "directory":
        return _by_content(spec, "folder", file, _visible(file.names_below()))
    return _of_file(spec, file)


def _index_pattern(place: Place) -> tuple[Kind, Entries]:
    """List what numbered names stand for; those of this machine must all be there before anything is read."""
    start, slash, rest = as_typed(place).partition("{")
    above, slash, name = start.rpartition("/")
    names = expand_braces(f"{name}{{{rest}")
    if isinstance(place, Url):
        if "?" in rest:
            raise UsageError(f"{place}: a key opens one file; numbered names need a store without it", "copy them here")
        return _by_content(str(place), "glob", open_url(Url(above, place.protocol)), names)
    folder = Path(above + slash).expanduser()
    if missing := next((each for each in names if not (folder / each).exists()), None):
        raise UsageError(
            f"{place}: file {folder / missing} is missing; all {len(names)} names of a pattern must be there",
            f"ls {shlex.quote(str(folder))}",
        )
    return _by_content(str(place), "glob", folder, names)


def _visible(names: Iterable[str]) -> list[str]:
    return [name for name in names if not is_ignored(name)]


def _index_glob(spec: str) -> tuple[Kind, Entries]:
    parts = Path(spec).expanduser().parts
    fixed = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])

    def leaves_out(folder: str) -> bool:
        below = Path(folder).relative_to(fixed)
        return below != Path() and is_ignored(below.as_posix())

    matches = map(Path, expand(parts, unreadable_folder, lambda folder: folder_files(Path(folder)), leaves_out))
    files = [(path.relative_to(fixed).as_posix(), path) for path in matches if not path.is_dir()]
    once: dict[tuple[str, str], str] = {}
    real: dict[Path, str] = {}
    for name, path in sorted(files, key=lambda file: (file[0].count("/"), file[0])):
        if not is_ignored(name):
            folder = path.parent
            if folder not in real:
                real[folder] = os.path.realpath(folder)
            once.setdefault((real[folder], path.name), name)
    return _by_content(spec, "glob", fixed, list(once.values()))


def _by_content(spec: str, kind: Kind, folder: File, names: Sequence[str]) -> tuple[Kind, Entries]:
    """List files as images, tar shards, or tables, by what they are; a mixture is refused."""
    images: list[str] = []
    others: dict[str, list[tuple[str, File]]] = {".tar": [], ".parquet": [], ".arrow": []}
    for name in names:
        ending = suffix(name)
        if ending in SUFFIXES:
            images.append(name)
        elif ending in others:
            file = folder / name
            _refuse_pipe(file)
            others[ending].append((name, file))
        elif name.lower().endswith(_COMPRESSED_TARS):
            raise UsageError(
                f"{name}: shard is compressed; shards must be plain .tar so that images can be read in any order",
                f"gunzip {shlex.quote(name)} (or the like), then name the .tar",
            )
    present = [ending for ending, group in others.items() if group]
    if len(present) + bool(images) > 1:
        kinds = ", ".join((["images"] if images else []) + present)
        raise UsageError(
            f"{spec}: content is a mixture ({kinds}); an image set must be of one kind",
            "name one kind with a quoted glob, for example 'folder/*.tar'",
        )
    if images:
        return kind, file_entries(folder, images)
    if others[".tar"]:
        return "tar", Entries.of(containers.tar_entries(spec, others[".tar"]))
    if others[".parquet"]:
        return "parquet", containers.Table(others[".parquet"]).entries()
    if others[".arrow"]:
        return "arrow", Entries.of(containers.arrow_entries(others[".arrow"]))
    raise CannotAssessError(
        f"{spec}: number of images is 0 among {len(names)} files; at least one is needed: image files, .tar shards, "
        ".parquet or .arrow files",
        f"ls {spec if glob.has_magic(spec) else shlex.quote(spec)}  # images are known by suffix: .jpg, .png, .webp, …",
    )


def _refuse_pipe(file: File) -> None:
    """Refuse what would be opened here and never end."""
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise UsageError(
            f"{file}: file is a device, pipe or folder; a regular file is needed", f"ls -lL {shlex.quote(str(file))}"
        )


def image_files(folder: Path) -> list[str]:
    """Return the names in `folder_files` that are images by their suffix."""
    return [name for name in folder_files(folder) if suffix(name) in SUFFIXES]


def is_pattern(text: str) -> bool:
    """Return whether a text has braces around a range of numbers, or around names with commas between them.

    >>> is_pattern("a-{0..3}.tar"), is_pattern("{a,b}.tar"), is_pattern("{model}.tar")
    (True, True, False)
    """
    return any(_RANGE.fullmatch(inside) or "," in inside for inside in _BRACES.findall(text))


def expand_braces(text: str) -> list[str]:
    """Return all names of a pattern, in order; a number is as wide as the wider end of its range.

    Raises UsageError: a range that runs backwards, more than MOST_NAMES names.

    >>> expand_braces("{a,b}-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    names = [""]
    for index, part in enumerate(_BRACES.split(text)):
        choices = [part] if index % 2 == 0 else _choices(text, part)
        if len(names) * len(choices) > MOST_NAMES:
            raise UsageError(f"{text}: number of names is more than {MOST_NAMES:,}; that is the limit", "name a folder")
        names = [name + choice for name in names for choice in choices]
    return names


def _choices(text: str, inside: str) -> list[str]:
    if numbers := _RANGE.fullmatch(inside):
        first, last = int(numbers[1]), int(numbers[2])
        if last < first:
            raise UsageError(f"{text}: range is {inside}; it must run upwards", f"{{{numbers[2]}..{numbers[1]}}}")
        if last - first >= MOST_NAMES:
            raise UsageError(f"{text}: number of names is more than {MOST_NAMES:,}; that is the limit", "name a folder")
        width = max(len(numbers[1]), len(numbers[2])) if "0" in (numbers[1][0], numbers[2][0]) else 0
        return [f"{number:0{width}d}" for number in range(first, last + 1)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]
