# SPDX-License-Identifier: Apache-2.0
"""Starts the node `mmsam` and, if asked for, a bag and RViz.

ros2 launch mmsam_ros segment.launch.py weights:=/path/weights.safetensors bag:=/path/bag

A wrong argument is reported before anything starts, and ends the launch with exit code 1. So does a
node that cannot start, and a bag that cannot be played at all. A node that ends with a fault or is
killed is started again, after a pause that grows; so is one that can no longer start after another
one was ready.
"""

import difflib
import os
import shutil
import signal
import sys
import time

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    PopLaunchConfigurations,
    PushLaunchConfigurations,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnExecutionComplete, OnProcessExit, OnProcessIO
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = get_package_share_directory("mmsam_ros")
FILE = "segment.launch.py"
BESIDE_BAG = "calibration.yaml"  # in the bag's folder, as `mmsam synth bag` writes it

ARGUMENTS = [
    # empty: the value of the parameter file
    ("weights", "", "weights file (.safetensors), or a name of mmsam weights list"),
    ("device", "", "device of the network; auto: a GPU if there is one"),
    ("precision", "", "precision of the network"),
    ("params_file", os.path.join(SHARE, "config", "segment.yaml"), "parameter file of the node"),
    ("calibration", "", "second parameter file, as written by `mmsam bag calib`; "
     f"empty: {BESIDE_BAG} in the bag's folder, if it is there"),
    ("namespace", "", "namespace of the node"),
    ("autostart", "", "false: the node waits to be configured and activated"),
    ("image_topic", "camera/image", "camera image; compressed: this name + /compressed"),
    ("camera_info_topic", "camera/camera_info", "CameraInfo of the camera"),
    ("points_topic", "lidar/points", "LiDAR PointCloud2"),
    ("lidar_image_topic", "lidar/image", "LiDAR raster in the camera's view, instead of points"),
    ("thermal_topic", "thermal/image", "thermal image"),
    ("thermal_info_topic", "thermal/camera_info", "CameraInfo of the thermal camera"),
    ("event_topic", "event/image", "event raster in the camera's view"),
    ("depth_topic", "depth/image", "depth in the camera's view"),
    ("twist_topic", "vehicle/twist", "TwistStamped of the vehicle, for lidar.motion twist"),
    ("registration", "", "how the thermal image is aligned with the camera's"),
    ("use_sim_time", "false", "true: use the time of /clock, which the bag's player publishes"),
    ("bag", "", "recording to play, ROS 2 or ROS 1"),
    ("loop", "false", "true: play the bag again and again"),
    ("rate", "1.0", "speed of the bag; below 1, make sync.deadline longer"),
    ("rviz", "false", "true: start RViz"),
]  # fmt: skip
CHOICES = {
    "device": ["", "auto", "cpu", "cuda", *(f"cuda:{number}" for number in range(16))],
    "precision": ["", "fp32", "bf16", "fp16"],
    "registration": ["", "none", "homography", "rotation"],
    **{name: ["true", "false", "True", "False"] for name in ("use_sim_time", "loop", "rviz")},
    "autostart": ["", "true", "false", "True", "False"],
}
RATES = (1e-5, 1e5)  # of mmsam_ros.ros.player
FILES = ("weights", "params_file", "calibration")
READY = b"ready:"  # what the node says, with its settings
STARTING = b", starting"  # what the player says before the first message
CANNOT_START = 2  # exit code of the node
PAUSES = (1.0, 60.0)  # s before a node is started again: the first one, doubled up to the last
SOUND = 60.0  # s of running after which the pause is the first one again
# the variable that names a file of profiles: for Fast DDS 2, for 3; each ignores the other's
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
# read by launch itself
OF_LAUNCH = ("emulate_tty", "launch-prefix", "launch-prefix-filter", "sigterm_timeout",
             "sigkill_timeout")  # fmt: skip
