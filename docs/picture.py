"""Write docs/report.svg, the picture in README and on the site's first page: a real report, as the terminal shows it.

    make demo
    python docs/picture.py [MODEL.onnx]

The model is EfficientNet-Lite0 with its real weights, as `make demo` writes it; the photos are the bundled ones. The
picture loads nothing: it names the reader's own monospaced font. A test compares its text with what the command prints.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parent
MODEL = DOCS.parent / "demo-out" / "efficientnet_lite0.onnx"
WIDTH = 80  # columns
FONT = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"


def report_of(model: Path) -> tuple[str, str]:
    """What was typed, and what the command wrote to its terminal of WIDTH columns, colours included."""
    command = ["robustcheck", model.name]
    done = subprocess.run(  # noqa: S603 # our own command
        [Path(sys.executable).parent / command[0], *command[1:], "--color", "always", "--no-ci"],
        cwd=model.parent, env=os.environ | {"COLUMNS": str(WIDTH)}, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 1:
        raise SystemExit(f"{model}: exit code {done.returncode}; the picture shows a WARN, which has 1")
    return " ".join(command), done.stdout


def picture(command: str, output: str) -> str:
    """The terminal as SVG, with the reader's fonts instead of one from the network."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "dim"), (command, "bold")))
    console.print(Text.from_ansi(output.rstrip("\n")))
    start, _, rest = CONSOLE_SVG_FORMAT.partition("@font-face")
    form = start + rest[rest.rindex("@font-face") :].partition("}}")[2]
    form = form.replace("Fira Code, monospace", FONT)
    drawn = console.export_svg(title="robustcheck", code_format=form, unique_id="report")
    # the clips of lines and screen cut underscores off where the picture is shown smaller; nothing needs them
    drawn = re.sub(r"<clipPath .*?</clipPath>| clip-path=\"[^\"]*\"", "", drawn, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in drawn.splitlines() if line.strip()) + "\n"


if __name__ == "__main__":
    made = picture(*report_of(Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL))
    (DOCS / "report.svg").write_text(made, encoding="utf-8")
