"""The documentation as a site: it builds, links lead somewhere, no other machine is needed, pages are current."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import BIN, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [BIN / "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


@pytest.mark.long
def test_the_site_has_a_menu_says_how_to_install_and_needs_no_other_machine(site: Path) -> None:
    """Where its links lead is seen by `mkdocs build --strict`."""
    text = (site / "index.html").read_text(encoding="utf-8")
    assert 'class="md-tabs__link"' in text
    assert "pip install ." in re.sub(r"<[^>]+>", "", text)
    assert 'src="outlier-feature.svg"' in text
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loads = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]*)"', text)
        loads += [
            tag for tag in re.findall(r"<link\b[^>]*>", text) if not re.search('rel="(canonical|next|prev)"', tag)
        ]
        assert not [load for load in loads if re.search(r'(^|href=")(https?:)?//', load)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name


def test_there_is_one_way_to_install() -> None:
    """From a clone: the package is on no index."""
    found = {
        (path.name, said)
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for said in re.findall(r"pip install ([^`\n]+)", path.read_text(encoding="utf-8"))
    }
    assert len(found) > 8
    others = {each for each in found if not re.match(r"'?\.(?:$|/|\[| )|--group |\.$", each[1])}
    assert not others


@pytest.mark.long
def test_the_made_pages_are_current(tmp_path: Path) -> None:
    kept = ROOT / "docs"
    command = [sys.executable, f"{kept}/generate.py", str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"COLUMNS": "60"})
    made = {str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.*")}
    assert made == {
        "glossary.md",
        "reports.md",
        "settings.md",
        "warn.md",
        *(f"reference/{p.name}" for p in kept.glob("reference/*")),
    }
    for page in made:
        assert (tmp_path / page).read_bytes() == (kept / page).read_bytes(), f"{page}: run python docs/generate.py"
    packaged = ROOT / "checker/report/report.schema.json"
    assert packaged.read_bytes() == (kept / "reference/report-schema.json").read_bytes()
