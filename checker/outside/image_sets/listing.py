"""Find the files of an image set: a folder, a glob, a list, a manifest, or files with many images each.

Each row of a list (.txt) or manifest (.csv, .jsonl) must name a file that is there.
"""

import glob
import os
import re
import stat
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from ...core.images.entries import Entries, Kind, ListedImage
from ...core.options import STOCK
from ...errors import CannotAssessError, UsageError
from ...paths import SUFFIXES, nearest_path
from ...text import is_onnx, quoted
from ..storage import places
from ..storage.places import Place, Url, folder_files, is_ignored, parse_place, visible
from ..storage.stores import RemoteFile, open_url
from . import containers
from .files import File, file_entries, read_remote
from .manifests import ROWS, manifest_entries

KINDS = (
    "a folder, a glob, an image, a list (.txt), a manifest (.csv, .jsonl), .tar shards, .parquet, .arrow, .npy or .npz"
)
Listed = tuple[Kind, Entries]
"""what a set is, and its images"""
MOST_NAMES = 100_000  # of one pattern with braces
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_BRACES = re.compile(r"\{([^{}]*)\}")
_COMPRESSED_TARS = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def suffix(name: str) -> str:
    """Return the suffix in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 # a Path for each of a million names takes seconds


def parse_image_set(images: str | Place | None) -> Place | None:
    """Return the path or URL of an image set; None for the bundled photos, also by the word `bundled`.

    Raises UsageError for blanks, and as `parse_place`.
    """
    if isinstance(images, str) and not images.strip():  # an empty variable in a script; Path("") is the current folder
        raise UsageError(f"--images is {images!r}; it must be {KINDS}", "--images photos/")
    return None if images is None or images == STOCK else parse_place(images)


def list_images(place: Place) -> Listed:
    """List all images of a set, unread and unordered.

    Raises UsageError, EnvironmentFaultError, CannotAssessError as `open.open_images`.
    """
    if is_pattern(places.as_typed(place)) and not (isinstance(place, Path) and os.path.lexists(place)):
        return _index_pattern(place)
    if isinstance(place, Url):
        return _index_url(place)
    spec = str(place)
    path = place.expanduser()
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as fault:
        if glob.has_magic(spec):
            return _index_glob(spec)
        reason = fault.strerror if isinstance(fault, OSError) else str(fault)
        near = nearest_path(path) if isinstance(fault, FileNotFoundError) else None
        raise UsageError(
            f"{spec}: image set is not readable ({reason}); it must be {KINDS}", f"--images {quoted(near or 'FOLDER')}"
        ) from fault
    if stat.S_ISDIR(mode):
        return _by_content(spec, "folder", path, folder_files(path))
    if not stat.S_ISREG(mode):
        raise UsageError(f"{spec}: image set is not a regular file or folder; it must be {KINDS}", "--images FOLDER")
    return _of_file(spec, path)


def _of_file(spec: str, path: File) -> Listed:
    ending = path.suffix.lower()
    if ending in ROWS:
        return "list" if ending == ".txt" else "manifest", manifest_entries(path)
    if ending in (".npy", ".npz"):
        return "tensors", Entries.of(containers.tensor_entries(path))
    if isinstance(path, RemoteFile) and path.is_signed:  # its folder knows no key
        if ending in SUFFIXES:
            image = ListedImage(path.name, partial(read_remote, path))
            return "image", Entries.of([image])
        raise UsageError(
            f"{spec}: image set has a signed URL; only an image, a list or an array can have one", "copy it here first"
        )
    return _by_content(spec, "image", path.parent, [path.name])


def _index_url(url: Url) -> Listed:
    """List the images of a URL as list_images does. Raises StoreError too, where the store can't be reached."""
    file = open_url(url)
    spec = str(url)
    if url.is_http:
        if file.suffix == "":
            raise UsageError(
                f"{spec}: image set is a folder on a web server, which can't list it; it must be a file",
                "name a list (.txt) of the images, which may lie next to it",
            )
        return _of_file(spec, file)
    try:
        kind = file.info()["type"]
    except FileNotFoundError as fault:
        if glob.has_magic(file.path):
            parts = file.path.split("/")
            first = list(map(glob.has_magic, parts)).index(True)
            pattern = parts[first:]
            folder = file
            for _ in pattern:
                folder = folder.parent
            matching = visible(folder.names_like("/".join(pattern)))
            return _by_content(spec, "glob", folder, _without_models(spec, matching))
        raise UsageError(
            f"{spec}: image set is not readable (no such file or folder); it must be {KINDS}", "look at the URL"
        ) from fault
    if kind == "directory":
        names = visible(file.names_below())
        return _by_content(spec, "folder", file, _without_models(spec, names))
    return _of_file(spec, file)


def _without_models(spec: str, names: list[str]) -> list[str]:
    """Return the names of a place in a store. Raises UsageError for an ONNX file there, which may be meant, too."""
    for name in filter(is_onnx, names):
        photos = spec.rstrip("/*") + "/*.jpg"
        raise UsageError(
            f"{spec}: place holds ONNX files ({name}); one in a store that gives photos must hold none",
            f"--images {quoted(photos)}",
        )
    return names


