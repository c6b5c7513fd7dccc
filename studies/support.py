"""The tests' package `support`, under its name: a script of this folder imports it as a test does."""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
del sys.modules[__name__]
importlib.import_module(__name__)
