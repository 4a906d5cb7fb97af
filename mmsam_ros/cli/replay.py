# SPDX-License-Identifier: Apache-2.0
"""`mmsam replay`: plays a recording into ROS 2."""

import argparse

from mmsam_ros.ros.replay import ReplayConfig, add_arguments, play

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> None:
    play(ReplayConfig.from_arguments(args))
