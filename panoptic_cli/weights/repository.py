"""The address of a repository of Hugging Face."""

from __future__ import annotations

import re
from dataclasses import dataclass

from panoptic_cli.errors import UsageError

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@\s]+))?")


@dataclass(frozen=True)
class Repository:
    """A repository.

    Attributes:
        name: OWNER/REPO.
        revision: branch, tag or commit; None: the default branch.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{SCHEME}{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse_repository(address: str) -> Repository:
    """Parses hf://OWNER/REPO[@REVISION].

    Raises:
        UsageError: the address does not have this form.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise UsageError(f"'{address}' is not a repository of Hugging Face.", "Give it as hf://OWNER/REPO[@REVISION].")
    return Repository(found["name"], found["revision"])
