# SPDX-License-Identifier: Apache-2.0
"""Whether the outputs of a running node agree with its inputs and themselves. Needs no ROS."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util.findings import ERROR, OK, WARNING, Finding
from mmsam_ros.ros.calibration import nanoseconds

MASK = "semantic"
OWN_CLOUD = "points/labelled"  # the only one under the LiDAR's header
_GREY, _COLOURED, _CLOUDS = (MASK, "confidence"), ("color", "overlay"), ("points", OWN_CLOUD)
_CHANNELS = {"mono8": 1, "rgb8": 3}
_UINT32 = 6  # a PointField's datatype
_ENOUGH = 3  # so many outputs cannot all belong to inputs lost on the way
_REPORT = "report it with a snapshot of the messages"


class Summary(NamedTuple):
    """One message of an output, without its pixels or points."""

    stamp: int  # ns
    frame: str
    size: tuple[int, int]  # height, width
    ids: frozenset[int] = frozenset()
    fault: str = ""  # by which it contradicts itself


def is_judged(name: str) -> bool:
    """Whether `judge` knows an output, by its name in the node's namespace."""
    return name in (*_GREY, *_COLOURED, *_CLOUDS) or name.startswith("overlay/")


def read_output(name: str, message: Any) -> Summary:
    """Read an output that `is_judged`: an Image, or a PointCloud2 of the clouds."""
    size = (message.height, message.width)
    summary = Summary(nanoseconds(message.header.stamp), message.header.frame_id, size)
    data = np.frombuffer(message.data, np.uint8)
    if name in _CLOUDS:
        return _read_labels(summary, message, data)
    encoding = "mono8" if name in _GREY else "rgb8"
    row = message.width * _CHANNELS[encoding]
    if message.encoding != encoding or message.step < row \
            or data.size != message.height * message.step:  # fmt: skip
        found = f"{message.encoding} with rows of {message.step} and {data.size} bytes in all"
        return summary._replace(fault=f"{found}, expected {encoding} of {size[1]}x{size[0]}")
    if name == MASK:
        summary = summary._replace(ids=_ids(data.reshape(message.height, message.step)[:, :row]))
    return summary


def _read_labels(summary: Summary, message: Any, data: NDArray[np.uint8]) -> Summary:
    height, width = summary.size
    starts = [f.offset for f in message.fields if f.name == "label" and f.datatype == _UINT32]
    step = message.point_step
    if message.row_step != width * step or data.size != height * message.row_step:
        found = f"rows of {message.row_step} and {data.size} bytes in all"
        return summary._replace(fault=f"{found}, expected {width}x{height} points of {step} bytes")
    if not starts or starts[0] + 4 > step:
        return summary._replace(fault="it has no field 'label' of UINT32")
    labels = data.reshape(-1, step)[:, starts[0] : starts[0] + 4]
    return summary._replace(ids=_ids(np.ascontiguousarray(labels).view("<u4")))


def _ids(labels: NDArray[Any]) -> frozenset[int]:
    return frozenset(np.unique(labels).tolist())


def judge(
    name: str, summaries: list[Summary], inputs: list[list[Any]], classes: set[int] | None
) -> Finding:
    """Whether an output has stamps, frames and sizes of the inputs it was made of, and their ids
    are classes.

    Args:
        name: of the output, which `is_judged`.
        summaries: of its messages, at least one.
        inputs: images, or the LiDAR's clouds, received meanwhile, by topic; of several topics, the
            right one is that with most of the output's stamps.
        classes: ids of the classes, and of no label; None if they are not known.
    """
    subject = "masks" if name == MASK else name
    word = "clouds" if name == OWN_CLOUD else "images"
    topics = [{nanoseconds(m.header.stamp): m for m in messages} for messages in inputs]
    made_of = max(topics, key=lambda known: sum(s.stamp in known for s in summaries), default={})
    # an output may belong to an input from before or after all those that came here
    first, last = min(made_of, default=0), max(made_of, default=0)
    lost = [s for s in summaries if s.stamp not in made_of and first < s.stamp < last]
    found = sum(s.stamp in made_of for s in summaries)
    wrong = [text for s in summaries for text in _contradictions(s, made_of, word[:-1], classes)]
    if wrong:
        text = f"{len(wrong)} faults in {len(summaries)} messages: {wrong[0]}"
        return Finding(ERROR, subject, text, _REPORT)
    if len(lost) >= _ENOUGH and not found:
        return Finding(ERROR, subject, f"none of {len(lost)} has the stamp of one of the "
                       f"{len(made_of)} {word} that came meanwhile", _REPORT)  # fmt: skip
    if lost or not found:
        count = len(lost) or len(summaries)
        text = f"{count} of {len(summaries)} have the stamp of none of the {word} that came here"
        remedy = "listen longer (--seconds), and see `mmsam doctor`"
        return Finding(
            WARNING, subject, text, f"{word} may be lost on the way to this process: {remedy}"
        )
    text = f"stamps, frames and sizes of {found} are those of their {word}"
    if classes is not None and (name == MASK or name in _CLOUDS):
        text += f"; ids of {len(summaries)} are classes"
    return Finding(OK, subject, text)


def _contradictions(
    summary: Summary, made_of: Mapping[int, Any], word: str, classes: set[int] | None
) -> Iterator[str]:
    """Where a message contradicts itself, its input or the table of classes."""
    if summary.fault:
        yield summary.fault
        return
    if classes is not None and (unknown := summary.ids - classes):
        yield f"ids {sorted(unknown)} are none of the classes"
    source = made_of.get(summary.stamp)
    if source is None:
        return
    if source.header.frame_id != summary.frame:
        yield f"frame {summary.frame!r}, {word} {source.header.frame_id!r}"
    # a compressed image does not say its size
    size = (getattr(source, "height", summary.size[0]), getattr(source, "width", summary.size[1]))
    if size != summary.size:
        yield f"size {summary.size[1]}x{summary.size[0]}, {word} {size[1]}x{size[0]}"
