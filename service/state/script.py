"""The Lua scripts under `scripts`, which Redis runs as one step each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from service.state.connection import Argument, Command


class Script:
    """A Lua script, called by its hash: files under `scripts`, joined in this order."""

    def __init__(self, *names: str) -> None:
        directory = Path(__file__).with_name("scripts")
        self.source = "\n".join(directory.joinpath(name).read_text(encoding="utf-8") for name in names)
        self._sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], *arguments: Argument) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self._sha, len(keys), *keys, *arguments)
