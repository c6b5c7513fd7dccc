"""The contract: its fields, the checker's pixels, the examples of the pages; zero-shot heads against the libraries."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from robustcheck_onnx.checker.core.images.preprocess import apply
from robustcheck_onnx.checker.core.model.open import ModelFile, open_model
from robustcheck_onnx.checker.core.preprocessing import Preprocessing
from robustcheck_onnx.exporters import ExportError, contract
from robustcheck_onnx.exporters.preprocessing import (
    PREPROCESSING_FIELDS,
    checked_preprocessing,
    preprocess,
    shared_preprocessing,
)
from robustcheck_onnx.exporters.prompts import read_prompts
from robustcheck_onnx.exporters.proof import TOLERANCES
from support import PHOTOS, Fields, raised, read_text, torch_models
from support.onnx_models import written
from support.torch_models import contract_of, exported, open_clip, outputs_of, refused, torch, zero_shot

SQUASH_32 = {"size": [32, 32], "resize_mode": "squash", "resize_size": [32, 32], "interpolation": "bicubic"}


def test_fields_are_the_checkers() -> None:
    assert set(PREPROCESSING_FIELDS) == set(Preprocessing.model_fields)
    filled = checked_preprocessing(SQUASH_32, "x")
    assert Preprocessing.model_validate_json(json.dumps(filled), strict=True) == Preprocessing.model_validate(SQUASH_32)


# changed fields | what is said
WRONG_FIELDS = """\
{"sise": [1, 1]} | field sise is unknown
{"size": null} | field size is None; it must be 2 numbers
{"size": [0, 32]} | field size is [0, 32]; it must be positive whole numbers
{"size": "32"} | field size is '32'; it must be 2 numbers
{"resize_mode": "stretch"} | field resize_mode is 'stretch'; it must be one of shortest
{"interpolation": "cubic"} | field interpolation is 'cubic'; it must be one of nearest
{"mean": [0.5]} | field mean is [0.5]; it must be 3 numbers
{"std": [1, 0, 1]} | field std is [1.0, 0.0, 1.0]; it must be above 0
{"mean": [0, NaN, 0]} | field mean is [0, nan, 0]; it must be finite numbers
{"rescale": -1} | field rescale is -1; it must be a number above 0
{"fill": [0, 0, 300]} | field fill is [0, 0, 300]; it must be 0 to 255
{"crop": "none", "resize_mode": "shortest"} | field crop is 'none'; then"""


def test_wrong_fields() -> None:
    for row in WRONG_FIELDS.splitlines():
        change, text = row.split(" | ")
        caught = raised(ExportError, "", checked_preprocessing, SQUASH_32 | json.loads(change), "p.json")
        assert f"p.json: preprocessing {text}" in caught.message
        assert caught.exit_code == 2


@pytest.mark.parametrize("crop_rounding", ["round", "floor"])
def test_pixels_are_the_checkers(skimage_photos: list[Path], crop_rounding: str) -> None:
    """Two rooms, written apart, one meaning."""
    for mode, resized, size in [
        ("shortest", [37, 37], [32, 32]),
        ("shortest", [30, 41], [30, 41]),
        ("longest", [32, 32], [32, 32]),
        ("longest", [20, 20], [33, 31]),
        ("squash", [40, 36], [31, 33]),
    ]:
        change = {"size": size, "resize_mode": mode, "resize_size": resized, "crop_rounding": crop_rounding}
        colours = {"fill": [9, 100, 200], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "color_order": "BGR"}
        fields = checked_preprocessing(SQUASH_32 | change | colours, "x")
        theirs = Preprocessing.model_validate_json(json.dumps(fields))
        for path in skimage_photos:
            image = Image.open(path).convert("RGB")
            expected = apply(theirs, image).transpose(2, 0, 1)
            assert_allclose(preprocess(fields, image), expected, atol=1e-5)


def test_the_preprocessing_of_a_checkpoint_is_known_where_all_published_weights_agree() -> None:
    one, other = {"size": [224, 224]}, {"size": [256, 256]}
    assert shared_preprocessing({"a": one, "b": dict(one)}, "m") == one
    for candidates, why in (
        ({"a": one, "b": other, "c": one}, r"\(a, b, c, …\) differ in theirs"),
        ({}, "publishes none"),
    ):
        with refused(2, why):
            shared_preprocessing(candidates, "m")


@pytest.mark.usefixtures("my_vision")
def test_documented_examples_are_what_the_checker_reads() -> None:
    """The pages' code runs: the digest is the checker's, and the checker reads the contracts that they write."""
    page = "".join(read_text(f"docs/{name}") for name in ("onnx-file.md", "dev/graph-digest.md"))
    by_hand, digest = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    image, output = ("image", 1, ("batch", 3, 4, 4)), ("representation", 1, ("batch", 48))
    model = written("flat = Flatten(image); representation = Add(flat, w48)", output, before="", inputs=[image])
    onnx.save(model, "encoder.onnx")  # the current folder is a temporary one
    computed: Fields = {}
    exec(digest, computed)
    exec(by_hand, {})
    model, opened = onnx.load("encoder.onnx"), open_model("encoder.onnx")
    assert opened.file_changed is None  # the contract does not say what they were
    assert opened.contract is not None
    assert opened.contract.preprocessing.resize_size == (256, 256)
    (prop,) = model.metadata_props
    prop.value = json.dumps(json.loads(prop.value) | {"graph_digest": computed["digest"]})
    onnx.save(model, "encoder.onnx")
    assert open_model("encoder.onnx").file_changed is False
    model.graph.initializer[0].raw_data = np.ones(48, np.float32).tobytes()
    onnx.save(model, "simplified.onnx")
    assert open_model("simplified.onnx").file_changed is True
    for word in (*PREPROCESSING_FIELDS, *contract.RULES):
        assert f"`{word}`" in page
    whole, half = TOLERANCES["fp32"], TOLERANCES["fp16"]
    assert f"`max_rel` above {whole.max_rel} or `min_cosine` below {whole.min_cosine}" in page
    assert f"fp16: {half.max_rel} and {half.min_cosine}," in page


CLASSES = ("tabby cat", "espresso", "rocket")
FIVE = PHOTOS[:5]
TEXT = torch_models.TEXT | {"context_length": 20, "vocab_size": 49408}


def _scaled(model: Any) -> Any:
    torch.nn.init.constant_(model.logit_scale, 3.1)
    torch.nn.init.constant_(model.logit_bias, -1.5)
    return model


def _classes(folder: Path, text: str = "\n".join(CLASSES) + "\n") -> str:
    (folder / "classes.txt").write_text(text, encoding="utf-8")
    return str(folder / "classes.txt")


class Exported(NamedTuple):
    bare: ModelFile
    headed: ModelFile
    truth: Any
    pixels: Any


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tiny open_clip model with a SigLIP-like logit bias, exported without and with a head."""
    tmp = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)  # some random weights hardly tell the classes apart
    name, model = torch_models.open_clip_folder(tmp / "clip", text=TEXT, init=_scaled, init_logit_bias=-10.0)
    exported("open_clip", name, tmp / "bare.onnx")
    exported("open_clip", name, tmp / "headed.onnx", zero_shot=_classes(tmp), templates="openai")
    _, transform = open_clip.create_model_from_pretrained(name)
    pixels = torch.stack([transform(Image.open(path)) for path in FIVE])
    tokenizer, templates = open_clip.get_tokenizer(name), open_clip.OPENAI_IMAGENET_TEMPLATES
    with torch.no_grad():
        head = open_clip.build_zero_shot_classifier(model, tokenizer, CLASSES, templates)
        truth = model.logit_scale.exp() * model.encode_image(pixels, normalize=True) @ head + model.logit_bias
    bare, headed = (open_model(tmp / f"{name}.onnx") for name in ("bare", "headed"))
    return Exported(bare, headed, truth.numpy(), pixels.numpy())


