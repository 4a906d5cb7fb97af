# SPDX-License-Identifier: Apache-2.0
"""`mmsam replay`: plays a recording into ROS 2."""

import argparse

from mmsam_ros.ros import replay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    replay.add_arguments(parser)
    parser.set_defaults(run=replay.play)
