"""Zero-shot classifiers: the text head against the libraries' own computation, and an unchanged representation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.exporters.errors import ExportError
from robustcheck_onnx.exporters.run import run
from robustcheck_onnx.exporters.zero_shot import DEFAULT_TEMPLATES, Prompts, read_prompts, text_head
from support import PHOTOS
from support.lazy import open_clip, torch, transformers

CLASSES = ("tabby cat", "espresso", "rocket")
FIVE = PHOTOS[:5]
VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def _open_clip_folder(folder: Path, text: dict[str, int] = TEXT, **more: Any) -> Any:
    from safetensors.torch import save_file

    folder.mkdir()
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text, **more}
    cfg = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD, "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": cfg}))
    torch.manual_seed(3)
    model = open_clip.model.CLIP(**config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(3.1)
        if model.logit_bias is not None:
            model.logit_bias.fill_(-1.5)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


def _classes(folder: Path, text: str = "\n".join(CLASSES) + "\n") -> str:
    path = folder / "classes.txt"
    path.write_text(text, encoding="utf-8")
    return str(path)


class Exported(NamedTuple):
    bare: Path
    headed: Path
    truth: Any
    pixels: Any


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tiny open_clip model with a SigLIP-like logit bias, exported without and with a head."""
    tmp = tmp_path_factory.mktemp("clip")
    model = _open_clip_folder(tmp / "clip", init_logit_bias=-10.0)
    name = f"local-dir:{tmp / 'clip'}"
    run("open_clip", name, tmp / "bare.onnx", photos=FIVE)
    run("open_clip", name, tmp / "headed.onnx", zero_shot=_classes(tmp), templates="openai", photos=FIVE)
    _, transform = open_clip.create_model_from_pretrained(name)
    pixels = torch.stack([transform(Image.open(path)) for path in FIVE])
    head = open_clip.build_zero_shot_classifier(
        model, open_clip.get_tokenizer(name), CLASSES, open_clip.OPENAI_IMAGENET_TEMPLATES
    )
    with torch.no_grad():
        image = model.encode_image(pixels, normalize=True)
        truth = model.logit_scale.exp() * image @ head + model.logit_bias
    return Exported(tmp / "bare.onnx", tmp / "headed.onnx", truth.numpy(), pixels.numpy())


def _outputs(path: Path, pixels: Any) -> dict[str, Any]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": pixels}), strict=True))


@pytest.mark.long
def test_logits_are_open_clips_own_zero_shot_logits(clip: Exported) -> None:
    logits = _outputs(clip.headed, clip.pixels)["logits"]
    assert clip.truth.std(axis=1).min() > 0.1  # the classes differ, so that a wrong head would show
    np.testing.assert_allclose(logits, clip.truth, atol=1e-4)


@pytest.mark.long
def test_the_representation_is_the_same_with_a_head(clip: Exported) -> None:
    bare, headed = _outputs(clip.bare, clip.pixels), _outputs(clip.headed, clip.pixels)
    assert set(headed) == {*bare, "logits"}
    for name, rows in bare.items():
        np.testing.assert_allclose(headed[name], rows, rtol=0, atol=1e-6)


@pytest.mark.long
def test_the_contract_names_classes_templates_and_the_same_tensor(clip: Exported) -> None:
    bare, headed = open_model(clip.bare), open_model(clip.headed)
    assert bare.contract is not None
    assert bare.contract.zero_shot is None
    assert headed.contract is not None
    assert headed.contract.zero_shot is not None
    assert headed.contract.zero_shot.classes == CLASSES
    assert len(headed.contract.zero_shot.templates) == 80
    assert headed.contract.zero_shot.templates[0] == "a bad photo of a {}."
    assert headed.class_output == "logits"
    assert headed.contract.tensors["logits"].rule == "logits"
    assert headed.representation == bare.representation
    assert headed.contract.source == bare.contract.source
    assert headed.contract.parity is not None
    (prop,) = [p for p in onnx.load(clip.bare).metadata_props if p.key == "robustcheck.contract"]
    assert "zero_shot" not in json.loads(prop.value)


