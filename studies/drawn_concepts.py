"""Draw a small concept set with Pillow: colours, textures, shapes and simple objects. No photos, nothing downloaded.

    python studies/drawn_concepts.py FOLDER [--images 400] [--seed 0]

Writes FOLDER/images/*.png and FOLDER/concepts.csv (path, concept), which `robustcheck concepts --concepts` takes.
Every image has a background colour, perhaps a texture over it, and perhaps a shape or an object; the three are drawn
independently, so no concept stands for another. Drawings: what a model tells in them is not a measure of photos.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE_PX = 128
Colour = tuple[int, int, int]
Box = tuple[int, int, int]
"""left, top and edge (px)"""

COLOURS: dict[str, Colour] = {
    "red": (200, 45, 40),
    "green": (50, 150, 60),
    "blue": (45, 80, 190),
    "yellow": (225, 200, 50),
    "grey": (128, 128, 128),
}
LIGHT, DARK = (245, 245, 240), (25, 25, 30)


def stripes(draw: ImageDraw.ImageDraw, ink: Colour, step: int) -> None:
    for at in range(-SIZE_PX, 2 * SIZE_PX, step):
        draw.line([(at, 0), (at + SIZE_PX, SIZE_PX)], fill=ink, width=max(2, step // 4))


def dots(draw: ImageDraw.ImageDraw, ink: Colour, step: int) -> None:
    for x in range(step // 2, SIZE_PX, step):
        for y in range(step // 2, SIZE_PX, step):
            draw.ellipse([x - step // 4, y - step // 4, x + step // 4, y + step // 4], fill=ink)


def chequers(draw: ImageDraw.ImageDraw, ink: Colour, step: int) -> None:
    for column, x in enumerate(range(0, SIZE_PX, step)):
        for row, y in enumerate(range(0, SIZE_PX, step)):
            if (row + column) % 2:
                draw.rectangle([x, y, x + step - 1, y + step - 1], fill=ink)


def circle(draw: ImageDraw.ImageDraw, ink: Colour, box: Box) -> None:
    left, top, edge = box
    draw.ellipse([left, top, left + edge, top + edge], fill=ink)


def triangle(draw: ImageDraw.ImageDraw, ink: Colour, box: Box) -> None:
    left, top, edge = box
    draw.polygon([(left + edge // 2, top), (left, top + edge), (left + edge, top + edge)], fill=ink)


def ring(draw: ImageDraw.ImageDraw, ink: Colour, box: Box) -> None:
    left, top, edge = box
    draw.ellipse([left, top, left + edge, top + edge], outline=ink, width=max(3, edge // 8))


def house(draw: ImageDraw.ImageDraw, ink: Colour, box: Box) -> None:
    left, top, edge = box
    wall = top + edge // 2
    draw.polygon([(left, wall), (left + edge // 2, top), (left + edge, wall)], fill=(150, 60, 40))
    draw.rectangle([left + edge // 8, wall, left + 7 * edge // 8, top + edge], fill=ink)
    draw.rectangle([left + 2 * edge // 5, top + 2 * edge // 3, left + 3 * edge // 5, top + edge], fill=(90, 60, 40))
    draw.rectangle([left + edge // 5, wall + edge // 10, left + edge // 3, wall + edge // 4], fill=(160, 200, 230))


def tree(draw: ImageDraw.ImageDraw, ink: Colour, box: Box) -> None:
    left, top, edge = box
    draw.rectangle([left + 2 * edge // 5, top + edge // 2, left + 3 * edge // 5, top + edge], fill=(100, 70, 40))
    for x, y in ((0, 4), (4, 4), (2, 0), (2, 3)):
        circle(draw, (30, 110 + 8 * x, 40), (left + x * edge // 8, top + y * edge // 12, edge // 2))
    draw.line([(left, top + edge), (left + edge, top + edge)], fill=ink, width=2)


def face(draw: ImageDraw.ImageDraw, ink: Colour, box: Box) -> None:
    left, top, edge = box
    draw.ellipse([left, top, left + edge, top + edge], fill=(240, 200, 90), outline=ink, width=2)
    for x in (edge // 3, 2 * edge // 3):
        circle(draw, DARK, (left + x - edge // 16, top + edge // 3, edge // 8))
    draw.arc(
        [left + edge // 4, top + edge // 3, left + 3 * edge // 4, top + 4 * edge // 5], 20, 160, fill=DARK, width=3
    )


TEXTURES: dict[str, Callable[[ImageDraw.ImageDraw, Colour, int], None]] = {
    "stripes": stripes,
    "dots": dots,
    "chequers": chequers,
}
THINGS: dict[str, Callable[[ImageDraw.ImageDraw, Colour, Box], None]] = {
    "circle": circle,
    "triangle": triangle,
    "ring": ring,
    "house": house,
    "tree": tree,
    "face": face,
}
CONCEPTS = (*COLOURS, *TEXTURES, *THINGS)


def draw_one(rng: np.random.Generator, size_px: int = SIZE_PX) -> tuple[Image.Image, list[str]]:
    """Draw one image, size_px × size_px, RGB; return it with its concepts."""
    colour = str(rng.choice(list(COLOURS)))
    shade = np.clip(np.array(COLOURS[colour]) + rng.integers(-20, 21), 0, 255)
    image = Image.new("RGB", (SIZE_PX, SIZE_PX), tuple(int(value) for value in shade))
    draw, concepts = ImageDraw.Draw(image), [colour]
    texture = str(rng.choice([*TEXTURES, ""]))
    step, bright = int(rng.integers(14, 25)), bool(rng.random() < 0.5)
    if texture:
        mixed = (shade + 2 * np.array(LIGHT if bright else DARK)) // 3
        TEXTURES[texture](draw, (int(mixed[0]), int(mixed[1]), int(mixed[2])), step)
        concepts.append(texture)
    thing = str(rng.choice([*THINGS, "", ""]))
    edge = int(rng.integers(52, 89))
    left, top = (int(rng.integers(4, SIZE_PX - edge - 4)) for _ in range(2))
    if thing:
        THINGS[thing](draw, DARK if bright else LIGHT, (left, top, edge))
        concepts.append(thing)
    noisy = np.asarray(image, np.float64) + rng.normal(0, 6, (SIZE_PX, SIZE_PX, 3))
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return image.resize((size_px, size_px)) if size_px != SIZE_PX else image, concepts


def write(folder: Path, n_images: int = 400, seed: int = 0, size_px: int = SIZE_PX) -> Path:
    """Draw a set into a folder, which is made; return the path of its manifest."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    manifest = folder / "concepts.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "concept"])
        for index in range(n_images):
            image, concepts = draw_one(rng, size_px)
            name = f"images/drawn_{index:04d}.png"
            image.save(folder / name)
            rows.writerows([name, concept] for concept in concepts)
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{given.images} images drawn, their concepts in {write(given.folder, given.images, given.seed)}")


if __name__ == "__main__":
    main()
