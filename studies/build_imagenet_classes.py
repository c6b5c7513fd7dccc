"""Write thresholds/data/imagenet_classes.csv: the classes of ImageNet-1k in order, and which ImageNet-R and -A have.

    python studies/build_imagenet_classes.py > thresholds/data/imagenet_classes.csv

The lists are those of timm's package (timm/data/_info/imagenet_synsets.txt, imagenet_r_indices.txt,
imagenet_a_indices.txt; Apache-2.0).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path


def table(folder: Path) -> str:
    """CSV text: synset id, and 1 where ImageNet-R (-A) has the class; row number from 0 = class index."""
    synsets = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    subsets = [
        {int(index) for index in (folder / f"imagenet_{letter}_indices.txt").read_text(encoding="utf-8").split()}
        for letter in "ra"
    ]
    rows = [
        f"{synset},{','.join('1' if index in subset else '' for subset in subsets)}"
        for index, synset in enumerate(synsets)
    ]
    return "\n".join(["synset,imagenet_r,imagenet_a", *rows]) + "\n"


def timm_info() -> Path:
    """The folder of timm's lists, without importing timm."""
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        raise SystemExit("timm is not installed; pip install 'robustcheck-onnx[export]'")
    return Path(found.origin).parent / "data" / "_info"


if __name__ == "__main__":
    print(table(timm_info()), end="")
