"""An ONNX file: fetched, read and understood (input, representation, contract, preprocessing), never run.

Comes in: a path, a URL, or the model itself. May import: images (preprocessing), storage, evidence, text, errors.
"""

from __future__ import annotations

from .configs import sidecar_paths
from .contract import CONTRACT_KEY, Contract, parse_contract, properties
from .digest import graph_digest
from .fetch import Model, on_this_machine, parse_model
from .file import external_locations, may_be_model, read_onnx
from .head_part import head_part
from .held import file_digest, refuse_changed
from .image_input import DTYPES, ImageInput, fed_as
from .layers import ACTIVATION, LINEAR, NORMALISATION, POOL, RESHAPE, Layers, build_layers, data_inputs
from .open import ModelFile, digest_of, open_model, with_shapes
from .pooling import apply_pool, choose_pool, show_shape
from .sidecar import PRESETS, find_preprocessing, models_below, takes_no_image
from .supported import supported_versions

__all__ = [
    "ACTIVATION",
    "CONTRACT_KEY",
    "DTYPES",
    "LINEAR",
    "NORMALISATION",
    "POOL",
    "PRESETS",
    "RESHAPE",
    "Contract",
    "ImageInput",
    "Layers",
    "Model",
    "ModelFile",
    "apply_pool",
    "build_layers",
    "choose_pool",
    "data_inputs",
    "digest_of",
    "external_locations",
    "fed_as",
    "file_digest",
    "find_preprocessing",
    "graph_digest",
    "head_part",
    "may_be_model",
    "models_below",
    "on_this_machine",
    "open_model",
    "parse_contract",
    "parse_model",
    "properties",
    "read_onnx",
    "refuse_changed",
    "show_shape",
    "sidecar_paths",
    "supported_versions",
    "takes_no_image",
    "with_shapes",
]
