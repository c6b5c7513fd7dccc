"""What the action does when it is asked: a cache of wheels, SARIF for code scanning, one comment of a pull request."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import robustcheck_onnx as rc
from support import ROOT
from support.workflows import ACTION, program, run, steps_of

BIN = Path(sys.executable).parent
COMMENT = ROOT / ".github" / "comment.py"


def lines_of(name: str) -> str:
    (found,) = (step["run"] for step in steps_of(ACTION) if step.get("id") == name)
    return str(found)


def options(folder: Path, **given: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    variables = {
        "CACHE": "false",
        "UPLOAD_SARIF": "false",
        "COMMENT": "false",
        "GPU": "false",
        "VERSION": "",
        "HERE": str(ROOT),
    }
    return run(lines_of("options"), folder, RUNNER_TEMP=str(folder), PATH=f"{BIN}:/usr/bin:/bin", **variables | given)


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    done, outputs = options(tmp_path)
    assert (done.returncode, set(outputs)) == (0, {"folder"}), done.stderr
    assert Path(outputs["folder"]).parent == tmp_path
    assert oct(Path(outputs["folder"]).stat().st_mode)[-3:] == "700"


@pytest.mark.parametrize("name", ["CACHE", "UPLOAD_SARIF", "COMMENT", "GPU"])
def test_an_option_is_true_or_false(tmp_path: Path, name: str) -> None:
    done, outputs = options(tmp_path, **{name: "yes"})
    assert (done.returncode, outputs) == (2, {})
    assert done.stderr == f"error: {name} is 'yes'; it must be true or false\n"


def test_the_cache_is_of_this_python_and_what_is_installed(tmp_path: Path) -> None:
    done, outputs = options(tmp_path, CACHE="true", VERSION="x==1")
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + b"\0x==1\0false").hexdigest()[:16]
    python = f"{sys.version_info.major}-{sys.version_info.minor}"
    assert outputs["key"] == f"robustcheck-wheels-{platform.system()}-{platform.machine()}-{python}-{digest}"
    assert outputs["wheels"] == f"{tmp_path}/robustcheck-wheels"
    program(tmp_path / "bin" / "python", '#!/bin/sh\necho "$PIP_CACHE_DIR" > cache\n')
    variables = {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "VERSION": "x==1",
        "HERE": "/a",
        "GPU": "false",
        "FOLDER": "/f",
    }
    done, _ = run(lines_of("install"), tmp_path, WHEELS=outputs["wheels"], **variables)
    assert (done.returncode, (tmp_path / "cache").read_text()) == (0, f"{outputs['wheels']}\n")
    cache = next(step for step in steps_of(ACTION) if step.get("uses", "").startswith("actions/cache@"))
    assert cache["if"] == "inputs.cache == 'true'"


@pytest.mark.parametrize(("arguments", "code"), [("", 0), ("--max-images=40", 1)])
def test_the_check_leaves_what_the_next_steps_read(
    lookup_pass: tuple[Path, Path], tmp_path: Path, arguments: str, code: int
) -> None:
    model, photos = lookup_pass
    done, outputs = run(
        lines_of("check"), tmp_path, PATH=f"{BIN}:/usr/bin:/bin", MODEL=str(model), IMAGES=str(photos), ARGS=arguments,
        REPORT="r.json", UPLOAD_SARIF="true", COMMENT="true", FOLDER=str(tmp_path), ROBUSTCHECK_NO_CACHE="1",
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert outputs == {
        "verdict": "WARN" if code else "PASS", "exit-code": str(code), "report": "r.json",
        "sarif": f"{tmp_path}/robustcheck.sarif", "md": f"{tmp_path}/robustcheck.md",
    }  # fmt: skip
    sarif = json.loads((tmp_path / "robustcheck.sarif").read_text())
    rules = {result["ruleId"] for result in sarif["runs"][0]["results"]}
    assert ("too_few_images" in rules) == bool(code)
    text = (tmp_path / "robustcheck.md").read_text()
    assert text.startswith(f"<!-- robustcheck report -->\n\n## {'▲ WARN' if code else '✓ PASS'}")
    assert ("too\\_few\\_images" in text) == bool(code)


def test_a_failed_check_still_shows_what_it_found() -> None:
    (sarif,) = (step for step in steps_of(ACTION) if step.get("uses", "").startswith("github/codeql-action/"))
    (comment,) = (step for step in steps_of(ACTION) if step.get("id") == "comment")
    assert sarif["if"] == "${{ !cancelled() && steps.check.outputs.sarif }}"
    assert comment["if"] == "${{ !cancelled() && steps.check.outputs.md && github.event.pull_request.number }}"


# ------------------------------------------------------------------------------------------------------------- comment

GH = """#!{python}
# answers as GitHub does, from the comments in comments.json; notes who asked
import json, os, sys
from pathlib import Path
state = Path({state!r})
comments = json.loads(state.read_text())
words = sys.argv[1:]
assert words[:2] == ["api", "graphql"], words
if "--paginate" in words:
    fields = dict(w.split("=", 1) for w in words if "=" in w)
    assert (fields["owner"], fields["name"], fields["number"]) == ("o", "r", "7"), fields
    print(json.dumps([
        {{"data": {{"repository": {{"pullRequest": {{"id": "PR", "comments": {{"nodes": part}}}}}}}}}}
        for part in (comments[:1], comments[1:])
    ]))
