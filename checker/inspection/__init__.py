"""What a model file holds, what a check would measure in it, and whether it can pass; nothing of it runs.

Comes in: the path of a model. May import: measure, runtime and what is below them.
"""

from __future__ import annotations

from .document import inspect_json, unopened_json
from .run import Inspection, find_model, inspect_model
