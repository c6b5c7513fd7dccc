"""Runs the real command on every published embedding set and writes studies/results/controls.md.

python studies/controls.py EMBEDDINGS_DIR

Each set becomes an ONNX model that looks a representation up by image index (tests/support/lookup.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from robustcheck_onnx.thresholds.statistics import DECIDING
from robustcheck_onnx.thresholds.tables import references
from support import lookup

ROOT = Path(__file__).parent.parent
COMMAND = Path(sys.executable).parent / "robustcheck"
NARROW = ("physicist_b16_pathmnist", "michaengeser_b32_drawings")  # 28-pixel tissue, line drawings
HEAD = """# Controls: real representations through the real command

Written by `python studies/controls.py EMBEDDINGS_DIR`. Each set of the reference table that has vectors
(representations that others computed with real checkpoints and published; sources in
`thresholds/data/reference_statistics.csv`) is put into an ONNX model that looks a representation up by image index,
and `robustcheck` checks it on real photos, stopping early where the evidence decides. Expected: PASS where the set
shows the indication and has 50 images, else WARN; and WARN for 28-pixel tissue and line drawings, which are hardly
varied to the encoder (what the guards of content cost).

The thresholds were fitted on these sets, so the table shows that the command does what the profile says, not how
it does on unseen models; for that see the figures of left-out checkpoints in the profile. Traps that must not pass:
`tests/whole/test_controls.py`, `tests/verdict`, [simulated families](operating-characteristic.md).

| set | group | images used | strength | outlier frequency | two-sidedness | K | verdict | reasons |
|---|---|---|---|---|---|---|---|---|
"""


def bounds(interval: dict[str, float]) -> str:
    """Estimate with its bounds."""
    return f"{interval['estimate']:.3g} ({interval['low']:.3g}–{interval['high']:.3g})"


def main(embeddings: Path) -> None:
    """Check every set and write the page."""
    lines, wrong = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
        images = lookup.write_lookup_images(folder / "photos", 300, photos=photos)
        for row in references():
            if not (embeddings / f"{row.set}.npz").is_file():
                continue
            x = np.load(embeddings / f"{row.set}.npz", allow_pickle=False)["x"].astype(np.float32)
            rule = "logits" if "logits" in row.excluded else "encoder_output"
            model = lookup.write_lookup_model(folder / "model.onnx", x, rule=rule)
            manifest = folder / "images.txt"
            # relative names: the order of the images depends on them, and must not depend on the folder
            names = [str(path.relative_to(folder)) for path in images[: len(x)]]
            manifest.write_text("\n".join(names), encoding="utf-8")
            call: list[str | Path] = [COMMAND, model.name, "--images", manifest.name, "-o", "json"]
            done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=folder)
            report = json.loads(done.stdout)
            s, verdict = report["evidence"]["statistics"], report["verdict"]
            passes = row.expected == "present" and not row.excluded and row.set not in NARROW
            if (verdict["verdict"] == "PASS") != passes:
                wrong.append(row.set)
            cells = [
                row.set,
                row.group,
                f"{s['n_images']} of {len(x)}",
                *(bounds(s[name]) for name in (*DECIDING, "kurtosis")),
                verdict["verdict"],
                ", ".join(reason["id"] for reason in verdict["reasons"]),
            ]
            lines.append("| " + " | ".join(cells) + " |\n")
    (ROOT / "studies" / "results" / "controls.md").write_text(HEAD + "".join(lines), encoding="utf-8")
    print("".join(lines) + f"not as expected: {', '.join(wrong) or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
