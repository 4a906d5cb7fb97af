# SPDX-License-Identifier: Apache-2.0
"""What a user should know once about messages that are used nevertheless. Needs no ROS."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Say = Callable[[str], Any]


def _silent(text: str) -> None:
    """Where nobody reads."""


@dataclass
class Notes:
    """Says each text once; a logger's functions, or silence."""

    log_info: Say = _silent
    log_warning: Say = _silent
    _said: set[str] = field(default_factory=set)

    def info(self, text: str, key: str = "") -> None:
        """A choice that was made. Texts of one key, if it is given, are said once together."""
        self._once(self.log_info, text, key)

    def warning(self, text: str, key: str = "") -> None:
        """Something that may not be meant so."""
        self._once(self.log_warning, text, key)

    def _once(self, say: Say, text: str, key: str) -> None:
        if say is not _silent and (key or text) not in self._said:
            self._said.add(key or text)
            say(text)


SILENT = Notes()
