# SPDX-License-Identifier: Apache-2.0
"""The mode by what came and what was made; a status of each part; what a snapshot may hold."""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from harness import ROOT, camera_info

from mmsam_ros.inference import Result
from mmsam_ros.ros import snapshot
from mmsam_ros.ros.calibration import CameraInfos, camera_model
from mmsam_ros.ros.clouds import Points
from mmsam_ros.ros.diagnostics import WINDOW, Figures, Monitor
from mmsam_ros.ros.health import (
    BACK,
    LOST,
    RATED,
    Mode,
    inference_status,
    input_statuses,
    judge,
    output_status,
    sync_status,
)
from mmsam_ros.ros.intake import AHEAD, ENOUGH
from mmsam_ros.ros.node import GRAPH_PERIOD
from mmsam_ros.ros.sets import Entry, Outcome, SyncedSet
from mmsam_ros.ros.snapshot import Recorder
from mmsam_ros.ros.sync import ALONE
from mmsam_ros.sensors import Frame, LidarPoints
from mmsam_ros.weights import Score

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
GIVEN = {"health.silence": 2.0, "health.failures": 5, "health.latency": 0.0, "health.rate": 0.0}
SCORES = {"camera+thermal+lidar": Score(60.0, "a"), "camera+thermal": Score(45.0, "a")}
FINE = Figures(0, 9, 0.1, 10.0, (0.05, 0.08), (0.04, 0.06), {"lidar": 1.0, "thermal": 1.0}, "")


def figures(**instead: Any) -> Figures:
    return dataclasses.replace(FINE, **instead)


@pytest.mark.parametrize(
    ("found", "camera_age", "mode", "reason", "missing", "miou"),
    [
        (figures(), 0.1, "FULL", "masks of all sensors", (), 60.0),
        (figures(shares={"lidar": 0.5, "thermal": 1.0}), 0.1, "FULL", "all sensors", (), 60.0),
        (figures(shares={"lidar": 0.4, "thermal": 1.0}), 0.1, "DEGRADED", "masks without lidar",
         ("lidar",), 45.0),
        (figures(shares={"lidar": 1.0, "thermal": 0.0}), 2.0, "DEGRADED", "masks without thermal",
         ("thermal",), None),
        (figures(shares={}), 0.1, "FULL", "masks of all sensors", (), None),  # camera alone
        (figures(), None, "STARVED", "no camera image yet", (), None),
        (figures(), 2.1, "STARVED", "no camera image for 2.1 s", (), None),
        (figures(age=None), 0.1, "STARVED", "no mask yet", (), None),
        (figures(age=None, refusal="encoding: rgb9"), 0.1, "STARVED",
         "no mask yet, the last image was refused: encoding: rgb9", (), None),
        (figures(age=3.0), 0.1, "STARVED", "no mask for 3.0 s", (), None),
        (figures(age=3.0, latency=(1.6, 2.0)), 0.1, "FULL", "masks of", (), 60.0),  # slow, only
        (figures(failures=4), 0.1, "FULL", "masks of", (), 60.0),
        (figures(failures=5, refusal="defect: ValueError"), 0.1, "FAULT",
         "5 frames in a row failed: defect: ValueError", (), None),
        (figures(failures=5), None, "FAULT", "5 frames", (), None),  # it does not heal by silence
    ],
)  # fmt: skip
def test_the_mode(
    found: Figures, camera_age: float | None, mode: str, reason: str, missing: tuple[str, ...],
    miou: float | None,
) -> None:  # fmt: skip
    judged = judge(found, camera_age, SCORES, GIVEN)
    assert (judged.mode, judged.missing) == (mode, missing)
    assert reason in judged.reason
    assert (judged.score and judged.score.miou) == miou
    said = json.loads(judged.to_json(7.5))
    assert list(said) == ["mode", "missing", "implausible", "score", "reason", "since"]
    assert said["score"] == (None if miou is None else {"miou": miou, "dataset": "a"})


@pytest.mark.parametrize(
    ("lidar", "implausible", "mode", "reason"),
    [
        (1.0, ["lidar"], "DEGRADED", "masks with implausible lidar"),
        (0.4, ["camera"], "DEGRADED", "masks without lidar and with implausible camera"),
        (1.0, [], "FULL", "masks of all sensors"),
    ],
)
def test_data_that_cannot_be_true_degrades(
    lidar: float, implausible: list[str], mode: str, reason: str
) -> None:
    found = figures(shares={"lidar": lidar, "thermal": 1.0})
    judged = judge(found, 0.1, SCORES, GIVEN, implausible=implausible)
    assert (judged.mode, judged.reason) == (mode, reason)
    assert (judged.score is None) == bool(implausible), "no score was measured with such data"
    assert json.loads(judged.to_json(7.5))["implausible"] == implausible


