# SPDX-License-Identifier: Apache-2.0
"""The node's parameters, declared on it and checked. They are read once, at start."""

from collections.abc import Mapping
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from mmsam_ros._util import near_match
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.parameter_table import PARAMETERS, ParameterRow

Parameters = Mapping[str, Any]
"""Checked values by name; a list that is not set is None."""

_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides.")  # rclpy declares


def declare_parameters(node: Node) -> Parameters:
    """Declare all parameters on a node and read them.

    Raises:
        RosError: a value or a combination is not allowed, or a name is close to one that exists.
    """
    parameters = {row.name: _declare(node, row) for row in PARAMETERS}
    for name in node._parameter_overrides:
        if name not in parameters and not name.startswith(_OF_ROS):
            hint = near_match(name, parameters)
            if hint.startswith("; did you mean"):
                raise RosError(f"parameter {name!r} does not exist{hint}")
            # it may be meant for another node that reads the same file
            node.get_logger().warning(f"parameter {name!r} does not exist and is ignored")
    _check_together(parameters)
    return parameters


def _declare(node: Node, row: ParameterRow) -> Any:
    """The value of a parameter after declaring it on the node."""
    described = ParameterDescriptor(
        description=row.description, additional_constraints=row.expected, read_only=True
    )
    if isinstance(row.default, int):
        described.integer_range = [IntegerRange(from_value=row.low, to_value=row.high, step=1)]
    elif isinstance(row.default, float):
        low, high = float(row.low), float(row.high)
        described.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    given = node._parameter_overrides.get(row.name)
    if given is not None and not (row.default is None and given.value is None):
        row.check(given.value)  # before rclpy does, whose errors do not say what is expected
    default = Parameter.Type.DOUBLE_ARRAY if row.default is None else row.default
    value = node.declare_parameter(row.name, default, described).value
    return value if value is None or row.default is not None else list(value)


def _check_together(parameters: Parameters) -> None:
    """Raise RosError for values that do not go together."""
    if parameters["sync_backend"] == "message_filters":
        for row in PARAMETERS:
            timing = row.name.endswith((".deadline", ".offset", ".max_age", ".min_interval"))
            if timing and parameters[row.name] != row.default:
                raise RosError(
                    f"parameter {row.name}: found {parameters[row.name]} with sync_backend "
                    "'message_filters', which gives complete sets only, without deadline, offset "
                    "or reuse; remove it or set sync_backend to 'native'"
                )
    mode, homography = parameters["thermal.registration"], parameters["thermal.homography"]
    if (mode == "homography") != bool(homography):
        raise RosError(
            f"parameter thermal.homography: found {homography or 'no value'} with "
            f"thermal.registration {mode!r}, expected 9 doubles with 'homography' only"
        )
