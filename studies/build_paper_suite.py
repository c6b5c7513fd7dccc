"""Write the packaged suite: the paper's encoders, as far as open_clip and timm publish weights, and their controls.

    python studies/build_paper_suite.py > thresholds/data/paper_suite.toml

A test compares the bytes, so that an entry without weights, a new tag or a published row is noticed.
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterator
from typing import NamedTuple

import open_clip
import timm

from robustcheck_onnx.thresholds import published

# Crabbé et al., TMLR 2024: backbones and pretraining sets of the robust zero-shot encoders. Of several epochs of one
# run the last; datacomp_xl is DataComp-1B (the _m and _s pools are far smaller than the sets of the paper).
PAPER_BACKBONES = ("RN50", "RN101", "ViT-B-32", "ViT-B-16", "ViT-L-14")
PAPER_TAGS = ("openai", "yfcc15m", "cc12m", "laion400m_e32", "laion2b_s*", "datacomp_xl_*")
SIGLIP = (
    "ViT-B-16-SigLIP",
    "ViT-B-16-SigLIP-384",
    "ViT-L-16-SigLIP-256",
    "ViT-SO400M-14-SigLIP",
    "ViT-SO400M-14-SigLIP-384",
    "ViT-B-16-SigLIP2",
)
LARGE_LAION = (
    ("ViT-H-14", "laion2b_s32b_b79k"),
    ("ViT-g-14", "laion2b_s34b_b88k"),
    ("ViT-bigG-14", "laion2b_s39b_b160k"),
)
FINETUNED = "*clip*_ft_in1k"
TORCHVISION = {  # name, weights → row of timm, which republishes torchvision's weights; none for the ViTs
    ("resnet50", "IMAGENET1K_V1"): "resnet50.tv_in1k",
    ("resnet50", "IMAGENET1K_V2"): "resnet50.tv2_in1k",
    ("resnet101", "IMAGENET1K_V1"): "resnet101.tv_in1k",
    ("vit_b_32", "IMAGENET1K_V1"): "",
    ("vit_b_16", "IMAGENET1K_V1"): "",
    ("vit_l_16", "IMAGENET1K_V1"): "",
}
SUPERVISED = (
    "resnet50.a1_in1k",
    "resnet101.a1_in1k",
    "vit_base_patch32_224.augreg_in1k",
    "vit_base_patch16_224.augreg_in1k",
    "deit_small_patch16_224.fb_in1k",
    "deit_base_patch16_224.fb_in1k",
    "convnext_base.fb_in1k",
    "swin_base_patch4_window7_224.ms_in1k",
    "tf_efficientnetv2_s.in1k",
    "efficientnet_b0.ra_in1k",
    "mobilenetv3_large_100.ra_in1k",
    "densenet121.tv_in1k",
    "regnety_032.tv2_in1k",
    "convnextv2_base.fcmae_ft_in1k",
    "hiera_base_224.mae_in1k_ft_in1k",
)
MORE_DATA = (
    "vit_base_patch32_224.augreg_in21k_ft_in1k",
    "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_large_patch16_224.augreg_in21k_ft_in1k",
    "beit_base_patch16_224.in22k_ft_in22k_in1k",
    "convnext_base.fb_in22k_ft_in1k",
    "swin_base_patch4_window7_224.ms_in22k_ft_in1k",
    "resnetv2_50x1_bit.goog_in21k_ft_in1k",
    "resnext101_32x8d.fb_wsl_ig1b_ft_in1k",
)
DEIT3 = ("deit3_small_patch16_224.fb_in1k", "deit3_base_patch16_224.fb_in1k", "deit3_large_patch16_224.fb_in1k")
SELF_SUPERVISED = (
    "vit_small_patch16_224.dino",
    "vit_base_patch16_224.dino",
    "vit_small_patch14_dinov2.lvd142m",
    "vit_base_patch14_dinov2.lvd142m",
    "vit_base_patch14_reg4_dinov2.lvd142m",
    "vit_large_patch14_dinov2.lvd142m",
    "vit_base_patch16_dinov3.lvd1689m",
    "vit_base_patch16_224.mae",
)

_SPREAD = published.usual_robustness("timm", published.MEAN_SHIFTS)
USUAL = f"such models have {_SPREAD.low:+.1f} to {_SPREAD.high:+.1f} points (5 to 95 %)"

HEADER = '''# The encoders of Crabbé et al. (TMLR 2024), as far as open_clip publishes weights, the same backbones
# finetuned on ImageNet or supervised, and further controls. Written by studies/build_paper_suite.py; copy it for
# a suite of your own.
schema_version = 1
name = "paper"
about = """
Zero-shot CLIP encoders of the paper's backbones and pretraining sets; SigLIP; CLIP finetuned on ImageNet; supervised,
more-data and self-supervised encoders; DeiT-III and large LAION models as known hard cases."""

[labels]
present_from_pp = 20.0
absent_below_pp = 10.0
meaning = """
present = mean effective robustness (V2, Sketch, R, A) of 20 percentage points or more was published; absent = below 10;
unlabelled = between, or not published: measured and shown, but no part of the fit. YFCC15M and CC12M encoders are
labelled present as in the paper: their ImageNet accuracy is below what the baselines were fitted on. Where that
holds of others, nothing follows: unlabelled. A label says nothing about outlier features."""
'''


class Line(NamedTuple):
    """What one entry says."""

    source: str
    name: str
    weights: str
    group: str
    published: str = ""
    label: str = ""
    hard_case: bool = False
    note: str = ""


def entries() -> Iterator[Line]:
    """All entries, in the order of the file."""
    pairs = open_clip.list_pretrained()
    for backbone in PAPER_BACKBONES:
        for tag in (t for pattern in PAPER_TAGS for m, t in pairs if m == backbone and fnmatch.fnmatchcase(t, pattern)):
            small = tag in ("yfcc15m", "cc12m")
            yield Line(
                "open_clip",
                backbone,
                tag,
                "zero_shot_clip",
                _row(backbone, tag),
                label="present" if small else "",
                hard_case=small,
                note="one of the paper's robust encoders; effective robustness extrapolated" if small else "",
            )
    for name in SIGLIP:
        yield Line("open_clip", name, "webli", "zero_shot_clip", _row(name, "webli"))
    for name, tag in LARGE_LAION:
        note = "does well on shifted data; ViT-bigG/14 is known to show no outlier features "
        note += "(studies/results/controls.md)"
        yield Line("open_clip", name, tag, "zero_shot_clip", _row(name, tag), hard_case=True, note=note)
    for name in timm.list_pretrained(FINETUNED):
        yield _timm(name, "imagenet_finetuned_clip")
    for (name, tag), row in TORCHVISION.items():
        # ImageNet-A was chosen so that resnet50.tv_in1k gets it wrong: its row has no mean
        bare = row in ("", "resnet50.tv_in1k")
        note = f"trained on ImageNet-1k only: {USUAL}; no mean published of its own" if bare else ""
        key = f"timm:{row}" if row else ""
        yield Line("torchvision", name, tag, "supervised", key, "absent" if bare else "", note=note)
    for name in SUPERVISED:
        yield _timm(name, "supervised")
    for name in MORE_DATA:
        yield _timm(name, "more_data")
    for name in DEIT3:
        yield _timm(name, "supervised")._replace(
            hard_case=True, note="supervised, with outlier tokens (Darcet et al. 2024)"
        )
    for name in SELF_SUPERVISED:
        yield Line(
            "timm",
            name,
            "",
            "self_supervised",
            label="unlabelled",
            hard_case="dinov3" in name,
            note="no head, so no accuracies are published"
            + ("; constant large features, scaled down by its last norm" if "dinov3" in name else ""),
        )


def _row(model: str, tag: str) -> str:
    """The row of open_clip's results; OpenAI's and LAION-400M's are listed under the QuickGELU name as well."""
    known = {row.name for row in published.published() if row.library == "open_clip"}
    found = [name for name in (f"{model}/{tag}", f"{model}-quickgelu/{tag}") if name in known]
    return f"open_clip:{found[0]}" if found else ""


def _timm(name: str, group: str) -> Line:
    rows = published.find("timm", name, name.partition(".")[2])
    return Line("timm", name, "", group, f"timm:{rows[0].name}" if rows else "")


def text() -> str:
    """The suite file."""
    blocks = [HEADER]
    for found in entries():
        line = found
        if not line.label and not line.published:
            line = line._replace(label="unlabelled", note=line.note or "no accuracies in the published tables")
        keys = [f'{key} = "{value}"' for key, value in line._asdict().items() if isinstance(value, str) and value]
        if line.hard_case:
            keys.append("hard_case = true")
        blocks.append("[[models]]\n" + "\n".join(keys) + "\n")
    return "\n".join(blocks)


if __name__ == "__main__":
    sys.stdout.write(text())
