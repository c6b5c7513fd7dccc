"""The documentation as a site: it builds, links lead somewhere, no other machine is needed, pages are current."""

from __future__ import annotations

import functools
import html
import html.parser
import http.server
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from typer.main import get_command

import robustcheck_onnx as rc
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.verdict.reasons import RULES
from support import ROOT, profile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(html.parser.HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.anchors |= {known[name] for name in ("id", "name") if name in known}
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        elif tag == "link" and known.get("rel") not in {"canonical", "next", "prev"}:
            self.loads.append(known.get("href", ""))
        elif "src" in known:
            self.loads.append(known["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [Path(sys.executable).parent / "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}


@pytest.mark.long
def test_the_menu_has_four_groups_and_the_first_page_says_how_to_install(site: Path, pages: dict[Path, Page]) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    tabs = re.findall(r'<a href="[^"]*" class="md-tabs__link">\s*([^<]*?)\s*</a>', text)
    assert tabs == ["Start", "Guides", "Reference", "Background"]
    assert "pip install ." in re.sub(r"<[^>]+>", "", text)
    assert "that name belongs to another" in text
    assert "report.svg" in pages[site / "index.html"].loads


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
def test_every_link_of_the_site_leads_to_a_file_and_an_anchor(site: Path, pages: dict[Path, Page]) -> None:
    seen = 0
    for path, page in pages.items():
        for link in page.links + page.loads:
            address, anchor = urldefrag(link)
            if urlsplit(address).scheme:
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (path.relative_to(site), link)
            if anchor and target in pages:
                assert unquote(anchor) in pages[target].anchors, (path.relative_to(site), link)
            seen += 1
    assert seen > 1000


@pytest.mark.long
def test_nothing_of_a_page_comes_from_another_machine(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert not [
            load for load in page.loads if urlsplit(load).scheme not in {"", "data"} or load.startswith("//")
        ], path
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.mark.long
def test_the_page_of_the_python_api_has_every_name_with_its_words(site: Path, pages: dict[Path, Page]) -> None:
    anchors = pages[site / "python-api.html"].anchors
    names = {match[1] for anchor in anchors if (match := re.fullmatch(r"robustcheck_onnx\.(\w+)", anchor))}
    assert names == set(rc.__all__) - {"__version__"}
    assert {f"robustcheck_onnx.Report.{name}" for name in (*rc.Report.model_fields, "passed", "to_frame")} <= anchors
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "python-api.html").read_text(encoding="utf-8")))
    assert 'engine: str = "local",' in text  # a signature
    assert re.search(r"max_images\s+int \| None\s+stop after this many images; None = all of them", text)  # a field
    assert re.search(r"EnvironmentFaultError\s+–\s+pandas is not installed\.", text)  # an error


FRAME = """<!DOCTYPE html><title>frame</title><iframe id="f" src="/index.html" width="1200" height="900"></iframe>
<script>
onload = () => {
  const inner = document.getElementById("f").contentDocument;
  const box = inner.querySelector("[data-md-component=search-query]");
  box.focus();
  setInterval(() => {
    box.value = "stale_baseline";
    box.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}));
    const found = [...inner.querySelectorAll("a.md-search-result__link")].map(e => new URL(e.href).pathname);
    if (found.length) fetch("/found?" + found.join(","));
  }, 200);
}
</script>"""


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_search_finds_a_reason_without_any_other_machine(site: Path, tmp_path: Path) -> None:
    found: queue.Queue[str] = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

        def do_GET(self) -> None:
            if self.path.startswith("/found?"):
                found.put(self.path)
            if self.path != "/frame.html":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(FRAME.encode())

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    log = tmp_path / "log"
    with log.open("w") as stderr:
        browser = subprocess.Popen(
            [
                *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
                *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
                *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-port=0"),
                *(f"--user-data-dir={tmp_path / 'profile'}", f"http://127.0.0.1:{server.server_address[1]}/frame.html"),
            ],
            stdout=subprocess.DEVNULL, stderr=stderr,
        )  # fmt: skip
        try:
            answer = found.get(timeout=profile.PATIENCE_S)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
            thread.join()
            server.server_close()
    assert "/reference/reasons.html" in answer
    assert not [line for line in log.read_text().splitlines() if "CONSOLE" in line and "/found?" not in line]


@pytest.mark.long
def test_the_made_pages_are_current(tmp_path: Path) -> None:
    made, kept = tmp_path / "reference", ROOT / "docs" / "reference"
    subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", made], check=True, env=os.environ | {"COLUMNS": "60"}
    )
    assert sorted(path.name for path in made.iterdir()) == sorted(path.name for path in kept.iterdir())
    for page in made.iterdir():
        assert page.read_bytes() == (kept / page.name).read_bytes(), f"{page.name}: run python docs/generate.py"
    packaged = ROOT / "checker" / "report" / "report.schema.json"
    assert packaged.read_bytes() == (kept / "report-schema.json").read_bytes()


def test_the_made_pages_name_every_verb_and_reason() -> None:
    folder = ROOT / "docs" / "reference"
    verbs = [name for name, verb in get_command(cli.app).commands.items() if not verb.hidden]  # type: ignore[attr-defined]
    assert len(verbs) > 10
    commands = (folder / "cli.md").read_text(encoding="utf-8")
    assert [verb for verb in verbs if f"\n## `robustcheck {verb}`\n" not in commands] == []
    reasons = (folder / "reasons.md").read_text(encoding="utf-8")
    assert [name for name in RULES if f"\n## {name}\n" not in reasons] == []
