# SPDX-License-Identifier: Apache-2.0
"""`mmsam bag`: reads the calibration of a recording."""

import argparse
import sys
from pathlib import Path

from mmsam_ros.cli.arguments import add_out, add_verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    text = "write the calibration of a recording as a parameter file of the node"
    calib = add_verb(verbs, "calib", write_calibration, text)
    calib.add_argument("bag", type=Path, help="rosbag2 folder or file, or a ROS 1 .bag")
    calib.add_argument("--camera-info", metavar="TOPIC", help="CameraInfo of the colour camera")
    calib.add_argument("--thermal-info", metavar="TOPIC", help="CameraInfo of the thermal camera")
    calib.add_argument("--lidar", metavar="TOPIC", help="PointCloud2")
    add_out(calib, "file to write (default: print it)")


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
        args.out.write_text(text, encoding="utf-8")
        print(f"{args.out}: {', '.join(parameters)}")
