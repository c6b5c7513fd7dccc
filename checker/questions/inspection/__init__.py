"""Show what a check would measure in a file, and whether it can pass. Nothing of it runs.

Comes in: a model. May import: report and what is below it.
"""

from . import document  # it registers how an inspection is shown
from .run import Inspected, find_model, inspect, inspect_model, inspected, unopened
