"""Writes studies/results/stability.md from the runs of studies/stability.py."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from robustcheck_onnx.checker.core.evidence import Int8Sums
from robustcheck_onnx.checker.core.runtime.devices import cpu_name
from robustcheck_onnx.checker.core.verdict.kinds import NAMES
from robustcheck_onnx.thresholds import profile as profiles

DECIDING = profiles.load().deciding
COLUMNS = (
    "precision",
    "setting",
    "verdict",
    "reasons",
    "images",
    *(NAMES[name] for name in DECIDING),
    "from this file at the reference",
    "from fp32 at the reference",
)


@dataclass(frozen=True)
class Setting:
    """How a model is run. python: of the environment with that version of ONNX Runtime."""

    name: str
    python: Path
    version: str
    optimised: bool = True
    threads: int = 2
    exact: bool = False
    """whether int8 sums are exact, whatever the CPU does by itself"""


@dataclass(frozen=True)
class File:
    """A model in one precision, with the form that an export chose, and the command's further arguments for it."""

    model: str
    precision: str
    path: Path
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What the command said. estimates: of the deciding statistics. sums: of the CPU; None where the file is fp32."""

    verdict: str
    reasons: tuple[str, ...]
    n_images: int
    estimates: Mapping[str, float]
    sums: Int8Sums | None


@dataclass(frozen=True)
class Row:
    """One run beside the same file, and the fp32 file of the same model, at the reference setting."""

    file: File
    setting: Setting
    seen: Seen
    same: Seen
    fp32: Seen

    @property
    def moved(self) -> bool:
        """Whether the verdict or its reasons differ from those of the same file at the reference setting."""
        return (self.seen.verdict, self.seen.reasons) != (self.same.verdict, self.same.reasons)

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of the table, in the order of `COLUMNS`."""
        told = self.moved or self.seen is self.same
        return (
            self.file.precision,
            self.setting.name,
            f"**{self.seen.verdict}**" if self.moved else self.seen.verdict,
            ", ".join(self.seen.reasons) if told else "as above",
            str(self.seen.n_images),
            *(f"{self.seen.estimates[name]:.6g}" for name in DECIDING),
            "" if self.seen is self.same else shown(difference(self.seen, self.same)),
            "" if self.file.precision == "fp32" else shown(difference(self.seen, self.fp32)),
        )


def difference(seen: Seen, reference: Seen) -> tuple[float, str]:
    """The largest relative difference of an estimate, and of which; infinite from 0 to another value."""

    def relative(name: str) -> float:
        value, base = seen.estimates[name], reference.estimates[name]
        if value == base:
            return 0.0
        return abs(value - base) / abs(base) if base else float("inf")

    largest = max(DECIDING, key=relative)
    return relative(largest), NAMES[largest]


def shown(found: tuple[float, str]) -> str:
    """A difference as a cell has it."""
    return f"{found[0]:.1e}, {found[1]}" if found[0] else "0"


HEAD = """# Stability: other versions, optimisation, threads, int8 sums

Written by `python studies/stability.py EMBEDDINGS_DIR`. `robustcheck MODEL --images … -o json` ran on {models} models,
and on each again with one thing changed, and with all three changed at once; on int8 files also by exact int8 sums
(`--arithmetic exact`). The reference is ONNX Runtime {new}, graph optimisation on, two threads. {old} and {new} are the
lowest and the newest version that `pyproject.toml` allows and that pip {which} for Python {python}; both stood in new
environments which differed in nothing else (CPU wheel `onnxruntime`, the other packages as in `constraints.txt`). CPU
provider; profile {profile}.

**The CPU of these tables** is {cpu}, {sums}. On one that has AVX2 and no VNNI they saturate: [int8 on other
CPUs](../../docs/int8.md).

{found}

- "from this file at the reference" is the largest relative difference of a deciding statistic's estimate, and of which
  one; "0" means equal to the last bit. "from fp32 at the reference" holds int8 against the fp32 file of the same model.
- Estimates depend on how many images were used, since a run stops when the evidence decides: see the column "images".
- Graph optimisation has no option: the benchmark turns it off inside the product. Threads are those of the cores that
  the process may use (`taskset`).
- int8 files are those of `robustcheck export onnx`. The form that it chose for int8-qdq stands next to the name.
  int8-dynamic ran with `--batch-size 1`, without which it is WARN.
  Not written, because the exporter refused: {refused}.
- The two look-up models return published representations by image index. They have no layer that int8 could apply to,
  and can differ only in how the index and the statistics are computed.
- Not measured: other processors, GPUs, more than two threads, models larger than these.
"""


