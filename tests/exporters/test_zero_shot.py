"""Zero-shot classifiers: the text head against the libraries' own computation, and an unchanged representation."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from numpy.testing import assert_allclose
from PIL import Image

from robustcheck_onnx.checker.model.open import ModelFile, open_model
from robustcheck_onnx.exporters.contract import Prompts
from robustcheck_onnx.exporters.errors import ExportError
from robustcheck_onnx.exporters.run import DEFAULT_TEMPLATES, read_prompts
from support import PHOTOS, Capture, checkpoints, robustcheck
from support.lazy import open_clip, torch, transformers
from support.user_modules import contract_of, exported, outputs_of, refused

CLASSES = ("tabby cat", "espresso", "rocket")
FIVE = PHOTOS[:5]
TEXT = checkpoints.TEXT | {"context_length": 20, "vocab_size": 49408}


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
    name, model = checkpoints.open_clip_folder(tmp / "clip", text=TEXT, init=_scaled, init_logit_bias=-10.0)
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
def test_transformers_clip_gives_its_own_logits_per_image(tmp_path: Path) -> None:
    folder, out, names = tmp_path / "clip", tmp_path / "model.onnx", ("cat", "espresso", "rocket")
    tiny = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    letters = "abcdefghijklmnopqrstuvwxyz."
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    text = {**tiny, "vocab_size": 56, "bos_token_id": 54, "eos_token_id": 55, "pad_token_id": 55}
    vision = {**tiny, "image_size": 32, "patch_size": 16}
    torch.manual_seed(4)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for part in (model, processor):
        part.save_pretrained(folder)
    classes = _classes(tmp_path, "\n".join(names))
    with refused(4, "tokenizer"):
        exported("transformers", str(folder), out, zero_shot=classes)
    assert not out.exists()

    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    exported("transformers", str(folder), out, zero_shot=classes)
    pixels = processor(images=[Image.open(path) for path in FIVE], return_tensors="pt")["pixel_values"]
    texts = [f"a photo of a {name}." for name in names]
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        truth = model(pixel_values=pixels, **tokens).logits_per_image.numpy()
    assert truth.std(axis=1).min() > 1e-3
    outputs = outputs_of(out, pixels.numpy())
    assert list(outputs) == ["representation", "pooled", "logits"]
    assert_allclose(outputs["logits"], truth, atol=1e-4)
    assert contract_of(out)["zero_shot"]["templates"] == list(DEFAULT_TEMPLATES)


@pytest.mark.long
def test_the_head_is_the_normalised_mean_times_the_scale() -> None:
    """Closed form: two templates at right angles average to their diagonal."""
    from robustcheck_onnx.exporters.wrappers import text_head

    scale = torch.tensor(10.0, dtype=torch.float64).log()
    vectors = {"a x": [3.0, 0.0], "b x": [0.0, 5.0], "a y": [-2.0, 0.0], "b y": [-7.0, 0.0]}
    prompts = Prompts(("x", "y"), ("a {}", "b {}"))
    head = text_head(prompts, lambda texts: torch.tensor([vectors[t] for t in texts]), scale, "m")
    assert_allclose(head.numpy(), [[10 / 2**0.5, 10 / 2**0.5], [-10.0, 0.0]], rtol=1e-6)
    with pytest.raises(ExportError, match="zero or not finite"):
        text_head(prompts, lambda texts: torch.zeros(len(texts), 2), scale, "m")


def test_braces_in_a_class_name_stay() -> None:
    assert Prompts(("{0} {x}",), ("a {}, {}!",)).texts("{0} {x}") == ["a {0} {x}, {0} {x}!"]


@pytest.mark.long
def test_imagenets_names_and_openais_templates_are_open_clips() -> None:
    prompts = read_prompts("imagenet", "openai")
    assert list(prompts.classes) == list(open_clip.IMAGENET_CLASSNAMES)
    assert prompts.texts("cat") == [make("cat") for make in open_clip.OPENAI_IMAGENET_TEMPLATES]


BAD_WORDS = [
    ("cat\n", "{}", "number of class names is 1"),
    ("cat\ndog\ncat\n", "{}", "class name 'cat' occurs 2 times"),
    ("cat\ndog\n", "a photo\n", "template is 'a photo'"),
    ("cat\ndog\n", "\n", "number of templates is 0"),
]


def test_bad_words(tmp_path: Path) -> None:
    for classes, templates, said in BAD_WORDS:
        (tmp_path / "templates.txt").write_text(templates)
        with refused(2, said):
            read_prompts(_classes(tmp_path, classes), str(tmp_path / "templates.txt"))


BAD_CALLS = {
    "open_clip ViT-B-32 --templates openai": "error: --templates is openai; it is for",
    "timm resnet18 --zero-shot imagenet": "--zero-shot is for sources with a text tower",
    "open_clip ViT-B-32 --zero-shot none.txt": "error: --zero-shot is 'none.txt'",
    "open_clip ViT-B-32 --zero-shot latin1.txt": "file is not readable",
}


def test_bad_calls_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for words, said in BAD_CALLS.items():
        monkeypatch.chdir(tmp_path)
        (tmp_path / "latin1.txt").write_bytes(b"caf\xe9\ntea\n")
        assert robustcheck("export", *words.split(), "-o", "model.onnx") == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "model.onnx").exists()


@pytest.mark.long
def test_a_text_tower_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for field, value, code, said in (
        ("context_length", 8, 2, "the text tower reads 8"),
        ("vocab_size", 100, 3, "text tower has 100 tokens and open_clip's tokenizer 49408"),
        ("hf_tokenizer_name", "org/not-here", 4, "tokenizer of the text tower is not on this machine"),
    ):
        name, _ = checkpoints.open_clip_folder(tmp_path / "clip", text=TEXT | {field: value})
        classes = _classes(tmp_path, "cat\na very long name of a class of things that nobody needs\n")
        with refused(code, said):
            exported("open_clip", name, tmp_path / "m.onnx", zero_shot=classes)
        assert not (tmp_path / "m.onnx").exists()
