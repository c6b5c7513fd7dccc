"""Threshold profiles, the tables they are made from, and published robustness."""

from pathlib import Path

DATA = Path(__file__).parent / "data"  # profiles and tables that ship with the package
