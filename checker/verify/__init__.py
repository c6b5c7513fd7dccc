"""Does a report still hold? It is checked again, signed, and its signature checked.

Comes in: a JSON report. May import: pipeline and what is below it.
"""

from __future__ import annotations

from .checks import own_faults
from .run import Verification, report_about, verify
from .signature import bundle_of, check_key, remove_verdict

__all__ = ["Verification", "bundle_of", "check_key", "own_faults", "remove_verdict", "report_about", "verify"]