def _index_pattern(place: Place) -> Listed:
    """List the files of numbered names, which on this machine must all exist before anything is read."""
    start, _, rest = places.as_typed(place).partition("{")
    above, slash, name = start.rpartition("/")
    names = expand_braces(f"{name}{{{rest}")
    folder: File
    if isinstance(place, Url):
        if "?" in rest:
            raise UsageError(
                f"{place}: a key in the URL opens one file; numbered names need a store without a key", "copy them here"
            )
        folder = open_url(Url(above, place.protocol))
    else:
        folder = Path(above + slash).expanduser()
        for file in map(folder.joinpath, names):
            if not file.exists():
                raise UsageError(
                    f"{place}: file {file} is missing; all {len(names)} names of a pattern must be there",
                    f"ls {quoted(folder)}",
                )
    return _by_content(str(place), "glob", folder, names)


def _index_glob(spec: str) -> Listed:
    parts = Path(spec).expanduser().parts
    first = list(map(glob.has_magic, parts)).index(True)
    fixed = Path(*parts[:first])

    def leaves_out(folder: str) -> bool:
        below = Path(folder).relative_to(fixed)
        return below != Path() and is_ignored(below.as_posix())

    paths = map(Path, places.expand(parts, places.unreadable_folder, folder_files, leaves_out))
    names = visible(path.relative_to(fixed).as_posix() for path in paths if not path.is_dir())
    names.sort(key=lambda name: (name.count("/"), name))
    real_folder = cache(os.path.realpath)
    by_file: dict[tuple[str, str], str] = {}
    for name in names:
        path = fixed / name
        by_file.setdefault((real_folder(path.parent), path.name), name)
    return _by_content(spec, "glob", fixed, list(by_file.values()))


def _by_content(spec: str, kind: Kind, folder: File, names: Sequence[str]) -> Listed:
    """List files as images, tar shards, or tables, as their suffixes say; a mixture is refused."""
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
                f"gunzip {quoted(name)} (or the like), then name the .tar",
            )
    groups = {"images": images, **others}
    kinds = [kind for kind, group in groups.items() if group]
    if len(kinds) > 1:
        raise UsageError(
            f"{spec}: content is a mixture ({', '.join(kinds)}); an image set must be of one kind",
            "name one kind with a quoted glob, for example 'folder/*.tar'",
        )
    if images:
        return kind, file_entries(folder, images)
    if others[".tar"]:
        return "tar", Entries.of(containers.tar_entries(spec, others[".tar"]))
    if others[".parquet"]:
        return "parquet", containers.ParquetTable(others[".parquet"]).entries()
    if others[".arrow"]:
        return "arrow", Entries.of(containers.arrow_entries(others[".arrow"]))
    place = spec if glob.has_magic(spec) else quoted(spec)
    raise CannotAssessError(
        f"{spec}: no images found among {len(names)} files; at least one is needed: image files, .tar shards, "
        ".parquet or .arrow files",
        f"ls {place}  # images are known by suffix: .jpg, .png, .webp, …",
    )


def _refuse_pipe(file: File) -> None:
    """Refuse what would be opened here and never end."""
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise UsageError(
            f"{file}: file is a device, pipe or folder; a regular file is needed", f"ls -lL {quoted(file)}"
        )


def image_files(folder: Path) -> list[str]:
    """Return the names with an image's suffix."""
    return [name for name in folder_files(folder) if suffix(name) in SUFFIXES]


def is_pattern(text: str) -> bool:
    """Return whether a text has braces to expand, around a range of numbers or names with commas between them.

    >>> is_pattern("a-{0..3}.tar"), is_pattern("{a,b}.tar"), is_pattern("{model}.tar")
    (True, True, False)
    """
    return any(_RANGE.fullmatch(inside) or "," in inside for inside in _BRACES.findall(text))


def expand_braces(text: str) -> list[str]:
    """Return all names of a pattern, in order, with numbers as wide as the wider end of their range.

    Raises UsageError: a range that runs backwards, more than MOST_NAMES names.

    >>> expand_braces("{a,b}-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    names = [""]
    for index, part in enumerate(_BRACES.split(text)):
        is_inside = index % 2 == 1
        choices = _choices(text, part) if is_inside else [part]
        if len(names) * len(choices) > MOST_NAMES:
            raise _too_many(text)
        names = [name + choice for name in names for choice in choices]
    return names


def _choices(text: str, inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    start, end = numbers.groups()
    first = int(start)
    last = int(end)
    if last < first:
        raise UsageError(f"{text}: range is {inside}; it must run upwards", f"{{{end}..{start}}}")
    if last - first >= MOST_NAMES:
        raise _too_many(text)
    width = 0
    if "0" in (start[0], end[0]):
        width = max(len(start), len(end))
    return [f"{number:0{width}}" for number in range(first, last + 1)]


def _too_many(text: str) -> UsageError:
    return UsageError(f"{text}: number of names is more than {MOST_NAMES:,}; that is the limit", "name a folder")
