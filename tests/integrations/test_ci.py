"""action.yml and the templates of docs/ci/: what they declare, and their steps run as their systems run them."""

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

import robustcheck_onnx as rc
from support import BIN, ROOT, Fields, Patch, Place, read_json, read_text
from support.repository import ACTION, program, run_step, steps_of

PATH = f"{BIN}:/usr/bin:/bin"
INPUTS = yaml.safe_load(ACTION.read_text())["inputs"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)


def does(name: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], Fields]:
    """Run the step of this id in the current folder; its outputs, too."""
    (found,) = (step for step in steps_of(ACTION) if step.get("id") == name)
    return run_step(found["run"], Path.cwd(), **{"PATH": PATH, "HERE": str(ROOT)} | variables)


# ------------------------------------------------------------------------------------------------- what it declares


def test_steps_stop_at_a_fault_and_the_inputs_that_are_switches_are_off() -> None:
    for each in steps_of(ACTION):
        assert each.get("run", "set -euo pipefail\n").startswith("set -euo pipefail\n")
        assert "${{" not in each.get("run", "")  # GitHub would write a value into the program
    # a failed check still shows what it found
    assert len([s for s in steps_of(ACTION) if s.get("if", "").startswith("${{ !cancelled() && steps.check.")]) == 2
    off = {name for name, each in INPUTS.items() if each.get("default") == "false"}
    assert off == {"cache", "upload-sarif", "comment", "gpu"}


def test_the_example_of_the_page_is_of_this_action() -> None:
    page = (ROOT / "docs/ci.md").read_text()
    both = page + COMPARE_PAGE.read_text()
    examples = re.findall(r"```yaml\n(jobs:.*?)```", both, re.DOTALL)
    assert [[*yaml.safe_load(example)["jobs"]] for example in examples] == [["gate"], ["compare"]]
    for example in examples:
        assert given_in(example).keys() <= INPUTS.keys()
        assert f"/robustcheck@v{rc.__version__}" in example
    assert not [name for name in INPUTS if f"`{name}`" not in page]


def given_in(example: str) -> dict[str, str]:
    """What a workflow gives the action."""
    (job,) = yaml.safe_load(example)["jobs"].values()
    (given,) = (step["with"] for step in job["steps"] if "robustcheck@" in str(step))
    return dict(given)


# ---------------------------------------------------------------------------------------------------------- options


def stub(name: str, text: str) -> str:
    """Another program of this name; the path that finds it first."""
    return f"{program(Path.cwd() / 'bin' / name, text).parent}:{PATH}"


@pytest.mark.long
def test_options_are_true_or_false_and_the_cache_is_of_what_is_installed(tmp_path: Path) -> None:
    names = ("CACHE", "UPLOAD_SARIF", "COMMENT", "GPU")
    plain = dict.fromkeys(names, "false") | {"VERSION": "x==1", "RUNNER_TEMP": str(tmp_path)}
    for name in names:
        done, outputs = does("options", **plain | {name: "yes"})
        said = f"error: {name} is 'yes'; it must be true or false\n"
        assert (done.returncode, outputs, done.stderr) == (2, {}, said)
    keys = set()
    for changes in ({}, {"CACHE": "true"}, {"CACHE": "true", "VERSION": "x==2"}, {"CACHE": "true", "GPU": "true"}):
        _, outputs = does("options", **plain | changes)
        assert Path(outputs.pop("folder")).stat().st_mode & 0o777 == 0o700
        assert outputs.keys() == ({"key", "wheels"} if changes else set())  # nothing is kept unless it is asked for
        keys.add(outputs.get("key"))
    assert len(keys) == 4


@pytest.mark.long
def test_what_the_action_installs(tmp_path: Path) -> None:
    """The words that pip gets; a real installation takes minutes."""
    python = f'if [ "$2" = -m ]; then echo "$PIP_CACHE_DIR $*" > words; else exec {sys.executable} "$@"; fi'
    given = {"PATH": stub("python", f"#!/bin/bash\n{python}\n"), "FOLDER": str(tmp_path), "WHEELS": "/wheels"}
    for version, gpu, code, installed in (
        ("", "true", 0, str(ROOT)),
        ("a; touch b", "true", 0, "a; touch b"),
        ("", "false", 0, f"{tmp_path}/cpu"),
        ("--index-url=http://x", "true", 2, f"{tmp_path}/cpu"),
    ):
        assert does("install", VERSION=version, GPU=gpu, **given)[0].returncode == code
        words = Path("words").read_text()
        assert re.fullmatch(f"/wheels -P -m pip install .*{re.escape(installed)}\n", words)
    assert 'name = "robustcheck-onnx-cpu"\n' in Path("cpu/pyproject.toml").read_text()


