"""An ONNX model that gives back representations by image index: measured vectors through the real command.

The index is written into the top-left pixel block of each PNG photo (red + 256·green + 65536·blue), read
back by the graph from the preprocessed pixels, and selects a row of the embedding matrix. The matrix is the weight of a
linear layer that reads a one-hot vector, since no profile holds for a representation that ends in a look-up. Nothing is
computed from the photo: the contract says so in `source.synthetic`.
"""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.random import default_rng
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import TensorProto, helper
from PIL import Image

from support.onnx_models import Value, build, graph

from . import PHOTOS, Fields
from .onnx_models import constants_of

CONTRACT_KEY = "robustcheck.contract"
BLOCK_PX = 4  # edge of the block that holds the index
SIZE_PX = 64  # edge of the images, and of the model's input


def lookup_preprocessing(size_px: int = SIZE_PX) -> Fields:
    """The contract's preprocessing for look-up images: their pixels divided by 255, nothing else."""
    return {
        "size": [size_px, size_px], "resize_mode": "none", "resize_size": [size_px, size_px],
        "interpolation": "nearest", "crop": "none", "rescale": 1 / 255, "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0], "color_order": "RGB",
    }  # fmt: skip


def lookup_contract(
    *,
    output: str = "representation",
    rule: str = "encoder_output",
    size_px: int = SIZE_PX,
    source: Fields | None = None,
) -> Fields:
    """The contract (schema 1) of a look-up model; `source` overrides single entries of its source record."""
    made: Fields = {
        "library": "lookup", "name": "lookup", "weights": "embedding matrix", "weights_digest": "",
        "random_weights": False,
        "synthetic": "representations are looked up by image index, not computed from the photo",
    }  # fmt: skip
    return {
        "schema_version": 1, "preprocessing": lookup_preprocessing(size_px),
        "tensors": {output: {"meaning": "looked up by image index", "rule": rule}}, "source": made | (source or {}),
        "versions": {"onnx": version("onnx")}, "precision": "fp32",
        "parity": {"max_abs": 0.0, "max_rel": 0.0, "min_cosine": 1.0, "batches": [1, 2, 5], "photos": 5},
    }  # fmt: skip


def passing_rows(
    n: int = 80,
    d: int = 512,
    shortest: float = 0.5,
    *,
    seed: int = 3,
    strengths: Sequence[float] = (20.0,),
    at: int = 7,
) -> NDArray[np.float64]:
    """Signed rows of lengths that differ, with persistent outlier features from `at` on, by default one: they pass."""
    random = default_rng(seed)
    h = random.normal(size=(n, d)) + random.normal(0, 0.5, d)
    h[:, at : at + len(strengths)] += strengths
    return np.asarray(h * random.uniform(shortest, 2, (n, 1)))


LOOK_UP = """
    block = Slice({image}, [0,0], [{px},{px}], [2,3]); rgb = ReduceMean(block, [2,3], keepdims=0)
    digits = Mul(rgb, 255.0); whole = Round(digits); weighted = Mul(whole, places)
    number = ReduceSum(weighted, [1], keepdims={keepdims})
    integer = Cast(number, to=INT64); index = Mod(integer, {n})
"""
LINEAR = """
    selected = Equal(index, numbers); one_hot = Cast(selected, to={element}); {rows} = MatMul(one_hot, embeddings)
"""
GATHER = """
    {rows} = Gather(embeddings, index, axis=0)
"""


def write_lookup_model(
    path: str | Path,
    embeddings: ArrayLike,
    *,
    contract: bool | Fields = True,
    output: str = "representation",
    rule: str = "encoder_output",
    size_px: int = SIZE_PX,
    dtype: DTypeLike = np.float32,
    source: Fields | None = None,
    before: str = "",
    then: str = "",
    outputs: Sequence[Value] = (),
    **weights: Any,
) -> Path:
    """Write a model (batch, 3, size_px, size_px) → (batch, feature) that returns row `index` of `embeddings`.

    An index beyond the last row wraps around. `contract` True writes `lookup_contract(...)`, False none,
    and a dict is written as it is. `before` are nodes as of `written`, of which the last gives the pixels; `then` are
    nodes behind the rows, which are called "rows" where one of them writes `output`; `outputs` are others than it.
    """
    matrix = np.asarray(embeddings, dtype=dtype)
    first, last = graph(before), graph(then)
    image = first[-1][2][0] if first else "image"
    rows = "rows" if any(output in node[2] for node in last) else output
    element = helper.np_dtype_to_tensor_dtype(matrix.dtype)
    # 0 times NaN is NaN, so one such row would spoil all; and a linear layer after another one is not an encoder's end
    is_linear = rows == output and bool(np.isfinite(matrix).all())
    index = LOOK_UP.format(image=image, px=BLOCK_PX, n=len(matrix), keepdims=int(is_linear))
    look_up = (LINEAR if is_linear else GATHER).format(rows=rows, element=TensorProto.DataType.Name(element))
    nodes = [*first, *graph(index + look_up), *last]
    given = {"places": np.array([1, 256, 65536], np.float32), "embeddings": matrix}
    if is_linear:
        given["numbers"] = np.arange(len(matrix))[None]
    given |= {name: np.asarray(value) for name, value in weights.items()}
    given |= constants_of(nodes, {"image", *given})
    pixels = ("image", TensorProto.FLOAT, ("batch", 3, size_px, size_px))
    made = [*([] if outputs and rows != output else [(output, element, ("batch", matrix.shape[1]))]), *outputs]
    model = build(nodes, made, given, inputs=[pixels])
    if contract is True:
        contract = lookup_contract(output=output, rule=rule, size_px=size_px, source=source)
    if contract:
        helper.set_model_props(model, {CONTRACT_KEY: json.dumps(contract)})
    onnx.save(model, path)
    return Path(path)


def write_lookup_images(
    folder: str | Path, n: int, *, photos: Sequence[str | Path] = PHOTOS, size_px: int = SIZE_PX
) -> list[Path]:
    """Write `n` PNG crops of real photos, the index (0 to n − 1) in the top-left block; return their paths.

    `photos` are image files. Crops differ in place, size and mirroring.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sources = [Image.open(photo).convert("RGB") for photo in photos]
    rng = default_rng(0)
    paths = []
    for index in range(n):
        crop = _random_crop(sources[index % len(sources)], size_px, rng)
        pixels = np.array(crop)
        pixels[:BLOCK_PX, :BLOCK_PX] = (index % 256, index // 256 % 256, index // 65536)
        paths.append(folder / f"photo_{index:05d}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def _random_crop(photo: Image.Image, size_px: int, rng: np.random.Generator) -> Image.Image:
    edge = int(rng.uniform(0.3, 0.9) * min(photo.size))
    left, top = (int(rng.integers(size - edge + 1)) for size in photo.size)
    crop = photo.resize((size_px, size_px), Image.Resampling.BICUBIC, (left, top, left + edge, top + edge))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def skimage_photos() -> list[Path]:
    """Return the paths of five real photos, which scikit-image carries."""
    import skimage

    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
    return [Path(skimage.__file__).parent / "data" / name for name in names]
