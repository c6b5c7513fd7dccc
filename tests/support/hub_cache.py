"""A model hub's cache folder, laid out by hand."""

from pathlib import Path


def hub_repo(cache: Path, repo: str) -> Path:
    """Lay a repository out as the hub client does: refs/main names the snapshot folder."""
    root = cache / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    return snapshot
