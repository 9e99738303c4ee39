"""The revision at which a conversion from the Hub began, kept with its shards until it is complete.

When an interrupted run goes on, the newest commit of the repository may be another one, if only for its README. What
has been converted is of the first one, which is written into the file: the run goes on at that.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.hub_errors import HubError
from converters.json_file import read_json_object
from quant.errors import InputError

NAME = "begun.json"


@dataclass(frozen=True)
class Begun:
    """What a run began with.

    Attributes:
        asked: the branch, tag or commit that the user named; "" for none.
        revision: the commit's hash that it meant then.
    """

    repo: str
    asked: str
    revision: str

    def note(self, folder: Path) -> None:
        """Keep it in `folder`. Raises OSError."""
        (folder / NAME).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def notice(self) -> str:
        """For the user of a run that goes on."""
        return f"going on with revision {self.revision[:12]} of {self.repo}, at which this conversion was begun"

    def gone(self, error: HubError) -> HubError:
        """What to say instead of `error`, which came when the Hub was asked for this revision."""
        if type(error.__cause__).__name__ != "RevisionNotFoundError":
            return error
        return HubError(
            f"{self.repo} has no revision {self.revision[:12]} any more, at which this conversion was begun",
            hint="--fresh starts over with what it has now",
        )


def begun(folder: Path, repo: str, asked: str | None) -> Begun | None:
    """What an interrupted run in `folder` began with, if `repo` and the revision that is asked for are its own."""
    if not os.path.exists(folder / NAME):
        return None
    try:
        found: dict[str, Any] = read_json_object(folder / NAME)
        kept = Begun(*(str(found[key]) for key in ("repo", "asked", "revision")))
    except (InputError, KeyError):  # torn, or of another version: the newest revision is as good a guess as any
        return None
    return kept if kept.repo == repo and asked in (None, kept.asked) else None
