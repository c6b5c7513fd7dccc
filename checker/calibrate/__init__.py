"""A suite of models is measured and becomes a threshold profile; profiles are shown.

Comes in: a suite file. May import: measure, report and what is below them. The fit itself is in `thresholds/`.
"""

from __future__ import annotations

from .plan import refuse_unknown
from .profiles import render_list, render_profile
from .table import open_table, relabelled
from .tasks import Settings, check_labels
from .terminal import causes, plan_json, render_plan, render_summary
