"""Write a report into a comment of a pull request: into that of an earlier run of the same gate, if there is one.

    python .github/comment.py NUMBER FILE.md [WORD...]

The words, with workflow and job, say which gate it is. A hidden mark on the comment's first line holds their digest;
only a comment by the same author counts, so that nobody else's is changed. `gh` reaches GitHub, with GH_TOKEN. What
goes wrong is a warning of the workflow and exit code 0: the verdict is that of the step before, and the token of a fork
may not comment.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LONGEST = 65_536  # characters of a comment, GitHub's limit
CUT = "\n\n*The rest is cut: GitHub takes 65,536 characters for a comment. The JSON report is whole.*\n"
FIND = """query($owner: String!, $name: String!, $number: Int!, $endCursor: String) {
  repository(owner: $owner, name: $name) { pullRequest(number: $number) {
    id
    comments(first: 100, after: $endCursor) {
      nodes { id body viewerDidAuthor }
      pageInfo { hasNextPage endCursor }
    }
  } }
}"""
CHANGE = "mutation($id: ID!, $body: String!) { updateIssueComment(input: {id: $id, body: $body}) { clientMutationId } }"
ADD = "mutation($id: ID!, $body: String!) { addComment(input: {subjectId: $id, body: $body}) { clientMutationId } }"


class NoCommentError(Exception):
    """Why nothing was written."""


def mark(words: list[str]) -> str:
    """The first line of the gate's comment."""
    gate = [os.environ.get("GITHUB_WORKFLOW", ""), os.environ.get("GITHUB_JOB", ""), *words]
    return f"<!-- robustcheck {hashlib.sha256(json.dumps(gate).encode()).hexdigest()[:32]} -->"


def shortened(text: str, longest: int) -> str:
    """The text, cut at the end of a line where it is longer than so many characters."""
    if len(text) <= longest:
        return text
    return text[: longest - len(CUT)].rpartition("\n")[0] + CUT


def gh(arguments: list[str], sent: object = None) -> Any:
    """What `gh api graphql` answers. Raises NoCommentError."""
    host = urlsplit(os.environ.get("GITHUB_SERVER_URL", "https://github.com")).netloc
    token = os.environ.get("GH_TOKEN", "")
    environment = os.environ | {"GH_HOST": host, "GH_ENTERPRISE_TOKEN": token, "GH_PROMPT_DISABLED": "1"}
    try:
        done = subprocess.run(
            ["gh", "api", "graphql", *arguments],
            input=json.dumps(sent), capture_output=True, encoding="utf-8", check=False, env=environment, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise NoCommentError(f"gh could not be run: {fault}") from fault
    if done.returncode:
        raise NoCommentError(f"gh ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    try:
        return json.loads(done.stdout)
    except ValueError as fault:
        raise NoCommentError(f"gh answered no JSON: {done.stdout[:200]!r}") from fault


def write(number: int, text: str, first_line: str) -> str:
    """Change our comment or add one; which of both. Raises NoCommentError."""
    owner, _, name = os.environ["GITHUB_REPOSITORY"].partition("/")
    fields = ["-f", f"query={FIND}", "-f", f"owner={owner}", "-f", f"name={name}", "-F", f"number={number}"]
    pages = gh(["--paginate", "--slurp", *fields])
    try:
        found = [page["data"]["repository"]["pullRequest"] for page in pages]
        comments = [comment for each in found for comment in each["comments"]["nodes"]]
        ours = [c["id"] for c in comments if c["viewerDidAuthor"] and c["body"].split("\n", 1)[0].strip() == first_line]
        target = ours[0] if ours else found[0]["id"]
    except (KeyError, TypeError, IndexError) as fault:
        raise NoCommentError(f"gh answered something else: {json.dumps(pages)[:200]}") from fault
    body = f"{first_line}\n{shortened(text, LONGEST - len(first_line) - 1)}"
    gh(["--input", "-"], {"query": CHANGE if ours else ADD, "variables": {"id": target, "body": body}})
    return "changed" if ours else "added"


def main(number: str, file: str, *words: str) -> None:
    """Write, and say what came of it."""
    try:
        done = write(int(number), Path(file).read_text(encoding="utf-8"), mark(list(words)))
        sys.stdout.write(f"comment {done}\n")
    except NoCommentError as why:
        said = str(why).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        sys.stdout.write(f"::warning title=robustcheck::The report was not written into the pull request: {said}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
