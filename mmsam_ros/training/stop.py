# SPDX-License-Identifier: Apache-2.0
"""Signals that end a run in an orderly way."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignals:
    """Notes SIGINT and SIGTERM (SLURM's, before it takes a machine) instead of dying of them.

    Attributes:
        number: the signal that came, or 0. A second one of its kind acts as ever.
    """

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> StopSignals:
        caught = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._note) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._before[signal.Signals(number)])
