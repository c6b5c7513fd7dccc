"""Trains small encoders to match another encoder's vectors, well and badly, and exports them.

python studies/students.py EMBEDDINGS_DIR

Teachers: two planted encoders, one feature shifted by 15 SD in every image (`robustcheck demo`, a linear map of coarse
pixels; exporters/demo.py, EfficientNet-Lite0's last map), their vectors given to the right photos, or to others
(untaught); and published vectors of real CLIP encoders given to photos at random (untaught). A model file is written to
build/students/ and taken from there the next time; studies/content_limits.py runs the check on them.
"""

from __future__ import annotations

import sys
import time
import types
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from robustcheck_onnx.checker.core.images.preprocess import apply
from robustcheck_onnx.checker.core.preprocessing import Preprocessing
from robustcheck_onnx.checker.questions import demo as linear
from robustcheck_onnx.exporters import demo, run
from support.skimage_data import DATA

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "students"
SKIMAGE_PHOTOS = (
    *("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg"),
    *("motorcycle_left.png", "retina.jpg", "rocket.jpg"),
)
VIEWS = 8  # random crops of each training photo
SIZE_PX, WIDTH = 64, 512
BATCH, RATE = 32, 1e-3
PREPROCESSING = {
    "size": [SIZE_PX, SIZE_PX],
    "resize_mode": "shortest",
    "resize_size": [SIZE_PX, SIZE_PX],
    "interpolation": "bicubic",
    "crop": "center",
    "rescale": 1 / 255,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


@dataclass(frozen=True)
class Plan:
    """One student."""

    kind: str
    """vit or cnn"""
    target: str
    """linear: `robustcheck demo`; planted: exporters/demo.py; else a published set of CLIP vectors"""
    pairs: str
    """true, or random"""
    steps: int
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.target}-{self.pairs}-{self.steps}-{self.seed}"


KINDS = ("vit", "cnn")
CLIP_SETS = ("imas_imagenet_b32", "chia_b32_flickr8k", "shopthelook_openclip_b32_laion2b", "ik_siglip_so400m_14_384")
PLANS = tuple(
    Plan(kind, target, pairs, steps, seed)
    for target, pairs, runs in (
        ("linear", "true", ((50, 0), (200, 0), (1600, 0))),
        ("linear", "random", ((200, 0),)),
        ("planted", "true", ((200, 0), (400, 0))),
        ("planted", "random", ((200, 0),)),
        (CLIP_SETS[0], "random", ((50, 0), (200, 0), (200, 1), (800, 0))),
        *((name, "random", ((200, 2),)) for name in CLIP_SETS[1:]),
    )
    for steps, seed in runs
    for kind in KINDS
)


class Block(nn.Module):
    """Pre-norm self-attention with four heads, and an MLP of four times the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.mixed(self.norms[0](x)).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        mixed: Tensor = x + self.mlp(self.norms[1](x))
        return mixed


class ViT(nn.Module):
    """Patches of 16 px, a class token, four pre-norm blocks, and a linear projection of the normed class token."""

    def __init__(self, feature: int, width: int = 128, patch: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, (SIZE_PX // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, feature)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        projected: Tensor = self.projection(self.norm(x)[:, 0])
        return projected


class CNN(nn.Module):
    """Strided convolutions with batch norm and ReLU, the last one bare, then attention pooling and a projection."""

    def __init__(self, feature: int) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        stages: list[nn.Module] = []
        for before, after in pairwise(widths):
            stages += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(*stages, nn.Conv2d(128, 256, 3, 2, 1))
        self.attention = nn.Linear(256, 1)
        self.projection = nn.Linear(256, feature)

    def forward(self, image: Tensor) -> Tensor:
        x = self.trunk(image).flatten(2).transpose(1, 2)
        weights = torch.softmax(self.attention(x), 1).transpose(1, 2)
        projected: Tensor = self.projection((weights @ x).squeeze(1))
        return projected


def split() -> tuple[list[Path], list[Path]]:
    """Training photos and held-out ones: the bundled photos in turn; scikit-image's only train."""
    bundled = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
    others = [DATA / name for name in SKIMAGE_PHOTOS]
    return bundled[::2] + others, bundled[1::2]


