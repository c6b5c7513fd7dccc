"""Lay the sources of robustcheck-onnx-cpu: the same code, with ONNX Runtime's wheel without CUDA.

    python release/cpu.py FOLDER && pip install FOLDER

pip cannot replace what a distribution asks for, so this is a distribution of its own. Both hold the package
robustcheck_onnx: install one of them. FOLDER must be new, or hold what this script laid before.
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTALLED = ("face", "checker", "exporters", "thresholds", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
NAME = "robustcheck-onnx-cpu"
CHANGES = (  # each must be found once
    (r'^name = "robustcheck-onnx"$', f'name = "{NAME}"'),
    (r"^robustcheck-onnx = ", f"{NAME} = "),
    (r' *"onnxruntime-gpu>=[^\n]*\n', ""),
    (r'"onnxruntime>=([^;"]*);[^\n]*",$', r'"onnxruntime>=\1",'),
    (r"^cuda = [^\n]*\n", ""),
)


def without_cuda(pyproject: str) -> str:
    """The text of pyproject.toml under the other name, with onnxruntime on every platform and no extra `cuda`."""
    for pattern, change in CHANGES:
        pyproject, n_changed = re.subn(pattern, change, pyproject, flags=re.MULTILINE)
        if n_changed != 1:
            raise SystemExit(f"error: pyproject.toml has {n_changed} lines {pattern}; one is changed")
    return pyproject


def lay(folder: Path) -> None:
    """Write the sources into `folder`."""
    if folder.exists():
        theirs = folder / "pyproject.toml"
        if not theirs.is_file() or tomllib.loads(theirs.read_text(encoding="utf-8"))["project"]["name"] != NAME:
            raise SystemExit(f"error: {folder} is there and holds something else; name a new folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in INSTALLED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    pyproject = (folder / "pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(without_cuda(pyproject), encoding="utf-8")


if __name__ == "__main__":
    (target,) = sys.argv[1:]
    lay(Path(target))
