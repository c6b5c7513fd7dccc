"""The runs that `kills.py` strikes, and the files that each finds and leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

COMMAND = str(Path(sys.executable).parent / "robustcheck")
MODEL = "../planted.onnx"
REPORTS = {"json": "report.json", "html": "r.html", "junit": "r.xml", "sarif": "r.sarif", "markdown": "r.md"}
SIGNATURE = "report.sigstore.json"
TABLE = "profile.results.jsonl"
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Run:
    """A command, the files that it finds, and those that it leaves when nothing disturbs it."""

    name: str
    words: tuple[str, ...]
    forms: Mapping[str, str]
    """documents that are removed before it measures: form by file"""
    earlier: Files
    new: Files


def execute(words: Sequence[str]) -> float:
    """Run a command to its end, whose exit code must be 0; seconds."""
    start = time.monotonic()
    done = subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return time.monotonic() - start


def contents() -> dict[str, bytes]:
    """The files of the current folder."""
    return {path.name: path.read_bytes() for path in Path().iterdir()}


def fill(files: Files) -> None:
    """Make these the only files of the current folder."""
    for path in Path().iterdir():
        path.unlink()
    for name, content in files.items():
        Path(name).write_bytes(content)


def undisturbed(name: str, words: Sequence[str], earlier: Files, forms: Mapping[str, str]) -> Run:
    """A command run twice to its end, with the files of before: both times it must write the same."""
    fill(earlier)
    execute(words)
    new = contents()
    if same := [each for each in forms if new[each] == earlier[each]]:
        raise RuntimeError(f"{name}: earlier and new documents are the same: {same}")
    fill(earlier)
    execute(words)
    again = contents()
    if different := [each for each in new if each not in (SIGNATURE, TABLE) and again.get(each) != new[each]]:
        raise RuntimeError(f"{name}: two runs write different {different}")
    return Run(name, tuple(words), forms, earlier, new)


def write_key(folder: Path) -> None:
    """A key on P-256: key.pem and key.pub."""
    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pem").write_bytes(private)
    (folder / "key.pub").write_bytes(public)


def prepare(folder: Path) -> list[Run]:
    """Models, a key, a suite, and the four runs, each over what an earlier run wrote; changes into folder/places."""
    from support.calibrations import write_suite

    (folder / "places").mkdir()
    os.chdir(folder / "places")
    execute(["demo", "--keep", ".."])
    write_key(folder)
    suite = write_suite(folder / "suite")
    head, *entries = suite.read_text(encoding="utf-8").split("[[models]]")
    with_and_without = entries[:2]  # an outlier feature
    suite.write_text("[[models]]".join([head, *with_and_without]), encoding="utf-8")

    outputs = [word for form, name in REPORTS.items() for word in ("-o", f"{form}={name}")]
    check = ["check", MODEL, "--images", "bundled", "-qq", "--sign", "../key.pem", *outputs]
    execute([*check, "--seed", "1"])  # so that every document differs from that of the run that is struck
    before_check = contents()
    runs = [undisturbed("check", [*check, "--no-time"], before_check, {name: form for form, name in REPORTS.items()})]

    fill({})
    calibrate = ["calibrate", "--suite", "../suite/suite.toml", "--images", "../suite/photos", "--out", "profile.json"]
    calibrate += ["--cache", "../cache", "--device", "cpu", "-q"]
    execute([*calibrate, "--id", "earlier"])
    before = {"profile.json": Path("profile.json").read_bytes()}
    runs.append(undisturbed("calibrate", [*calibrate, "--id", "new"], before, {}))

    fill({})
    compare = [
        "compare",
        MODEL,
        MODEL,
        "--write-baseline",
        "baseline.json",
        "--images",
        "bundled",
        "-o",
        "json=compare.json",
    ]
    execute([*compare, "-qq", "--max-images", "64"])
    words = [*compare, "-qq", "--no-time"]
    runs.append(undisturbed("compare --write-baseline", words, contents(), {"compare.json": "json"}))

    before = {name: before_check[name] for name in ("report.json", SIGNATURE)}
    sign = ["sign", "report.json", MODEL, "--images", "bundled", "--key", "../key.pem", "-qq"]
    runs.append(undisturbed("sign", sign, before, {}))
    return runs
