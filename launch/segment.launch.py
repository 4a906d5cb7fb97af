# SPDX-License-Identifier: Apache-2.0
"""Starts the node `mmsam` and, if asked for, a bag and RViz.

ros2 launch mmsam_ros segment.launch.py weights:=/path/weights.safetensors bag:=/path/bag
"""

import os
import shutil

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessIO
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

SHARE = get_package_share_directory("mmsam_ros")

ARGUMENTS = [
    # empty: the value of the parameter file
    ("weights", "", "weights file (.safetensors)"),
    ("device", "", "auto, cpu, cuda or cuda:N"),
    ("precision", "", "fp32 or bf16"),
    ("params_file", os.path.join(SHARE, "config", "segment.yaml"), "parameter file of the node"),
    ("calibration", "", "second parameter file, as written by `mmsam bag calib`"),
    ("namespace", "", "namespace of the node"),
    ("image_topic", "camera/image", "camera image; compressed: this name + /compressed"),
    ("camera_info_topic", "camera/camera_info", "CameraInfo of the camera"),
    ("points_topic", "lidar/points", "LiDAR PointCloud2"),
    ("lidar_image_topic", "lidar/image", "LiDAR raster in the camera's view, instead of points"),
    ("thermal_topic", "thermal/image", "thermal image"),
    ("thermal_info_topic", "thermal/camera_info", "CameraInfo of the thermal camera"),
    ("registration", "", "thermal to camera: none, homography or rotation"),
    ("bag", "", "rosbag2 recording to play"),
    ("loop", "false", "true: play the bag again and again"),
    ("rate", "1.0", "speed of the bag; below 1, increase sync.deadline"),
    ("rviz", "false", "true: start RViz"),
]
TOPICS = [
    ("camera/image", "image_topic"),
    ("camera/camera_info", "camera_info_topic"),
    ("lidar/points", "points_topic"),
    ("lidar/image", "lidar_image_topic"),
    ("thermal/image", "thermal_topic"),
    ("thermal/camera_info", "thermal_info_topic"),
]


def shared_memory():
    """Environment in which Fast DDS passes large images between processes without loss.

    Empty if another middleware is used or the user has set a profile.
    """
    fast_dds = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp").startswith("rmw_fastrtps")
    if not fast_dds or "FASTRTPS_DEFAULT_PROFILES_FILE" in os.environ:
        return {}
    return {"FASTRTPS_DEFAULT_PROFILES_FILE": os.path.join(SHARE, "config", "fastdds_shm.xml")}


def start(context):
    """The node, and the player of the bag once the node is ready."""
    values = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    parameters = [values[name] for name in ("params_file", "calibration") if values[name]]
    arguments = {
        "weights": values["weights"],
        "device": values["device"],
        "precision": values["precision"],
        "thermal.registration": values["registration"],
    }
    given = {name: value for name, value in arguments.items() if value}
    if given:
        parameters.append(given)
    node = Node(
        package="mmsam_ros",
        executable="segment",
        name="mmsam",
        namespace=values["namespace"],
        parameters=parameters,
        remappings=[(topic, values[argument]) for topic, argument in TOPICS],
        additional_env=shared_memory(),
        output="screen",
    )
    if not values["bag"]:
        return [node]
    started = []

    def when_ready(event):
        if b"ready:" not in event.text or started:
            return None
        started.append(True)
        return [player(values)]

    # logs go to stderr, or to stdout with RCUTILS_LOGGING_USE_STDOUT
    handler = OnProcessIO(target_action=node, on_stdout=when_ready, on_stderr=when_ready)
    return [RegisterEventHandler(handler), node]


def player(values):
    """`ros2 bag play` if it is installed, else `ros2 run mmsam_ros replay`."""
    options = [values["bag"], "--rate", values["rate"]]
    if values["loop"].lower() in ("true", "1"):
        options.append("--loop")
    if has_bag_play():
        # it does not wait for subscribers, and the node subscribes once it sees the publishers
        command = ["ros2", "bag", "play", *options, "--delay", "3"]
        return ExecuteProcess(cmd=command, additional_env=shared_memory(), output="screen")
    return Node(
        package="mmsam_ros",
        executable="replay",
        arguments=options,
        additional_env=shared_memory(),
        output="screen",
    )


def has_bag_play():
    """Whether `ros2 bag play` is installed."""
    try:
        get_package_share_directory("ros2bag")
    except LookupError:
        return False
    return shutil.which("ros2") is not None


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, default, text in ARGUMENTS
    ]
    rviz = ExecuteProcess(cmd=["rviz2"], condition=IfCondition(LaunchConfiguration("rviz")))
    return LaunchDescription([*arguments, OpaqueFunction(function=start), rviz])
