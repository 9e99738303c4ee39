"""git as the oracle: what `git diff` says of two files, in an answer, turns the first into the second."""

import random
import shutil
import subprocess

import pytest

from coderv2_local.edits import Workspace, propose

STARTS = ["", "    ", "x = ", "-- sql", "+ list", "```", "@@", "\\ tail", "--- ", "+++ "]


def random_text(chance: random.Random) -> list[str]:
    return [
        chance.choice(STARTS) + str(chance.randrange(60)) if chance.random() < 0.8 else ""
        for _ in range(chance.randrange(1, 40))
    ]


def edited(lines: list[str], chance: random.Random) -> list[str]:
    lines = list(lines)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(lines) + 1)
        if chance.random() < 0.5 or not lines:
            lines.insert(at, f"new {chance.randrange(99)}")
        else:
            del lines[min(at, len(lines) - 1)]
    return lines


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
@pytest.mark.parametrize("seed", range(40))
def test_what_git_writes_is_applied(tmp_path, seed):
    chance = random.Random(seed)
    lines = random_text(chance)
    old = "\n".join(lines) + chance.choice(["\n", "\n", ""])
    new = "\n".join(edited(lines, chance)) + chance.choice(["\n", "\n", ""])
    if old == new or not old.strip():
        pytest.skip("nothing to change")
    for folder, text in (("a", old), ("b", new), ("project", old)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "f.sql").write_bytes(text.encode())
    command = [
        "git",
        "-c",
        "core.autocrlf=false",
        "diff",
        "--no-index",
        "--no-color",
        "--no-prefix",
        "a/f.sql",
        "b/f.sql",
    ]
    diff = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60).stdout.decode()
    assert diff.startswith("diff --git a/f.sql b/f.sql")
    for answer in (diff, f"Here it is:\n\n```diff\n{diff}```\n", f"{diff}\nThat is all.\n"):
        [proposal] = propose(answer, Workspace(tmp_path / "project"))
        assert proposal.can_apply, proposal.refusals
        assert proposal.after == new.encode()
