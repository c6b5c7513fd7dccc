"""Check reports, sign verdicts, and check signatures.

Comes in: a JSON report. May import: pipeline and what is below it.
"""

from __future__ import annotations

from robustcheck_onnx.checker.report.signature_file import bundle_of

from .run import Verification, VerifyOptions, report_about, verify
from .signature import check_key
