# SPDX-License-Identifier: Apache-2.0
"""A camera message with the sensor messages that belong to it, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mmsam_ros.sensors import CAMERA, Refusal

DEFECT, OUT_OF_MEMORY = "defect", "out_of_memory"
ENGINE = "engine"  # no engine computes any more
INVALID = "invalid"  # such as values of the network that are not finite
OWN_FAILURES = (DEFECT, ENGINE, OUT_OF_MEMORY, INVALID)  # reasons that are the node's own failure


@dataclass(eq=False, slots=True)
class Entry:
    """One message. `decoded` holds its converted value, shared by all sets that it is in."""

    stream: str
    stamp_ns: int  # header stamp as sent
    message: Any
    time_ns: int  # stamp + offset: on the camera's clock
    arrival: float = 0.0  # steady clock, seconds
    decoded: Any = None
    # bookkeeping of the synchroniser
    _sets: int = field(default=0, repr=False)  # unsettled sets that hold it
    _buffered: bool = field(default=True, repr=False)
    _best: str | None = field(default=None, repr=False)  # best outcome of its settled sets
    _fallback: str = field(default="dropped:unmatched", repr=False)  # outcome if no set held it


@dataclass(frozen=True, eq=False)
class SyncedSet:
    """A camera message and its auxiliary messages; a stream without a match is missing.

    `held` names the streams whose message is older than their slop. Settled exactly once.
    """

    camera: Entry
    auxiliaries: Mapping[str, Entry]
    held: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """How a synchronised set ended."""

    # used: a mask was published; refused: camera image or whole frame unusable; dropped: not tried
    end: Literal["used", "refused", "dropped"]
    # one word to count by: `encoding`, `defect`, `busy`, ...; of a used one, why publishing went
    # no further
    reason: str = ""
    text: str = ""  # explanation of a refusal or failure
    sensors: Mapping[str, Refusal] = field(default_factory=dict)  # left out, whatever the end
    fused: tuple[str, ...] = ()  # sensors besides the camera in the mask
    timings: Mapping[str, float] = field(default_factory=dict)  # milliseconds by step, if used

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Every refusal, the camera's included, and what of a used frame failed."""
        failed = self.end == "refused" or self.text
        camera = (Refusal(CAMERA, self.reason, self.text),) if failed else ()
        return (*self.sensors.values(), *camera)

    def label(self, stream: str, *, held: bool = False) -> str:
        """What a stream's message of this set counts as, such as `used` or `refused:encoding`."""
        if stream in self.sensors:
            return f"refused:{self.sensors[stream].reason}"
        if self.end == "used":
            return "held" if held else "used"
        if self.end == "refused" and stream != CAMERA:
            return "dropped:camera"
        return f"{self.end}:{self.reason}"
