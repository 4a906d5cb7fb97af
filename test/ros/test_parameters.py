# SPDX-License-Identifier: Apache-2.0
"""Parameters are declared, checked and refused with the reason; the shipped file has them all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from support.networks import spec_of

from mmsam_ros._util import MmsamError
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import PARAMETERS
from mmsam_ros.ros.parameters import (
    Parameters,
    check_together,
    declare_parameters,
    make_adjustments,
    make_camera_infos,
    make_synchroniser,
)
from mmsam_ros.ros.plausibility import IntensityScale
from mmsam_ros.ros.preflight import can_start

ROWS = {row.name: row for row in PARAMETERS}
LISTS = {row.name for row in PARAMETERS if row.default is None}
POSE = [0.0, 0.1, 0.2, 0.0, 0.0, 0.0, 1.0]
INTRINSICS = [500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context, args=[])
    yield context
    rclpy.try_shutdown(context=context)


def make_node(context: Context, **values: Any) -> Node:
    """A node with these overrides (`__` stands for the dot)."""
    overrides = [Parameter(k.replace("__", "."), value=v) for k, v in values.items()]
    return rclpy.create_node("mmsam", context=context, parameter_overrides=overrides)


def read(context: Context, **values: Any) -> Parameters:
    node = make_node(context, **values)
    try:
        parameters = declare_parameters(node)
        check_together(parameters)
        return parameters
    finally:
        node.destroy_node()


def test_defaults(context: Context) -> None:
    assert read(context) == {row.name: row.default for row in PARAMETERS}


def test_every_parameter_is_declared_with_range_and_description(context: Context) -> None:
    node = make_node(context)
    declare_parameters(node)
    for row in PARAMETERS:
        described: ParameterDescriptor = node.describe_parameter(row.name)
        assert described.read_only == (row.name == "autostart"), row.name
        assert described.additional_constraints.endswith(f"; read: {row.read}")
        assert described.description == row.description
        assert described.description.endswith("."), row.name
        ranges = [*described.floating_point_range, *described.integer_range]
        limits = [] if row.low is None else [(row.low, row.high)]
        assert [(r.from_value, r.to_value) for r in ranges] == limits, row.name
    node.destroy_node()


def test_all_parameters_are_read_in_one_call_and_a_dump_is_a_parameter_file(
    context: Context, tmp_path: Path
) -> None:
    """As `ros2 param dump` does it, whose file then starts the same node."""

    def ask(node: Node) -> dict[str, Any]:
        declare_parameters(node)
        client = AsyncParameterClient(node, "mmsam")
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        listed = client.list_parameters()
        executor.spin_until_future_complete(listed)
        names = listed.result().result.names
        assert set(ROWS) <= set(names)
        got = client.get_parameters(names)
        executor.spin_until_future_complete(got)
        executor.shutdown()
        values = got.result().values
        assert len(values) == len(names)
        assert {v.type for n, v in zip(names, values, strict=True) if n in LISTS} == {8}, "doubles"
        return dict(zip(names, map(parameter_value_to_python, values), strict=True))

    first = make_node(context, lidar__extrinsics=POSE)
    found = ask(first)
    first.destroy_node()
    assert list(found["lidar.extrinsics"]) == POSE
    assert list(found["camera.info.k"]) == []
    dump = tmp_path / "mmsam.yaml"
    plain = {n: list(v) if n in LISTS else v for n, v in found.items()}
    dump.write_text(yaml.safe_dump({"/mmsam": {"ros__parameters": plain}}))
    arguments = ["--ros-args", "--params-file", str(dump)]
    again = rclpy.create_node("mmsam", context=context, cli_args=arguments)
    assert ask(again) == found
    again.destroy_node()


def test_values_arrive(context: Context) -> None:
    parameters = read(
        context, lidar__slop=0.02, lidar__extrinsics=POSE, camera__image="rectified",
        thermal__offset=-0.01, camera__info__width=640, camera__info__height=480,
        camera__info__k=INTRINSICS,
    )  # fmt: skip
    assert parameters["lidar.slop"] == 0.02
    assert parameters["thermal.offset"] == -0.01
    assert parameters["lidar.extrinsics"] == POSE
    assert parameters["thermal.extrinsics"] is None


def test_a_calibration_is_a_fixed_camera_model(context: Context) -> None:
    given = {"camera__info__width": 640, "camera__info__height": 480, "camera__info__k": INTRINSICS}
    infos = make_camera_infos(read(context, **given))
    assert set(infos.fixed) == {"camera"}
    model = infos.model("camera", 480, 640)
    assert (model.K[0, 0], model.distortion) == (500.0, "none")
    assert infos.images == {"camera": "auto", "thermal": "auto"}
    with pytest.raises(RosError, match=r"parameter camera\.info: CameraInfo\.k is"):
        make_camera_infos(read(context, camera__info__width=640, camera__info__height=480))
    with pytest.raises(RosError, match=r"parameter camera\.info: CameraInfo\.p is"):
        make_camera_infos(read(context, camera__image="rectified", **given))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"precision": "fp61"}, "precision: found 'fp61', expected one of 'fp32', 'bf16'"),
        ({"sync_backend": "natve"}, "did you mean 'native'"),
        ({"lidar__slob": 0.1}, r"'lidar\.slob' does not exist; did you mean 'lidar\.slop'"),
        ({"lidar__extrinsics": [1.0, 2.0]}, r"lidar\.extrinsics: found .*, expected 7 doubles"),
        ({"lidar__extrinsics": [1] * 7}, r"lidar\.extrinsics: found .*with a decimal point"),
        ({"camera__info__k": [1.0]}, r"camera\.info\.k: found \[1\.0\], expected 9 doubles"),
        ({"lidar__slop": float("nan")}, r"lidar\.slop: found nan"),
        ({"lidar__slop": -0.1}, r"lidar\.slop: found -0\.1, expected a double .*from 0 to 10 s"),
        ({"lidar__slop": 11.0}, r"lidar\.slop: found 11\.0"),
        ({"lidar__slop": 1}, r"lidar\.slop: found 1, expected a double \(with a decimal point\)"),
        ({"lidar__slop": "near"}, r"lidar\.slop: found 'near', expected a double"),
        ({"sync__queue": 0}, r"sync\.queue: found 0, expected an integer from 1 to 1000 messages"),
        ({"geometry__stride": 9999}, r"geometry\.stride: found 9999, .*from 0 to 8192 pixels"),
        ({"weights": 5}, "weights: found 5, expected a string; write it in quotes"),
        ({"plausibility": False}, """found False, .*; YAML reads off as false: write "off" in"""),
        ({"thermal__registration": False}, "found False, expected one of .*'rotation'$"),
        ({"thermal__registration": "homography"}, r"thermal\.homography: found no value"),
        ({"thermal__homography": [1.0] * 9}, r"thermal\.homography: found .* 'none'"),
        ({"plausibility": "refused"}, r"plausibility: found 'refused'.*did you mean 'refuse'"),
        ({"thermal__invert": 1}, r"thermal\.invert: found 1, expected true or false"),
        ({"thermal__limits": [1.0]}, r"thermal\.limits: found \[1\.0\], expected 2 doubles"),
        ({"lidar__intensity_scale": "car"}, r"intensity_scale: found 'car', .* or 'auto'"),
        ({"lidar__intensity_scale": True}, r"intensity_scale: found True"),
        ({"lidar__frame_pose": POSE}, r"lidar\.frame_pose: found .* without lidar\.frame"),
        ({"sync_backend": "message_filters", "lidar__offset": 0.1}, r"lidar\.offset: .*complete"),
        ({"sync_backend": "message_filters", "sync__deadline": 0.2}, r"sync\.deadline"),
    ],
)
def test_wrong_values_are_refused(context: Context, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(RosError, match=reason):
        read(context, **values)


@pytest.mark.parametrize("scale", ["auto", 1.0, 0.0039, 255])
def test_a_factor_is_a_number_or_a_word(context: Context, scale: float | str) -> None:
    assert read(context, lidar__intensity_scale=scale)["lidar.intensity_scale"] == scale


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_factors_are_refused(context: Context, scale: float) -> None:
    spec = spec_of("synthetic_rgb_lidar_thermal")
    with pytest.raises(RosError, match=r"lidar\.intensity_scale: found .*factor above 0"):
        IntensityScale(spec, read(context, lidar__intensity_scale=scale)["lidar.intensity_scale"])


def test_adjustments_of_the_sensors(context: Context) -> None:
    none = make_adjustments(read(context))
    assert (none.lidar_frame, none.lidar_frame_pose, none.thermal_limits) == ("", None, None)
    assert not none.thermal_inverted
    found = make_adjustments(
        read(
            context, lidar__frame="velodyne", lidar__frame_pose=POSE, thermal__invert=True,
            thermal__limits=[-10.0, 40.0],
        )
    )  # fmt: skip
    assert (found.lidar_frame, found.thermal_limits) == ("velodyne", (-10.0, 40.0))
    assert found.thermal_inverted
    assert found.lidar_frame_pose is not None
    assert found.lidar_frame_pose[:3, 3].tolist() == POSE[:3]
    with pytest.raises(MmsamError, match=r"parameter thermal\.limits: found .*low < high"):
        make_adjustments(read(context, thermal__limits=[40.0, -10.0]))
    zero = {"lidar__frame": "velodyne", "lidar__frame_pose": [0.0] * 7}
    with pytest.raises(RosError, match=r"parameter lidar\.frame_pose: .*zero rotation"):
        make_adjustments(read(context, **zero))


def test_the_shipped_values_go_with_message_filters(context: Context) -> None:
    defaults = {"sync__deadline": 0.1, "lidar__max_age": 0.2, "lidar__slop": 0.03}
    parameters = read(context, sync_backend="message_filters", **defaults)
    assert parameters["sync_backend"] == "message_filters"
    assert parameters["lidar.max_age"] == 0.2


def test_every_sensor_can_be_matched(context: Context) -> None:
    sensors = ("lidar", "thermal", "event", "depth")
    counts = make_synchroniser(read(context), sensors).counts()
    assert set(counts) == {"camera", *sensors}


def test_names_that_are_near_nothing_are_warned_of(
    context: Context, capfd: pytest.CaptureFixture[str]
) -> None:
    """They may be meant for all nodes of a machine."""
    assert read(context, favourite_colour="green", use_sim_time=False) == read(context)
    logged = "".join(capfd.readouterr())
    assert "parameter 'favourite_colour' does not exist and is ignored" in logged
    assert "use_sim_time" not in logged


@pytest.mark.parametrize("others", ["/mmsam", "segment", "/**/other"])
def test_a_file_of_other_nodes_is_warned_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], others: str
) -> None:
    """ROS itself does not report that it has used nothing of a file."""
    words = ["--ros-args", "-r", "__ns:=/front"]
    for name, node in (("own", "/**/mmsam"), ("others", others)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"{node}:\n  ros__parameters: {{device: cpu}}\n")
        words += ["--params-file", str(path)]
    assert can_start(words)
    logged = "".join(capfd.readouterr())
    assert f"others.yaml: found parameters of /{others.strip('/')}, expected" in logged
    assert "some of /front/mmsam or of /**/mmsam or of /**; nothing of this file is used" in logged
    assert "own.yaml" not in logged


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-r", "camera/image:="], "'-r camera/image:='. Error: error not set; expected FROM:=TO"),
        (["-r", "__ns:=/my-robot"], "a namespace begins with /"),
        (["-p", "lidar.extrinsics:=[0.0, 1]"], "write each number of the list with a decimal"),
        (["--params-file", "no.yaml"], "Error opening YAML file; expected the path of a file"),
        (["--param-file", "a"], "does not know the arguments ['--param-file', 'a'], expected -p"),
    ],
)
def test_arguments_that_ros_cannot_read(
    capfd: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert not can_start(["--ros-args", *words])
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "cannot start: " in line]
    assert said in line
    assert ", at /" not in line


# config/segment.yaml


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def parameters_of(text: str) -> dict[str, Any]:
    return flatten(yaml.safe_load(text)["/**/mmsam"]["ros__parameters"])


def test_the_shipped_file_holds_every_parameter_with_its_default(root: Path) -> None:
    """What is not set by default stands in it as a comment."""
    text = (root / "config/segment.yaml").read_text()
    given = parameters_of(text)
    assert given == {row.name: row.default for row in PARAMETERS if row.default is not None}
    uncommented = re.sub(r"^( +)# ([a-z_]+): \[.*$", r"\1\2: null", text, flags=re.MULTILINE)
    assert list(parameters_of(uncommented)) == list(ROWS), "the same parameters in the same order"


def test_the_shipped_file_holds_the_ranges(root: Path) -> None:
    """Each line with a number says its unit and range, and which are live, as the table does."""
    lines = (root / "config/segment.yaml").read_text().splitlines()
    section: list[str] = []
    seen = 0
    for line in lines:
        match = re.match(r"^( +)([a-z_.]+):(?: (\S+))?(?: +# (.*))?$", line)
        if match is None or match[2] == "ros__parameters":
            continue
        section = [*section[: (len(match[1]) - 4) // 2], match[2]]
        row = ROWS.get(".".join(section))
        if row is not None:
            said = re.search(r"\blive\b", (match[4] or "").partition(": ")[0])
            assert bool(said) == (row.read == "live"), line
        if row is not None and row.low is not None:
            seen += 1
            found = re.match(r"(\w+), (-?[\d.]+) to (\d+)", match[4] or "")
            assert found, line
            assert (found[1], float(found[2]), float(found[3])) == (row.unit, row.low, row.high)
        if row is not None and row.choices and match[4] and len(section) == 1:
            assert all(word in match[4] for word in row.choices), line
    assert seen == sum(row.low is not None for row in PARAMETERS)
