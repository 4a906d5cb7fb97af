# SPDX-License-Identifier: Apache-2.0
"""Checks of the node's arguments that do not need torch, which takes seconds to load. What depends
on several parameters together, or on the weights, is checked later.
"""

import os
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.exceptions import ParameterException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions

from mmsam_ros._util import MmsamError
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import PARAMETERS, check_names
from mmsam_ros.ros.parameter_files import OtherNodesError, read_file
from mmsam_ros.ros.replay import split_ros_args

NODE = "mmsam"
START_ERRORS = (
    MmsamError,
    ParameterException,
    rclpy_implementation.RCLError,
    rclpy_implementation.UnknownROSArgsError,
)
_EXPECTED = {  # by what ROS says of arguments that it cannot read
    "parse remap rule": "; expected FROM:=TO, of names with letters, digits, _ and / in which no "
    "word begins with a digit; a namespace begins with /",
    "be of same type": "; write each number of the list with a decimal point",
    "opening YAML file": "; expected the path of a file that can be read",
    "parse params file": "; expected YAML as in config/segment.yaml: /**/mmsam:, below it "
    "ros__parameters:, below that the parameters",
}


def can_start(args: Sequence[str] | None, namespace: str = "") -> bool:
    """Whether ROS accepts the arguments, the parameters' values are allowed and the weights file is
    there; logs what is wrong. The node is in `namespace`, which parameter files may name.
    """
    context = Context()
    try:
        own, ros = split_ros_args(sys.argv[1:] if args is None else args)
        if own:
            raise RosError(
                f"arguments {' '.join(own)} are not read: ROS arguments follow --ros-args"
            )
        options = SignalHandlerOptions.NO
        words = None if args is None else list(args)
        rclpy.init(args=words, context=context, signal_handler_options=options)
        node = rclpy.create_node(
            NODE, context=context, namespace=namespace, enable_rosout=False,
            start_parameter_services=False,
        )  # fmt: skip
        overrides, name = node._parameter_overrides, node.get_fully_qualified_name()
        node.destroy_node()
        warn_of_files(ros, name)
        for row in PARAMETERS:
            row.check_override(overrides)
        check_names(overrides, lambda _: None)  # the node warns of those that are ignored
        given, auto = map(overrides.get, ("weights", "autostart"))
        waits = auto is not None and auto.value is False  # configure says what is wrong
        if given is not None and isinstance(given.value, str) and given.value and not waits:
            check_weights(Path(os.path.expanduser(given.value)))
    except START_ERRORS as error:
        get_logger(NODE).fatal(f"cannot start: {_explain(error)}")
        return False
    finally:
        rclpy.try_shutdown(context=context)
    return True


def _explain(error: Exception) -> str:
    """The error in one line; of those of ROS itself, also what it expects."""
    if isinstance(error, rclpy_implementation.UnknownROSArgsError):
        return (
            f"ROS does not know the arguments {error}, expected -p NAME:=VALUE, -r FROM:=TO or "
            "--params-file FILE"
        )
    text = str(error)
    hint = next((hint for said, hint in _EXPECTED.items() if said in text), "")
    return re.sub(r"(, at /\S+:\d+)+$", "", text) + hint  # without places in the code of ROS


def warn_of_files(ros_args: Sequence[str], name: str) -> None:
    """Warn of parameter files that have nothing for the node `name`, which ROS itself does not
    report. They may be meant for other nodes as well.
    """
    for option, path in pairwise(ros_args):
        if option == "--params-file":
            try:
                read_file(Path(path), name)
            except OtherNodesError as error:
                get_logger(NODE).warning(f"{error}; nothing of this file is used")
            except (RosError, OSError):  # ROS has read it, and decides
                pass


def check_weights(path: Path) -> None:
    """RosError unless it is a file, or may be a name of the registry."""
    if path.name == str(path) and not path.suffix and not path.exists():
        return
    if path.is_dir():
        raise RosError(f"parameter weights: {path}: is a folder, expected a file")
    if not path.is_file():
        raise RosError(f"parameter weights: {path}: no such file")