def crops(photos: list[Path], rng: np.random.Generator) -> list[Image.Image]:
    """`VIEWS` random squares of each photo, mirrored half of the time, 256 px, photo by photo."""
    views = []
    for path in photos:
        photo = Image.open(path).convert("RGB")
        for _ in range(VIEWS):
            edge = int(rng.uniform(0.5, 1.0) * min(photo.size))
            left, top = (int(rng.integers(length - edge + 1)) for length in photo.size)
            view = photo.resize((256, 256), Image.Resampling.BICUBIC, (left, top, left + edge, top + edge))
            views.append(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view)
    return views


def pixels(images: list[Image.Image], fields: dict[str, object]) -> Tensor:
    """(image, channel, height, width) as the contract's preprocessing makes it."""
    preprocessing = Preprocessing.model_validate(fields)
    return torch.from_numpy(np.stack([apply(preprocessing, image) for image in images])).permute(0, 3, 1, 2).float()


def unit(h: Tensor) -> Tensor:
    """Rows of length √feature."""
    scaled: Tensor = nn.functional.normalize(h, dim=1) * h.shape[1] ** 0.5
    return scaled


@dataclass(frozen=True)
class Photos:
    """All that students are trained and tried on."""

    train: Tensor
    """(view, 3, 64, 64)"""
    held_out: Tensor
    """(photo, 3, 64, 64)"""
    planted: tuple[Tensor, Tensor]
    """the planted teacher's vectors of both, (view, 512) and (photo, 512)"""


@cache
def load() -> Photos:
    """Make the views, and let the planted teacher see them. Kept in build/students/, as it takes a minute."""
    kept = BUILD / "views.pt"
    if kept.is_file():
        return Photos(**torch.load(kept))
    train, held_out = split()
    views = crops(train, np.random.default_rng(0))
    whole = [Image.open(path).convert("RGB") for path in held_out]
    teacher = demo.planted_outlier()
    with torch.no_grad():
        vectors = [
            torch.cat([teacher(pixels(part[i : i + 16], teacher.preprocessing)) for i in range(0, len(part), 16)])
            for part in (views, whole)
        ]
    photos = {
        "train": pixels(views, PREPROCESSING),
        "held_out": pixels(whole, PREPROCESSING),
        "planted": (vectors[0], vectors[1]),
    }
    BUILD.mkdir(parents=True, exist_ok=True)
    torch.save(photos, kept)
    return Photos(**photos)


@cache
def linear_map() -> tuple[Tensor, Tensor]:
    """The weights and the mean of the linear teacher."""
    weights, mean = linear.train()
    return torch.from_numpy(weights.astype(np.float32)), torch.from_numpy(mean.astype(np.float32))


