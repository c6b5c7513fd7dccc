"""A tiny folder laid out as Broden, with its truth: images of noise, masks of squares, labels of whole images."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

LABELS = {1: "sky", 2: "door", 3: "knob", 300: "street", 301: "woven", 302: "woven"}
"""numbers beyond 255 need the green channel; two have one name"""
CATEGORIES = ("object", "part", "scene", "texture")
EDGE_PX = 10  # of a mask: 100 pixels


def mask(path: Path, squares: dict[int, int]) -> None:
    """Write a mask with so many pixels of each number; the rest is 0."""
    numbers = np.zeros(EDGE_PX * EDGE_PX, np.int64)
    numbers[: sum(squares.values())] = np.repeat(list(squares), list(squares.values()))
    pixels = np.stack([numbers % 256, numbers // 256, numbers * 0], axis=-1).reshape(EDGE_PX, EDGE_PX, 3)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write(folder: Path, n: int = 12) -> dict[str, set[str]]:
    """Write the folder; return the concepts of each image by its name, any pixel counts."""
    (folder / "images/set").mkdir(parents=True)
    rng = np.random.default_rng(5)
    truth = {}
    with (folder / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "split", "ih", "iw", "sh", "sw", *CATEGORIES])
        for i in range(n):
            name = f"set/photo_{i}.png"
            Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(folder / "images" / name)
            cells = dict.fromkeys(CATEGORIES, "")
            found = set()
            if i % 2:  # 30 % of the mask is sky, 1 % a door
                cells["object"] = f"set/photo_{i}_object.png"
                mask(folder / "images" / cells["object"], {1: 30, 2: 1})
                found |= {"sky", "door"}
            if i % 3 == 0:  # two masks of parts
                cells["part"] = f"set/photo_{i}_part1.png;set/photo_{i}_part2.png"
                mask(folder / f"images/set/photo_{i}_part1.png", {3: 5})
                mask(folder / f"images/set/photo_{i}_part2.png", {300: 50})
                found |= {"knob", "street"}
            if i % 4 == 0:  # labels of the whole image
                cells["scene"], cells["texture"] = "300", "301;302"
                found |= {"street", "woven (301)", "woven (302)"}
            rows.writerow([name, "train", 16, 16, EDGE_PX, EDGE_PX, *cells.values()])
            truth[name] = found
    (folder / "category.csv").write_text(
        "name,first,last,count,frequency\n" + "".join(f"{name},1,302,6,9\n" for name in CATEGORIES)
    )
    (folder / "label.csv").write_text(
        "number,name,category,frequency,coverage,syns\n"
        + "".join(f"{number},{name},object(9),9,0.5,\n" for number, name in LABELS.items())
    )
    for category in CATEGORIES:
        (folder / f"c_{category}.csv").write_text("code,number,name,frequency,coverage\n1,1,sky,9,0.5\n")
    return truth
