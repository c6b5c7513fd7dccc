"""Classifiers that tell a class by the mean colour of an image."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from support.onnx_models import save
from support.written import written

PX = 4  # edge of the images


def classifier(path: Path, colours: npt.NDArray[Any], end: str = "Identity") -> Path:
    """Logits = 8 · similarity of an image's mean colour to that of each class; `end` is the last operator."""
    text = f"""
        pool = GlobalAveragePool(image); features = Flatten(pool); scores = Gemm(features, w, b); logits = {end}(scores)
    """
    output = ("logits", TensorProto.FLOAT, ("batch", len(colours)))
    image = ("image", TensorProto.FLOAT, ("batch", 3, PX, PX))
    w, b = (values.astype(np.float32) for values in (16 * colours.T, -8 * (colours**2).sum(axis=1)))
    return save(written(text, output, before="", inputs=[image], w=w, b=b), path)