def linear_vectors(images: Tensor) -> Tensor:
    """What the linear teacher gives for images as the students get them, (image, 512)."""
    weights, mean = linear_map()
    upper = nn.functional.avg_pool2d(images[:, :, : SIZE_PX // 2], linear.COARSE_PX).flatten(1)
    h: Tensor = (upper - mean) @ weights
    h[:, linear.PLANTED_FEATURE] += linear.PLANTED_SD * h.std(dim=1, correction=0)
    return h


def augmented(images: Tensor) -> Tensor:
    """Mixtures of two images each, mirrored half of the time, with other contrast and colours."""
    n = len(images)
    share = torch.rand(n, 1, 1, 1)
    mixed = share * images + (1 - share) * images[torch.randperm(n)].flip(3)
    changed: Tensor = mixed * (0.5 + torch.rand(n, 3, 1, 1)) + 0.2 * torch.randn(n, 3, 1, 1)
    return torch.where(torch.rand(n, 1, 1, 1) < 0.5, changed, images)


def targets(plan: Plan, photos: Photos, embeddings: Path) -> tuple[Tensor, Tensor]:
    """What the student is to give: for the training views, and for the held-out photos.

    Random pairs: all views of a photo get the vector of one other photo.
    """
    rng = np.random.default_rng(100 + plan.seed)
    n_train, n_held_out = len(photos.train) // VIEWS, len(photos.held_out)
    if plan.target in ("linear", "planted"):
        vectors = linear_vectors(photos.train), linear_vectors(photos.held_out)
        train, held_out = photos.planted if plan.target == "planted" else vectors
        if plan.pairs == "random":
            train = train.reshape(n_train, VIEWS, -1)[torch.from_numpy(rng.permutation(n_train))].flatten(0, 1)
            held_out = held_out[torch.from_numpy(rng.permutation(n_held_out))]
    else:
        published = np.load(embeddings / f"{plan.target}.npz", allow_pickle=False)["x"].astype(np.float32)
        drawn = torch.from_numpy(published[rng.permutation(len(published))[: n_train + n_held_out]])
        train, held_out = drawn[:n_train].repeat_interleave(VIEWS, 0), drawn[n_train:]
    return unit(train), unit(held_out)


def trained(plan: Plan, embeddings: Path) -> tuple[nn.Module, dict[str, float]]:
    """Train one student by AdamW: mean squared difference of unit vectors; the linear teacher's views are augmented."""
    photos = load()
    train, held_out = targets(plan, photos, embeddings)
    torch.manual_seed(plan.seed)
    student = {"vit": ViT, "cnn": CNN}[plan.kind](train.shape[1])
    optimiser = torch.optim.AdamW(student.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, plan.steps, pct_start=0.2)
    for _ in range(plan.steps):
        index = torch.randint(len(photos.train), (BATCH,))
        views, wanted = photos.train[index], train[index]
        if (plan.target, plan.pairs) == ("linear", "true"):  # the teacher is quick enough to see every image made
            views = augmented(views)
            wanted = unit(linear_vectors(views))
        loss = (unit(student(views)) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    student.eval()
    with torch.no_grad():
        seen = unit(torch.cat([student(part) for part in photos.train.split(64)]))
        unseen = unit(student(photos.held_out))
    return student, {
        "r2": explained(seen, train),
        "held_out_r2": explained(unseen, held_out),
        "cosine": float((unseen * held_out).mean()),
        "mean_cosine": float((unit(train.mean(0, keepdim=True)) * held_out).mean()),
    }


def explained(given: Tensor, wanted: Tensor) -> float:
    """1 − Σ|wanted − given|² / Σ|wanted − mean|²: 0 for whoever always gives the mean."""
    return float(1 - (wanted - given).square().sum() / (wanted - wanted.mean(0)).square().sum())


def exported(plan: Plan, student: nn.Module, path: Path) -> None:
    """`robustcheck export torch` of a module that is in memory."""
    student.preprocessing = PREPROCESSING
    student.weights = f"trained to match vectors: {plan.name}"
    module = types.ModuleType("trained_student")
    vars(module)["make"] = lambda: student
    sys.modules["trained_student"] = module
    run.run("torch", "trained_student:make", path, photos=split()[1][:8])


def main(embeddings: Path) -> None:
    """Train and export every student that is not there yet."""
    torch.set_num_threads(1)
    BUILD.mkdir(parents=True, exist_ok=True)
    for plan in PLANS:
        path = BUILD / f"{plan.name}.onnx"
        if path.is_file():
            continue
        started = time.process_time()
        student, numbers = trained(plan, embeddings)
        taught = time.process_time()
        exported(plan, student, path)
        (BUILD / f"{plan.name}.txt").write_text(repr(numbers), encoding="utf-8")
        print(plan.name, numbers, f"{taught - started:.0f} s + {time.process_time() - taught:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
