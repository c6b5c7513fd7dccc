"""Find and read the file of settings.

Imports nothing heavy at the top, for it is needed where a signal has ended the import of everything else.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import EnvironmentFaultError, UsageError
from ..text import Texts
from .destinations import split
from .options import Values, Variables, Words

OWN_FILE = "robustcheck.toml"
SHARED_FILE = "pyproject.toml"
TABLE = "robustcheck"
CONFIG = "ROBUSTCHECK_CONFIG"  # environment variable: the file, as --config
OUTPUT_VARIABLE = "ROBUSTCHECK_OUTPUT"  # environment variable: the setting `output`


def outputs_elsewhere(environment: Variables, file: str | None) -> tuple[Words, Path | None]:
    """Read `output` of the environment or a file, and the file's folder. Other faults there do not matter.

    Args:
        environment: the variables.
        file: of --config; None = as `find_named`.

    Raises what reading the file raises; TypeError, AttributeError where `output` is not a list of texts.
    """
    listed = environment.get(OUTPUT_VARIABLE, "")
    path = None if listed else find_named(environment, file)
    if path is None:
        return [part.strip() for part in listed.split(",") if listed], None
    outputs = read_table(path).get("output", ())
    return rebased_outputs(outputs, path.parent), path.parent


def find_named(environment: Variables, file: str | None) -> Path | None:
    """Return the settings file that --config names, else ROBUSTCHECK_CONFIG, else the nearest one upward from here."""
    if file is not None:
        return Path(file)
    if named := environment.get(CONFIG):
        return Path(named)
    return find(Path.cwd())


def rebased(path: str, folder: Path) -> str:
    """Join a file's path to the file's folder. A URL stays."""
    return path if "://" in path else str(folder / path)


def rebased_outputs(outputs: Iterable[str], folder: Path) -> Texts:
    """Rebase the path in each FORM[=PATH]."""
    joined: list[str] = []
    for form, sign, path in map(split, outputs):
        place = path if path in ("", "-") else rebased(path, folder)
        joined.append(form + sign + place)
    return tuple(joined)


def find(folder: Path) -> Path | None:
    """Find the nearest settings file upward from a folder, as a path relative to it; None where there is none.

    robustcheck.toml counts before pyproject.toml next to it; a pyproject.toml without [tool.robustcheck] is skipped.
    """
    for level, parent in enumerate((folder, *folder.parents)):
        relative = Path(*[".."] * level)
        if os.path.lexists(parent / OWN_FILE):
            return relative / OWN_FILE
        if (parent / SHARED_FILE).is_file() and _find_table(relative / SHARED_FILE) is not None:
            return relative / SHARED_FILE
    return None


def read_table(path: Path) -> Values:
    """Read the settings in a file."""
    table = _find_table(path)
    if table is None:
        raise UsageError(f"{path}: [tool.{TABLE}] is missing; a file that is named must have it", f"cat {path}")
    return table


def _find_table(path: Path) -> Values | None:
    """Read the settings in a file. None for a pyproject.toml without a table of them."""
    from ...thresholds import MOST_BYTES, read_start, read_toml  # keeps `--help` fast

    look = f"ls -ld {path}"
    if not path.exists():
        raise UsageError(f"{path}: settings file is missing", "robustcheck init")
    if not path.is_file():
        raise UsageError(f"{path}: settings file is not a regular file; it must be a TOML file", look)
    try:
        content = read_start(path, MOST_BYTES + 1)  # `read_toml` refuses more
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{path}: settings file is not readable ({fault.strerror}); the check does not run without it", look
        ) from fault

    try:
        document = read_toml(content)
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
        raise UsageError(f"{path}: line {line} is not UTF-8; TOML is", f"file {path}") from fault
    except ValueError as fault:
        raise UsageError(f"{path}: file is not TOML ({fault}); it must be", f"cat -A {path}") from fault
    except RecursionError as fault:
        raise UsageError(f"{path}: file is nested too deeply; it must be plain TOML", f"cat {path}") from fault
    if path.name != SHARED_FILE:
        return document
    tools = document.get("tool")
    table = tools.get(TABLE) if isinstance(tools, dict) else None
    if not isinstance(table, dict | None):
        header = f"tool.{TABLE}"
        raise UsageError(f"{path}: {header} is {table!r}; it must be a table", f"[{header}]")
    return table