@pytest.mark.long
def test_the_check_measures_the_same_with_a_head(clip: Exported) -> None:
    bare, headed = (check(path, max_images=60) for path in (clip.bare, clip.headed))
    assert headed.verdict == bare.verdict
    ours, theirs = headed.evidence.statistics, bare.evidence.statistics
    assert ours.n_images == theirs.n_images
    for name in ("kurtosis", "persistence_ratio", "top3_share", "negative_energy"):
        assert getattr(ours, name).estimate == pytest.approx(getattr(theirs, name).estimate, rel=1e-5)


@pytest.mark.long
def test_transformers_clip_gives_its_own_logits_per_image(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    tiny = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["."]
    marks = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate([*letters, *(f"{c}</w>" for c in letters), *marks])}
    text = {**tiny, "vocab_size": len(vocabulary), "eos_token_id": vocabulary[marks[1]], "max_position_embeddings": 77}
    text |= {"bos_token_id": vocabulary[marks[0]], "pad_token_id": vocabulary[marks[1]]}
    config = transformers.CLIPConfig(
        vision_config={**tiny, "image_size": 32, "patch_size": 16}, text_config=text, projection_dim=24
    )
    torch.manual_seed(4)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    classes = _classes(tmp_path, "cat\nespresso\nrocket\n")

    with pytest.raises(ExportError, match="tokenizer") as refused:
        run("transformers", str(folder), tmp_path / "model.onnx", zero_shot=classes, photos=FIVE)
    assert refused.value.exit_code == 4
    assert not (tmp_path / "model.onnx").exists()

    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    run("transformers", str(folder), tmp_path / "model.onnx", zero_shot=classes, photos=FIVE)
    pixels = processor(images=[Image.open(path) for path in FIVE], return_tensors="pt")["pixel_values"]
    texts = [f"a photo of a {name}." for name in ("cat", "espresso", "rocket")]
    with torch.no_grad():
        truth = model(pixel_values=pixels, **tokenizer(texts, padding=True, return_tensors="pt")).logits_per_image
    assert float(truth.std(dim=1).min()) > 1e-3
    outputs = _outputs(tmp_path / "model.onnx", pixels.numpy())
    np.testing.assert_allclose(outputs["logits"], truth.numpy(), atol=1e-4)
    opened = open_model(tmp_path / "model.onnx")
    assert opened.contract is not None
    assert opened.contract.zero_shot is not None
    assert opened.contract.zero_shot.templates == DEFAULT_TEMPLATES
    assert list(outputs) == ["representation", "pooled", "logits"]


@pytest.mark.long
def test_the_head_is_the_normalised_mean_times_the_scale() -> None:
    """Closed form: two templates at right angles average to their diagonal."""
    vectors = {"a x": [3.0, 0.0], "b x": [0.0, 5.0], "a y": [-2.0, 0.0], "b y": [-7.0, 0.0]}
    prompts = Prompts(("x", "y"), ("a {}", "b {}"))
    head = text_head(prompts, lambda texts: torch.tensor([vectors[t] for t in texts]), logit_scale=10.0, name="m")
    np.testing.assert_allclose(head.numpy(), [[10 / 2**0.5, 10 / 2**0.5], [-10.0, 0.0]], rtol=1e-6)
    with pytest.raises(ExportError, match="zero or not finite"):
        text_head(prompts, lambda texts: torch.zeros(len(texts), 2), logit_scale=10.0, name="m")


def test_braces_in_a_class_name_stay() -> None:
    assert Prompts(("{0} {x}",), ("a {}, {}!",)).texts("{0} {x}") == ["a {0} {x}, {0} {x}!"]


