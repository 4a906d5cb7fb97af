# SPDX-License-Identifier: Apache-2.0
"""What a user should know once about messages that are used nevertheless. Needs no ROS."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mmsam_ros.sensors.limits import MAX_NOTES, shortened

Say = Callable[[str], Any]


def _silent(text: str) -> None:
    """Where nobody reads."""


@dataclass
class Notes:
    """Says each text once, at most `MAX_NOTES` of them; a logger's functions, or silence."""

    log_info: Say = _silent
    log_warning: Say = _silent
    _said: set[str] = field(default_factory=set)

    def info(self, text: str, key: str = "") -> None:
        """A choice that was made. Texts of one key, if it is given, are said once together."""
        if self._is_new(self.log_info, key or text):
            self.log_info(shortened(text))

    def warning(self, text: str, key: str = "") -> None:
        """Something that may not be meant so."""
        # a line of its own: rclpy lets a line of code log with one severity only
        if self._is_new(self.log_warning, key or text):
            self.log_warning(shortened(text))

    def _is_new(self, say: Say, key: str) -> bool:
        key = shortened(key)
        if say is _silent or key in self._said or len(self._said) >= MAX_NOTES:
            return False
        self._said.add(key)
        return True


SILENT = Notes()
