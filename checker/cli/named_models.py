"""Find the models and photos that words of a command line name.

Imports nothing heavy at the top, for it is needed where a signal has ended the import of everything else.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path, PurePosixPath

from ..errors import RobustcheckError, UsageError
from ..text import form_of, is_onnx, quoted
from .options import PLACEHOLDER, Words

SUFFIX = ".onnx"
_GLOB = re.compile(r"[*?]|\[.+\]")
_STORE = re.compile(r"(?!(hf|https?|models|runs|file|local):)[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""what starts a URL of a store, which can list a folder; others name files, or places of this machine"""
_ADDRESS = re.compile(r"(models|runs):/[^/]")


def expand(words: Words) -> list[str]:
    """Return the models that words name.

    A word is a file itself, a folder with all .onnx files below it, or a glob with what it matches.

    A folder that a glob matches may hold no model. The models come in the order of the words, those of one word sorted,
    each file once. The name of a file is that file, even with `*` or `[` in it. The name of no file stays in the list:
    opening it says what is wrong.
    Raises UsageError: a folder or a glob without a model, a folder that can't be read.
    """
    models: dict[str, str] = {}
    for path in chain.from_iterable(map(_models_of, words)):
        folder, name = os.path.split(path)  # a link to a file stays, since it has sidecars of its own
        file = path if is_address(path) else f"{os.path.realpath(folder)}/{name}"
        models.setdefault(file, path)
    return list(models.values())


def split_images(words: Words, *, images_typed: bool, strict: bool) -> tuple[list[str], str | None]:
    """Split the image set off the typed places: `robustcheck model.onnx photos/`.

    The last place is the image set if it has images and no ONNX file; behind a model it may be a folder in a store.
    `--strict` takes photos from `--images` alone.

    Raises:
        UsageError: no model comes first, more than one image set, a place with both images and ONNX files, a last
            folder with neither; a report.
    """
    is_typed = images_typed or strict
    *others, last = words
    holds = {word: _holds(word) for word in words}
    if others and not is_typed:
        holds[last] = _holds_as_last(last, holds[last])
    images = [word for word in words if holds[word] == {"images"}]
    models = [word for word in words if word not in images]
    if others and not (is_typed or images) and len(holds[last]) > 1:
        again = shlex.join(["robustcheck", *others])
        raise UsageError(
            f"{last}: place holds images and ONNX files; it is not clear which are meant",
            f"{again} --images {quoted(last)}",
        )
    is_first = words[0] in images
    if is_first and images_typed:  # a folder without a model
        return list(words), None
    if not images or (len(images) == 1 and not (is_typed or is_first)):
        return models, images[0] if images else None
    parents = {str(Path(image).parent) for image in images}
    is_of_one_folder = len(images) > 1 and len(parents) == 1 and parents != {"."}
    place = quoted(parents.pop() if is_of_one_folder else images[0])
    named = shlex.join(models or ["model.onnx"])
    again = f"robustcheck {named} --images {place}"
    why = "one image set is taken; a glob needs quotes"
    if strict:
        why = "--strict takes images from --images alone"
        again = f"robustcheck check --strict --images {place} -- {named}"
    elif is_first:
        why = "no ONNX file is in it; the model comes first"
    raise UsageError(f"{images[0]}: {why}", again)


def _holds(word: str) -> set[str]:
    """Return what a typed place has: images, models or both. An empty folder counts as a model."""
    from ..outside.storage import places  # keeps `--help` fast

    if not is_address(word) and os.path.isdir(word):  # noqa: PTH112 # a Path would change the word
        if not any(map(places.is_set, places.folder_files(Path(word)))):
            return {"models"}
        return {"images", "models"} if any(_below(word)) else {"images"}
    if form_of(word) not in ("", "terminal") and not is_address(word):
        raise UsageError(f"{word}: this is the name of a report, not of a model", f"-o {quoted(word)}")
    return _named_as(word)


def _holds_as_last(word: str, holds: set[str]) -> set[str]:
    """Return whether the last of several places has images or models. What may be a model counts as one.

    Raises UsageError: a folder with neither.
    """
    if holds != {"models"}:
        return holds
    if _STORE.match(word):
        before_key, _, _ = word.partition("?")
        return holds if is_onnx(word) or is_onnx(before_key) else {"images"}
    if os.path.isdir(word) and not any(_below(word)):  # noqa: PTH112
        raise UsageError(
            f"no photos in {word}, and no {SUFFIX} files; a model's photos, or models, must be in the folder",
            f"ls {quoted(word)}  # photos are known by suffix: .jpg, .png, .webp, …",
        )
    if is_address(word) or os.path.lexists(word) or not _GLOB.search(word):
        return holds
    found: set[str] = set()
    for path in _matches(word):
        found |= _holds(path) if os.path.isdir(path) else _named_as(path)  # noqa: PTH112
    return found or holds


def _named_as(file: str) -> set[str]:
    """Return whether a file's suffix is that of images. Any other may be a model's."""
    from ..outside.storage import places  # keeps `--help` fast

    return {"images" if places.is_set(file) else "models"}


