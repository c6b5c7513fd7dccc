"""Fetch, read and understand an ONNX file. Input, representation, contract and preprocessing are found; nothing runs.

Comes in: a path, a URL, or the model itself. May import: images (preprocessing), storage, evidence, text, errors.
"""

from __future__ import annotations

from .addresses import Model, on_this_machine, parse_model
from .contract import CONTRACT_KEY, Contract, graph_digest, parse_contract, properties
from .ends import apply_pool, choose_pool, show_shape
from .file import external_locations, may_be_model, missing, read_onnx
from .image_input import DTYPES, ImageInput, fed_as
from .layers import ACTIVATION, LINEAR, NORMALISATION, POOL, RESHAPE, Layers, build_layers, data_inputs
from .open import ModelFile, digest_of, open_model, supported_versions, with_shapes
from .sidecar import PRESETS, find_preprocessing, models_below, sidecar_paths, takes_no_image
from .weights import file_digest, refuse_changed
