# SPDX-License-Identifier: Apache-2.0
"""Labels whose values are one too low or one too high for their layout.

DeLiVER and FMB are downloaded with values from 1 on and 0 for no label; most code stores them
reduced by one, with 255 for no label. The two hold the same values but for the ends, so one image
proves nothing. The values of many do.
"""

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.sensors import NO_LABEL

Counts = NDArray[np.int64]  # pixels by stored value, (256,)
_MOST = 500  # label images that `check_shift` reads
_STREET = 0.5  # least share of the common classes in the pixels of a street
_CLEARLY = 2.0  # by how much it is greater for the right values


def value_counts(frames: FrameSet, record: Record) -> Counts:
    """Pixels by stored value of a frame's label image."""
    return np.bincount(frames.label_values(record).ravel(), minlength=256)


def shift_marks(frames: FrameSet, counts: Counts) -> list[str]:
    """What shows that the values are shifted, in words; empty where nothing does.

    counts: of some or all of the frames; they prove more, the more there are.
    """
    if _settled(frames, counts) or not frames.common:
        return []
    top, marks = len(frames.classes), []
    if frames.first_label:
        if counts[NO_LABEL]:
            marks.append(f"255 stands for no label and {top} never occurs")
        if counts[:top].all():
            marks.append(f"every value from 0 to {top - 1} occurs and {top} never")
    stored = np.array(frames.common) + frames.first_label
    step = -1 if frames.first_label else 1
    found, shifted = (counts[values].sum() / counts.sum() for values in (stored, stored + step))
    if shifted > max(_STREET, _CLEARLY * found):
        names = ", ".join(frames.classes[i].name for i in frames.common)
        marks.append(
            f"{names} have {100 * found:.0f} % of the pixels, with values one "
            f"{'higher' if step < 0 else 'lower'} {100 * shifted:.0f} %"
        )
    return marks


def shift_fault(frames: FrameSet, counts: Counts) -> str:
    """The fault of shifted labels as a line; empty where nothing shows that they are."""
    if not (marks := shift_marks(frames, counts)):
        return ""
    label = next(record.label for record in frames.records if record.label is not None)
    top = len(frames.classes)
    if frames.first_label:
        state, remedy = "reduced by one already", f"values 1..{top} and 0 for no label"
    else:
        state, remedy = "not reduced by one yet", f"values 0..{top - 1} and 255 for no label"
    return (
        f"{label}: the labels of {frames.dataset}'s split {frames.split!r} look {state} "
        f"({'; '.join(marks)}), so that every class would be another; expected {remedy} in this "
        "layout"
    )


def check_shift(frames: FrameSet) -> None:
    """DataError where the labels of a split are shifted, by as many of them as it takes to know."""
    labelled = [record for record in frames.records if record.label is not None]
    if not (labelled and frames.common):
        return
    counts: Counts = np.zeros(256, np.int64)
    for i in np.random.default_rng(0).permutation(len(labelled))[:_MOST]:
        with suppress(DataError):  # who reads the frame is told
            counts += value_counts(frames, labelled[i])
        if _settled(frames, counts):
            return
    if fault := shift_fault(frames, counts):
        raise DataError(fault)


def _settled(frames: FrameSet, counts: Counts) -> bool:
    """Whether a value occurs that shifted labels never have."""
    return not counts.any() or bool(counts[len(frames.classes) if frames.first_label else NO_LABEL])
