"""Loads a torchvision classifier: a name of list_models(), an entry of its weights or a checkpoint file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torchvision

from . import loading, preprocess
from .contract import Loaded, Output, Source, checked_preprocessing, shared_preprocessing
from .errors import USAGE, ExportError
from .messages import quiet
from .wrappers import HeadTap, find_head

PACKAGES = ("torchvision",)


def load(
    name: str,
    *,
    weights: str | None = None,
    random_weights: bool = False,
    preprocessing: dict[str, Any] | None = None,
) -> Loaded:
    """Load a torchvision classifier; the representation is the input of its last linear layer.

    Args:
        name: classification model of torchvision.models.list_models().
        weights: entry such as IMAGENET1K_V1, or a checkpoint file; without it torchvision's DEFAULT entry.
            A file with torchvision's own name (resnet18-f37072fd.pth) is recognised by its digest.
        preprocessing: replaces the library's; needed for a checkpoint file that is not torchvision's own when
            the entries of `name` differ in theirs.

    Raises:
        ExportError: unknown name or entry (exit 2); weights do not fit (3); not reachable (4).
    """
    loading.refuse_both(name, weights, random_weights)
    check_name(name)
    path = loading.weights_file(weights)
    entries = torchvision.models.get_model_weights(name)
    digest = loading.file_digest(path) if path else ""
    if path is not None:
        entry = next((e for e in entries if _hash_prefix(e) and digest[7:].startswith(_hash_prefix(e))), None)
    else:
        entry = _entry(entries, name, weights)
    size_owner = entry or next(iter(entries))
    with quiet(), loading.seeded():
        try:
            model = torchvision.models.get_model(
                name, weights=None if path or random_weights else entry, **_needed_options(name)
            )
        except Exception as error:  # download and state-dict errors of many kinds; translated, not lost
            hint = f"download {size_owner.url} and give it with --weights FILE"
            raise loading.load_error(error, name, place=hint) from error
    if path is not None:
        loading.load_strictly(model, path, name)
    if preprocessing is not None:
        fields, transform = preprocessing, preprocess.as_transform(preprocessing)
    else:
        if path is not None and entry is None:
            shared_preprocessing({e.name: as_contract(e.transforms(), name) for e in entries}, name)
        transform = size_owner.transforms()
        fields = as_contract(transform, name)
    size = (fields["size"][0], fields["size"][1])
    with quiet():
        head = find_head(model.eval(), size)
    origin = path.name if path else (entry.name if entry else "")
    return Loaded(
        module=HeadTap(model, head),
        outputs=(
            Output("representation", f"input of {head}, the last linear layer", "head_input"),
            Output("logits", "class logits", "logits"),
        ),
        preprocessing=fields,
        transform=transform,
        source=Source(
            library="torchvision",
            name=name,
            weights="" if random_weights else origin,
            weights_digest=digest or loading.state_digest(model),
            random_weights=random_weights,
        ),
        packages=PACKAGES,
    )


def check_name(name: str, weights: str | None = None) -> None:
    """Raise with the closest names when torchvision has no such classifier, or no such weights of it (exit 2)."""
    models = torchvision.models.list_models(module=torchvision.models)
    if name not in models:
        close = difflib.get_close_matches(name, models, 3)
        raise ExportError(
            f"{name}: model name is unknown to torchvision {torchvision.__version__}; it must be a classification "
            "model of it",
            f"closest: {', '.join(close)}" if close else "list them: torchvision.models.list_models()",
            exit_code=USAGE,
        )
    if weights:
        _entry(torchvision.models.get_model_weights(name), name, weights)


def as_contract(transform: Any, name: str) -> dict[str, Any]:
    """Return torchvision's ImageClassification preset in the contract's fields."""
    crop, resize = transform.crop_size, transform.resize_size
    crop = list(crop) * 2 if len(crop) == 1 else list(crop)
    return checked_preprocessing(
        {
            "size": crop,
            "resize_mode": "shortest" if len(resize) == 1 else "squash",
            "resize_size": list(resize) * 2 if len(resize) == 1 else list(resize),
            "interpolation": transform.interpolation.value,
            "mean": list(transform.mean),
            "std": list(transform.std),
        },
        name,
    )


def _entry(entries: Any, name: str, weights: str | None) -> Any:
    known: Mapping[str, Any] = entries.__members__
    if weights and weights not in known:
        close = difflib.get_close_matches(weights, known, 1)
        raise ExportError(
            f"{name}: weights is {weights}; it must be one of {', '.join(known)}, or an existing file",
            f"--weights {close[0] if close else next(iter(known))}",
            exit_code=USAGE,
        )
    return known[weights or "DEFAULT"]


def _hash_prefix(entry: Any) -> str:
    """Return the first digits of the file's SHA-256 that torchvision puts in its file names."""
    return str(entry.url).rsplit("-", 1)[-1].partition(".")[0]


def _needed_options(name: str) -> dict[str, Any]:
    # torchvision re-normalises the input inside these two when it loads its own weights, and only then; a
    # checkpoint file without that would be another model
    return {"init_weights": False, "transform_input": True} if name in {"googlenet", "inception_v3"} else {}
