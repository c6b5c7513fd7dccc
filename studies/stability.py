"""Runs the real command on six models under other settings of the runtime, and writes studies/results/stability.md.

python studies/stability.py EMBEDDINGS_DIR [--no-page]

EMBEDDINGS_DIR holds one <set>.npz a set (entry x: (image, feature)). ONNX Runtime's lowest and newest version that
pyproject.toml allows and pip finds for this Python are installed into environments of their own, in a temporary folder
(a network is needed). Exit code 1 if a verdict or a reason of one file differs between settings. Needs the extras
`export` and `demo`, taskset, and two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from stability_page import DECIDING, File, Row, Seen, Setting, line, page, sentences

from robustcheck_onnx.checker.core.evidence import Int8Sums
from robustcheck_onnx.thresholds import profile as profiles
from support import lookup

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "studies" / "results" / "stability.md"
PHOTOS = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
SOURCES = (
    "checker",
    "exporters",
    "thresholds",
    "face",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "NOTICE",
)  # of the wheel
SETS = ("ashirvad_openclip_b32_laion2b", "michaengeser_dinov2_b14_drawings")
N_LOOKUP = 300  # images of a look-up model, as in controls.py
INT8 = ("int8-dynamic", "int8-qdq")
LIMIT_S = 300  # for one check; most take a few seconds
# The product has no option for it. The first line turns it off wherever a session is opened; by the second the report
# says so, and goes on saying so.
WITHOUT_OPTIMISATION = """
import sys
from robustcheck_onnx.checker.outside import isolation
from robustcheck_onnx.checker.__main__ import main
CHANGE = '''
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from robustcheck_onnx.checker.core.runtime import runner, session
session.LEVELS = dict.fromkeys(session.LEVELS, session.LEVELS["none"])
opened = runner.Runner._open
runner.Runner._open = lambda self, level: opened(self, "none")
'''
isolation.START = f"exec({CHANGE!r}); {isolation.START}"  # in the process that measures
sys.exit(main())
"""


# ------------------------------------------------------------------------------------------- environments


def allowed() -> SpecifierSet:
    """Which versions of onnxruntime pyproject.toml allows."""
    wanted = [Requirement(text) for text in _project()["dependencies"]]
    return next(requirement.specifier for requirement in wanted if requirement.name == "onnxruntime")


def found_by_pip() -> list[str]:
    """The released versions of onnxruntime with a wheel for this Python and machine."""
    call = [sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions", "onnxruntime"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    (listed,) = re.findall(r"^Available versions: (.+)$", done.stdout, re.MULTILINE)
    return [version.strip() for version in listed.split(",")]


def within(versions: Iterable[str], bounds: SpecifierSet) -> list[str]:
    """Those that lie within the bounds, lowest first."""
    return sorted(bounds.filter(versions), key=Version)


def installed(versions: Iterable[str], folder: Path, wheel: Path) -> tuple[str, Path]:
    """The first version that can be installed, and the Python of its environment; the others are printed."""
    pip = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    needs = [text for text in _project()["dependencies"] if not text.startswith("onnxruntime")]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    others = folder / "constraints.txt"
    others.write_text("\n".join(line for line in pinned if not line.startswith("onnxruntime")), encoding="utf-8")
    for version in versions:
        place = folder / version
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        python = place / "bin" / "python"
        call: list[str | Path] = [python, *pip, "--constraint", others, f"onnxruntime=={version}", *needs]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            subprocess.run([python, *pip, "--no-deps", wheel], check=True)
            return version, python
        print(f"onnxruntime {version} can't be installed: {done.stderr.strip()[-400:]}")
        shutil.rmtree(place)
    raise SystemExit("no version of onnxruntime can be installed")


def built(folder: Path) -> Path:
    """A wheel of the project, built from a copy: a build leaves files where it is done."""
    copy = folder / "source"
    copy.mkdir()
    for name in SOURCES:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", folder / "dist", copy], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def _project() -> dict[str, list[str]]:
    project: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


# ------------------------------------------------------------------------------------------------- models


def planted_vit() -> nn.Module:
    """The tiny vision transformer with a planted outlier feature that forms.py writes, for the exporter."""
    from planted.encoder import PREPROCESSING, SEED, planted_encoder

    module = planted_encoder()
    attributes = {
        "preprocessing": PREPROCESSING.model_dump(mode="json"),
        "weights": f"seed {SEED}",
        "synthetic": "Gaussian weights; one feature was planted by hand",
    }
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def computed(folder: Path, refused: list[str]) -> Iterator[File]:
    """Four models that compute something from the photo, each in fp32 and both kinds of int8.

    refused: what the exporter refuses to write is added to it.
    """
    from robustcheck_onnx.exporters import ExportError
    from robustcheck_onnx.exporters.run import run

    sources = {
        "ViT, planted (seeded weights, one outlier feature planted by hand)": ("torch", "stability:planted_vit"),
        "EfficientNet-Lite0, planted (real ImageNet weights, one outlier feature planted by hand)": (
            "torch",
            "robustcheck_onnx.exporters.demo:planted_outlier",
        ),
        "EfficientNet-Lite0 (real ImageNet weights)": ("torch", "robustcheck_onnx.exporters.demo:efficientnet_lite0"),
        "ViT-S/32 (timm's vit_small_patch32_224, random weights)": ("timm", "vit_small_patch32_224"),
    }
    for index, (model, (library, name)) in enumerate(sources.items()):
        full = folder / f"{index}.onnx"
        run(library, name, full, random_weights=library == "timm", photos=PHOTOS)
        yield File(model, "fp32", full)
        for precision in INT8:
            path = folder / f"{index}-{precision}.onnx"
            calibration = PHOTOS if precision == "int8-qdq" else []
            try:
                record = run("onnx", str(full), path, precision=precision, photos=PHOTOS, calibration=calibration)
            except ExportError as error:
                why = error.message.removeprefix(f"{path.name}: ").removeprefix(f"{path}: ")
                refused.append(f"{model.partition(' (')[0]} in {precision}: {why}")
                print("refused:", refused[-1])
                continue
            written = ", ".join(filter(None, (precision, record.form)))
            yield File(model, written, path, ("--batch-size", "1") if precision == "int8-dynamic" else ())


def looked_up(embeddings: Path, folder: Path) -> Iterator[File]:
    """Look-up models of two published sets; nothing in them can be quantised."""
    images = lookup.write_lookup_images(folder / "photos", N_LOOKUP)
    for name in SETS:
        x = np.load(embeddings / f"{name}.npz", allow_pickle=False)["x"].astype(np.float32)
        manifest = folder / f"{name}.txt"
        manifest.write_text("\n".join(str(path) for path in images[: len(x)]), encoding="utf-8")
        path = lookup.write_lookup_model(folder / f"{name}.onnx", x)
        yield File(f"{name} (published representations, looked up)", "fp32", path, ("--images", str(manifest)))


# --------------------------------------------------------------------------------------------------- runs


def settings(lowest: tuple[str, Path], newest: tuple[str, Path]) -> list[Setting]:
    """The reference first, then each change alone, then all three of the runtime; int8 also by exact sums."""
    old, new = lowest[0], newest[0]
    return [
        Setting("reference", newest[1], new),
        Setting(f"ONNX Runtime {old}", lowest[1], old),
        Setting("no graph optimisation", newest[1], new, optimised=False),
        Setting("one thread", newest[1], new, threads=1),
        Setting("all three", lowest[1], old, optimised=False, threads=1),
        Setting("exact int8 sums", newest[1], new, exact=True),
    ]


def check(file: File, setting: Setting) -> Seen:
    """Run the command in a process of its own, and see that it ran as the setting says."""
    command: list[str | Path] = [setting.python.parent / "robustcheck"]
    if not setting.optimised:
        command = [setting.python, "-c", WITHOUT_OPTIMISATION]
    cores = sorted(os.sched_getaffinity(0))[: setting.threads]
    assert len(cores) == setting.threads, f"{setting.threads} cores are needed"
    call: list[str | Path] = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]
    call += ["check", file.path, *file.arguments]
    call += ["-o", "json", "--isolated", "--device", "cpu"]
    if setting.exact:
        call += ["--arithmetic", "exact"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{file.path.name}, {setting.name}: exit {done.returncode}: {done.stderr}")
    report = json.loads(done.stdout)
    execution = report["evidence"]["execution"]
    ran = (execution["runtime"], execution["optimization"], execution["threads"])
    assert ran == (setting.version, "all" if setting.optimised else "none", setting.threads), ran
    assert execution["arithmetic"] == ("exact" if setting.exact else None), execution["arithmetic"]
    sums = execution["int8_sums"]
    verdict, statistics = report["verdict"], report["evidence"]["statistics"]
    assert verdict["profile_digest"] == profiles.load().digest, verdict["profile_id"]
    return Seen(
        verdict["verdict"],
        tuple(reason["id"] for reason in verdict["reasons"]),
        statistics["n_images"],
        {name: statistics[name]["estimate"] for name in DECIDING},
        None if sums is None else Int8Sums(**sums),
    )


def rows(files: Iterable[File], chosen: list[Setting]) -> Iterator[Row]:
    """Each file in each setting, the first of which is the reference; a model's fp32 file comes first.

    fp32 files have no int8 sums, and are not run by exact ones.
    """
    fp32: dict[str, Seen] = {}
    for file in files:
        same = None
        for setting in chosen:
            if setting.exact and file.precision == "fp32":
                continue
            seen = check(file, setting)
            same = same or seen
            yield Row(file, setting, seen, same, fp32.setdefault(file.model, same))


def main(embeddings: Path, *, write: bool) -> int:
    """Install, export, run, print and write; 1 if a verdict or a reason of one file moved."""
    os.nice(10)
    versions = within(found_by_pip(), allowed())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = built(folder)
        newest = installed(reversed(versions), folder, wheel)
        lowest = installed(versions, folder, wheel)
        refused: list[str] = []
        files = [*computed(folder, refused), *looked_up(embeddings, folder)]
        table = []
        for row in rows(files, settings(lowest, newest)):
            table.append(row)
            print(line((row.file.model, *row.cells)), end="", flush=True)
    print(sentences(table))
    if write:
        PAGE.write_text(page(table, refused, skipped=lowest[0] != versions[0]), encoding="utf-8")
    return 1 if any(row.moved for row in table) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("--no-page", action="store_true")
    options = parser.parse_args()
    sys.exit(main(options.embeddings, write=not options.no_page))
