"""Photos of two shards."""

from pathlib import Path

import pytest

from support import lookup
from support.measuring import N_IMAGES, SIZE_PX


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More photos than one shard holds; two of them are damaged."""
    folder = tmp_path_factory.mktemp("many")
    paths = lookup.write_lookup_images(folder, N_IMAGES, size_px=SIZE_PX)
    for path in (paths[100], paths[600]):
        path.write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return folder
