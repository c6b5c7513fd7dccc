"""What is published and measured of known checkpoints, selected and shown.

Comes in: names of checkpoints. May import: report and what is below it, thresholds.
"""

from __future__ import annotations

from .terminal import AT_MOST, render_named, render_table

__all__ = ["AT_MOST", "render_named", "render_table"]
