# SPDX-License-Identifier: Apache-2.0
"""`mmsam bag`: checks a recording, and reads its calibration."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsam_ros._util import write_atomic
from mmsam_ros._util.findings import exit_code
from mmsam_ros.cli.arguments import add_out, add_verb
from mmsam_ros.cli.output import print_findings, print_table

if TYPE_CHECKING:
    from mmsam_ros.ros.bag_check import BagCheck


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    text = "write the calibration of a recording as a parameter file of the node"
    calib = add_verb(verbs, "calib", write_calibration, text)
    calib.add_argument("bag", type=Path, help="rosbag2 folder or file, or a ROS 1 .bag")
    calib.add_argument("--camera-info", metavar="TOPIC", help="CameraInfo of the colour camera")
    calib.add_argument("--thermal-info", metavar="TOPIC", help="CameraInfo of the thermal camera")
    calib.add_argument("--lidar", metavar="TOPIC", help="PointCloud2")
    add_out(calib, "file to write (default: print it)")
    text = "say what the node could read of a recording, and what to set"
    check = add_verb(verbs, "check", check_recording, text)
    check.add_argument("bag", type=Path, help="rosbag2 folder or file, or a ROS 1 .bag")
    text = "weights file or name, for the sensors that it reads (default: the package's)"
    check.add_argument("--weights", type=Path, metavar="FILE", help=text)
    check.add_argument("--json", action="store_true", help="print JSON")
    add_out(check, "file for the parameters to set")


def write_calibration(args: argparse.Namespace) -> None:
    """Write a ROS 2 parameter file with the camera models of a recording and the sensors' poses in
    the camera frame. Topics that are not named are found by type.
    """
    from mmsam_ros.ros.bags import parameter_doubts, parameters_yaml, read_parameters

    parameters = read_parameters(
        args.bag,
        camera_info=args.camera_info,
        thermal_info=args.thermal_info,
        lidar=args.lidar,
        note=lambda text: print(f"mmsam: note: {text}", file=sys.stderr),
    )
    for doubt in parameter_doubts(parameters):
        print(f"warning: {args.bag}: {doubt}", file=sys.stderr)
    text = parameters_yaml(parameters)
    if args.out is None:
        print(text, end="")
    else:
        write_atomic(args.out, text)
        print(f"{args.out}: {', '.join(parameters)}")


def check_recording(args: argparse.Namespace) -> int:
    """Say which topics of a recording the node could read, with rates, gaps, clocks, encodings and
    calibration, what to set, and ready command lines. The exit status is 0 if all is well, 1 if
    there are warnings, 2 if there are errors: no mask could be made, or none with a sensor.
    """
    from mmsam_ros.ros.bag_check import check_bag
    from mmsam_ros.ros.bags import nested, parameters_yaml
    from mmsam_ros.weights import default_weights, read_spec

    found = check_bag(args.bag, read_spec(args.weights or default_weights()))
    commands = found.commands(args.out, str(args.weights or ""))
    facts = {topic: one.facts() for topic, one in found.topics.items()}
    if args.json:
        content = {
            "inputs": found.streams, "others": found.others, "topics": facts,
            "parameters": found.parameters, "commands": commands,
            "findings": [finding._asdict() for finding in found.findings],
        }  # fmt: skip
        print(json.dumps(content, indent=1))
    else:
        _print_check(found, args.out, facts, commands)
    if args.out is not None and found.parameters:
        write_atomic(args.out, parameters_yaml(nested(found.parameters)))
    return exit_code(found.findings)


def _print_check(
    found: "BagCheck", out: Path | None, facts: Mapping[str, Any], commands: Mapping[str, str]
) -> None:
    inputs = {topic: name for name, topic in found.streams.items()}
    rows = [
        [topic, inputs.get(topic, "-"), *map(str, (f["messages"], f["rate_hz"], len(f["gaps"]))),
         str(f["stamp_less_receive_time_s"]), "; ".join(f["content"])]
        for topic, f in facts.items()
    ]  # fmt: skip
    print_table(["topic", "input", "messages", "Hz", "gaps", "stamp - receipt, s", "content"], rows)
    print_findings(found.findings)
    for name, others in found.others.items():
        print(f"{name}: also fits: {', '.join(others)}")
    if found.parameters:
        hint = "" if out else " (-o FILE writes them, for the launch file)"
        print(f"parameters to set{hint}:")
        for name, value in found.parameters.items():
            print(f"  {name}: {value}")
    elif out is not None:
        print(f"no parameter needs to be set: {out} is not written")
    if "camera/image" in found.streams:
        print("commands:")
        for name, command in commands.items():
            print(f"  {name}: {command}")
