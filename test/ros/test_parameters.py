# SPDX-License-Identifier: Apache-2.0
"""Parameters are declared, validated and refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.parameter import Parameter

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.parameters import SENSORS, NodeParameters, ParameterReader

SOURCES = ("lidar", "thermal")


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context, args=[])
    yield context
    rclpy.try_shutdown(context=context)


def read(context: Context, **values: Any) -> NodeParameters:
    """Parameters of a node with these overrides (`__` stands for the dot)."""
    overrides = [Parameter(k.replace("__", "."), value=v) for k, v in values.items()]
    node = rclpy.create_node("mmsam", context=context, parameter_overrides=overrides)
    try:
        reader = ParameterReader(node)
        reader.network()
        return reader.node()
    finally:
        node.destroy_node()


def test_defaults(context: Context) -> None:
    parameters = read(context)
    assert set(parameters.sync(SOURCES).auxiliaries) == set(SOURCES)
    assert parameters.infos == {}
    assert parameters.extrinsics == {}
    assert parameters.rectified is None


def test_values_arrive(context: Context) -> None:
    pose = [0.0, 0.1, 0.2, 0.0, 0.0, 0.0, 1.0]
    parameters = read(
        context, lidar__slop=0.02, lidar__extrinsics=pose, camera__image="rectified",
        thermal__offset=-0.01, camera__info__width=640, camera__info__height=480,
        camera__info__k=[500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0],
    )  # fmt: skip
    assert parameters.sync(SOURCES).auxiliaries["lidar"].slop == 0.02
    assert parameters.sync(SOURCES).auxiliaries["thermal"].offset == -0.01
    assert parameters.extrinsics == {"lidar": pose}
    assert parameters.rectified is True
    assert parameters.infos["camera"]["width"] == 640


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"precision": "fp61"},
            "parameter precision: found 'fp61', expected one of 'fp32'",
        ),
        ({"sync_backend": "natve"}, "did you mean 'native'"),
        ({"lidar__slob": 0.1}, r"'lidar\.slob' does not exist; did you mean 'lidar\.slop'"),
        ({"lidar__extrinsics": [1.0, 2.0]}, r"lidar\.extrinsics: found 2 values, expected 7"),
        ({"thermal__registration": "homography"}, r"thermal\.homography: found none"),
        ({"thermal__homography": [1.0] * 9}, r"thermal\.homography: found .* 'none'"),
        ({"sync_backend": "message_filters", "lidar__offset": 0.1}, r"lidar\.offset: .*complete"),
        ({"sync_backend": "message_filters", "sync__deadline": 0.2}, r"sync\.deadline"),
        ({"camera__info__k": [1.0]}, r"camera\.info\.k: found 1 values, expected 9"),
        ({"lidar__slop": float("nan")}, r"lidar\.slop"),
    ],
)
def test_wrong_values_are_refused(context: Context, values: dict[str, Any], reason: str) -> None:
    with pytest.raises((RosError, InvalidParameterValueException), match=reason):
        read(context, **values)


@pytest.mark.parametrize(
    "values",
    [{"lidar__slop": -0.1}, {"lidar__slop": 11.0}, {"sync__queue": 0}, {"geometry__stride": 9999}],
)
def test_values_out_of_range_are_refused(context: Context, values: dict[str, Any]) -> None:
    name = next(iter(values)).replace("__", ".")
    with pytest.raises(InvalidParameterValueException, match=name):
        read(context, **values)


def test_wrong_types_are_refused(context: Context) -> None:
    with pytest.raises(InvalidParameterTypeException, match=r"lidar\.slop"):
        read(context, lidar__slop="near")


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def test_the_shipped_file_holds_the_defaults(context: Context, root: Path) -> None:
    """config/segment.yaml names existing parameters with the values that they have anyway."""
    document = yaml.safe_load((root / "config/segment.yaml").read_text())
    given = flatten(document["/**/mmsam"]["ros__parameters"])
    node = rclpy.create_node("mmsam", context=context)
    reader = ParameterReader(node)
    reader.network()
    reader.node()
    declared = {n: node.get_parameter_or(n).value for n in reader.declared}
    node.destroy_node()
    assert set(given) <= set(declared)
    assert {n for n, v in given.items() if declared[n] != v} == set()
    text = (root / "config/segment.yaml").read_text()
    documented = set(re.findall(r"^[ #]*([a-z_]+):", text, re.MULTILINE))
    for name in declared:
        sensor, _, leaf = name.partition(".")
        if sensor not in SENSORS[2:] and leaf != "info.frame_id":
            assert (leaf.rsplit(".", 1)[-1] or sensor) in documented, name


def test_the_shipped_values_go_with_message_filters(context: Context) -> None:
    parameters = read(
        context, sync_backend="message_filters", sync__deadline=0.1, lidar__max_age=0.2
    )
    assert parameters.sync_backend == "message_filters"
    assert parameters.sync(("lidar",)).auxiliaries["lidar"].max_age == 0.2


def test_names_that_are_near_nothing_are_warned_of(
    context: Context, capfd: pytest.CaptureFixture[str]
) -> None:
    """They may be meant for all nodes of a machine."""
    assert read(context, favourite_colour="green", use_sim_time=False) == read(context)
    logged = "".join(capfd.readouterr())
    assert "parameter 'favourite_colour' does not exist: ignored" in logged
    assert "use_sim_time" not in logged
