# SPDX-License-Identifier: Apache-2.0
"""What the labels of a data set mean to a network whose classes are others.

A class of a data set means one class of the network, the one of its name, or any of several, as its
`any_of` says: CamVid's "Road" is road or lane mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsam_ros._util import near_match
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet
from mmsam_ros.sensors import NO_LABEL, ClassInfo

Ids = tuple[int, ...]  # of classes of the network, ascending


def meanings(frames: FrameSet, classes: Sequence[ClassInfo]) -> tuple[Ids, ...]:
    """The ids among `classes`, the network's, that each class of a data set means.

    DataError names a class that the network does not have.
    """
    ids = {info.name: info.id for info in classes}
    found = []
    for info in frames.classes:
        names = frames.any_of.get(info.name, (info.name,))
        if unknown := [name for name in names if name not in ids]:
            raise DataError(
                f"class {info.id} {info.name!r} means {unknown[0]!r}, which the network does not "
                f"have{near_match(unknown[0], ids)}; say what it means by any_of in meta.json"
            )
        found.append(tuple(sorted(ids[name] for name in names)))
    return tuple(found)


class LabelCodes(NamedTuple):
    """One numbering of the labels of several data sets: the network's ids, and then a code for
    each set of classes that some label means.
    """

    tables: tuple[NDArray[np.uint8], ...]  # (256,) of each data set: code by training id
    sets: tuple[Ids, ...]  # of the codes after the network's ids, in order

    @classmethod
    def of(cls, data: Sequence[FrameSet], classes: Sequence[ClassInfo]) -> Self:
        """DataError as `meanings`, or where 8 bits do not hold all codes."""
        found = [meanings(frames, classes) for frames in data]
        sets = tuple(dict.fromkeys(ids for some in found for ids in some if len(ids) > 1))
        if (most := len(classes) + len(sets)) > NO_LABEL:
            raise DataError(f"{most} classes and sets of them, expected at most {NO_LABEL}")
        codes: dict[Ids, int] = {(info.id,): info.id for info in classes}
        codes |= {ids: len(classes) + i for i, ids in enumerate(sets)}
        tables = [np.full(256, NO_LABEL, np.uint8) for _ in found]
        for table, some in zip(tables, found, strict=True):
            table[: len(some)] = [codes[ids] for ids in some]
        return cls(tuple(tables), sets)


@dataclass(frozen=True, eq=False)
class Scoring:
    """How predictions of the network are counted against the labels of a data set.

    Scored are the data set's classes, but for those that mean a part of what another one means:
    these count as the first such class. A predicted class is right where the true label may mean
    it. Else it counts as the first scored class that may mean it, and as none of them (`rest`)
    where there is no such class. With the network's own classes nothing changes.
    """

    names: tuple[str, ...]  # of the scored classes
    rest: bool  # whether some class of the network is none of them
    truth: Tensor  # (256,) uint8: scored id by training id
    found: Tensor  # (scored, classes of the network) uint8: scored id by true and predicted one

    @classmethod
    def of(cls, frames: FrameSet, classes: Sequence[ClassInfo]) -> Self:
        """DataError as `meanings`."""
        sets = [frozenset(ids) for ids in meanings(frames, classes)]
        # the widest first; of equal ones the first in the table
        wider = [min(range(len(sets)), key=lambda j: (not sets[i] <= sets[j], -len(sets[j]), j))
                 for i in range(len(sets))]  # fmt: skip
        scored = sorted(set(wider))
        truth = torch.full((256,), NO_LABEL, dtype=torch.uint8)
        truth[: len(sets)] = torch.tensor([scored.index(i) for i in wider], dtype=torch.uint8)
        none = len(scored)
        found = torch.full((len(scored), len(classes)), none, dtype=torch.uint8)
        for place, i in reversed([*enumerate(scored)]):
            found[:, sorted(sets[i])] = place
        for place, i in enumerate(scored):
            found[place, sorted(sets[i])] = place
        names = tuple(frames.classes[i].name for i in scored)
        return cls(names, bool((found == none).any()), truth, found)

    def __call__(self, prediction: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Scored ids (h, w) of the network's ids and of a label image's; 255 for no label."""
        device = prediction.device
        truth = self.truth.to(device)[label.long()]
        row = torch.where(truth == NO_LABEL, 0, truth).long()
        return self.found.to(device)[row, prediction.long()], truth
