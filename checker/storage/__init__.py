"""Paths and URLs: told apart, listed, read, and written whole or not at all.

Comes in: what a user typed as a path or URL. May import: text, errors. Opens a connection only for a URL.
"""

from __future__ import annotations

from . import hub, registry
from .local import copied, download, expand, limit_bytes, private_folder, unreadable, walk
from .remote import RemoteFile, StoreError, open_url
from .urls import OFFLINE, Place, Url, as_typed, is_offline, local_path, parse_place, redact, redact_text
from .write import is_ours, replace_with_error, write_whole
