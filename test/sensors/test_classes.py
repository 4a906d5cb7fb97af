# SPDX-License-Identifier: Apache-2.0
"""Class tables, topic names and palettes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mmsam_ros.sensors import CLASS_SETS, NO_LABEL, ClassInfo, SensorError, palette, topic_names

# Name and colour as the data sets publish them, in the order of the training ids.
CITYSCAPES = """
road 128,64,128 · sidewalk 244,35,232 · building 70,70,70 · wall 102,102,156 · fence 190,153,153 ·
pole 153,153,153 · traffic light 250,170,30 · traffic sign 220,220,0 · vegetation 107,142,35 ·
terrain 152,251,152 · sky 70,130,180 · person 220,20,60 · rider 255,0,0 · car 0,0,142 ·
truck 0,0,70 · bus 0,60,100 · train 0,80,100 · motorcycle 0,0,230 · bicycle 119,11,32
"""
DELIVER = """
Building 70,70,70 · Fence 100,40,40 · Other 55,90,80 · Pedestrian 220,20,60 · Pole 153,153,153 ·
RoadLine 157,234,50 · Road 128,64,128 · SideWalk 244,35,232 · Vegetation 107,142,35 ·
Cars 0,0,142 · Wall 102,102,156 · TrafficSign 220,220,0 · Sky 70,130,180 · Ground 81,0,81 ·
Bridge 150,100,100 · RailTrack 230,150,140 · GroundRail 180,165,180 · TrafficLight 250,170,30 ·
Static 110,190,160 · Dynamic 170,120,50 · Water 45,60,150 · Terrain 145,170,100 ·
TwoWheeler 0,0,230 · Bus 0,60,100 · Truck 0,0,70
"""
FMB = """
Road 179,228,228 · Sidewalk 181,57,133 · Building 67,162,177 · Traffic Light 200,178,50 ·
Traffic Sign 132,45,199 · Vegetation 66,172,84 · Sky 179,73,79 · Person 76,99,166 ·
Car 66,121,253 · Truck 137,165,91 · Bus 155,97,152 · Motorcycle 105,153,140 ·
Bicycle 222,215,158 · Pole 135,113,90
"""


def parse(text: str) -> list[tuple[str, tuple[int, ...]]]:
    rows = (part.strip().rsplit(" ", 1) for part in text.replace("\n", " ").split("·"))
    return [(name, tuple(int(v) for v in rgb.split(","))) for name, rgb in rows]


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [("deliver", DELIVER, 25), ("fmb", FMB, 14), ("muses", CITYSCAPES, 19)],
)
def test_published_tables(name: str, text: str, count: int) -> None:
    classes = CLASS_SETS[name]
    assert len(classes) == count
    assert [info.id for info in classes] == list(range(count))
    assert [(info.name, info.rgb) for info in classes] == parse(text)


def test_synthetic_has_cityscapes_colours() -> None:
    cityscapes = {info.name: info.rgb for info in CLASS_SETS["muses"]}
    classes = CLASS_SETS["synthetic"]
    assert ",".join(info.name for info in classes) == (
        "road,sidewalk,building,vegetation,terrain,sky,pole,traffic sign,person,rider,car,truck,"
        "bicycle,lane mark"
    )
    assert [info.id for info in classes] == list(range(14))
    assert classes[-1].rgb == (255, 255, 255)
    assert all(info.rgb == cityscapes[info.name] for info in classes[:-1])


@pytest.mark.parametrize("name", CLASS_SETS)
def test_every_table_gives_distinct_ros_topics(name: str) -> None:
    topics = topic_names(CLASS_SETS[name])
    assert len(set(topics)) == len(CLASS_SETS[name])
    assert all(re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", topic) for topic in topics)


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


def test_palette_refuses_a_shared_id() -> None:
    with pytest.raises(SensorError, match="'a' and 'b' both have id 4"):
        palette((ClassInfo(4, "a", (1, 2, 3)), ClassInfo(4, "b", (1, 2, 3))))


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
