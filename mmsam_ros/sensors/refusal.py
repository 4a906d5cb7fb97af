# SPDX-License-Identifier: Apache-2.0
"""Why something of a sensor was not used; a value, so that the rest of a frame goes on."""

from __future__ import annotations

from dataclasses import dataclass

BLANK = "blank"


@dataclass(frozen=True)
class Refusal:
    """What was not used and why.

    Attributes:
        sensor: whose data it is; the stream of the same name in ROS.
        reason: one word to count by, such as `encoding` or `blank`.
        text: for people: what was found, what was expected, what to change.
    """

    sensor: str
    reason: str
    text: str
