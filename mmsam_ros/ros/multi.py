# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one process: a node for each, in a namespace of its own, and one copy of the
weights (`ros2 run mmsam_ros segment_multi --camera front --camera left`).

ROS arguments before the first `--camera` are for all nodes, those after one for its node.
"""

import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.main import begin

if TYPE_CHECKING:
    from mmsam_ros.inference import Segmenter
    from mmsam_ros.ros.node import SegmentNode

# parameters that decide what is loaded
_LOADED = ("device", "precision", "engine", "engine.providers", "geometry.mode", "geometry.stride")


def main(args: Sequence[str] | None = None) -> int:
    """Run a node for each camera."""
    words = list(sys.argv[1:] if args is None else args)
    try:
        common, cameras = split_cameras(words)
    except RosError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 2

    def start() -> int:
        from mmsam_ros.ros.preflight import can_start

        if not all(can_start([*common, *own], name) for name, own in cameras.items()):
            return 2
        from mmsam_ros.ros.node import run  # loads torch, which takes seconds

        return run(common, lambda: _nodes(cameras))

    return begin(start)


def split_cameras(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The arguments for all nodes, and those for each camera's; RosError without a camera."""
    common: list[str] = []
    cameras: dict[str, list[str]] = {}
    taken, rest = common, iter(words)
    for word in rest:
        if word != "--camera":
            taken.append(word)
            continue
        name = next(rest, "")
        if not (name.isidentifier() and name.isascii()) or name in cameras:
            raise RosError(
                f"--camera: found {name!r}, expected a name of its own for each camera, "
                "of letters, digits and underscores"
            )
        taken = cameras[name] = []
    if not cameras:
        raise RosError("no --camera is given, expected one or more, each with a name")
    return common, cameras


def _nodes(cameras: Mapping[str, list[str]]) -> Iterator["SegmentNode"]:
    from mmsam_ros.ros.node import SegmentNode

    shared = SharedSegmenters()
    for name, words in cameras.items():
        yield SegmentNode(load=shared.load, namespace=name, cli_args=words)


class SharedSegmenters:
    """Segmenters by file and settings; those on one device take turns."""

    def __init__(self) -> None:
        self._loaded: WeakValueDictionary[tuple[Any, ...], Segmenter] = WeakValueDictionary()
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def load(self, parameters: Mapping[str, Any], say: Callable[[str], Any]) -> "Segmenter":
        """As `load_segmenter`; one that is in use with the same file and settings is shared."""
        from mmsam_ros.ros.parameters import load_segmenter, weights_path

        path = weights_path(parameters)
        key = (path, *_stamp(path), *(parameters[name] for name in _LOADED))
        segmenter = self._loaded.get(key)
        if segmenter is None:
            segmenter = load_segmenter(parameters, say)
            device = segmenter.device
            segmenter.turn = self._turns[f"{device.type}:{device.index or 0}"]
            self._loaded[key] = segmenter
        return segmenter


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with a file's content; empty for a missing file, which loading reports."""
    if not path.is_file():
        return ()
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


if __name__ == "__main__":
    sys.exit(main())