def test_a_sensor_that_comes_and_goes_does_not_flap() -> None:
    """At half of the masks, as a LiDAR at half of the camera's rate."""
    for share, missed, mode in (
        (0.55, (), "FULL"), (0.45, (), "DEGRADED"), (0.55, ("lidar",), "DEGRADED"),
        (0.65, ("lidar",), "FULL"),
    ):  # fmt: skip
        found = figures(shares={"lidar": share, "thermal": 1.0})
        assert judge(found, 0.1, SCORES, GIVEN, missed).mode == mode


def test_the_documented_thresholds() -> None:
    lines = (ROOT / "docs/lifecycle.md").read_text().splitlines()
    rows = dict(line.strip("| ").split(" | ") for line in lines if line.count(" | ") == 1)
    for what, numbers in (
        ("a sensor is missing", [f"less than {100 * LOST:g} %"]),
        ("a missing sensor is back", [f"at least {100 * BACK:g} %"]),
        ("the mode is looked at", [f"every {GRAPH_PERIOD:g} s"]),
        ("rate, latency and used sensors in `/diagnostics`", [f"last {WINDOW:g} s"]),
        ("rate of an input", [f"last {RATED:g} s"]),
        ("warnings `without ...`, `with ... in N of M masks`", [f"last {WINDOW:g} s"]),
        ("warning `dropped as busy`", [f"last {WINDOW:g} s"]),
        ("warning `never matches`, `stamps_ahead.<sensor>`",
         [f"{ALONE} messages of a sensor and {ALONE} images"]),
        ("log: stamps are ahead of the clock",
         [f"more than {AHEAD:g} s", f"{ENOUGH} messages in a row"]),
    ):  # fmt: skip
        for number in numbers:
            assert number in rows[what], what


@pytest.mark.parametrize(
    ("one", "other", "like"),
    [
        (("STARVED", "no mask for 3.1 s, the last image was refused: a"),
         ("STARVED", "no mask for 4.1 s"), True),
        (("FAULT", "5 frames in a row failed: x"), ("FAULT", "6 frames in a row failed: y"), True),
        (("STARVED", "no mask yet"), ("STARVED", "no camera image yet"), False),
        (("OFF", "inactive"), ("OFF", "not configured"), False),
        (("DEGRADED", "w", ("lidar",)), ("DEGRADED", "w", ("thermal",)), False),
        (("DEGRADED", "w", (), None, ("lidar",)), ("DEGRADED", "w", (), None, ("camera",)), False),
    ],
)  # fmt: skip
def test_a_mode_is_published_again_only_for_news(
    one: tuple[Any, ...], other: tuple[Any, ...], like: bool
) -> None:
    assert Mode(*one).is_like(Mode(*other)) == like
    assert not Mode(*one).is_like(None)


def test_shares_are_of_the_last_seconds_or_the_last_mask() -> None:
    now = 0.0
    monitor = Monitor(lambda _: None, lambda: now)
    synced = SyncedSet(Entry("camera", 0, None, 0), {}, frozenset())
    for k in range(10):  # the first five without LiDAR
        now = k / 2
        monitor.settled(synced, Outcome("used", fused=("lidar",) if k >= 5 else ()))
    assert monitor.figures(("lidar",), 2.0).shares == {"lidar": 1.0}
    assert monitor.figures(("lidar",), 60.0).shares == {"lidar": 0.5}
    now = 9.0
    assert monitor.figures(("lidar", "thermal"), 2.0).shares == {"lidar": 1.0, "thermal": 0.0}
    monitor.settled(synced, Outcome("refused", "defect", "Traceback:\n  line\nValueError: no\n"))
    assert monitor.figures((), 2.0).refusal == "defect: Traceback: ValueError: no"
    assert monitor.figures((), 2.0).failures == 1, "values that are not finite, for example"
    now = 12.0
    assert monitor.figures((), 2.0).refusal == ""


