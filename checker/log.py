"""The package's logger: silent unless somebody listens."""

from __future__ import annotations

import logging

LOG = logging.getLogger("robustcheck")
LOG.addHandler(logging.NullHandler())
