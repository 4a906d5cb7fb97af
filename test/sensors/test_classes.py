# SPDX-License-Identifier: Apache-2.0
"""Class tables, topic names and palettes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mmsam_ros.sensors import (
    NO_LABEL,
    SYNTHETIC_CLASSES,
    ClassInfo,
    SensorError,
    class_table,
    palette,
    topic_names,
)


def test_a_table_numbers_its_rows() -> None:
    assert class_table(("road", 1, 2, 3), ("Car", 4, 5, 6)) == (
        ClassInfo(0, "road", (1, 2, 3)), ClassInfo(1, "Car", (4, 5, 6)),
    )  # fmt: skip
    assert class_table() == ()
    with pytest.raises(SensorError, match="class 'car': rgb is"):
        class_table(("road", 1, 2, 3), ("car", 0, 0, 256))


def test_the_synthetic_world_s_classes() -> None:
    assert ",".join(info.name for info in SYNTHETIC_CLASSES) == (
        "road,sidewalk,building,vegetation,terrain,sky,pole,traffic sign,person,rider,car,truck,"
        "bicycle,lane mark"
    )
    assert [info.id for info in SYNTHETIC_CLASSES] == list(range(14))
    assert SYNTHETIC_CLASSES[-1].rgb == (255, 255, 255)
    assert len({info.rgb for info in SYNTHETIC_CLASSES}) == 14
    topics = topic_names(SYNTHETIC_CLASSES)
    assert len(topics) == 14
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", topic) for topic in topics)


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("Traffic Light", "traffic_light"),
        ("TrafficLight", "traffic_light"),
        ("traffic light", "traffic_light"),
        ("traffic_light", "traffic_light"),
        ("RailTrack", "rail_track"),
        ("SideWalk", "side_walk"),
        ("Sidewalk", "sidewalk"),
        ("LED lamp", "led_lamp"),
        ("LEDLamp", "led_lamp"),
        (" car -- parked (left) ", "car_parked_left"),
        ("Lane2Mark", "lane2_mark"),
    ],
)
def test_topic(name: str, topic: str) -> None:
    assert ClassInfo(0, name, (0, 0, 0)).topic == topic


def test_topic_collision_names_both() -> None:
    classes = (ClassInfo(3, "Traffic Light", (0, 0, 0)), ClassInfo(7, "TrafficLight", (1, 1, 1)))
    with pytest.raises(SensorError, match=r"3 'Traffic Light' and 7 'TrafficLight'.*traffic_light"):
        topic_names(classes)


def test_palette() -> None:
    table = palette((ClassInfo(1, "a", (1, 2, 3)), ClassInfo(254, "b", (9, 8, 7))))
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert table[1].tolist() == [1, 2, 3]
    assert table[254].tolist() == [9, 8, 7]
    assert table[NO_LABEL].tolist() == [0, 0, 0]
    assert np.count_nonzero(table.any(axis=1)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((255, "car", (0, 0, 0)), "id is 255"),
        ((-1, "car", (0, 0, 0)), "id is -1"),
        ((0, "car", (0, 256, 0)), "rgb is"),
        ((0, "car", (0, 0)), "rgb is"),
        ((0, "3d sign", (0, 0, 0)), "'3d sign'"),
        ((0, "--", (0, 0, 0)), "'--'"),
        ((True, "car", (0, 0, 0)), "id is True"),
        ((0, "car", (0, 0, 2.0)), "rgb is"),
    ],
)
def test_unusable_classes_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(SensorError, match=message):
        ClassInfo(*arguments)