def test_statuses_of_inputs() -> None:
    def stream(name: str, *arrivals: float) -> Any:
        last = arrivals[-1] if arrivals else None
        return SimpleNamespace(name=name, last=last, arrivals=deque(arrivals), topic=f"/{name}")

    counts = {"camera": {"used": 9, "refused:encoding": 2}}
    inputs = [
        stream("camera", *np.arange(0, 10.01, 0.1)), stream("lidar"), stream("thermal", 7.0),
        stream("camera_info", 1.0),
    ]  # fmt: skip
    found = list(input_statuses(inputs, counts, 10.0, 2.0))
    assert [(s.level, s.message) for s in found] == [
        (OK, "10.0 Hz"), (WARN, "no message yet"), (WARN, "no message for 3.0 s"), (OK, "0.0 Hz"),
    ]  # fmt: skip
    values = {v.key: v.value for v in found[0].values}
    assert values["refused:encoding"] == "2"
    (camera,) = input_statuses([stream("camera", 1.0)], counts, 10.0, 2.0)
    assert (camera.level, camera.message) == (ERROR, "no message for 9.0 s")
    infos = [stream("camera_info"), stream("thermal_info")]
    found = list(input_statuses(infos, counts, 10.0, 2.0, {"thermal_info"}))
    assert [(s.level, s.message) for s in found] == [
        (WARN, "no message yet"), (OK, "no message, none is needed"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "given", "level", "said"),
    [
        ({}, {}, (OK, OK), "latency p95 80 ms"),
        ({"failures": 1, "refusal": "r"}, {}, (WARN, OK), "the last frame failed: r"),
        ({"failures": 5, "refusal": "r"}, {}, (ERROR, OK), "5 frames in a row failed: r"),
        ({}, {"health.latency": 0.07}, (WARN, OK), "latency p95 80 ms, above health.latency"),
        ({}, {"health.rate": 11.0}, (OK, WARN), "10.0 Hz, below health.rate"),
        ({"rate": None}, {"health.rate": 11.0}, (OK, OK), "publishing"),
        ({"age": None}, {}, (OK, WARN), "no mask yet"),
        ({"age": 3.0}, {}, (OK, WARN), "no mask for 3.0 s"),
    ],
)
def test_statuses_of_inference_and_output(
    found: dict[str, Any], given: dict[str, Any], level: tuple[bytes, bytes], said: str
) -> None:
    cpu = torch.device("cpu")
    inference = inference_status(figures(**found), cpu, GIVEN | given)
    output = output_status(figures(**found), GIVEN | given)
    assert (inference.level, output.level) == level
    assert said in (inference.message, output.message)


def test_status_of_the_synchroniser() -> None:
    counts = {"camera": {"used": 3, "waiting": 1}, "lidar": {"late": 2}}
    fine = sync_status(counts, {})
    assert (fine.level, {v.key: v.value for v in fine.values}) == (
        OK, {"camera.waiting": "1", "camera.used": "3", "lidar.late": "2"},
    )  # fmt: skip
    alone = sync_status(counts, {"lidar": 37.0})
    assert (alone.level, alone.message) == (WARN, "never matches: lidar")


def test_a_recorder_holds_seconds_within_its_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    now = 0.0
    given = {"snapshot.seconds": 0.0, "snapshot.folder": str(tmp_path)}
    recorder = Recorder(given, CameraInfos(), lambda: now)
    rgb = np.zeros((10, 10, 3), np.uint8)
    message = SimpleNamespace(data=rgb.tobytes(), get_fields_and_field_types=dict)
    result = Result(rgb[..., 0], None, (), {})

    def settle(at: float, end: Any = "used") -> None:
        nonlocal now
        now = at
        synced = SyncedSet(Entry("camera", round(now * 1e9), message, 0), {}, frozenset())
        if end == "used":
            recorder.keep(synced, Frame(rgb, {}), result)
        recorder.settled(synced, Outcome(end, "why"))

    def written() -> list[tuple[float, str]]:
        files = sorted(recorder.write([]).glob("*/outcome.json"))
        found = [json.loads(file.read_text()) for file in files]
        return [(f["stamps_ns"]["camera"] / 1e9, f["end"]) for f in found]

    assert written() == []
    for at in (1.0, 2.0):
        settle(at)
    assert written() == [(2.0, "used")], "0: the last one"
    given["snapshot.seconds"] = 2.5
    for at, end in ((3.0, "refused"), (3.5, "dropped"), (4.0, "used"), (5.0, "used")):
        settle(at, end)
    assert written() == [(3.0, "refused"), (4.0, "used"), (5.0, "used")]
    now = 60.0
    assert written() == [(5.0, "used")], "the last one in any case"
    monkeypatch.setattr(snapshot, "MEMORY", 2000)  # a set is 300 + 300 + 200 bytes
    given["snapshot.seconds"] = 60.0
    for at in (61.0, 62.0, 63.0, 64.0):
        settle(at)
    assert written() == [(63.0, "used"), (64.0, "used")]
    probabilities = np.zeros((3, 3, 34), np.float32)
    result = dataclasses.replace(result, probabilities=probabilities)  # 1224 bytes more
    for at in (65.0, 66.0):
        settle(at)
    assert written() == [(66.0, "used")], "what was asked for counts, too"
    # 110 points of 12 bytes, in the message, decoded and moved by lidar.frame or lidar.motion
    xyz, intensity = np.zeros((110, 3), np.float32), np.zeros(110, np.float32)
    camera = camera_model(camera_info(0, 10, 10))
    whole = SimpleNamespace(data=bytes(16 * 110), get_fields_and_field_types=dict)
    for moved, size in ((xyz, 32 * 110), (xyz.copy(), 44 * 110)):
        lidar = Entry("lidar", 0, whole, 0, decoded=Points(xyz, intensity, None, ""))
        synced = SyncedSet(Entry("camera", 0, message, 0), {"lidar": lidar}, frozenset())
        points = LidarPoints(moved, intensity, np.eye(4))
        frame = Frame(rgb, {"lidar": points}, camera)
        assert sum(snapshot._sizes(synced, frame, None)) == 2 * 300 + size
    assert not list(tmp_path.glob(".*")), "parts are removed"
