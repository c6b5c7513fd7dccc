"""An ONNX file: fetched, read and understood (input, representation, contract, preprocessing), never run.

Comes in: a path, a URL, or the model itself. May import: images (preprocessing), storage, evidence, text, errors.
"""

from __future__ import annotations

from .addresses import Model, on_this_machine, parse_model
from .configs import sidecar_paths
from .contract import CONTRACT_KEY, Contract, parse_contract, properties
from .digest import graph_digest
from .file import external_locations, may_be_model, missing, read_onnx
from .head_part import head_part
from .held import file_digest, refuse_changed
from .image_input import DTYPES, ImageInput, fed_as
from .layers import ACTIVATION, LINEAR, NORMALISATION, POOL, RESHAPE, Layers, build_layers, data_inputs
from .open import ModelFile, digest_of, open_model, with_shapes
from .pooling import apply_pool, choose_pool, show_shape
from .sidecar import PRESETS, find_preprocessing, models_below, takes_no_image
from .supported import supported_versions
