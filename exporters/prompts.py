"""Read the class names and templates of a zero-shot classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import CallError, Texts, contract, import_error, quoted
from .contract import Prompts

DEFAULT_TEMPLATES = ("a photo of a {}.",)
MIN_CLASSES = 2  # with one class there is nothing to choose


def read_prompts(classes: str, templates: str | None) -> Prompts:
    """Read class names and templates.

    Args:
        classes: a text file with one class name per line, or "imagenet": open_clip's names of ImageNet's 1000 classes.
        templates: a text file with one template per line, each with `{}`; "openai": the 80 templates of OpenAI's
            ImageNet evaluation, as open_clip has them; None: "a photo of a {}."

    Raises:
        ExportError: no such file, fewer than two classes, a name that occurs twice, a template without `{}` (exit 2);
            open_clip is not installed (4).
    """
    if classes == "imagenet":
        names = tuple(str(name) for name in _from_open_clip("IMAGENET_CLASSNAMES"))
    else:
        names = _lines(classes, "--zero-shot", "a text file with one class name per line, or imagenet")
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise CallError(
                f"{classes}: class name {double[0]!r} occurs {names.count(double[0])} times; names must differ",
                f"sort {quoted(classes)} | uniq -d",
            )
    if len(names) < MIN_CLASSES:
        raise CallError(
            f"{classes}: number of class names is {len(names)}; at least {MIN_CLASSES} are needed, one per line",
            f"cat {quoted(classes)}",
        )
    if templates is None:
        return Prompts(names, DEFAULT_TEMPLATES)
    place = contract.CLASS_PLACE
    if templates == "openai":
        openai = _from_open_clip("OPENAI_IMAGENET_TEMPLATES")
        return Prompts(names, tuple(str(fill(place)) for fill in openai))
    lines = _lines(templates, "--templates", "a text file with one template per line, or openai")
    problem = "" if lines else "number of templates is 0"
    for template in lines:
        if place not in template:
            problem = problem or f"template is {template!r}"
    if problem:
        raise CallError(
            f"{templates}: {problem}; every line must hold {place}, where the class name goes",
            f"echo 'a photo of a {place}.' > {quoted(templates)}",
        )
    return Prompts(names, lines)


def _lines(path: str, option: str, what: str) -> Texts:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # a name with a null byte, bytes that are not UTF-8
        reason = error.strerror if isinstance(error, OSError) else error
        raise CallError(
            f"{option} is {path!r}: file is not readable ({reason}); it must be {what}", f"ls -l {quoted(path)}"
        ) from error
    lines = map(str.strip, text.split("\n"))
    return tuple(filter(None, lines))


def _from_open_clip(name: str) -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise import_error(error, name, "open_clip", "it holds these words") from error
    return getattr(open_clip, name)
