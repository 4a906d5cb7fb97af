# SPDX-License-Identifier: Apache-2.0
"""What checks find: a level, what it is about, and what to do."""

from collections.abc import Iterable
from typing import NamedTuple

OK, WARNING, ERROR = "ok", "warning", "error"
_CODES = {OK: 0, WARNING: 1, ERROR: 2}


class Finding(NamedTuple):
    """One finding."""

    level: str  # OK, WARNING or ERROR
    subject: str
    text: str
    remedy: str = ""  # of what is not ok


def exit_code(findings: Iterable[Finding]) -> int:
    """0: all is ok; 1: there are warnings; 2: there are errors."""
    return max((_CODES[finding.level] for finding in findings), default=0)
