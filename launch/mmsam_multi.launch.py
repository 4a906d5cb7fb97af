# SPDX-License-Identifier: Apache-2.0
"""Starts a node `mmsam` for each of several cameras, in the camera's namespace.

ros2 launch mmsam_ros mmsam_multi.launch.py cameras:=front,left points_topic:=/lidar/points

Topic names are as in segment.launch.py: a relative one is per camera (/front/camera/image), one
that begins with a slash is shared by all cameras. All nodes share one process and one copy of the
weights, or with one_process:=false each has its own. A process that ends by a fault or is killed is
started again, after a pause that grows.
"""

import importlib.util
import os

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

BESIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "segment.launch.py")
spec = importlib.util.spec_from_file_location("segment_launch_of_one", BESIDE)
one = importlib.util.module_from_spec(spec)
spec.loader.exec_module(one)

FILE = "mmsam_multi.launch.py"
_OF_ONE = ("weights", "device", "precision", "params_file", "use_sim_time", "autostart",
           *(argument for _, argument in one.TOPICS))  # fmt: skip
ARGUMENTS = [
    ("cameras", "", "names of the cameras, with commas: the namespaces of their nodes"),
    ("params_folder", "", "folder with <camera>.yaml, a second parameter file, for cameras that "
     "have one, such as their calibration"),
    ("one_process", "true", "false: a process, and a copy of the weights, for each camera"),
    *(row for row in one.ARGUMENTS if row[0] in _OF_ONE),
]  # fmt: skip
OF_GROUP = ("ros_namespace", "ros_remaps", "global_params")
CHOICES = {"one_process": ["true", "false", "True", "False"], **one.CHOICES}


def read_arguments(context):
    """The values by name, and the cameras; RuntimeError that names all that is wrong."""
    values = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    wrong = one.misspelt(context, FILE, ARGUMENTS) + one.without_topic(values)
    for name in ("weights", "params_file", "params_folder"):
        values[name] = path = os.path.expanduser(values[name])
        if name == "weights" and one.is_registry_name(path):
            continue  # which the nodes know
        fits = os.path.isdir if name == "params_folder" else os.path.isfile
        if path and not fits(path):
            wrong.append(f"{name}: {path}: no such " + ("folder" if "folder" in name else "file"))
    cameras = [camera.strip() for camera in values["cameras"].split(",")]
    names = all(camera.isidentifier() and camera.isascii() for camera in cameras)
    if not names or len(set(cameras)) < len(cameras):
        found, expected = values["cameras"], "names of their own with commas, such as front,left"
        wrong.append(f"cameras: found {found!r}, expected {expected}")
    folder = values["params_folder"]
    own = [os.path.isfile(own_file(folder, camera)) for camera in cameras]
    if folder and not wrong and not any(own):
        expected = " or ".join(f"{camera}.yaml" for camera in cameras)
        found = ", ".join(sorted(os.listdir(folder))[:10]) or "nothing"
        wrong.append(f"params_folder: {folder}: found {found}, expected {expected}")
    if wrong:
        raise RuntimeError("; ".join(wrong))
    return values, cameras


def own_file(folder, camera):
    """The parameter file of one camera, which need not exist."""
    return os.path.join(folder, f"{camera}.yaml")


def parameter_files(values, camera):
    """The parameter files of a camera's node; later ones take precedence."""
    own = own_file(values["params_folder"], camera) if values["params_folder"] else ""
    return [path for path in (values["params_file"], own) if path and os.path.isfile(path)]


def given_parameters(values):
    """Parameters that arguments give, of all nodes."""
    given = {name: values[name] for name in ("weights", "device", "precision") if values[name]}
    if one.is_set(values, "use_sim_time"):
        given["use_sim_time"] = True
    if values["autostart"]:
        given["autostart"] = one.is_set(values, "autostart")
    return given


def start(context):
    """The process of all nodes, or one for each; started again after a fault.

    What a group around this file sets would reach only the last node of a process.
    """
    values, cameras = read_arguments(context)
    makers, actions = [lambda gpu: shared(values | gpu, cameras)], []
    of_group = [name for name in OF_GROUP if context.launch_configurations.get(name)]
    if of_group or not one.is_set(values, "one_process"):
        makers = [lambda gpu, camera=camera: separate(values | gpu, camera) for camera in cameras]
    if of_group and one.is_set(values, "one_process"):
        found = ", ".join(of_group)
        actions.append(LogInfo(msg=f"one_process: a process for each camera, as a group that "
                                   f"includes this file sets {found}"))  # fmt: skip
    if folder := values["params_folder"]:
        files = [own_file(folder, camera) for camera in cameras]
        actions += [LogInfo(msg=f"params_folder: {file} is not there") for file in files
                    if not os.path.isfile(file)]  # fmt: skip
    nodes = len(cameras) // len(makers)  # of each process
    kept = [one.kept_alive(context, make, nodes=nodes) for make in makers]
    return [*actions, *(action for process in kept for action in process)]


def shared(values, cameras):
    """One process; the ROS arguments of a node follow its camera's name."""
    words = []
    for camera in cameras:
        words += ["--camera", camera, "--ros-args"]
        for path in parameter_files(values, camera):
            words += ["--params-file", path]
        for name, value in given_parameters(values).items():
            words += [
                "-p",
                f"{name}:={str(value).lower() if isinstance(value, bool) else quoted(value)}",
            ]
        for topic, argument in one.TOPICS:
            words += ["-r", f"{topic}:={values[argument]}"]
        words.append("--")
    return Node(
        package="mmsam_ros",
        executable="segment_multi",
        arguments=words,
        additional_env=one.environment(),
        output="screen",
    )


def quoted(value):
    """The value as YAML, so that a name such as 1e5 stays a string."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def separate(values, camera):
    """A process of one node."""
    given = {
        name: value if isinstance(value, bool) else one.ParameterValue(value, value_type=str)
        for name, value in given_parameters(values).items()
    }
    files = parameter_files(values, camera)
    return Node(
        package="mmsam_ros",
        executable="segment",
        name="mmsam",
        namespace=camera,
        parameters=[*files, given] if given else files,
        remappings=[(topic, values[argument]) for topic, argument in one.TOPICS],
        additional_env=one.environment(),
        output="screen",
    )


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(
            name, default_value=default, description=text, choices=CHOICES.get(name)
        )
        for name, default, text in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