def is_address(word: str) -> bool:
    """Return whether a word is a URL, or an address such as `models:/name/3`, and not a file."""
    names_registry = _ADDRESS.match(word) is not None and not os.path.lexists(word)
    return "://" in word or names_registry


def target_of(model: str) -> str:
    """Return the file that a model's links lead to, absolute where the model is; "" without links."""
    typed = os.path.abspath(model)  # noqa: PTH100 # `..` is not followed
    target = os.path.realpath(model)
    if is_address(model) or target == typed:
        return ""
    if not Path(model).is_absolute() and Path(typed).drive == Path(target).drive:
        target = os.path.relpath(target)
    return target.replace(os.sep, "/")


def with_blanks(words: Words) -> list[str]:
    """Return the words with the first ones as one name, typed without quotes. None of them unless it exists."""
    for n in range(2, len(words) + 1):
        name = " ".join(words[:n])
        if os.path.lexists(name):
            return [name, *words[n:]]
    return []


def refuse_missing(models: Words) -> None:
    """Refuse a missing model before others are measured. Raises UsageError."""
    for at, model in enumerate(models):
        if not is_address(model) and not os.path.lexists(model):
            if again := with_blanks(models[at:]):
                raise UsageError(f"{model}: no such file; a name with blanks needs quotes", quoted(again[0]))
            # not where the files are there: ONNX Runtime
            from ..core.model.file import missing
            from ..core.model.weights import about
            from ..outside.addresses import parse_model

            parse_model(model)
            with about(Path(model)):
                raise missing(Path(model))


def _models_of(word: str) -> list[str]:
    if is_address(word) or os.path.isfile(word):  # noqa: PTH113 # a Path would change the word
        return [word]
    if os.path.isdir(word):  # noqa: PTH112
        models = sorted(_below(word))
        if not models:
            raise UsageError(
                f"{word}: no {SUFFIX} files found in the folder; at least one is needed",
                f"find {quoted(word)} -name '*{SUFFIX}'",
            )
        return models
    if _GLOB.search(word):  # a lone bracket is part of a name
        models = []
        for path in _matches(word):
            models += _below(path) if os.path.isdir(path) else [path]  # noqa: PTH112
        if not models:
            raise UsageError(f"{word}: no files match; at least one is needed", f"ls {word}")
        return sorted(models)
    return [word]


def _matches(pattern: str) -> Iterable[str]:
    """Return the files and folders that match a glob. Raises UsageError for an unreadable folder."""
    from ..outside.storage import places  # keeps `--help` fast

    return places.expand(Path(pattern).parts, _unreadable, lambda folder: list(_below(folder)))


def _unreadable(fault: OSError) -> UsageError:
    return UsageError(
        f"{fault.filename}: folder cannot be read ({fault.strerror}); all models below a folder are checked",
        f"ls -ld {quoted(fault.filename)}",
    )


def _below(folder: str) -> Iterator[str]:
    """Yield all .onnx files below a folder.

    Links to folders are followed once. Raises UsageError for an unreadable folder.
    """
    from ..outside.storage import places  # keeps `--help` fast

    for top, folders, names in places.walk([folder], _unreadable):
        folders.sort()
        yield from (str(Path(top, name)) for name in names if is_onnx(name))


def stem(model: str) -> str:
    """Return what replaces `{model}` in a report's path: the name of the model's file without its suffix.

    Of an address it is what names the model: `repo@v1`, `encoder-3`. Of a name of dots alone it is `model`: `..` would
    lead out of the folder.
    """
    from ..outside.storage import places  # keeps `--help` fast

    if not is_address(model):
        name = Path(model).stem
    elif model.startswith("hf://") or "://" not in model:
        name = places.redact(model).partition(":")[2].strip("/")
        if model.startswith("hf://"):
            name = name.rpartition("/")[2]
        name = name.replace("/", "-")
        if is_onnx(name):
            name = name[: -len(SUFFIX)]
    else:
        name = PurePosixPath(places.redact(model).rstrip("/")).stem
    return name if name.strip(".") else "model"


def fill(path: str, models: Words, option: str = "--output") -> list[str]:
    """Fill in `{model}` in a path, per model. `option` names the path in errors.

    Raises UsageError where two models would share one file, also on a file system that ignores case.
    """
    model_by_name: dict[str, str] = {}
    for model in models:
        name = stem(model)
        other = model_by_name.setdefault(name.casefold(), model)
        if other != model:
            raise UsageError(
                f"{option} is {path}; {other} and {model} would both be {name}, and each needs its own file",
                "check them in two runs, or leave out {model} for one document",
            )
    return [path.replace(PLACEHOLDER, stem(model)) for model in models]


def stems_of(words: Words) -> list[str]:
    """Return the stems of those models of these words that can be found. Raises nothing."""
    stems: list[str] = []
    for word in words:
        with suppress(RobustcheckError, OSError, ValueError):
            stems += map(stem, expand([word]))
    return stems
