# SPDX-License-Identifier: Apache-2.0
"""What the channels of a sensor's planes look like over many frames.

Training notes it in the weights file, and the node compares its sensors with it: a LiDAR whose
intensity has another unit, or a thermal image that is black where it should be white, differs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import Checked, MmsamError, ranged
from mmsam_ros.sensors.errors import SensorError

_LOOKED_AT = 2**16  # pixels of a frame that are looked at
_KEPT = 2**12  # of those that hold something


@dataclass(frozen=True)
class ChannelStatistics(Checked):
    """Statistics of one field, in the unit of its encoding, over the pixels that are not empty
    (0 in every field).

    Attributes:
        low, high: the 1st and the 99th percentile.
        mean: of the values, those below the 5th and above the 95th percentile taken as these; a
            few that are far off do not move it.
        empty: share of the pixels that are empty.
        slope: correlation of the value with the image row, positive where it grows downwards; 0
            where there is none. It tells a cloud that is upside down, or black-hot thermal images.
    """

    error: ClassVar[type[MmsamError]] = SensorError
    where: ClassVar[str] = "statistics"

    low: float
    high: float
    mean: float
    empty: float = ranged(0.0, 0, 1)
    slope: float = ranged(0.0, -1, 1)

    def check(self) -> None:
        for name in ("low", "high", "mean", "empty", "slope"):
            self.require(math.isfinite(getattr(self, name)), name, "a finite value")
        self.require(self.low <= self.high, "high", f"at least low, {self.low:g}")


@dataclass(frozen=True, eq=False)
class PlaneSample:
    """Some pixels of one frame's planes."""

    values: NDArray[np.float32]  # (n, fields) of pixels that hold something
    rows: NDArray[np.float32]  # (n,) where they are: 0 at the top, 1 at the bottom
    filled: float  # share of the pixels that hold something


def sample_planes(planes: NDArray[np.float32]) -> PlaneSample:
    """Pixels of planes (h, w, fields), evenly spread; the same planes give the same ones."""
    height, width, fields = planes.shape
    step = max(1, height * width // _LOOKED_AT)
    while math.gcd(step, width) > 1:  # else only some columns would be looked at
        step += 1
    values = planes.reshape(-1, fields)[::step]
    found = np.flatnonzero(values.any(axis=1))
    kept = found[:: max(1, len(found) // _KEPT)]
    rows = (kept * step // width).astype(np.float32) / max(height - 1, 1)
    return PlaneSample(values[kept], rows, len(found) / len(values))


def channel_statistics(
    samples: Sequence[PlaneSample], fields: Sequence[str]
) -> dict[str, ChannelStatistics]:
    """Statistics by field over all samples; without fields where no pixel holds anything."""
    values = np.concatenate([sample.values for sample in samples])
    if not len(values):
        return {}
    rows = np.concatenate([sample.rows for sample in samples])
    empty = 1 - sum(sample.filled for sample in samples) / len(samples)
    low, high = np.percentile(values, (1, 99), axis=0)
    return {
        name: ChannelStatistics(
            float(low[i]),
            float(high[i]),
            robust_mean(values[:, i]),
            float(np.clip(empty, 0, 1)),
            _correlation(values[:, i].astype(np.float64), rows.astype(np.float64)),
        )
        for i, name in enumerate(fields)
    }


def percentiles(values: NDArray[Any], shares: tuple[float, ...]) -> NDArray[np.float64]:
    """np.percentile of all values, of which there is at least one. Unsigned integers are counted
    instead of sorted, which takes a tenth of the time.
    """
    if values.dtype.kind != "u":
        return np.asarray(np.percentile(values, shares), np.float64)
    upto = np.bincount(values.ravel()).cumsum()  # values up to each
    place = (values.size - 1) * (np.array(shares) / 100)
    before = np.floor(place).astype(np.int64)
    after = np.minimum(before + 1, values.size - 1)
    low, high = (np.searchsorted(upto, index, side="right") for index in (before, after))
    part = place - before
    # in NumPy's order of rounding
    return np.where(part < 0.5, low + (high - low) * part, high - (high - low) * (1 - part))


def robust_mean(values: NDArray[np.float32]) -> float:
    """The mean without what is far off, as `ChannelStatistics.mean`; of at least one value."""
    return float(values.clip(*np.percentile(values, (5, 95))).mean(dtype=np.float64))


def likeness(image: NDArray[Any]) -> float:
    """Correlation of the pixels side by side, 1 where all are the same."""
    values = image.astype(np.float64)
    values = values[np.isfinite(values).all(axis=1)]  # rows
    values -= values.mean() if values.size else 0.0
    left, right = values[:, :-1], values[:, 1:]
    size = float(np.sqrt((left * left).sum() * (right * right).sum()))
    return float((left * right).sum()) / size if size else 1.0


def is_swapped(image: NDArray[Any]) -> bool:
    """Whether an image of 16 bits is a picture only with the bytes of each value swapped."""
    if image.dtype != np.uint16:
        return False
    alike, swapped = likeness(image), likeness(image.byteswap())
    return swapped > max(alike, 0.9) + (1 - swapped)


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Pearson's, 0 where one of both is constant."""
    a, b = first - first.mean(), second - second.mean()
    size = math.sqrt((a * a).sum() * (b * b).sum())
    return float(np.clip((a * b).sum() / size, -1, 1)) if size else 0.0


Seen = Mapping[str, Mapping[str, ChannelStatistics]]  # by sensor and field
