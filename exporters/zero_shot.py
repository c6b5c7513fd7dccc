"""Reads class names and prompt templates, and makes a zero-shot classifier's head of them with a text tower.

The head is computed as CLIP's authors do: every class name in every template, each text embedding L2-normalised,
averaged over the templates, normalised again (Radford et al. 2021, section 3.1.4), times the logit scale.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ENVIRONMENT, USAGE, ExportError, first_line, install_hint
from .messages import Messages

if TYPE_CHECKING:
    import torch

SOURCES = ("open_clip", "transformers")  # whose text towers are known
PLACE = "{}"  # where a template takes the class name
DEFAULT_TEMPLATES = ("a photo of a {}.",)
TEXTS_A_BATCH = 256  # prompts in one pass of the text tower: bounds memory
MIN_CLASSES = 2  # with one class there is nothing to choose


@dataclass(frozen=True, slots=True)
class Prompts:
    """Class names, in the order of the logits, and the templates that they are put into."""

    classes: tuple[str, ...]
    templates: tuple[str, ...]

    def texts(self, name: str) -> list[str]:
        """The prompts of one class: `{}` replaced, nothing else (a name may hold braces)."""
        return [template.replace(PLACE, name) for template in self.templates]


def read_prompts(classes: str, templates: str | None) -> Prompts:
    """Read class names and templates.

    Args:
        classes: a text file with one class name a line, or "imagenet": open_clip's names of ImageNet's 1000 classes.
        templates: a text file with one template a line, each with `{}`; "openai": the 80 templates of OpenAI's
            ImageNet evaluation, as open_clip has them; None: "a photo of a {}."

    Raises:
        ExportError: no such file, fewer than two classes, a name that occurs twice, a template without `{}` (exit 2);
            open_clip is not installed (4).
    """
    if classes == "imagenet":
        names = tuple(str(name) for name in _from_open_clip("IMAGENET_CLASSNAMES"))
    else:
        names = _lines(classes, "--zero-shot", "a text file with one class name a line, or imagenet")
        double = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if double:
            raise ExportError(
                f"{classes}: class name {double[0]!r} occurs {names.count(double[0])} times; names must differ",
                f"sort {shlex.quote(classes)} | uniq -d",
                exit_code=USAGE,
            )
    if len(names) < MIN_CLASSES:
        raise ExportError(
            f"{classes}: number of class names is {len(names)}; at least {MIN_CLASSES} are needed, one a line",
            f"cat {shlex.quote(classes)}",
            exit_code=USAGE,
        )
    if templates is None:
        return Prompts(names, DEFAULT_TEMPLATES)
    if templates == "openai":
        return Prompts(names, tuple(str(make(PLACE)) for make in _from_open_clip("OPENAI_IMAGENET_TEMPLATES")))
    found = _lines(templates, "--templates", "a text file with one template a line, or openai")
    if not found or (without := [template for template in found if PLACE not in template]):
        what = f"template is {without[0]!r}" if found else "number of templates is 0"
        raise ExportError(
            f"{templates}: {what}; every line must hold {PLACE}, where the class name goes",
            f"echo 'a photo of a {PLACE}.' > {shlex.quote(templates)}",
            exit_code=USAGE,
        )
    return Prompts(names, found)


def text_head(
    prompts: Prompts, embed: Callable[[list[str]], torch.Tensor], *, logit_scale: float, name: str
) -> torch.Tensor:
    """The weight (class, feature) of the head: normalised mean text embeddings times the logit scale.

    embed: texts → (text, feature), not normalised. Raises ExportError when an embedding is not finite or zero (3).
    """
    import torch
    from torch.nn import functional

    texts = [text for each in prompts.classes for text in prompts.texts(each)]
    with torch.no_grad():
        parts = [embed(texts[i : i + TEXTS_A_BATCH]).float() for i in range(0, len(texts), TEXTS_A_BATCH)]
        rows = functional.normalize(torch.cat(parts), dim=-1)
        means = functional.normalize(rows.reshape(len(prompts.classes), len(prompts.templates), -1).mean(1), dim=-1)
        weight = means * logit_scale
    if not bool(torch.isfinite(weight).all()) or bool((weight == 0).all(dim=1).any()):
        raise ExportError(f"{name}: text embeddings are zero or not finite; a head must be", "check the weights")
    return weight


def source_error(source: str, name: str) -> ExportError:
    """Return the error for a source without a text tower (exit 2)."""
    return ExportError(
        f"{name}: --zero-shot is for sources with a text tower, {' and '.join(SOURCES)}; source is {source}",
        f"robustcheck export {SOURCES[0]} NAME --zero-shot CLASSES.txt",
        exit_code=USAGE,
    )


def zero_shot_meaning(prompts: Prompts) -> str:
    """What the logits are, in the contract's words."""
    return (
        f"zero-shot class logits: cosine of the normalised representation with {len(prompts.classes)} text embeddings "
        f"({len(prompts.templates)} templates averaged), times the logit scale"
    )


def tokenizer_error(error: Exception, name: str, messages: Messages) -> ExportError:
    """Return the error for a tokenizer that is not on this machine (exit 4)."""
    why = f"({first_line(error)[:200]}){messages.quoted(1)}"
    return ExportError(
        f"{name}: tokenizer of the text tower is not on this machine and could not be downloaded {why}; --zero-shot "
        "needs it",
        "run the export once where there is a network, and copy $HF_HOME/hub here; or place tokenizer.json and "
        "tokenizer_config.json in the checkpoint's folder",
        exit_code=ENVIRONMENT,
    )


def refuse_long(texts: Sequence[str], lengths: Sequence[int], limit: int, name: str) -> None:
    """Raise when a prompt has more tokens than the text tower reads: tokenizers cut the rest off without a word."""
    for text, length in zip(texts, lengths, strict=True):
        if length > limit:
            raise ExportError(
                f"{name}: prompt {text[:60]!r} has {length} tokens; the text tower reads {limit}",
                "shorten the class name or the template",
                exit_code=USAGE,
            )


def _lines(path: str, option: str, what: str) -> tuple[str, ...]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # a name with a null byte, bytes that are no UTF-8
        reason = error.strerror if isinstance(error, OSError) else error
        raise ExportError(
            f"{option} is {path!r}: file is not readable ({reason}); it must be {what}",
            f"ls -l {shlex.quote(path)}",
            exit_code=USAGE,
        ) from error
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def _from_open_clip(name: str) -> Sequence[Any]:
    try:
        import open_clip
    except ImportError as error:
        raise ExportError(
            f"{name}: package {error.name or 'open_clip'} is not importable ({error}); it holds these words",
            install_hint("export"),
            exit_code=ENVIRONMENT,
        ) from error
    found: Sequence[Any] = getattr(open_clip, name)
    return found
