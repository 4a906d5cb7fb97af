# SPDX-License-Identifier: Apache-2.0
"""`mmsam replay`: plays a recording into ROS 2."""

from __future__ import annotations

import argparse

from mmsam_ros.ros import replay

NAME = "replay"
HELP = "play a rosbag2 recording into ROS 2"

add_arguments = replay.add_arguments


def run(args: argparse.Namespace) -> int:
    replay.play(replay.ReplayConfig.from_arguments(args))
    return 0
