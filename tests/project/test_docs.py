"""README and docs say what the code does; as a site they need no other machine."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.verdict.index_reasons import INDEX_REASONS
from robustcheck_onnx.checker.core.verdict.reasons import RULES
from robustcheck_onnx.checker.errors import EXIT_CODES
from robustcheck_onnx.checker.text import HOME
from robustcheck_onnx.thresholds import profile
from support import BIN, ROOT, Capture, Patch, Place, read_text, repository, robustcheck
from support.repository import load

README = read_text("README.md")
PICTURE = ROOT / "docs" / "outlier-feature.svg"


def test_links_lead_somewhere() -> None:
    for page in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benchmarks/**/*.md"),
        *ROOT.glob("studies/**/*.md"),
    ]:
        for target in re.findall(r"\]\(([^)#:]+)\)", read_text(page)):
            assert (page.parent / target.replace("\n", " ")).exists(), (page.name, target)


def test_links_and_urls_are_made_from_the_projects_home(monkeypatch: Patch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")  # scripts there import each other
    made_by = load("docs/generate")
    ours = read_text("pyproject.toml")
    assert made_by.linked(README, HOME) == README  # python docs/generate.py was run after the last change
    assert made_by.with_urls(ours, HOME) == ours
    for place in made_by.INSTALLING:
        assert made_by.published(text := read_text(place), HOME) == text
    for module in made_by.OPTIONS:
        assert made_by.with_options(text := read_text(module)) == text
    page = "![a](docs/a.svg) [b](docs/b.md#c) [d](#e) [f](https://example.org/g)\n[h\ni](CHANGELOG.md)"
    home = "https://git.example/o/r"
    linked = (
        f"![a]({home}/raw/main/docs/a.svg) [b]({home}/blob/main/docs/b.md#c) [d](#e) [f](https://example.org/g)\n"
        f"[h\ni]({home}/blob/main/CHANGELOG.md)"
    )
    assert [made_by.linked(text, home) for text in (page, linked)] == [linked, linked]
    made = made_by.with_urls(ours, f"{home}/")
    assert f'Documentation = "{home}/blob/main/docs/index.md"' in made
    assert made_by.with_urls(made, HOME) == ours


def test_pages_install_from_the_package_index_once_the_project_has_a_home(monkeypatch: Patch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")  # scripts there import each other
    made_by = load("docs/generate")
    home = "https://git.example/some-owner/checks/"
    pages = {
        place.relative_to(ROOT).as_posix(): made_by.published(read_text(place), home) for place in made_by.INSTALLING
    }
    for name in ("README.md", "docs/install.md"):
        first_screen = "\n".join(pages[name].splitlines()[:24])  # a terminal has 24 lines
        assert "`pip install robustcheck-onnx`" in first_screen
        assert "`pip install robustcheck-onnx-cpu`" in first_screen
    assert "$ uvx robustcheck-onnx-cpu demo\n$ pipx run robustcheck-onnx-cpu demo\n" in pages["docs/install.md"]
    action = urlsplit(HOME or home).path.strip("/")  # a page that has its home keeps it
    assert f"uses: {action}@v" in pages["docs/ci.md"]
    from_a_clone = (
        r"pip install '?\.|[Ii]n a clone and|a clone of the repository, with|PyPI yet|--find-links|OWNER/robustcheck"
    )
    for name, page in pages.items():
        assert re.findall(from_a_clone, page) == [], name
        assert made_by.published(page, home) == page


def test_the_readme_is_short_says_whose_name_it_is_and_has_the_exit_codes() -> None:
    _, command, after = README.partition("`pip install robustcheck-onnx`" if HOME else "`pip install .`")
    assert command
    assert "that name belongs to another project" in " ".join(after[:300].split())
    table = [f"| {code} | {text} |" for code, text in EXIT_CODES.items() if code < 70]
    assert [row for row in table if row not in README] == []
    for page in ("calibration", "ci", "verify"):  # what they add follows
        assert f"| 4 | {EXIT_CODES[4]}" in read_text(f"docs/{page}.md")


def test_the_figures_of_the_readme_are_those_of_their_pages() -> None:
    made = profile.load().calibration
    results = ("claims", "trial", "does-pass-predict-robustness", "images-needed")
    claims, trial, robustness, needed = (read_text(f"studies/results/{name}.md") for name in results)
    (two_sided,) = re.findall(r"^\| of these two-sided \| (0 of 14) \| ([\d.]+ %) \|", claims, re.MULTILINE)
    verdicts = [
        re.findall(r"^\| .+ \| (PASS|WARN little_content|WARN)\b.* \|.*\|$", part, re.MULTILINE)
        for part in trial.split("## ")[1:]
    ]
    of_texts, others = map(Counter, verdicts)
    classes = re.findall(r"^\| .+ \| (\d+ of [\d,]+) \| [\d.]+ to", robustness, re.MULTILINE)
    ((decided, n),) = re.findall(r"\*\*(\d+) of (\d+)\*\* with those for looks", needed)
    assert (others["PASS"], of_texts.total() + others.total()) == (0, 25)
    flat = re.sub(r"\]\([^)]*\)", "]", " ".join(README.split()))  # links are absolute once the project has a home
    for said in (
        f"[{made.n_sets} sets] of {made.n_checkpoints} models",
        f"None of [{two_sided[0].removeprefix('0 of ')} models] with features of both signs",
        f"(95 % confidence: at most {two_sided[1]})",
        f"on {of_texts.total() + others.total()} sets that were not used for the thresholds, {of_texts['PASS']} of "
        f"{of_texts.total()} sets of CLIP-like models pass, {of_texts['WARN little_content']} get WARN because their "
        f"photos are too alike, and 0 of {others.total()} other sets pass",
        "[{}] zero-shot CLIP encoders are, {} CLIP models finetuned "
        "on ImageNet, and {} others".format(*classes),
        f"50 photos [nearly always decide] {decided} of the {n} sets",
    ):  # fmt: skip
        assert said in flat


@pytest.mark.long
def test_the_picture_is_what_was_measured() -> None:
    made_by = load("docs/picture")
    made, shown = made_by.picture(made_by.measured()), read_text(PICTURE)
    measured, published = (re.sub('base64,[^"]*', "", picture) for picture in (made, shown))
    assert measured == published, "run python docs/picture.py"
    assert not re.search(r"url\(|href=\"(?!data:)", shown)  # it loads nothing


HUB = "robustcheck export open_clip ViT-B-32 --weights openai -o model.onnx"
"""Needs weights of a hub; here the command is understood."""
SAID = {
    "robustcheck inspect": "Can this file pass? ",
    "robustcheck model.onnx": "✓ PASS",
    "robustcheck compare new.onnx model.onnx": "kept 1 of 1 outlier features",
    "robustcheck export onnx": "wrote int8.onnx",
    "robustcheck check --strict": "✓ PASS",
}


@pytest.mark.long
def test_the_commands_of_the_readme_do_what_it_says(planted_outlier: Path, tmp_path: Path) -> None:
    """In the order of the page; a model that passes and photos are there, as a reader has them."""
    (tmp_path / "photos").symlink_to(ROOT / "checker" / "photos")
    shutil.copy(planted_outlier, tmp_path / "model.onnx")
    before = {path.name for path in tmp_path.iterdir()}
    listed = repository.commands_of(README)
    assert HUB in {command.text for command in listed}
    typed = [repository.Command(f"{HUB} --help") if command.text == HUB else command for command in listed]
    own = next(place for place, command in enumerate(typed) if command.text.startswith("robustcheck inspect"))
    typed.insert(own, repository.Command("cp model.onnx new.onnx"))  # a reader's new file kept the features
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "80",
        "MODEL": "model.onnx",
    }
    ran = repository.run_commands(typed, tmp_path, environment)
    codes = {command.text: code for command, code, _ in ran if code}
    assert codes == {"robustcheck compare new.onnx old.onnx": 1}
    for command, _, output in ran:
        assert repository.missing(command, output) is None, (command.text, output)
    for start, said in SAID.items():
        assert said in next(output for command, _, output in ran if command.text.startswith(start)), start
    assert {path.name for path in tmp_path.iterdir()} - before == {
        "demo",
        "old.onnx",
        "new.onnx",
        "int8.onnx",
        "report.html",
    }


def test_the_python_of_the_readme_runs(lookup_pass: Place, monkeypatch: Patch) -> None:
    model, _ = lookup_pass
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(model.parent)
    scope: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), scope)
    assert scope["report"].verdict == check(model, images="photos").verdict  # type: ignore[attr-defined]


def test_every_reason_can_be_explained_in_lines_that_fit(capsys: Capture, monkeypatch: Patch) -> None:
    for (name, rule), (columns, width) in product(RULES.items(), {"80": 80, "200": 100, "0": 40}.items()):
        monkeypatch.setenv("COLUMNS", columns)
        assert robustcheck("explain", name) == 0
        title, *lines = capsys.readouterr().out.splitlines()
        assert title == f"{name}: {rule.title} ({rule.kind})"
        of_index = " ".join(INDEX_REASONS.get(name, ())).strip()
        said = f"{rule.explanation} Next step: {rule.next_step}" + f" Of an index verdict: {of_index}" * bool(of_index)
        assert " ".join(filter(None, lines)) == said
        assert max(map(len, lines)) <= width


def test_the_architecture_has_every_room_and_the_picture_of_its_source() -> None:
    """GitHub draws the source; the site, which loads nothing from other machines, shows the picture."""
    page = read_text("docs/dev/architecture.md")
    source = page.split("```mermaid\n")[1].split("\n```")[0]
    picture = read_text("docs/dev/architecture.svg")
    assert hashlib.sha256(source.encode()).hexdigest() in picture
    parts = sorted(path.parent.name for path in (ROOT / "checker").glob("*/__init__.py"))
    assert [part for part in parts if f"| `{part}/` |" not in page] == []
    written = page.partition("<!-- made by")[0]
    named = re.findall(rf"(?<!tests/)\b((?:{'|'.join(parts)})/[a-z0-9_/]+\.py)", written)
    assert len({*named}) >= 20
    assert [name for name in named if not (ROOT / "checker" / name).is_file()] == []


def test_the_threat_model_names_tests_that_there_are() -> None:
    page = read_text("docs/threat-model.md")
    named = re.findall(r"`(tests/[\w/.]+)`", page)
    assert len(named) >= 15
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert "There is no defence against the supplier" in page
    assert "There is no defence against a supplier who plants features" in README


def test_examples_of_a_pipeline_trust_neither_checkout_nor_names() -> None:
    """Where a variable names the model, or a container gets it: the steps themselves are run in tests/integrations/."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "ci").iterdir()]
    lines = [line for page in pages for line in read_text(page).splitlines()]
    examples = [line for line in lines if re.search(r'docker run|robustcheck.*"\$MODEL"', line)]
    assert len(examples) >= 8
    for line in examples:
        assert re.search(r'check --strict .*-- ("\$MODEL"|model\.onnx)', line), line


