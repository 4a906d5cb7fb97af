# SPDX-License-Identifier: Apache-2.0
"""The node's parts, set up for a recording instead of a middleware. Needs no ROS."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmsam_ros import __version__
from mmsam_ros.ros.bag_options import Log
from mmsam_ros.ros.calibration import Extrinsics
from mmsam_ros.ros.feed import Feed
from mmsam_ros.ros.labelling import Labelling, Results
from mmsam_ros.ros.notes import Notes
from mmsam_ros.ros.parameters import (
    Parameters,
    make_camera_infos,
    make_frame_builder,
    make_plausibility,
    weights_path,
)
from mmsam_ros.weights import Spec, file_sha256


def make_labelling(
    feed: Feed, parameters: Parameters, spec: Spec, results: Results, log: Log, workers: int, *,
    confidence: bool,
) -> Labelling:  # fmt: skip
    """Everything that the parameters configure; what it says goes to `log`."""
    notes = Notes(log.info, log.warning)
    infos = make_camera_infos(parameters, notes)
    infos.topics = {name: connection.topic for name, connection in feed.inputs.infos.items()}
    for sensor, topics in feed.inputs.lacking.items():
        if sensor == "thermal_info" and "thermal" in feed.inputs.lacking:
            continue  # nothing to calibrate
        log.warning(f"{sensor}: nothing recorded on {' or '.join(topics)}; `mmsam bag check` lists "
                    "what fits, with the command line")  # fmt: skip
    for frame in feed.changed_static:
        log.warning(f"/tf_static: the pose of frame {frame!r} changes; the last one is used")
    poses = {sensor: parameters.get(f"{sensor}.extrinsics") for sensor in spec.sensors}
    extrinsics = Extrinsics(log, poses, feed.transforms)
    builder = make_frame_builder(parameters, spec, infos, extrinsics, notes)
    plausibility = make_plausibility(parameters, spec, infos, log.warning)
    return Labelling(feed, builder, plausibility, parameters, results, confidence, workers)


def resume_facts(
    bag: Path, parameters: Parameters, remaps: Sequence[str], *, confidence: bool
) -> dict[str, Any]:
    """What the labels depend on; an interrupted run can be resumed if it is the same."""
    files = sorted(bag.iterdir()) if bag.is_dir() else [bag]
    stats = [(path.name, path.stat()) for path in files if path.is_file()]
    return {
        "recording": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
        "weights": file_sha256(weights_path(parameters)),
        **{f"parameter {name}": repr(value) for name, value in parameters.items()},
        "remapping": list(remaps),
        "confidence": confidence,
        "version": __version__,
    }
