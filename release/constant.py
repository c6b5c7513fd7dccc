"""Print a constant of checker/text.py, without installing or importing the package.

python release/constant.py HOME     where the project lives; exit 1 and a sentence while it is empty
python release/constant.py VERSION
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

TEXT = Path(__file__).parents[1] / "checker" / "text.py"


def constant(name: str) -> str:
    """The value of a constant; it must be a string that stands in the file as one."""
    for node in ast.parse(TEXT.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and node.value is not None:
            value = ast.literal_eval(node.value)
            if isinstance(value, str):
                return value
    raise LookupError(f"checker/text.py has no text named {name}")


if __name__ == "__main__":
    (asked,) = sys.argv[1:]
    found = constant(asked)
    if not found:
        sys.exit(f"error: {asked} in checker/text.py is empty; set it, then run: python docs/generate.py")
    sys.stdout.write(f"{found}\n")
