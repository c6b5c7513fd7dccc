"""Describe a preprocessing in words. Pure."""

from ..core.evidence import PreprocessingFacts
from ..core.preprocessing import CLIP, IMAGENET, Preprocessing
from ..text import printable

TENSORS = "none: the images were given as preprocessed tensors"


def pixels_text(preprocessing: PreprocessingFacts) -> str:
    """Write the normalisation and what states it. Tensors came without one."""
    if preprocessing.source == "tensors":
        return TENSORS
    return f"{normalisation_text(preprocessing.preprocessing)}, {origin_text(preprocessing)}"


def origin_text(preprocessing: PreprocessingFacts) -> str:
    """Write what states a preprocessing."""
    origin = preprocessing.origin or preprocessing.source
    if preprocessing.source == "assumed":
        return "assumed"
    return printable(f"from {'the ' * origin.startswith('contract')}{origin}")


def preprocessing_text(p: Preprocessing) -> str:
    """Write the preprocessing in one line, from decoded photo to model input; px are width×height."""
    height, width = p.resize_size
    if p.resize_mode == "none":
        resize = "no resize"
    elif p.resize_mode == "squash":
        resize = "squashed"
        if p.resize_size != p.size:
            resize += f" to {width}×{height} px"
    elif height == width:
        resize = f"{p.resize_mode} edge {width} px"
    elif p.resize_mode == "shortest":
        resize = f"covering {width}×{height} px"
    else:
        resize = f"within {width}×{height} px"
    steps = [resize]
    if p.resize_mode != "none":
        steps.append(p.interpolation)
    if p.crop == "center":
        steps.append("centre crop")
    if p.rescale != 1 / 255:  # what every library does unless told otherwise
        steps.append(f"pixels × {p.rescale:.4g}")
    steps.append(normalisation_text(p))
    if p.color_order != "RGB":
        steps.append(p.color_order)
    return f"{p.size[1]}×{p.size[0]} px: {', '.join(steps)}"


def normalisation_text(p: Preprocessing) -> str:
    """Write the mean and SD of a preprocessing. Known ones have a name."""
    for name, standard in (("CLIP", CLIP), ("ImageNet", IMAGENET)):
        if (p.mean, p.std) == (standard.mean, standard.std):
            return f"{name} mean and SD"
    return f"mean {_triple(p.mean)}, SD {_triple(p.std)}"


def _triple(values: tuple[float, float, float]) -> str:
    return f"{values[0]:.4g}" if len(set(values)) == 1 else " ".join(f"{v:.4g}" for v in values)
