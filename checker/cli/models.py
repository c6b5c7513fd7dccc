"""Handle several models in one call.

The module finds which ones, their order, their reports' paths, and the exit code of all.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report import Failed, Outcome, Report, exit_code_of
from robustcheck_onnx.checker.storage import places
from robustcheck_onnx.checker.text import form_of, quoted

from .options import PLACEHOLDER

SUFFIX = ".onnx"
_ADDRESS = re.compile(r"(models|runs):/[^/]")


def expand(words: Sequence[str]) -> list[str]:
    """Return the models that words name.

    A word is a file itself, a folder with all .onnx files below it, or a glob with what it matches.

    A folder that a glob matches may hold no model. The models come in the order of the words, those of one word sorted,
    each file once. The name of a file is that file, even with `*` or `[` in it. The name of no file stays in the list:
    opening it says what is wrong.
    Raises UsageError: a folder or a glob without a model, a folder that can't be read.
    """
    models: dict[str, str] = {}
    for word in words:
        for path in _models_of(word):
            models.setdefault(path if is_address(path) else _resolved(path), path)
    return list(models.values())


def split_images(words: Sequence[str], *, images_typed: bool, strict: bool) -> tuple[list[str], str | None]:
    """Split the image set off the typed places: `robustcheck model.onnx photos/`.

    It is the last place, with images and no ONNX file. `--strict` takes photos from `--images` alone.

    Raises:
        UsageError: no model comes first, more than one image set, a folder with both images and ONNX files; a report.
    """
    holds = {word: _holds(word) for word in words}
    images = [word for word in words if holds[word] == {"images"}]
    models = [word for word in words if word not in images]
    if not images and len(words) > 1 and len(holds[words[-1]]) > 1 and not (images_typed or strict):
        raise UsageError(
            f"{words[-1]}: folder holds images and ONNX files; which are meant is not clear",
            f"{shlex.join(['robustcheck', *models[:-1]])} --images {quoted(words[-1])}",
        )
    is_first = words[0] in images
    if is_first and images_typed:  # a folder without a model
        return list(words), None
    if not images or (len(images) == 1 and not (images_typed or strict or is_first)):
        return models, images[0] if images else None
    parents = {str(Path(image).parent) for image in images}
    place = quoted(images[0] if len(images) == 1 or len(parents) > 1 or parents == {"."} else min(parents))
    named = shlex.join(models or ["model.onnx"])
    if strict:
        why, again = "--strict takes images from --images alone", f"check --strict --images {place} -- {named}"
    else:
        why = (
            "no ONNX file is in it; the model comes first"
            if is_first
            else "one image set is taken; a glob needs quotes"
        )
        again = f"{named} --images {place}"
    raise UsageError(f"{images[0]}: {why}", f"robustcheck {again}")


def _holds(word: str) -> set[str]:
    """Return whether a typed place has images or models. It may have both; an empty folder counts as a model."""
    if not is_address(word) and os.path.isdir(word):  # noqa: PTH112 # a Path would change the word
        images = any(name.lower().endswith(places.SET_SUFFIXES) for name in places.folder_files(Path(word)))
        return {"models"} if not images else {"images", "models"} if any(_below(word)) else {"images"}
    if form_of(word) not in ("", "terminal") and not is_address(word):
        raise UsageError(f"{word}: this is the name of a report, not of a model", f"-o {quoted(word)}")
    return {"images" if word.lower().endswith(places.SET_SUFFIXES) else "models"}


def is_address(word: str) -> bool:
    """Return whether a word is an address. It is a URL, or one such as `models:/name/3`, and not a file."""
    return "://" in word or (_ADDRESS.match(word) is not None and not os.path.lexists(word))


def refuse_missing(models: Sequence[str]) -> None:
    """Refuse a missing model before others are measured. Raises UsageError."""
    for model in models:
        if not is_address(model) and not os.path.lexists(model):
            from robustcheck_onnx.checker.model import (  # not where the files are there: ONNX Runtime
                missing,
                parse_model,
            )

            parse_model(model)
            raise missing(Path(model))


def _resolved(path: str) -> str:
    """Return the path with its folder resolved. A link to a file stays, since it has sidecars of its own."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118 # a Path would change the name


def _models_of(word: str) -> list[str]:
    if is_address(word) or os.path.isfile(word):  # noqa: PTH113 # a Path would change the word
        return [word]
    if os.path.isdir(word):  # noqa: PTH112
        models = sorted(_below(word))
        if not models:
            raise UsageError(
                f"{word}: number of {SUFFIX} files in the folder is 0; at least one is needed",
                f"find {quoted(word)} -name '*{SUFFIX}'",
            )
        return models
    if re.search(r"[*?]|\[.+\]", word):  # a lone bracket is part of a name
        matches = places.expand(Path(word).parts, _unreadable, lambda folder: list(_below(folder)))
        models = [
            model
            for path in matches
            for model in (_below(path) if os.path.isdir(path) else [path])  # noqa: PTH112
        ]
        if not models:
            raise UsageError(f"{word}: number of files that match is 0; at least one is needed", f"ls {word}")
        return sorted(models)
    return [word]


def _unreadable(fault: OSError) -> UsageError:
    return UsageError(
        f"{fault.filename}: folder cannot be read ({fault.strerror}); all models below a folder are checked",
        f"ls -ld {quoted(fault.filename)}",
    )


def _below(folder: str) -> Iterator[str]:
    """Yield all .onnx files below a folder.

    Links to folders are followed once. Raises UsageError for an unreadable folder.
    """
    for top, folders, names in places.walk([folder], _unreadable):
        folders.sort()
        yield from (str(Path(top) / name) for name in names if name.lower().endswith(SUFFIX))


def check_all(
    models: Sequence[str], check: Callable[[str], Report], failure: Callable[[str, Exception], Failed]
) -> list[Outcome]:
    """Check one model after the other. A model that fails becomes an outcome, too, and the next one is checked.

    check: checks one model. failure: makes an outcome of what it raises. A signal is not an Exception and ends the run.
    """
    outcomes: list[Outcome] = []
    for model in models:
        try:
            outcomes.append(check(model))
        except Exception as fault:  # noqa: BLE001 # whatever it is, the other models get their verdicts
            outcomes.append(failure(model, fault))
    return outcomes


def worst(outcomes: Sequence[Outcome]) -> int:
    """Return the largest exit code of all outcomes. Raises ValueError for no outcome, which is not a PASS."""
    if not outcomes:
        raise ValueError("no model was checked")
    return max(map(exit_code_of, outcomes))


def stem(model: str) -> str:
    """Return what replaces `{model}` in a report's path. It is the name of the model's file without its suffix.

    Of an address it is what names the model: `repo@v1`, `encoder-3`. Of a name of dots alone it is `model`: `..` would
    lead out of the folder.
    """
    name = _stem(model)
    return name if name.strip(".") else "model"


def _stem(model: str) -> str:
    if not is_address(model):
        return Path(model).stem
    if model.startswith("hf://") or "://" not in model:
        words = places.redact(model).partition(":")[2].strip("/")
        name = words.rpartition("/")[2] if model.startswith("hf://") else words.replace("/", "-")
        return name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name
    return PurePosixPath(places.redact(model).rstrip("/")).stem


def fill(path: str, models: Sequence[str], option: str = "--output") -> list[str]:
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
