"""The lines of docs/index-files.md give the vectors of a file or store, with their ids."""

import os
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from numpy.testing import assert_allclose

from robustcheck_onnx.checker.questions.compare import vectors
from robustcheck_onnx.checker.questions.compare.vectors import IDS, VectorFile, open_vectors
from support import Patch, normal

ROWS = normal(60, 16, seed=1).astype(np.float32)
NAMES = [f"photos/{row}.jpg" for row in range(60)]
PAGE = Path(__file__).parents[2] / "docs" / "index-files.md"


def lines_of(heading: str) -> str:
    """Return the Python lines below a heading or in a tab of the page."""
    (found,) = re.findall(
        rf'(?s)(?:### |=== "){re.escape(heading)}"?\n.*?```python\n(.*?)\n *```', PAGE.read_text("utf-8")
    )
    return textwrap.dedent(found)


def exported(heading: str, folder: Path, monkeypatch: Patch, **given: Any) -> VectorFile:
    monkeypatch.chdir(folder)
    exec(compile(lines_of(heading), heading, "exec"), given)  # of a page of this project
    (file,) = folder.glob("vectors.*")
    return open_vectors(file, "--index")


def assert_holds(file: VectorFile, ids: Sequence[str], rows: Any = ROWS) -> None:
    """Each row is under its id, in any order."""
    stored = list(file.ids())
    assert sorted(stored) == sorted(ids)
    found = np.concatenate([part for part, _ in file.blocks()])
    order = [ids.index(name) for name in stored] if ids else slice(None)
    assert_allclose(found, rows[order], rtol=1e-6)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".safetensors"])
def test_the_examples_of_files_are_read(suffix: str, tmp_path: Path, monkeypatch: Patch) -> None:
    file = exported(suffix, tmp_path, monkeypatch, vectors=ROWS, names=NAMES)
    assert_holds(file, [] if suffix == ".safetensors" else NAMES)


def test_the_page_has_the_names_that_are_read() -> None:
    page = PAGE.read_text("utf-8")
    assert all(f"`{name}`" in page for name in (*vectors.NAMES, *IDS))


def in_faiss() -> list[str]:
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(ROWS.shape[1])
    index.add(ROWS)
    faiss.write_index(index, "index.faiss")
    return []


def in_usearch() -> list[str]:
    usearch = pytest.importorskip("usearch.index")
    index = usearch.Index(ndim=ROWS.shape[1], dtype="f32")
    index.add(np.arange(100, 160), ROWS)
    index.save("index.usearch")
    return [str(key) for key in range(100, 160)]


def in_lancedb() -> list[str]:
    lancedb = pytest.importorskip("lancedb")
    lancedb.connect("lancedb").create_table(
        "photos", [{"id": name, "vector": row.tolist()} for name, row in zip(NAMES, ROWS, strict=True)]
    )
    return NAMES


def in_qdrant() -> list[str]:
    qdrant = pytest.importorskip("qdrant_client")
    models = qdrant.models
    client = qdrant.QdrantClient(path="qdrant")
    client.create_collection("photos", models.VectorParams(size=ROWS.shape[1], distance=models.Distance.DOT))
    points = zip(NAMES, ROWS, strict=True)
    client.upsert(
        "photos",
        [models.PointStruct(id=n, vector=row.tolist(), payload={"name": name}) for n, (name, row) in enumerate(points)],
    )
    client.close()
    return NAMES


def in_postgres() -> list[str]:
    server = pytest.importorskip("pgserver").get_server("postgres")
    psycopg = pytest.importorskip("psycopg")
    os.environ["PGHOST"] = dict(parse_qsl(urlsplit(server.get_uri()).query))["host"]
    os.environ["PGUSER"] = "postgres"
    with psycopg.connect("dbname=postgres", autocommit=True) as database:
        database.execute("CREATE DATABASE photos")
    with psycopg.connect("dbname=photos") as database:
        database.execute("CREATE EXTENSION vector")
        database.execute(f"CREATE TABLE photos (name text, embedding vector({ROWS.shape[1]}))")
        for name, row in zip(NAMES, ROWS, strict=True):
            database.execute("INSERT INTO photos VALUES (%s, %s::vector)", (name, str(row.tolist())))
    return NAMES


@pytest.mark.long
@pytest.mark.parametrize(
    ("heading", "fill"),
    [
        ("faiss", in_faiss),
        ("usearch", in_usearch),
        ("LanceDB", in_lancedb),
        ("Qdrant", in_qdrant),
        ("pgvector", in_postgres),
    ],
)
def test_the_lines_for_a_store_give_its_vectors(
    heading: str, fill: Callable[[], list[str]], tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PGHOST", "PGUSER"):
        monkeypatch.setenv(name, "")  # so that it is as before at the end
    ids = fill()
    assert_holds(exported(heading, tmp_path, monkeypatch), ids)