TOPICS = [
    ("camera/image", "image_topic"),
    ("camera/camera_info", "camera_info_topic"),
    ("lidar/points", "points_topic"),
    ("lidar/image", "lidar_image_topic"),
    ("thermal/image", "thermal_topic"),
    ("thermal/camera_info", "thermal_info_topic"),
    ("event/image", "event_topic"),
    ("depth/image", "depth_topic"),
    ("vehicle/twist", "twist_topic"),
]


def environment():
    """Of the processes: large messages, and logs that come line by line, on stdout as well."""
    name = "RCUTILS_LOGGING_BUFFERED_STREAM"
    return shared_memory() | ({} if name in os.environ else {name: "1"})


def shared_memory():
    """Environment in which Fast DDS passes large images between processes without loss.

    Empty if another middleware is used; a profile that the user has set stays.
    """
    if not os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp").startswith("rmw_fastrtps"):
        return {}
    profile = os.path.join(SHARE, "config", "fastdds_shm.xml")
    return {name: profile for name in PROFILES if name not in os.environ}


def is_set(values, name):
    """Whether a boolean argument is true."""
    return values[name].lower() == "true"


def is_registry_name(weights):
    """Whether weights are given by a name of `mmsam weights list`, or not at all."""
    return not os.path.splitext(weights)[1] and not os.path.dirname(weights)


def read_arguments(context):
    """The values by name, paths with ~ expanded; RuntimeError that names all that is wrong."""
    values = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    wrong = misspelt(context, FILE, ARGUMENTS) + without_topic(values)
    for name in (*FILES, "bag"):
        values[name] = path = os.path.expanduser(values[name])
        if name == "weights" and is_registry_name(path):
            continue  # which the node knows
        if path and not os.path.exists(path):
            wrong.append(f"{name}: {path}: no such file" + " or folder" * (name == "bag"))
        elif path and name in FILES and not os.path.isfile(path):
            wrong.append(f"{name}: {path}: is a folder, expected a file")
    try:
        fits = RATES[0] <= float(values["rate"]) <= RATES[1]
    except ValueError:
        fits = False
    if not fits:
        found, expected = values["rate"], "a number above 0, {:g} to {:g}".format(*RATES)
        wrong.append(f"rate: found {found!r}, expected {expected}")
    if wrong:
        raise RuntimeError("; ".join(wrong))
    return values


def without_topic(values):
    """What is wrong with topics that are given as empty; ROS's own error names no argument."""
    return [f"{name}: is empty, expected a topic; leave it out for {topic}"
            for topic, name in TOPICS if not values[name].strip("/ ")]  # fmt: skip


def misspelt(context, file, arguments):
    """Arguments that the launch file `file` does not have, which `ros2 launch` ignores.

    Only if this file itself is launched: one that includes it may have arguments of its own.
    """
    own = os.path.join(os.path.dirname(os.path.abspath(__file__)), file)
    if not any(
        os.path.basename(word) == file
        and (before == "mmsam_ros" or (os.path.exists(word) and os.path.samefile(word, own)))
        for before, word in zip(sys.argv, sys.argv[1:], strict=False)
    ):
        return []
    names = [name for name, _, _ in arguments]
    given = {word.partition(":=")[0] for word in context.argv if ":=" in word}
    unknown = sorted(given - {*names, *OF_LAUNCH})
    hints = {name: difflib.get_close_matches(name, names, 1) for name in unknown}
    return [
        f"argument {name!r} does not exist" + "".join(f"; did you mean {n!r}?" for n in near)
        for name, near in hints.items()
    ]


