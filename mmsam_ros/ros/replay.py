# SPDX-License-Identifier: Apache-2.0
"""`mmsam replay` and `ros2 run mmsam_ros replay`: options and entry points. Needs no ROS."""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from mmsam_ros._util import run_program, stop_signals
from mmsam_ros.ros.errors import RosError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ReplayConfig`."""
    option = parser.add_argument
    option("bag", type=Path, help="rosbag2 folder or file, or a ROS 1 .bag")
    option("--rate", type=float, default=1.0, help="speed; 2 is twice as fast")
    option("--loop", action="store_true", help="play again and again")
    option("--start", type=float, default=0.0, metavar="S", help="seconds of the bag to skip")
    option("--duration", type=float, metavar="S", help="seconds of the bag to play (default: all)")
    option("--remap", nargs="+", action="extend", default=[], metavar="FROM:=TO",
           help="rename topics")  # fmt: skip
    option("--clock", action="store_true", help="publish the bag's time on /clock")
    option("--wait", type=float, default=10.0, metavar="S",
           help="wait for subscribers at most this long before starting (default: 10)")  # fmt: skip
    option("--wait-for", nargs="+", action="extend", default=[], metavar="TOPIC",
           help="start when each of these has a subscriber; else end with an error")  # fmt: skip


def play(args: argparse.Namespace, ros_args: Sequence[str] = ()) -> None:
    """Play as `add_arguments` has parsed; in the main thread, as signals stop it.

    `ros_args` go to rclpy (--ros-args ...). RosError if ROS is not installed, or the bag or an
    option is not usable, and at the end if a part of the bag could not be played.
    """
    try:
        from mmsam_ros.ros.player import ReplayConfig, play_bag
    except ImportError as error:
        raise RosError(f"replay needs ROS 2 (rclpy) and rosbags: {error}") from error
    config = ReplayConfig(**{name: getattr(args, name) for name in ReplayConfig.__annotations__})
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in stop_signals()}
    try:
        play_bag(config, ros_args, stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def split_ros_args(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """(own arguments, those from --ros-args to -- or the end).

    rclpy's own `remove_ros_args` would take `FROM:=TO` of --remap for an outdated ROS argument.
    """
    own, ros = list(args), []
    while "--ros-args" in own:
        begin = own.index("--ros-args")
        end = own.index("--", begin) if "--" in own[begin:] else len(own)
        ros += own[begin:end]
        del own[begin : end + 1]
    return own, ros


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run mmsam_ros replay`; ROS arguments may follow the own ones."""
    own, ros = split_ros_args(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser("replay", description="Plays a recording.")
    add_arguments(parser)
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while `play` imports
    try:
        return run_program("replay", lambda: play(parser.parse_args(own), ros))
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