@pytest.mark.long
def test_imagenets_names_and_openais_templates_are_open_clips() -> None:
    prompts = read_prompts("imagenet", "openai")
    assert list(prompts.classes) == list(open_clip.IMAGENET_CLASSNAMES)
    assert len(prompts.classes) == 1000
    told = [make("cat") for make in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert prompts.texts("cat") == told


BAD_WORDS = [
    ("cat\n", None, "number of class names is 1"),
    ("", None, "number of class names is 0"),
    ("cat\ndog\ncat\n", None, "class name 'cat' occurs 2 times"),
    ("cat\ndog\n", "a photo\n", "template is 'a photo'"),
    ("cat\ndog\n", "\n", "number of templates is 0"),
]


@pytest.mark.parametrize(("classes", "templates", "said"), BAD_WORDS)
def test_bad_words(tmp_path: Path, classes: str, templates: str | None, said: str) -> None:
    if templates is not None:
        (tmp_path / "templates.txt").write_text(templates)
    with pytest.raises(ExportError) as refused:
        read_prompts(_classes(tmp_path, classes), None if templates is None else str(tmp_path / "templates.txt"))
    assert said in refused.value.message
    assert refused.value.exit_code == 2


BAD_CALLS: list[tuple[list[str], int, str]] = [
    (["open_clip", "ViT-B-32", "--templates", "openai"], 2, "error: --templates is openai; it is for"),
    (["timm", "resnet18", "--zero-shot", "imagenet"], 2, "--zero-shot is for sources with a text tower"),
    (["open_clip", "ViT-B-32", "--zero-shot", "none.txt"], 2, "error: --zero-shot is 'none.txt'"),
    (["open_clip", "ViT-B-32", "--zero-shot", "latin1.txt"], 2, "file is not readable"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD_CALLS)
def test_bad_calls_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9\ntea\n")
    assert cli.main(["export", *words, "-o", "model.onnx"]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.long
def test_prompts_that_do_not_fit_the_text_tower_are_refused(tmp_path: Path) -> None:
    _open_clip_folder(tmp_path / "short", {**TEXT, "context_length": 8})
    _open_clip_folder(tmp_path / "words", {**TEXT, "vocab_size": 100})
    out = tmp_path / "model.onnx"
    classes = _classes(tmp_path, "cat\na very long name of a class of things that nobody needs\n")
    with pytest.raises(ExportError, match="the text tower reads 8") as long:
        run("open_clip", f"local-dir:{tmp_path / 'short'}", out, zero_shot=classes, photos=FIVE)
    assert long.value.exit_code == 2
    with pytest.raises(ExportError, match="text tower has 100 tokens and open_clip's tokenizer 49408") as other:
        run("open_clip", f"local-dir:{tmp_path / 'words'}", out, zero_shot=classes, photos=FIVE)
    assert other.value.exit_code == 3
    assert not out.exists()


@pytest.mark.long
def test_a_tokenizer_of_the_hub_that_is_not_here_is_said(tmp_path: Path) -> None:
    _open_clip_folder(tmp_path / "hub", {**TEXT, "hf_tokenizer_name": "org/not-here"})  # type: ignore[dict-item]
    with pytest.raises(ExportError, match="tokenizer of the text tower is not on this machine") as refused:
        run(
            "open_clip", f"local-dir:{tmp_path / 'hub'}", tmp_path / "m.onnx", zero_shot=_classes(tmp_path),
            photos=FIVE,
        )  # fmt: skip
    assert refused.value.exit_code == 4


@pytest.mark.long
def test_shift_reads_labels_by_the_class_names_of_the_contract(
    clip: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders named like classes; the truth is the library's own zero-shot prediction."""
    labels = [CLASSES[i % 2] for i in range(len(FIVE))]
    for folder, turn in (("photos", False), ("mirrored", True)):
        for path, label in zip(FIVE, labels, strict=True):
            (tmp_path / folder / label).mkdir(parents=True, exist_ok=True)
            image = Image.open(path).convert("RGB")
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turn else image
            image.save(tmp_path / folder / label / f"{path.stem}.png")
    words = ["--in", str(tmp_path / "photos"), "--shifted", str(tmp_path / "mirrored"), "-o", "json"]
    assert cli.main(["shift", str(clip.headed), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    right = sum(CLASSES[i] == label for i, label in zip(clip.truth.argmax(axis=1), labels, strict=True))
    assert found["in_distribution"]["accuracy"]["n_correct"] == right
    assert found["in_distribution"]["labels"] == "the class names in the file's contract"
    assert found["model"]["n_classes"] == 3


@pytest.mark.long
def test_half_precision_keeps_the_logits(tmp_path: Path) -> None:
    _open_clip_folder(tmp_path / "clip")
    record = run(
        "open_clip", f"local-dir:{tmp_path / 'clip'}", tmp_path / "m.onnx", zero_shot=_classes(tmp_path),
        precision="fp16", photos=FIVE,
    )  # fmt: skip
    assert record.outputs == {"representation": 24, "pooled": 32, "logits": 3}
    assert record.parity.outputs["logits"].max_rel < 0.05
