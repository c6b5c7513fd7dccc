"""README and docs say what the code does."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from robustcheck_onnx.checker import check, cli, cli_process
from robustcheck_onnx.checker.reasons import RULES
from robustcheck_onnx.thresholds import profile, reference

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target.replace("\n", " ")).exists(), (page.name, target)


def test_the_exit_codes_of_the_readme() -> None:
    for code, text in cli_process.EXIT_CODES.items():
        if code < 70:
            assert f"| {code} | {text} |" in README


def test_the_figures_of_the_readme_are_the_profiles() -> None:
    made = profile.load().calibration
    flat = " ".join(README.split())
    assert f"{made.n_sets} sets of real representations of {made.n_checkpoints} checkpoints" in flat
    assert f"{len(made.with_indication)} sets have the indication" in flat
    assert (len(made.left_out_false_pass), len(made.left_out_false_warn)) == (0, 1)
    assert f"{len(list((ROOT / 'checker' / 'photos').glob('*.jpg')))} bundled photos" in flat
    assert len(reference.references()) == 29
    assert f"the false-PASS rate for unseen checkpoints at {100 * made.false_pass_upper:.0f} % only" in flat
    simulated = (ROOT / "docs" / "operating-characteristic.md").read_text(encoding="utf-8")
    assert "\n0 false PASS in all." in simulated
    draws = re.findall(r"^\| [^|]+ \| (\d+) \| 0 \|", simulated, re.MULTILINE)
    assert f"{sum(map(int, draws)):,} simulated negative runs" in README


@pytest.mark.export
def test_the_demo_table_of_the_readme_is_what_the_command_prints(efficientnet_lite0: Path) -> None:
    done = subprocess.run(
        [BIN / "robustcheck", efficientnet_lite0],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip
    assert done.returncode == 1
    table = re.findall(
        r"^  (?:statistic|activation|persistence r|top-3|outlier f|negative energy(?: of z)? {2,}).*",
        README,
        re.MULTILINE,
    )
    assert len(table) == 7
    for row in table:
        assert row in done.stdout


def test_the_commands_of_the_readme_are_understood(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    commands = re.findall(r"^ *\$ (robustcheck .*)$", README, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command)[1:]
        if words[0] == "export":
            done = subprocess.run([BIN / "robustcheck", *words, "--help"], capture_output=True, check=False)
        else:
            (tmp_path / "model.onnx").write_bytes(model.read_bytes())
            if not (tmp_path / "photos").exists():
                (tmp_path / "photos").symlink_to(photos)
            done = subprocess.run([BIN / "robustcheck", *words], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, (command, done.stderr)


def test_the_python_of_the_readme_runs(lookup_pass: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = lookup_pass
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(model.parent)
    scope: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), scope)
    assert scope["report"].verdict == check(model, images="photos").verdict  # type: ignore[attr-defined]


def test_every_reason_can_be_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for name in RULES:
        assert cli.main(["explain", name]) == 0
        assert capsys.readouterr().out.startswith(f"{name}: {RULES[name].title}\n")