@pytest.mark.long
def test_the_site_has_a_menu_says_how_to_install_and_needs_no_other_machine(tmp_path: Path) -> None:
    """Where its links lead is seen by `mkdocs build --strict`."""
    done = subprocess.run(
        [BIN / "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    text = read_text(tmp_path / "index.html")
    assert "hide:" not in text  # what is set for a page is not shown
    text += re.sub(r"<[^>]+>", "", text)
    for shown in ('class="md-tabs__link"', "pip install .", 'src="outlier-feature.svg"'):
        assert shown in text
    for page in tmp_path.rglob("*.html"):
        text = read_text(page)
        loads = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]*)"', text)
        links = re.findall(r"<link\b[^>]*>", text)
        loads += [tag for tag in links if not re.search('rel="(canonical|next|prev)"', tag)]
        assert not [load for load in loads if re.search(r'(^|href=")(https?:)?//', load)], page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", read_text(sheet)), sheet.name


def test_there_is_one_way_to_install() -> None:
    """From a clone, while the project has no home; then from the package index."""
    ours = r"robustcheck-onnx(?:-cpu)?" if HOME else r"\."
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = read_text(path)
        assert re.findall(rf"pip install (?!'?{ours}(?:[`\n/[ ])|--group )[^`\n]+", text) == [], path.name


@pytest.mark.long
def test_the_made_pages_are_current(tmp_path: Path) -> None:
    kept = ROOT / "docs"
    command = [sys.executable, f"{kept}/generate.py", str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"COLUMNS": "60"})
    made = {str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.*")}
    assert made == {
        "dev/architecture.md", "dev/architecture.svg", "glossary.md", "reports.md", "settings.md", "warn.md",
        *(f"reference/{p.name}" for p in kept.glob("reference/*")),
    }  # fmt: skip
    for page in made:
        assert (tmp_path / page).read_bytes() == (kept / page).read_bytes(), f"{page}: run python docs/generate.py"
    packaged = ROOT / "checker/report/report.schema.json"
    assert packaged.read_bytes() == (kept / "reference/report-schema.json").read_bytes()