# ------------------------------------------------------------------------------------------------------------ check


def check(**inputs: str) -> tuple[subprocess.CompletedProcess[str], Fields]:
    """Run the step with these inputs."""
    plain = {"UPLOAD_SARIF": "false", "COMMENT": "false", "FOLDER": "/none", "IMAGES": "", "ARGS": ""}
    plain |= {"REFERENCE": "", "BASELINE": "", "REQUIRE": INPUTS["require"]["default"]}
    return does("check", **plain | {"REPORT": "robustcheck.json"} | inputs)


@pytest.mark.long
def test_the_action_hands_on_verdict_exit_code_and_what_the_next_steps_read(lookup_pass: Place, tmp_path: Path) -> None:
    Path("json.py").write_text("def load(file):\n    return {'verdict': {'verdict': 'PASS'}}\n")  # no part of it
    more = {"UPLOAD_SARIF": "true", "COMMENT": "true", "FOLDER": str(tmp_path)}
    more |= {"MODEL": f"{lookup_pass[0]}\n", "IMAGES": str(lookup_pass[1])}
    for arguments, verdict in (("", "PASS"), ("--fail-on=never --max-images=40", "WARN")):
        done, outputs = check(ARGS=arguments, **more)
        assert done.returncode == 0, done.stderr
        assert outputs == {
            "verdict": verdict, "index-verdict": "", "exit-code": "0", "report": "robustcheck.json",
            "sarif": f"{tmp_path}/robustcheck.sarif", "md": f"{tmp_path}/robustcheck.md",
        }  # fmt: skip
        assert verdict in done.stdout
        assert ('"ruleId": "too_few' in Path("robustcheck.sarif").read_text()) == (verdict == "WARN")
        assert re.match(f"<!-- robustcheck report -->\n\n## . {verdict}", Path("robustcheck.md").read_text())


@pytest.mark.long
def test_the_action_never_passes_what_could_not_be_assessed(lookup_pass: Place) -> None:
    model, photos = map(str, lookup_pass)
    shutil.copy(model, "m.onnx")
    for inputs, said in (
        ({"MODEL": f"{model}\nmissing.onnx"}, "missing.onnx"),
        ({"MODEL": model, "IMAGES": ""}, "--images is missing; with --strict"),
        ({"MODEL": "--fail-on=never"}, "error: --fail-on=never: "),
        ({"MODEL": '$(touch pwned)"; touch pwned; "', "ARGS": "--device\n$(touch pwned)"}, "error: "),
        ({"MODEL": "m.onnx", "REPORT": "m.onnx"}, "m.onnx: report path is a file that is there already"),
        ({"MODEL": "m.onnx", "ARGS": "--tensor 'a"}, "args can't be split as a shell splits words (No closing quotat"),
    ):
        done, outputs = check(**{"IMAGES": photos} | inputs)
        assert (done.returncode, outputs["verdict"], outputs["exit-code"]) == (2, "NONE", "2"), inputs
        assert said in done.stderr
    assert not Path("pwned").exists()
    assert Path("m.onnx").read_bytes() == lookup_pass[0].read_bytes()  # a slip is not an order to delete the model
    done, outputs = check(MODEL="m.onnx", REPORT="r.json\nverdict=PASS")
    assert (done.returncode, outputs) == (2, {})  # a path of two lines forges no output


