# SPDX-License-Identifier: Apache-2.0
"""Labels and confidence at the camera's size from logits at the canvas, without all at full size.

The reference is `plain_label_image`: logits resized bilinearly, the largest one wins, of equal ones
the lowest class. `label_image` gives the same on the CPU in a fraction of the time. A bilinear
value is a weighted mean of the four pixels around it, so that a class that wins all four wins
between them; only cells whose corners disagree are evaluated, and there only classes that can win.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsam_ros.inference.geometry import Size, resize_maps
from mmsam_ros.sensors import NO_LABEL

# a logit so far below the best adds nothing; below -87, exp is subnormal and tens of times slower
_NOTHING = np.float32(-60)
_AT_ONCE = 2**16  # pixels that are evaluated together, for the processor's cache


def label_image(
    logits: Tensor, size: Size, *, confidence: bool = False, threshold: float = 0.0
) -> tuple[Tensor, Tensor | None]:
    """Labels and, if asked, the confidence of (1, classes, h, w) at `size`, uint8 each.

    As `plain_label_image`: labels are the same except where the resized logits of two classes are
    equal within float32's rounding, confidence is within one level. With a `threshold` above 0,
    pixels whose confidence is below 255 times it have `NO_LABEL`; confidence is then always given.
    """
    confidence = confidence or threshold > 0
    if logits.device.type != "cpu":  # there, the plain way is faster
        labels, certainty = plain_label_image(logits, size, confidence=confidence)
    else:
        labels = torch.from_numpy(_labels(logits[0].numpy(), size))
        certainty = torch.from_numpy(_confidence(logits[0], size)) if confidence else None
    if certainty is not None and threshold > 0:
        labels[certainty < 255 * threshold] = NO_LABEL
    return labels, certainty


def class_probabilities(logits: Tensor, size: Size) -> Tensor:
    """Softmax of (1, classes, h, w) at a quarter of `size`, rounded up; float32, classes last."""
    height, width = (-(-length // 4) for length in size)
    quarter = resize_maps(logits, (height, width))[0].float()
    return quarter.softmax(dim=0).permute(1, 2, 0).contiguous()


def plain_label_image(
    logits: Tensor, size: Size, *, confidence: bool = False
) -> tuple[Tensor, Tensor | None]:
    """As `label_image`, by passes over all classes at full size."""
    full = resize_maps(logits, size)
    certainty = None
    if confidence:
        certainty = (full.softmax(dim=1).amax(dim=1)[0] * 255).round().to(torch.uint8)
    return full.argmax(dim=1)[0].to(torch.uint8), certainty


class _Axis(NamedTuple):
    """One axis of a bilinear resize, as PyTorch computes it. A cell lies between pixel i and the
    next one, and holds up to n pixels of the result.
    """

    cell: NDArray[np.int64]  # (output length,) of each pixel of the result
    pixel: NDArray[np.int64]  # (length, n) those of each cell, -1 beyond its last one
    part: NDArray[np.float32]  # (length, n) the next pixel's weight

    @classmethod
    def of(cls, length: int, output: int) -> "_Axis":
        half, scale = np.float32(0.5), np.float32(length) / np.float32(output)
        place = np.maximum(scale * (np.arange(output, dtype=np.float32) + half) - half, 0)
        cell = np.minimum(place.astype(np.int64), length - 1)
        count = np.bincount(cell, minlength=length)
        inside = np.arange(np.max(count))
        pixel = np.minimum((count.cumsum() - count)[:, None] + inside, output - 1)
        part = np.clip(place - cell.astype(np.float32), 0, 1, dtype=np.float32)[pixel]
        return cls(cell, np.where(inside < count[:, None], pixel, -1), part)


def _labels(logits: NDArray[np.float32], size: Size) -> NDArray[np.uint8]:
    """Labels at `size` from logits (classes, h, w)."""
    winners = _winners(logits)
    if logits.shape[1:] == size:
        return winners
    height, width = winners.shape
    rows, columns = _Axis.of(height, size[0]), _Axis.of(width, size[1])
    labels = winners.take(columns.cell, axis=1).take(rows.cell, axis=0)
    edged = np.pad(winners, ((0, 1), (0, 1)), "edge")
    disagree = (winners != edged[1:, :-1]) | (winners != edged[:-1, 1:])
    disagree |= winners != edged[1:, 1:]
    disagree &= (rows.pixel[:, :1] >= 0) & (columns.pixel[:, 0] >= 0)  # cells that hold a pixel
    flat, cells = logits.reshape(len(logits), -1), np.flatnonzero(disagree)
    step = max(1, _AT_ONCE // (rows.pixel.shape[1] * columns.pixel.shape[1]))
    _in_threads(
        lambda start: _fill(labels, flat, cells[start : start + step], rows, columns),
        range(0, len(cells), step),
    )
    return labels


def _winners(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """argmax(0), ten times as fast for few classes."""
    best, winners = logits[0].copy(), np.zeros(logits.shape[1:], np.uint8)
    for index, values in enumerate(logits[1:], 1):
        np.copyto(winners, np.uint8(index), where=values > best)
        np.maximum(best, values, out=best)
    return winners


def _fill(
    labels: NDArray[np.uint8], logits: NDArray[np.float32], cells: NDArray[np.int64],
    rows: _Axis, columns: _Axis,
) -> None:  # fmt: skip
    """Write the labels of some cells; logits (classes, h w)."""
    row, column = np.divmod(cells, len(columns.pixel))
    right = np.where(column < len(columns.pixel) - 1, 1, 0)
    below = np.where(row < len(rows.pixel) - 1, len(columns.pixel), 0)
    corners = [logits.take(cells + way, axis=1) for way in (0, right, below, right + below)]
    least = reduce(np.minimum, corners).max(axis=0)  # the winner has no less anywhere in the cell
    possible = reduce(np.maximum, corners) >= least
    x, y = columns.part[column], rows.part[row][..., None]
    best = np.full((len(cells), y.shape[1], x.shape[1]), -np.inf, np.float32)
    winners = np.zeros(best.shape, np.uint8)
    for index in np.flatnonzero(possible.any(axis=1)):
        some = np.flatnonzero(possible[index])
        a, b, c, d = (corner[index].take(some)[:, None] for corner in corners)
        at, down = x[some], y[some]
        upper, lower = ((1 - at) * left + at * right for left, right in ((a, b), (c, d)))
        values = (1 - down) * upper[:, None] + down * lower[:, None]
        before = best[some]
        winners[some] = np.where(values > before, np.uint8(index), winners[some])
        best[some] = np.maximum(values, before)
    pixel_row, pixel_column = rows.pixel[row][..., None], columns.pixel[column][:, None]
    used = (pixel_row >= 0) & (pixel_column >= 0)
    labels.ravel()[(pixel_row * labels.shape[1] + pixel_column)[used]] = winners[used]


def _confidence(logits: Tensor, size: Size) -> NDArray[np.uint8]:
    """255 times the winner's probability, of logits (classes, h, w). Rows of pixels at a time, all
    of the same cells, so that what is computed stays in the processor's cache.
    """
    wide = resize_maps(logits[None], (logits.shape[1], size[1]))[0].numpy()
    rows = _Axis.of(logits.shape[1], size[0])
    found = np.empty(size, np.uint8)

    def fill(some: NDArray[np.int64]) -> None:
        buffer = np.empty(len(wide) * rows.pixel.shape[1] * size[1], np.float32)
        for row in some:
            pixels = rows.pixel[row][rows.pixel[row] >= 0]
            part = rows.part[row, : len(pixels), None]
            upper, lower = wide[:, row], wide[:, min(row + 1, wide.shape[1] - 1)]
            flat = buffer[: len(wide) * len(pixels) * size[1]].reshape(len(wide), -1)
            values = flat.reshape(len(wide), len(pixels), size[1])
            np.multiply((lower - upper)[:, None], part, out=values)
            values += upper[:, None]
            values -= values.max(axis=0)
            np.maximum(flat, _NOTHING, out=flat)
            cv2.exp(flat, flat)  # to 1e-5, in a fifth of NumPy's time where there is no AVX-512
            found[pixels] = np.rint(255 / values.sum(axis=0))

    _in_threads(fill, np.array_split(np.unique(rows.cell), torch.get_num_threads()))
    return found


def _in_threads(work: Callable[[Any], None], parts: Iterable[Any]) -> None:
    """Do each part, in as many threads as PyTorch has: NumPy computes in one."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(work, parts))