@pytest.mark.long
def test_logits_are_open_clips_own_and_the_representation_is_the_same_with_a_head(clip: Exported) -> None:
    bare, headed = (outputs_of(model.path, clip.pixels) for model in (clip.bare, clip.headed))
    assert clip.truth.std(axis=1).min() > 0.1  # the classes differ, so that a wrong head would show
    assert_allclose(headed.pop("logits"), clip.truth, atol=1e-4)
    assert list(headed) == list(bare)
    for name, rows in bare.items():
        assert_allclose(headed[name], rows, rtol=0, atol=1e-6)


@pytest.mark.long
def test_the_contract_names_classes_templates_and_the_same_tensor(clip: Exported) -> None:
    bare, headed = contract_of(clip.bare.path), contract_of(clip.headed.path)
    words = headed["zero_shot"]
    assert (words["classes"], len(words["templates"])) == ([*CLASSES], 80)
    assert words["templates"][0] == "a bad photo of a {}."
    assert (clip.headed.class_output, headed["tensors"]["logits"]["rule"]) == ("logits", "logits")
    assert (clip.headed.representation, headed["source"]) == (clip.bare.representation, bare["source"])
    assert headed["parity"] is not None
    assert "zero_shot" not in bare


@pytest.mark.long
def test_the_head_is_the_normalised_mean_times_the_scale() -> None:
    """Closed form: two templates at right angles average to their diagonal."""
    scale = torch.tensor(10.0, dtype=torch.float64).log()
    vectors = {"a x": [3.0, 0.0], "b x": [0.0, 5.0], "a y": [-2.0, 0.0], "b y": [-7.0, 0.0]}
    prompts = contract.Prompts(("x", "y"), ("a {}", "b {}"))
    head = zero_shot.text_head(prompts, lambda texts: torch.tensor([vectors[t] for t in texts]), scale, "m")
    assert_allclose(head.numpy(), [[10 / 2**0.5, 10 / 2**0.5], [-10.0, 0.0]], rtol=1e-6)
    with pytest.raises(ExportError, match="zero or not finite"):
        zero_shot.text_head(prompts, lambda texts: torch.zeros(len(texts), 2), scale, "m")


