"""Load classifiers of torchvision."""

from pathlib import Path
from typing import Any

from torch import nn

from . import contract, quiet
from .contract import Loaded, Wanted, loaded, source_of
from .digests import file_digest
from .loading import load_strictly, loading, refuse_name, unknown_tag, weights_file
from .preprocessing import Fields, checked_preprocessing, shared_preprocessing
from .wrappers import find_head, head_tap

# torchvision's own initialisation of them takes seconds. It re-normalises the input inside them when it loads its own
# weights, and only then; a checkpoint file without that would be another model
AS_PUBLISHED = {name: {"init_weights": False, "transform_input": True} for name in ("googlenet", "inception_v3")}


def load_torchvision(wanted: Wanted) -> Loaded:
    """Load a torchvision classifier, whose representation is the input of its last linear layer.

    Args:
        wanted: its name is a classification model of torchvision.models.list_models(), its weights an entry such as
            IMAGENET1K_V1, or a checkpoint file; without them torchvision's DEFAULT entry. A file with torchvision's
            own name (resnet18-f37072fd.pth) is recognised by its digest; another one needs preprocessing when the
            entries of the name differ in theirs.

    Raises:
        ExportError: unknown name or entry (exit 2); weights do not fit (3); not reachable (4).
    """
    from torchvision.models import get_model, get_model_weights

    name = wanted.name
    tag = wanted.weights
    check_torchvision(name)
    path = weights_file(tag)
    entries = get_model_weights(name)
    if path:
        digest = file_digest(path).removeprefix("sha256:")
        # torchvision puts the first digits of a file's SHA-256 into its name
        known = [each for each in entries if digest.startswith(Path(each.url).stem.rpartition("-")[2])]
        entry: Any = known[0] if known else None
    else:
        check_torchvision(name, tag)
        entry = entries.__members__[tag or "DEFAULT"]
    published = entry or next(iter(entries))
    weights = None if path or wanted.random_weights else entry
    place = f"download {published.url} and give it with --weights FILE"
    with loading(name, place, is_quoted=False):
        model = get_model(name, weights=weights, **AS_PUBLISHED.get(name, {}))
    if path:
        load_strictly(model, path, name)
        if not entry and not wanted.preprocessing:
            candidates = {each.name: torchvision_contract(each.transforms(), name) for each in entries}
            shared_preprocessing(candidates, name)
    transform = published.transforms()
    pixels = wanted.pixels() or (torchvision_contract(transform, name), transform)
    with quiet():
        head = find_head(model.eval(), pixels[0]["size"])
    source = source_of("torchvision", name, path, published.name, model)
    return loaded(wanted, source, head_tap(model, head), contract.classifier_outputs(head), pixels, "torchvision")


def check_torchvision(name: str, tag: str | None = None) -> None:
    """Refuse a classifier or weights that torchvision lacks, and name the closest ones (exit 2)."""
    import torchvision

    refuse_name(
        name,
        torchvision.models.list_models(module=torchvision.models),
        name,
        f"torchvision {torchvision.__version__}; it must be a classification model of it",
        "list them: torchvision.models.list_models()",
    )
    known = list(torchvision.models.get_model_weights(name).__members__)
    if tag and tag not in known:
        raise unknown_tag(name, tag, known)


def shell_torchvision(name: str) -> nn.Module:
    """Return a model without weights."""
    from torchvision.models import get_model

    return get_model(name, weights=None, **AS_PUBLISHED.get(name, {}))


def torchvision_contract(transform: Any, name: str) -> Fields:
    """Return torchvision's ImageClassification preset in the contract's fields."""
    is_shortest = len(transform.resize_size) == 1  # both edges of the crop have one length, too
    fields = {
        "size": transform.crop_size[0] if len(transform.crop_size) == 1 else transform.crop_size,
        "resize_mode": "shortest" if is_shortest else "squash",
        "resize_size": transform.resize_size[0] if is_shortest else transform.resize_size,
        "interpolation": transform.interpolation.value,
        "mean": transform.mean,
        "std": transform.std,
    }
    return checked_preprocessing(fields, name)