def start(context):
    """The node, and the player of the bag once the node is ready; RViz."""
    values = read_arguments(context)
    actions = []
    if values["bag"] and not values["calibration"]:
        bag = values["bag"]
        beside = os.path.join(bag if os.path.isdir(bag) else os.path.dirname(bag), BESIDE_BAG)
        if os.path.isfile(beside):
            values["calibration"] = beside
            actions.append(LogInfo(msg=f"calibration: {beside}, found beside the bag"))
    if values["bag"] and float(values["rate"]) < 1:
        text = f"rate {values['rate']}: sync.deadline runs in real time; make it longer by the same"
        actions.append(LogInfo(msg=f"{text} factor in a parameter file, or masks lack sensors"))
    play = play_once(context, values) if values["bag"] else lambda: None
    node = kept_alive(context, lambda gpu: segment(values | gpu), play)
    return [*actions, *node, *rviz(values)]


def kept_alive(context, make, when_ready=lambda: None, nodes=1):
    """A process that is started again when it ends by a fault, after a pause that grows.

    Once one was ready, an end with `CANNOT_START` is a fault, too: the same parameters have worked,
    so what they name has gone since, such as the GPU.

    make: makes the process, from a dictionary with the argument `device` if the previous one had a
        GPU: if that is lost, `auto` would quietly continue on the CPU.
    when_ready: gives the actions to run once it is ready.
    nodes: how many have to say that they are ready.
    """
    within, devices = same_group(context), []  # devices of the last process that was ready

    def begin(pause, after):
        device = devices[0] if len(set(devices)) == 1 else ""
        gpu = {"device": device} if device.startswith("cuda") else {}
        node, began, said = make(gpu), time.monotonic() + after, []

        def when_said_ready(line):
            said.append(device_of(line))
            if len(said) != nodes:
                return None
            devices[:] = said
            return when_ready()

        def when_ended(event, context):
            if not by_fault(event.returncode, bool(devices)) or context.is_shutdown:
                return node_has_ended(event, context)
            wait = PAUSES[0] if time.monotonic() - began > SOUND else pause
            again = within(begin(min(2 * wait, PAUSES[1]), wait))
            text = f"the node has ended with exit code {event.returncode}, see its log; "
            return [
                LogInfo(msg=f"{text}it is started again in {wait:g} s"),
                TimerAction(period=wait, actions=again),
            ]

        ended = RegisterEventHandler(OnProcessExit(target_action=node, on_exit=when_ended))
        ready = when_said(node, READY, when_said_ready)
        return [ended, must_start(node, "the node"), ready, node]

    return begin(PAUSES[0], 0.0)


def device_of(line):
    """The device that a node names in its line `READY`; empty if it names none."""
    return line.partition(b", device ")[2].partition(b",")[0].decode(errors="replace")


def same_group(context):
    """A function that puts actions of a later event into the group that includes this file: the
    namespace, remappings and parameters that a GroupAction sets are gone by then.
    """
    scope = dict(context.launch_configurations)

    def within(actions):
        restore = OpaqueFunction(function=lambda late: late.launch_configurations.update(scope))
        return [PushLaunchConfigurations(), restore, *actions, PopLaunchConfigurations()]

    return within


def must_start(action, what):
    """Fail if a process cannot be executed: launch itself only logs that, and ends with code 0."""

    def when_over(event, context):
        if action.return_code is None and not context.is_shutdown:
            raise RuntimeError(f"{what} could not be started, see the log")

    return RegisterEventHandler(OnExecutionComplete(target_action=action, on_completion=when_over))


def by_fault(code, was_ready=False):
    """Whether an exit code is that of a fault or of a signal that nobody sends to end the node.

    `was_ready`: whether a node with the same parameters was.
    """
    asked = (-signal.SIGINT, -signal.SIGTERM)
    return code not in (0, *asked) and (was_ready or code != CANNOT_START)


def segment(values):
    """The node."""
    # as strings: launch takes what it is given for YAML otherwise
    arguments = {
        "weights": values["weights"],
        "device": values["device"],
        "precision": values["precision"],
        "thermal.registration": values["registration"],
    }
    given = {
        name: ParameterValue(value, value_type=str) for name, value in arguments.items() if value
    }
    if is_set(values, "use_sim_time"):
        given["use_sim_time"] = True
    if values["autostart"]:  # of the node itself: events of launch may come before it listens
        given["autostart"] = is_set(values, "autostart")
    parameters = [values[name] for name in ("params_file", "calibration") if values[name]]
    return Node(
        package="mmsam_ros",
        executable="segment",
        name="mmsam",
        namespace=values["namespace"],
        parameters=[*parameters, given] if given else parameters,
        remappings=[(topic, values[argument]) for topic, argument in TOPICS],
        additional_env=environment(),
        output="screen",
    )


