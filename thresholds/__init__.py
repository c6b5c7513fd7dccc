"""Threshold profiles, their reference tables, and published robustness."""

from pathlib import Path

DATA = Path(__file__).parent / "data"  # profiles and tables that ship with the package
