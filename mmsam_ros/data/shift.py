# SPDX-License-Identifier: Apache-2.0
"""Labels whose values are one too low or one too high for their layout.

DeLiVER and FMB are downloaded with values from 1 on and 0 for no label; most code stores them
reduced by one, with 255 for no label. The two hold the same values but for the ends, so one image,
or one mark, proves nothing. Several marks of many images do.
"""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError, DataWarning
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.sensors import NO_LABEL

Counts = NDArray[np.int64]  # pixels by stored value, (256,)
_MOST = 100  # label images that `check_shift` reads
_STREET = 0.5  # least share of the common classes in the pixels of a street
_CLEARLY = 2.0  # by how much it is greater for the right values


def value_counts(frames: FrameSet, record: Record) -> dict[Path, Counts]:
    """Pixels by stored value of a frame's label image, by its path; empty where it cannot be read,
    or the data set has no common classes.
    """
    if frames.common and record.label is not None:
        with suppress(DataError):  # who reads the frame is told
            return {record.label: np.bincount(frames.label_values(record).ravel(), minlength=256)}
    return {}


def find_shift(frames: FrameSet, counts: Mapping[Path, Counts]) -> tuple[str, bool]:
    """What shows that labels are shifted, as a line (empty where nothing does), and whether it
    proves it: a single mark may be chance.

    counts: of the label images, or of some of them.
    """
    marks, doubted = _marks(frames, counts)
    if not marks:
        return "", False
    top = len(frames.classes)
    if frames.first_label:
        state, remedy = "reduced by one already", f"values 1..{top} and 0 for no label"
    else:
        state, remedy = "not reduced by one yet", f"values 0..{top - 1} and 255 for no label"
    text = (
        f"{doubted}: the labels of {frames.dataset}'s split {frames.split!r} look {state} "
        f"({'; '.join(marks)}), so that every class would be another; expected {remedy} in this "
        "layout. If they are right, give them in the layout of own data (docs/own_data.md), whose "
        "ids are taken as they are"
    )
    return text, len(marks) > 1


def _marks(frames: FrameSet, counts: Mapping[Path, Counts]) -> tuple[list[str], Path | None]:
    """The marks in words, and one of the label images that have them."""
    top, first = len(frames.classes), frames.first_label
    # a value that shifted labels never have, and one that they alone have for sure
    never, extra = (top, NO_LABEL) if first else (NO_LABEL, top)
    doubted = {path: c for path, c in counts.items() if c[extra] and not c[never]}
    settled = any(values[never] for values in counts.values())
    if not doubted and (settled or not counts):
        return [], None
    marks = []
    pixels = np.sum([*(doubted or counts).values()], axis=0)
    if doubted:
        marks.append(f"{len(doubted)} of {len(counts)} files have {extra} and no {never}")
        if pixels[0]:
            marks.append(f"0 occurs beside {extra}")
    low, total = 1 - first, np.sum([*counts.values()], axis=0)
    if not settled and total[low : low + top].all():
        marks.append(f"every value from {low} to {low + top - 1} occurs and {never} never")
    pixels[[0, NO_LABEL]] = 0  # one of them is no label
    stored, step = np.array(frames.common) + first, -1 if first else 1
    found, shifted = (pixels[values].sum() for values in (stored, stored + step))
    if shifted > max(_STREET * pixels.sum(), _CLEARLY * found):
        names = ", ".join(frames.classes[i].name for i in frames.common)
        marks.append(
            f"{names} have {found / pixels.sum():.0%} of the labelled pixels, with values one "
            f"{'higher' if first else 'lower'} {shifted / pixels.sum():.0%}"
        )
    return marks, next(iter(doubted or counts))


def check_shift(frames: FrameSet) -> None:
    """DataError where labels of a split are shifted, DataWarning where they may be."""
    labelled = [record for record in frames.records if record.label is not None]
    counts: dict[Path, Counts] = {}
    for i in np.random.default_rng(0).permutation(len(labelled))[:_MOST]:
        counts |= value_counts(frames, labelled[i])
    text, proven = find_shift(frames, counts)
    if proven:
        raise DataError(text)
    if text:
        warnings.warn(text, DataWarning, stacklevel=2)