@pytest.mark.long
def test_the_action_takes_no_report_of_an_earlier_run_for_its_own() -> None:
    """A command that ends without writing: what lay there before must not speak for it, nor what is not a report."""
    for mark in ('"schema_version": 1, "tool": "robustcheck", ', ""):
        for ends, code in ((0, 70), (1, 1), (127, 127)):  # 127: robustcheck is not installed
            Path("robustcheck.json").write_text(f'{{{mark}"verdict": {{"verdict": "PASS"}}}}')
            done, outputs = check(MODEL="m.onnx", PATH=stub("robustcheck", f"#!/bin/sh\nexit {ends}\n"))
            assert (done.returncode, outputs["verdict"]) == (code, "NONE"), done.stderr


NAMES = ["--help", "--config=.evil.onnx", "--", "$(touch pwned)"]
"""of models, that are words of the command line or of a shell"""
ARGS = {
    "": [],
    "--max-images\n40\n\n--no-time\n": ["--max-images", "40", "--no-time"],  # one a line, as before
    "--tensor 'a b' -o \"html=my report.html\"": ["--tensor", "a b", "-o", "html=my report.html"],
    "--seed 1 # the second seed\n--no-time": ["--seed", "1", "--no-time"],
    "--tensor '' --no-time": ["--tensor", "", "--no-time"],
    "$HOME `id` $(id) *.py ; id | id": ["$HOME", "`id`", "$(id)", "*.py", ";", "id", "|", "id"],
}


@pytest.mark.long
def test_names_and_args_are_the_words_that_they_should_be_and_never_run() -> None:
    """Args are split as a shell splits; a name stands behind `--`, where test_settings.py shows that it is a model."""
    path = stub("robustcheck", "#!/bin/sh\nprintf '%s\\n' \"$@\" > words\nexit 3\n")
    Path("glob.py").touch()
    for name, arguments in [*((name, "") for name in NAMES), *(("m.onnx", arguments) for arguments in ARGS)]:
        images = "my photos" if arguments else "--help"
        done, _ = check(MODEL=name, IMAGES=images, ARGS=arguments, PATH=path)
        assert done.returncode == 3, done.stderr
        first = ["check", "--strict", "-o", "json=robustcheck.json", f"--images={images}"]
        words = [*first, *ARGS[arguments], "-o", "terminal", "--", name]
        assert Path("words").read_text().split("\n")[:-1] == words
    assert not Path("pwned").exists()


# ---------------------------------------------------------------------------------------------------------- comment

GH = """#!{python}
# answers as GitHub does, from the comments in comments.json; notes who asked
import json, os, sys
from pathlib import Path
state = Path({state!r})
comments = json.loads(state.read_text())
words = sys.argv[1:]
assert words[:2] == ["api", "graphql"], words
if "--paginate" in words:
    assert {{"owner=o", "name=r", "number=7"}} <= {{*words}}, words
    print(json.dumps([
        {{"data": {{"repository": {{"pullRequest": {{"id": "PR", "comments": {{"nodes": part}}}}}}}}}}
        for part in (comments[:1], comments[1:])
    ]))
else:
    asked = json.load(sys.stdin)
    given = asked["variables"]
    if given["id"] == "PR":
        comments.append({{"id": f"C{{len(comments)}}", "body": given["body"], "viewerDidAuthor": True}})
    else:
        (found,) = (c for c in comments if c["id"] == given["id"])
        found["body"] = given["body"]
    state.write_text(json.dumps(comments))
    print(json.dumps({{"data": {{}}, "host": os.environ["GH_HOST"]}}))
"""


def comment(gh: str, text: str, **others: str) -> tuple[int, str]:
    """Run the step with a `gh` of this text, which answers as GitHub does."""
    Path("report.md").write_text(text)
    variables = {
        "PATH": stub("gh", gh), "GITHUB_REPOSITORY": "o/r", "GITHUB_WORKFLOW": "w", "GITHUB_JOB": "j",
        "GITHUB_SERVER_URL": "https://git.example", "NUMBER": "7", "TEXT": "report.md",
        "MODEL": "m.onnx", "REPORT": "r.json", "GH_TOKEN": "t",
    }  # fmt: skip
    done, _ = does("comment", **variables | others)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long