else:
    asked = json.load(sys.stdin)
    given = asked["variables"]
    if "addComment" in asked["query"]:
        assert given["id"] == "PR"
        comments.append({{"id": f"C{{len(comments)}}", "body": given["body"], "viewerDidAuthor": True}})
    else:
        (found,) = (c for c in comments if c["id"] == given["id"])
        found["body"] = given["body"]
    state.write_text(json.dumps(comments))
    print(json.dumps({{"data": {{}}, "host": os.environ["GH_HOST"]}}))
"""


class PullRequest:
    """A pull request with its comments, behind a `gh` that answers as GitHub does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "comments.json"
        self.state.write_text("[]")
        program(folder / "bin" / "gh", GH.format(python=sys.executable, state=str(self.state)))

    @property
    def comments(self) -> list[dict[str, Any]]:
        return list(json.loads(self.state.read_text()))

    def step(self, text: str, **others: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "report.md").write_text(text)
        variables = {
            "PATH": f"{self.folder}/bin:{BIN}:/usr/bin:/bin", "GITHUB_REPOSITORY": "o/r", "GITHUB_WORKFLOW": "w",
            "GITHUB_JOB": "j", "GITHUB_SERVER_URL": "https://git.example", "HERE": str(ROOT), "NUMBER": "7",
            "TEXT": str(self.folder / "report.md"), "MODEL": "m.onnx", "REPORT": "r.json", "GH_TOKEN": "t",
        }  # fmt: skip
        return run(lines_of("comment"), self.folder, **variables | others)[0]


def test_a_gate_has_one_comment_and_changes_it(tmp_path: Path) -> None:
    request = PullRequest(tmp_path)
    done = request.step("first $(touch pwned)")
    assert (done.returncode, done.stdout) == (0, "comment added\n"), done.stderr
    (comment,) = request.comments
    line, text = comment["body"].split("\n", 1)
    assert re.fullmatch(r"<!-- robustcheck [0-9a-f]{32} -->", line)
    assert text == "first $(touch pwned)"
    assert request.step("second").stdout == "comment changed\n"
    assert [each["body"] for each in request.comments] == [f"{line}\nsecond"]
    assert request.step("of another model", MODEL="n.onnx").stdout == "comment added\n"
    assert request.step("of another job", GITHUB_JOB="k").stdout == "comment added\n"
    assert request.step("third").stdout == "comment changed\n"
    assert [each["body"].split("\n", 1)[1] for each in request.comments] == [
        "third", "of another model", "of another job",
    ]  # fmt: skip
    assert not (tmp_path / "pwned").exists()


def test_the_comment_of_somebody_else_stays(tmp_path: Path) -> None:
    """Somebody who copies the mark, and somebody who quotes it further down."""
    request = PullRequest(tmp_path)
    request.step("ours")
    (ours,) = request.comments
    theirs = [
        {"id": "X", "body": ours["body"], "viewerDidAuthor": False},
        {"id": "Y", "body": f"> {ours['body']}", "viewerDidAuthor": True},
    ]
    request.state.write_text(json.dumps(theirs))
    assert request.step("new").stdout == "comment added\n"
    assert request.comments[:2] == theirs
    assert request.comments[2]["body"].endswith("\nnew")


def test_a_long_report_is_cut_at_a_line(tmp_path: Path) -> None:
    request = PullRequest(tmp_path)
    assert request.step("line of twenty signs\n" * 4000).returncode == 0
    (comment,) = request.comments
    assert 65_000 < len(comment["body"]) <= 65_536
    cut = "*The rest is cut: GitHub takes 65,536 characters for a comment. The JSON report is whole.*"
    assert comment["body"].endswith(f"line of twenty signs\n\n{cut}\n")


@pytest.mark.parametrize(
    ("gh", "said"),
    [
        ("echo 'HTTP 403: 100% no\nmore' >&2; exit 1", "gh ended with 1: HTTP 403: 100%25 no%0Amore"),
        ("echo '[]'", "gh answered something else: []"),
        ("echo hello", "gh answered no JSON: 'hello\\n'"),
        ("exec /nowhere/gh 2>/dev/null", "gh ended with "),
    ],
)
def test_what_keeps_the_comment_from_being_written_is_a_warning(tmp_path: Path, gh: str, said: str) -> None:
    """The verdict is that of the step before: a token of a fork, which may not comment, changes nothing of it."""
    request = PullRequest(tmp_path)
    program(tmp_path / "bin" / "gh", f"#!/bin/bash\n{gh}\n")
    done = request.step("text")
    assert done.returncode == 0, done.stderr
    start = "::warning title=robustcheck::The report was not written into the pull request: "
    assert done.stdout.startswith(start + said)
    assert done.stdout.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------- page


def test_the_example_of_the_page_is_of_this_action() -> None:
    page = (ROOT / "docs" / "howto" / "github.md").read_text(encoding="utf-8")
    action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(jobs:.*?)```", page, re.DOTALL)]
    assert len(examples) == 2
    for example in examples:
        steps = example["jobs"]["gate"]["steps"]
        (ours,) = (step for step in steps if "/robustcheck@" in step.get("uses", ""))
        assert ours["uses"].endswith(f"robustcheck@v{rc.__version__}")
        assert set(ours["with"]) <= set(action["inputs"])
    for name in action["inputs"]:
        assert f"`{name}`" in page, name
