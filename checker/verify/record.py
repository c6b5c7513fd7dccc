"""The record of a verification: each check with its result, and the exit code that follows."""

from __future__ import annotations

from typing import Literal

from robustcheck_onnx.checker.report import NoTruth, notebook
from robustcheck_onnx.thresholds.frozen import Frozen

from .checks import Finding


class Verification(NoTruth, Frozen):
    """What was verified about one report, and the exit code that follows."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    document: Literal["verification"] = "verification"
    tool_version: str
    report: str
    model: str
    verdict: Literal["PASS", "WARN"]
    """the report's own"""
    reasons: tuple[str, ...]
    result_digest: str
    cautions: tuple[str, ...] = ()
    """what the report tells its reader before the verdict: what loosened the gate, photos that are not the reader's"""
    findings: tuple[Finding, ...]
    unfit: str = ""
    """why no alias moves though the PASS holds: bundled photos, a synthetic model"""
    rests_on: str
    """one sentence: what vouches for the numbers"""
    exit_code: Literal[0, 1, 3]
    rule: str
    """one sentence: what decided the exit code"""

    @property
    def result(self) -> str:
        """The result in words, such as VERIFIED or DOES NOT HOLD."""
        passed = self.verdict == "PASS"
        if self.exit_code == 0:
            return "VERIFIED" if passed else "VERIFIED, WARN waived"
        if self.exit_code == 3:
            return "DOES NOT HOLD"
        return "NOT VERIFIED: nothing but the report vouches for it" if passed else "VERIFIED, but WARN"

    @property
    def says(self) -> str:
        """What the report says: its verdict with the reasons."""
        reasons = f" ({', '.join(self.reasons)})" if self.reasons else ""
        return f"{self.report} says {self.verdict}{reasons}"

    @property
    def passed(self) -> bool:
        """Whether everything agrees and the report lets a release through: exit code 0."""
        return self.exit_code == 0

    def __repr_args__(self) -> list[tuple[str, object]]:
        """What repr, str and rich show: a line, not the whole record."""
        return [(name, getattr(self, name)) for name in ("result", "exit_code", "report", "model")]

    def _repr_html_(self) -> str:
        """What a notebook shows: the result, what it rests on, and a row a check."""
        rows = [[each.check, each.status, each.seen] for each in self.findings]
        return notebook.block(
            f"{self.result} · exit code {self.exit_code}",
            [*self.cautions, self.says, self.rests_on, self.rule],
            notebook.table(["check", "result", "what was seen"], rows, n_text=3),
            verdict="PASS" if self.passed else "WARN",
        )