def test_a_gate_has_one_comment_and_changes_it_and_nobody_elses(tmp_path: Path) -> None:
    state = tmp_path / "comments.json"
    state.write_text("[]")
    gh = GH.format(python=sys.executable, state=str(state))
    for said, text, others in (
        ("added", "first $(touch pwned)", {}),
        ("added", "of another model", {"MODEL": "n.onnx"}),
        ("added", "of another job", {"GITHUB_JOB": "k"}),
        ("changed", "second", {}),
    ):
        assert comment(gh, text, **others) == (0, f"comment {said}\n")
    marks, texts = zip(*(each["body"].split("\n", 1) for each in read_json(state)), strict=True)
    assert texts == ("second", "of another model", "of another job")
    assert not Path("pwned").exists()
    theirs = [  # somebody who copies the mark, and somebody who quotes it further down
        {"id": "X", "body": f"{marks[0]}\nsecond", "viewerDidAuthor": False},
        {"id": "Y", "body": f"> {marks[0]}\nsecond", "viewerDidAuthor": True},
    ]
    state.write_text(json.dumps(theirs))
    assert comment(gh, "line of twenty signs\n" * 4000) == (0, "comment added\n")
    *before, ours = read_json(state)
    assert before == theirs
    assert 65_000 < len(ours["body"]) <= 65_536
    assert re.search("line of twenty signs\n\n[*]The rest is cut: .* The JSON report is whole.[*]\n$", ours["body"])


@pytest.mark.long
def test_what_keeps_the_comment_from_being_written_is_a_warning() -> None:
    """The verdict is that of the step before: a token of a fork, which may not comment, changes nothing of it."""
    for gh, said in {
        "echo 'HTTP 403: 100% no\nmore' >&2; exit 1": "gh ended with 1: HTTP 403: 100%25 no%0Amore",
        "echo '[]'": "gh answered something else: []",
        "echo hello": "gh answered no JSON: 'hello\\n'",
        "exec /nowhere/gh 2>/dev/null": "gh ended with ",
    }.items():
        code, line = comment(f"#!/bin/bash\n{gh}\n", "text")
        start = "::warning title=robustcheck::The report was not written into the pull request: "
        assert (code, line.count("\n"), line.startswith(start + said)) == (0, 1, True), line


CI = ROOT / "docs" / "ci"
JOBS = yaml.safe_load((CI / "robustcheck.gitlab-ci.yml").read_text())
GITLAB = JOBS["robustcheck"]


def words_of(name: str) -> str:
    """The words of the gate's container, as its file writes them."""
    text = (CI / name).read_text()
    (lines,) = re.findall(r"^[ -]*\"?check\"?,?\n.*?--\"?,?\n.*?\n", text, re.MULTILINE | re.DOTALL)
    words = re.sub(r" +#.*|^[ -]* |dsl\.ConcatPlaceholder\(\[|\]\)|f?\"|, ?", "", lines, flags=re.MULTILINE)
    return " ".join(words.split())


def test_all_manifests_have_the_command_of_the_job() -> None:
    gate = "check --strict --images={} --max-memory=3GiB --output=terminal --output=json={} -- {}"
    of_job = "/reports/{0}.json --output=junit=/reports/{0}.junit.xml"
    for name, images, report, model in (
        ("kubernetes-job.yaml", "/photos", of_job.format("robustcheck"), "/models/encoder.onnx"),
        ("argo-workflow.yaml", "{{workflow.parameters.images}}", of_job.format("{{workflow.name}}"),
         "{{workflow.parameters.model}}"),
        ("kserve.yaml", "/photos", "/reports/encoder.json", "/models/encoder"),
        ("kubeflow_pipeline.py", "images", "report", "model"),
        ("airflow_dag.py", "{IMAGES}", "/reports/robustcheck.json", "MODEL"),
    ):  # fmt: skip
        assert words_of(name) == gate.format(images, report, model)


