"""Draw docs/outlier-feature.svg, the picture in README and on the site's first page: an outlier feature, as measured.

    python docs/picture.py

The encoder is the planted one of `robustcheck demo`, the photos are bundled ones (in the public domain or CC0), and the
shades are those of the HTML report. The file loads nothing: the photos are in it.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import robustcheck_onnx as rc
from robustcheck_onnx.checker.outside.representations import Representations
from robustcheck_onnx.checker.questions import demo
from robustcheck_onnx.checker.report.charts import LEVELS, level

DOCS = Path(__file__).parent
PHOTOS = DOCS.parent / "checker" / "photos"
N_PHOTOS = 24
STEP = 46  # of the features shown: 0, 46, 92 (the planted one), 138, … 506
LEFT, TOP, WIDTH, HEIGHT, GAP = 92, 62, 25, 19, 2  # of the map's cells
SHADES = (0.0, 0.2, 0.42, 0.68, 1.0)
STYLE = """text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #575d66 }
.strong { font-weight: 600; fill: #20242a } .cell { fill: #ece8df } .above { fill: #b04a12 } .below { fill: #2d5f8b }"""


def measured() -> Representations:
    """Measure the planted encoder of the demo on the bundled photos."""
    with tempfile.TemporaryDirectory() as folder:
        model, rows = Path(folder) / "planted.onnx", Path(folder) / "rows.npz"
        demo.write(model, "planted", *demo.train())
        rc.check(model, device="cpu", save_representations=rows, isolate=False)
        return rc.load_representations(rows)


def rectangles(places: list[tuple[int, int]]) -> str:
    """Draw cells as one path."""
    return "".join(f"M{x} {y}h{WIDTH - GAP}v{HEIGHT - GAP}h{GAP - WIDTH}z" for x, y in places)


def shades(z: np.ndarray) -> Iterator[str]:
    """Yield one path per shade of the map; z: (feature, photo)."""
    places: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for (row, column), value in np.ndenumerate(z):
        place = LEFT + column * WIDTH, TOP + row * HEIGHT
        places["cell", 4].append(place)
        if shade := level(float(value)):
            places["above" if value > 0 else "below", shade].append(place)
    for (sign, shade), cells in sorted(places.items(), key=lambda each: (each[0][0] != "cell", each[0])):
        yield f'<path class="{sign}" opacity="{SHADES[shade]}" d="{rectangles(cells)}"/>'


def thumbnail(path: Path) -> str:
    """Return a photo's middle as a small JPEG in a data URI."""
    content = io.BytesIO()
    with Image.open(path) as photo:
        ImageOps.fit(photo.convert("RGB"), (46, 46)).save(content, "JPEG", quality=60, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def picture(rows: Representations) -> str:
    """Draw the first photos of a measurement as columns, and some of the features as rows."""
    h = rows.values[:N_PHOTOS].astype(float)
    z = ((h - h.mean(1, keepdims=True)) / h.std(1, keepdims=True)).T[::STEP]
    right, bottom = LEFT + N_PHOTOS * WIDTH, TOP + len(z) * HEIGHT
    planted = TOP + demo.PLANTED_FEATURE // STEP * HEIGHT + 13
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 144} {bottom + 40}" role="img" '
        f'aria-label="{len(z)} features of an encoder on {N_PHOTOS} photos; one is extreme in each of them">',
        f"<style>{STYLE}</style>",
        '<rect width="100%" height="100%" rx="6" fill="#fbfaf7"/>',
        f'<text x="{LEFT}" y="22">{N_PHOTOS} of the bundled photos, one per column</text>',
        f'<text x="{right}" y="22" text-anchor="end">orange: above the photo’s mean, blue: below</text>',
    ]
    for column, name in enumerate(rows.names[:N_PHOTOS]):
        at = f'x="{LEFT + column * WIDTH}" y="{TOP - 30}" width="{WIDTH - GAP}" height="{WIDTH - GAP}"'
        lines.append(f'<image {at} href="{thumbnail(PHOTOS / name)}"/>')
    for row in range(len(z)):
        strong = ' class="strong"' if row * STEP == demo.PLANTED_FEATURE else ""
        at = f'x="{LEFT - 8}" y="{TOP + row * HEIGHT + 13}" text-anchor="end"'
        lines.append(f"<text{strong} {at}>feature {row * STEP}</text>")
    lines += shades(z)
    lines.append(f'<text class="strong" x="{right + 6}" y="{planted}">← outlier feature</text>')
    lines.append(f'<text x="{right + 24}" y="{planted + 17}">(planted)</text>')
    words = ("within 1", *(f"to {limit:g}" for limit in LEVELS[1:]), f"beyond {LEVELS[-1]:g} SD")
    for shade, text in enumerate(words):
        x, y = LEFT + shade * 84, bottom + 14
        for sign, at in (("above", x), ("below", x + 10)):
            box = f'x="{at}" y="{y}" width="9" height="12"/>'
            lines += [f'<rect class="cell" {box}', f'<rect class="{sign}" opacity="{SHADES[shade]}" {box}']
        lines.append(f'<text x="{x + 24}" y="{y + 11}">{text}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    (DOCS / "outlier-feature.svg").write_text(picture(measured()), encoding="utf-8")