def node_has_ended(event, context):
    """The end of the node ends the launch; RuntimeError, and so exit code 1, if it failed."""
    if context.is_shutdown:
        return []
    if event.returncode not in (0, -signal.SIGINT):  # Ctrl-C while it imports
        raise RuntimeError(f"the node has ended with exit code {event.returncode}, see its log")
    return [Shutdown(reason="the node has ended")]


def play_once(context, values):
    """A function that starts the bag's player at its first call: when the first node is ready."""
    within, started = same_group(context), []

    def when_ready():
        if started:
            return None
        started.append(True)
        play, played = player(values), []

        def when_ended(event, context):
            return player_has_ended(event, context, bool(played))

        return within([
            when_said(play, STARTING, lambda _: played.append(True)),
            RegisterEventHandler(OnProcessExit(target_action=play, on_exit=when_ended)),
            must_start(play, "the player of the bag"),
            play,
        ])  # fmt: skip

    return when_ready


def when_said(action, word, then):
    """Calls `then` with each line of a process that has the word; lines may come in pieces."""
    rests = {}

    def read(stream):
        def when_output(event):
            *lines, rests[stream] = (rests.get(stream, b"") + event.text).split(b"\n")
            return [act for line in lines if word in line for act in then(line) or ()] or None

        return when_output

    # logs go to stderr, or to stdout with RCUTILS_LOGGING_USE_STDOUT
    return RegisterEventHandler(
        OnProcessIO(target_action=action, on_stdout=read("stdout"), on_stderr=read("stderr"))
    )


def player_has_ended(event, context, played):
    """The node goes on after the bag; RuntimeError, and so exit code 1, if it was not played."""
    if not event.returncode or context.is_shutdown:
        return []
    if not played:
        raise RuntimeError(f"the bag was not played (exit code {event.returncode}), see the log")
    return [LogInfo(msg=f"the bag was played in part (exit code {event.returncode}), see the log")]


def player(values):
    """This package's own player: it reads ROS 1 bags and bags with a wrong metadata.yaml, waits for
    subscribers, and does not wait between loops.
    """
    options = [values["bag"], "--rate", values["rate"]]
    options += [f"--{name}" for name, on in (("clock", "use_sim_time"), ("loop", "loop"))
                if is_set(values, on)]  # fmt: skip
    return Node(
        package="mmsam_ros",
        executable="replay",
        arguments=options,
        additional_env=environment(),
        output="screen",
    )


def rviz(values):
    """RViz with the package's configuration, on the topics of the arguments."""
    if not is_set(values, "rviz"):
        return []
    if shutil.which("rviz2") is None:
        return [LogInfo(msg="rviz:=true, but rviz2 is not installed (ros-jazzy-rviz2): no RViz")]
    top = "/".join(["", *filter(None, values["namespace"].split("/"))])
    renamed = [(f"/{topic}", os.path.join(top + "/", values[name])) for topic, name in TOPICS]
    renamed += [(f"/mmsam/{name}", f"{top}/mmsam/{name}") for name in ("overlay", "color")]
    command = ["rviz2", "-d", os.path.join(SHARE, "rviz", "segment.rviz"), "--ros-args"]
    for source, target in renamed:
        if source != target:
            command += ["-r", f"{source}:={target}"]
    if is_set(values, "use_sim_time"):
        command += ["-p", "use_sim_time:=true"]
    return [ExecuteProcess(cmd=command)]


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(
            name, default_value=default, description=text, choices=CHOICES.get(name)
        )
        for name, default, text in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