@pytest.mark.long
def test_each_index_of_the_job_checks_or_compares_the_model_of_its_line(tmp_path: Path) -> None:
    job = yaml.safe_load((CI / "kubernetes-indexed-job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    models, baselines = ["models:/encoder/3", "$(touch pwned)", ""], ["3.npz", "$(touch pwned).npz", "5.npz"]
    (tmp_path / "models.txt").write_text("\n".join(models))
    (tmp_path / "baselines.txt").write_text("\n".join(baselines))
    stub = program(tmp_path / "bin" / "robustcheck", '#!/bin/sh\necho "$@"\nexit 1\n')
    page = read_text("docs/distributed.md")
    (compares,) = re.findall(r"^```yaml\n(args:.*?)^```$", page, re.MULTILINE | re.DOTALL)
    check = "check --strict --images=/photos --max-memory=3GiB --output=terminal --output=json=/reports/{}.json -- {}\n"
    compare = "compare --strict --images=/photos --baseline=/baselines/{2} --require=index --max-memory=3GiB "
    compare += "--output=terminal --output=json=/reports/compare-{0}.json -- {1}\n"
    for args, expected in ((container["args"], check), (yaml.safe_load(compares)["args"], compare)):
        script = args[0].replace("/list", str(tmp_path))
        for index, (model, baseline) in enumerate(zip(models, baselines, strict=True)):
            environment = {"PATH": f"{stub.parent}:/usr/bin:/bin", "JOB_COMPLETION_INDEX": str(index)}
            command = [*container["command"], script]
            done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == (1 if model else 2)
            assert done.stdout == (expected.format(index, model, baseline) if model else "")
    assert not (tmp_path / "pwned").exists()


def test_images_are_pinned_hold_no_model_and_do_not_run_as_root() -> None:
    rooms = ["face", "checker", "exporters", "thresholds", "release", "pyproject.toml", "README.md"]
    for file in ("Dockerfile.cpu", "Dockerfile.cuda"):
        text = (CI / file).read_text()
        assert not re.findall(r"^FROM (?!python:3\.\d+\.\d+-slim-\w+( AS build)?$).*", text, re.MULTILINE)
        # no model named: exit 2, not a help text's 0
        settings = re.findall("^(?:ENTRYPOINT|CMD|USER) .*", text, re.MULTILINE)
        assert sorted(settings) == ['ENTRYPOINT ["robustcheck"]', "USER 10001"]
        copied = set(" ".join(re.findall("^COPY (?!--from)(.*) .*", text, re.MULTILINE)).split())
        assert copied - {*rooms} == {"LICENSE", "NOTICE", "constraints.txt"}


# --------------------------------------------------------------------------------------- GitLab, Jenkins, a container


def calls(model: str, images: str) -> list[tuple[str, dict[str, str]]]:
    """The scripts of GitLab's job and of Jenkins's stage, which its page shows, too, with what they are given."""
    (jenkins,) = re.findall(r"^ *sh '([^'\n]*)'$", (CI / "Jenkinsfile").read_text(), re.MULTILINE)
    assert f" sh '{jenkins}'\n" in (ROOT / "docs/ci.md").read_text()
    return [
        (GITLAB["script"][0], {"RC_MODEL": model, "RC_IMAGES": images}),
        (jenkins, {"MODEL": model, "IMAGES": images}),
    ]


def test_names_stay_words_in_both_templates(tmp_path: Path) -> None:
    """A name stands behind `--`, photos in one word with their option (see test_settings.py); the exit code is kept."""
    stub = program(tmp_path / "bin" / "robustcheck", "#!/bin/sh\nprintf '%s\\n' \"$@\" > words\nexit 3\n")
    for name in ("--fail-on=never", "--config=.evil.onnx", "$(touch pwned)"):
        for script, variables in calls(name, name):
            done, _ = run_step(script, tmp_path, PATH=f"{stub.parent}:/usr/bin:/bin", **variables)
            words = (tmp_path / "words").read_text().splitlines()
            assert (words[:3], words[-2:]) == (["check", "--strict", f"--images={name}"], ["--", name])
            assert done.returncode == 3
    assert not (tmp_path / "pwned").exists()
    assert run_step(GITLAB["before_script"][0], tmp_path, RC_REQUIREMENT="")[0].returncode != 0


@pytest.mark.long
def test_the_commands_of_the_templates_run(lookup_pass: Place, tmp_path: Path) -> None:
    """That they are strict is asked above; what that refuses, in test_settings.py."""
    left = {*GITLAB["artifacts"]["paths"], *GITLAB["artifacts"]["reports"].values()}
    for script, variables in calls(*map(str, lookup_pass)):
        (folder := tmp_path / f"run{len(left)}").mkdir()
        done, _ = run_step(script, folder, PATH=f"{BIN}:/usr/bin:/bin", **variables)
        assert (done.returncode, "✓ PASS" in done.stdout) == (0, True), done.stderr
        assert {p.name for p in folder.iterdir()} == left | {"github_output"}
        left = {"robustcheck.json", "robustcheck.junit.xml"}


# ---------------------------------------------------------------------------------------------------------- compare


COMPARE_PAGE = ROOT / "docs" / "compare-in-ci.md"


def page_yaml(begins: str) -> Fields:
    """The example of the page that begins so."""
    (example,) = re.findall(rf"```yaml\n({begins}:\n.*?)```", COMPARE_PAGE.read_text(), re.DOTALL)
    return dict(yaml.safe_load(example))


def test_a_comparison_gets_the_words_of_its_inputs(tmp_path: Path) -> None:
    path = stub("robustcheck", "#!/bin/sh\nprintf '%s\\n' \"$@\" > words\nexit 3\n")
    job = JOBS[".robustcheck-compare"]
    for baseline, reference in (("my baseline.npz", ""), ("", "$(touch pwned)"), ("--fail-on=never", "--config=x")):
        inputs = {"MODEL": "--m.onnx", "IMAGES": "p", "REQUIRE": "index", "BASELINE": baseline, "REFERENCE": reference}
        of_job = {f"RC_{name}": value for name, value in inputs.items()} | {"RC_INDEX": "", "PATH": path}
        named = ["--", "--m.onnx", *([reference] if reference else [])]
        options = {"--require=index", "--images=p", *([f"--baseline={baseline}"] if baseline else [])}
        for run in (partial(check, **inputs, PATH=path), partial(run_step, job["script"][0], tmp_path, **of_job)):
            assert run()[0].returncode == 3
            words = Path("words").read_text().splitlines()
            assert (words[:2], words[-len(named) :]) == (["compare", "--strict"], named)
            assert options <= {*words[: words.index("--")]}
    assert not Path("pwned").exists()


def words_of_a_pod() -> str:
    """The command of the page's container, with folders of the test as its volumes."""
    words = " ".join(["robustcheck", *page_yaml("args")["args"]])
    for volume, folder in (("/photos", "data/photos"), ("/models/b", "b"), ("/models", "models"), ("/reports/", "")):
        words = words.replace(volume, folder)
    return words


@pytest.mark.long
def test_the_steps_of_the_page_compare_with_a_baseline(lookup_pass: Place, tmp_path: Path) -> None:
    """The console's command writes the baseline, and each system's step reads it, as after the download."""
    for folder, place in zip(("models", "data"), lookup_pass, strict=True):
        Path(folder).mkdir()
        Path(folder, "encoder.onnx" if folder == "models" else "photos").symlink_to(place)
    (write,) = re.findall(r"^\$ (robustcheck compare .*)$", COMPARE_PAGE.read_text(), re.MULTILINE)
    done, _ = run_step(write, tmp_path, PATH=PATH)
    assert done.returncode == 0, done.stderr
    (step,) = (step for step in page_yaml("jobs")["jobs"]["compare"]["steps"] if step.get("id"))
    inputs = {name.upper(): value for name, value in step["with"].items()}
    gitlab, of_page = JOBS[".robustcheck-compare"], page_yaml("robustcheck-compare")["robustcheck-compare"]["variables"]
    assert of_page.keys() <= gitlab["variables"].keys()
    variables = gitlab["variables"] | of_page | {"PATH": PATH}
    done, outputs = check(**inputs)
    assert (done.returncode, outputs["verdict"], outputs["index-verdict"]) == (0, "PASS", "compatible"), done.stderr
    done, _ = run_step(gitlab["script"][0], tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    left = {*gitlab["artifacts"]["paths"], *gitlab["artifacts"]["reports"].values()}
    assert left <= {path.name for path in tmp_path.iterdir()}
    pod = partial(run_step, words_of_a_pod(), tmp_path, PATH=PATH)
    assert "index: compatible" in pod()[0].stdout
    Path("baseline.npz").unlink()
    for done in (pod()[0], check(**inputs)[0], run_step(gitlab["script"][0], tmp_path, **variables)[0]):
        assert done.returncode == 2  # a baseline that was not downloaded is never a pass
