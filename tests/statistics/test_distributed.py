"""The page for Spark and Dask: its lines for one machine, run as they are printed."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import robustcheck_onnx as rc
from support import normal, read_text


@pytest.mark.long
def test_the_lines_of_the_page_give_the_numbers_of_one_measurement(tmp_path: Path) -> None:
    parts, *_, local = re.findall(r"```python\n(.*?)```", read_text("docs/distributed.md"), re.DOTALL)
    (tmp_path / "parts.py").write_text(parts)
    h = normal(90, 48, seed=4)
    for index, rows in enumerate(np.split(h, [20, 50])):
        np.save(tmp_path / f"{index}.npy", rows)
    (tmp_path / "run.py").write_text(f"files = ['0.npy', '1.npy', '2.npy']\n{local}print(total.n)\n")
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(rc.measure(h).kurtosis), "90"]
