# SPDX-License-Identifier: Apache-2.0
"""Notes on messages that are used although something is odd, each logged once. Needs no ROS."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mmsam_ros.sensors.limits import MAX_NOTES, shortened

Say = Callable[[str], Any]


def _silent(text: str) -> None:
    """Discard the text."""


@dataclass
class Notes:
    """Logs each text once, at most `MAX_NOTES` of them; silent without a logger's functions."""

    log_info: Say = _silent
    log_warning: Say = _silent
    _said: set[str] = field(default_factory=set)

    def info(self, text: str, key: str = "") -> None:
        """Log a choice that was made. Of the texts with one key, only the first is logged."""
        if self._is_new(self.log_info, key or text):
            self.log_info(shortened(text))

    def warning(self, text: str, key: str = "") -> None:
        """Log something that may not be intended."""
        # a line of its own: rclpy allows only one severity per line of code
        if self._is_new(self.log_warning, key or text):
            self.log_warning(shortened(text))

    def _is_new(self, say: Say, key: str) -> bool:
        key = shortened(key)
        if say is _silent or key in self._said or len(self._said) >= MAX_NOTES:
            return False
        self._said.add(key)
        return True


SILENT = Notes()