def test_braces_in_a_class_name_stay() -> None:
    assert contract.Prompts(("{0} {x}",), ("a {}, {}!",)).texts("{0} {x}") == ["a {0} {x}, {0} {x}!"]


@pytest.mark.long
def test_imagenets_names_and_openais_templates_are_open_clips() -> None:
    prompts = read_prompts("imagenet", "openai")
    assert list(prompts.classes) == list(open_clip.IMAGENET_CLASSNAMES)
    assert prompts.texts("cat") == [make("cat") for make in open_clip.OPENAI_IMAGENET_TEMPLATES]


def test_bad_words(tmp_path: Path) -> None:
    for classes, templates, said in (
        ("cat\n", "{}", "number of class names is 1"),
        ("cat\ndog\ncat\n", "{}", "class name 'cat' occurs 2 times"),
        ("cat\ndog\n", "a photo\n", "template is 'a photo'"),
        ("cat\ndog\n", "\n", "number of templates is 0"),
    ):
        (tmp_path / "templates.txt").write_text(templates)
        with refused(2, said):
            read_prompts(_classes(tmp_path, classes), str(tmp_path / "templates.txt"))


@pytest.mark.long
def test_a_text_tower_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for field, value, code, said in (
        ("context_length", 8, 2, "the text tower reads 8"),
        ("vocab_size", 100, 3, "text tower has 100 tokens and open_clip's tokenizer 49408"),
        ("hf_tokenizer_name", "org/not-here", 4, "tokenizer of the text tower is not on this machine"),
    ):
        name, _ = torch_models.open_clip_folder(tmp_path / "clip", text=TEXT | {field: value})
        classes = _classes(tmp_path, "cat\na very long name of a class of things that nobody needs\n")
        with refused(code, said):
            exported("open_clip", name, tmp_path / "m.onnx", zero_shot=classes)
        assert not (tmp_path / "m.onnx").exists()