def sentences(table: list[Row]) -> str:
    """What moved and what did not, in two sentences."""
    moved = [f"{row.file.model} in {row.file.precision}, {row.setting.name}" for row in table if row.moved]
    files = {row.file.path for row in table}
    first = f"In {len(table)} runs of {len(files)} files, "
    if moved:
        first += f"**a verdict or its reasons moved** with the runtime's settings: {'; '.join(moved)}."
    else:
        first += "no verdict and no reason of a file moved with version, optimisation, threads or exact int8 sums."

    def largest(of: list[Row]) -> str:
        row = max(of, key=lambda row: difference(row.seen, row.same)[0])
        value, name = difference(row.seen, row.same)
        if not value:
            return "0"
        model = row.file.model.partition(" (")[0]
        return f"{value:.1e} ({name}, {model}, {row.file.precision}, {row.setting.name})"

    full = [row for row in table if row.file.precision == "fp32"]
    int8 = [row for row in table if row.file.precision != "fp32"]
    second = f"Estimates moved by {largest(full)} at most in fp32"
    if int8:
        far = max(difference(row.seen, row.fp32)[0] for row in int8)
        other = sorted({
            f"{row.file.model.partition(' (')[0]}, {row.file.precision} ({row.fp32.verdict} → {_told(row.seen)})"
            for row in int8
            if row.seen.verdict != row.fp32.verdict
        })  # fmt: skip
        turned = f"turned the verdict of {'; '.join(other)}" if other else "turned no verdict"
        exact = [row for row in int8 if row.setting.exact]
        second += f" and {largest(int8)} in int8, {largest(exact)} by exact int8 sums"
        second += f"; int8 itself moved them by up to {far:.1e} from fp32, and {turned}"
    return f"{first} {second}."


def capability(table: list[Row]) -> str:
    """How the CPU adds int8 products, as the runs of int8 files measured it in each version of ONNX Runtime."""
    measured = {row.setting.version: row.seen.sums.words for row in table if row.seen.sums is not None}
    parts = []
    for words in dict.fromkeys(measured.values()):
        versions = " and ".join(version for version, said in measured.items() if said == words)
        parts.append(f"{words} in ONNX Runtime {versions}")
    return f"whose int8 sums {', and '.join(parts)}"


def page(table: list[Row], refused: list[str], *, skipped: bool) -> str:
    """The page as Markdown.

    refused: files that the exporter did not write. skipped: the lowest version that pip finds can't be installed.
    """
    reference, other = table[0].setting, table[1].setting
    parts = [
        HEAD.format(
            new=reference.version,
            old=other.version,
            which="installs" if skipped else "finds",
            python=".".join(map(str, sys.version_info[:3])),
            cpu=cpu_name(),
            sums=capability(table),
            profile=profiles.load().id,
            found=sentences(table),
            models=len({row.file.model for row in table}),
            refused="; ".join(refused) or "none",
        )
    ]
    for model in dict.fromkeys(row.file.model for row in table):
        parts.append(f"\n## {model}\n\n" + line(COLUMNS) + "|---" * len(COLUMNS) + "|\n")
        parts += [line(row.cells) for row in table if row.file.model == model]
    return "".join(parts)


def _told(seen: Seen) -> str:
    return ", ".join((seen.verdict, *seen.reasons))


def line(cells: Iterable[str]) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(cells) + " |\n"
