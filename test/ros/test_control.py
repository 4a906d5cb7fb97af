# SPDX-License-Identifier: Apache-2.0
"""A running node between processes: live parameters, enable, snapshot, modes, times by step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from resource import RLIMIT_FSIZE, prlimit
from threading import Event
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from domains import free_domain
from harness import NodeProcess, cloud, image, running
from managing import RGB, Manager
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Float64
from std_srvs.srv import SetBool, Trigger
from support.networks import random_network, spec_of

from mmsam_ros.ros.control import _InThread
from mmsam_ros.ros.interface import PARAMETERS, SERVICES, STEPS
from mmsam_ros.ros.parameters import check_parameters, make_camera_infos
from mmsam_ros.ros.snapshot import MEMORY, Recorder
from mmsam_ros.weights import Presence, Score, save_model

pytestmark = pytest.mark.dds
NETWORK = "synthetic_rgb_lidar_thermal"
SCORES = {"camera": Score(38.0, "drives"), "camera+thermal": Score(45.5, "drives")}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With scores for some of the sets of sensors."""
    spec = spec_of(NETWORK, recipe="randomised")
    spec = dataclasses.replace(spec, presence=Presence((), SCORES))
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save_model(path, random_network(spec), spec)
    return path


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("snapshots") / "to be made"


@pytest.fixture(scope="module")
def started(weights: Path, snapshots: Path) -> Iterator[tuple[NodeProcess, Manager]]:
    with running(
        free_domain(5), "-p", f"weights:={weights}", "-p", "device:=cpu", "-p",
        f"snapshot.folder:={snapshots}", "-p", "sync.deadline:=0.0",
    ) as (node, client):  # fmt: skip
        yield node, Manager(client)


@pytest.fixture
def manager(started: tuple[NodeProcess, Manager]) -> Manager:
    return started[1]


# what is set of an active node, and the reason of the refusal ("": it is taken)
LIVE = [
    ("confidence_threshold", 0.5, ""),
    ("overlay_opacity", 0.25, ""),
    ("overlay_opacity", 1.5, "out of range"),
    ("lidar.slop", 0.1, ""),
    ("lidar.slop", -1.0, "out of range"),
    ("lidar.slop", float("nan"), "out of range"),
    ("lidar.slop", 1, "Wrong parameter type, expected 'Type.DOUBLE' got 'Type.INTEGER'"),
    ("thermal.offset", -0.25, ""),
    ("thermal.max_age", 0.5, ""),
    ("thermal.min_interval", 0.0, ""),
    ("depth.slop", 0.2, ""),  # which these weights do not read
    ("sync.deadline", 0.05, ""),
    ("sync.jump", 0.1, ""),
    ("plausibility", "off", ""),
    ("plausibility", "warn", ""),
    ("plausibility", "refuse", "the weights have no statistics of lidar and thermal"),
    ("plausibility", "refused", "found 'refused', expected one of 'warn', 'refuse', 'off'; did"),
    ("health.failures", 3, ""),
    ("health.failures", 0, "out of range"),
    ("health.silence", 1.5, ""),
    ("health.latency", 0.5, ""),
    ("health.rate", 5.0, ""),
    ("snapshot.seconds", 61.0, "out of range"),
    ("autostart", False, "read-only"),
    ("weights", "", "parameter weights is not live: it needs a new configure. First `ros2 life"),
    ("sync.queue", 10, "parameter sync.queue is not live"),
    ("sync.queue", 30, ""),  # as it is
    ("device", "cuda", "parameter device is not live"),
    ("lidar.extrinsics", [0.0] * 6 + [1.0], "parameter lidar.extrinsics is not live"),
    ("lidar.extrinsics", [0.0], "expected 7 doubles"),
    ("lidar.intensity_scale", "car", "found 'car', expected a double"),
    ("lidar.intensity_scale", None, "found None"),
]


@pytest.mark.parametrize(("name", "value", "reason"), LIVE)
def test_parameters_of_an_active_node(manager: Manager, name: str, value: Any, reason: str) -> None:
    before = manager.get(name)
    said = manager.set(**{name.replace(".", "__"): value})
    assert reason in said
    assert bool(said) == bool(reason)
    after = before if said else Parameter(name, value=value).to_parameter_msg().value
    assert manager.get(name) == after


def test_the_live_parameters_are_those_of_the_table() -> None:
    taken = {name for name, _, reason in LIVE if not reason} - {"sync.queue"}
    live = {row.name for row in PARAMETERS if row.read == "live"}
    assert taken <= live
    parts = {name.rpartition(".")[2] for name in taken} | {"seconds", "folder"}
    assert {name.rpartition(".")[2] for name in live} == parts


def test_parameters_that_are_set_together_are_all_taken_or_none(manager: Manager) -> None:
    before = manager.get("lidar.slop").double_value
    given = [Parameter("lidar.slop", value=0.3), Parameter("plausibility", value="refuse")]
    answer = manager.call(
        SetParametersAtomically, "set_parameters_atomically",
        parameters=[p.to_parameter_msg() for p in given],
    )  # fmt: skip
    assert "no statistics" in answer.result.reason
    assert manager.get("lidar.slop").double_value == before


def test_a_live_opacity_is_that_of_the_next_overlay(manager: Manager) -> None:
    overlays = manager.client.record(Image, "/mmsam/overlay")
    assert manager.set(overlay_opacity=0.0) == ""

    def is_the_camera_image() -> bool:
        manager.mask()
        return bool(overlays) and bytes(overlays[-1].data) == RGB.tobytes()

    manager.client.spin_until(is_the_camera_image, "an overlay that hides nothing")
    assert manager.set(overlay_opacity=0.5) == ""
    manager.client.spin_until(lambda: not is_the_camera_image(), "colours again")


def test_a_live_offset_matches_from_then_on(manager: Manager) -> None:
    """Thermal stamps are 300 s ahead, until the offset says so."""
    thermal = manager.client.publisher(Image, "/thermal/image")
    counts = np.random.default_rng(3).integers(24000, 33000, (48, 64), np.uint16)
    manager.client.spin_until(thermal.get_subscription_count, "the thermal image is read")
    used, stamp = 0, 10**12

    def fused() -> bool:
        nonlocal stamp
        stamp += 10**8
        thermal.publish(image(stamp + 300 * 10**9, counts, "mono16", "thermal"))
        manager.camera.publish(image(stamp, RGB, "rgb8"))
        return int(manager.client.diagnostics().get("fused.camera+thermal", 0)) > used

    for _ in range(3):
        assert not fused()
    assert manager.set(thermal__offset=-300.0) == ""
    manager.client.spin_until(fused, "a mask with the thermal image")
    mode = manager.wait_for_mode("DEGRADED", "masks without lidar")
    while mode["missing"] != ["lidar"]:
        fused()
        mode = manager.mode()
    assert mode["score"] == {"miou": 45.5, "dataset": "drives"}
    assert manager.set(thermal__offset=0.0) == ""
    manager.node.destroy_publisher(thermal)


def test_modes_follow_the_sensors(manager: Manager) -> None:
    manager.set(health__silence=1.0)
    manager.mask()
    began = manager.wait_for_mode("DEGRADED", "masks without")
    while manager.mode()["missing"] != ["lidar", "thermal"]:
        manager.mask()
    mode = manager.mode()
    assert mode["score"] == {"miou": 38.0, "dataset": "drives"}

    def scored() -> bool:
        manager.mask()
        return manager.client.diagnostics()["score"] == "38.0 % mIoU on drives"

    manager.client.spin_until(scored, "the score in the diagnostics")
    starved = manager.wait_for_mode("STARVED", "no camera image for")
    assert starved["since"] >= mode["since"] >= began["since"] > 1.6e9
    statuses = manager.statuses()
    assert statuses["input camera"].level == DiagnosticStatus.ERROR
    assert statuses["input camera"].message.startswith("no message for")
    assert statuses["segmentation"].level == DiagnosticStatus.WARN
    manager.mask()
    manager.wait_for_mode("DEGRADED", "masks without lidar, thermal")


def test_a_status_of_each_part(manager: Manager) -> None:
    manager.mask()
    statuses = manager.statuses()
    assert list(statuses) == [
        "segmentation", "input camera", "input lidar", "input thermal", "input camera_info",
        "input thermal_info", "synchroniser", "inference", "output",
    ]  # fmt: skip
    values = {name: {v.key: v.value for v in s.values} for name, s in statuses.items()}
    assert int(values["input camera"]["used"]) == int(values["output"]["masks"])
    assert values["input camera"]["topic"] == "/camera/image"
    assert float(values["input camera"]["age_s"]) >= 0
    assert statuses["input lidar"].message == "no message yet"
    assert statuses["input camera_info"].message == "no message yet", "points need it"
    thermal_info = statuses["input thermal_info"]
    assert (thermal_info.level, thermal_info.message) == (b"\0", "no message, none is needed")
    assert float(values["inference"]["latency_p95_ms"]) > 0
    assert 50 < float(values["inference"]["memory_resident_mib"]) < 20000
    assert {s.hardware_id for s in statuses.values()} == {"nano.safetensors"}


def test_disabled_reads_nothing_and_says_so(manager: Manager) -> None:
    manager.mask()
    for _ in range(2):  # also twice
        assert manager.call(SetBool, "enable", data=False).success
    assert manager.wait_for_mode("OFF", "disabled by ~/enable")["score"] is None
    manager.client.spin_until(lambda: not manager.camera.get_subscription_count(), "nothing read")
    assert manager.state() == "active"
    assert manager.client.diagnostics()["message"] == "disabled by ~/enable"
    assert manager.call(SetBool, "enable", data=True).success
    manager.mask()
    manager.wait_for_mode("DEGRADED", "masks without")


def test_times_by_step_add_up(manager: Manager) -> None:
    topics = {n: f"/mmsam/debug/processing_time_ms/{n}" for n in (*STEPS, "total")}
    got = {n: manager.client.record(Float64, topic) for n, topic in topics.items()}
    latency = manager.client.record(Float64, "/mmsam/debug/latency_ms")
    while not all([*got.values(), latency]):
        manager.mask()
    last = {name: messages[-1].data for name, messages in got.items()}
    assert last["total"] == pytest.approx(sum(last[step] for step in STEPS))
    assert min(last.values()) >= 0
    assert latency[-1].data >= last["inference"] > 0


def test_a_snapshot_holds_what_came_and_what_was_made(manager: Manager, snapshots: Path) -> None:
    mask = manager.mask()
    answer = manager.call(Trigger, "snapshot")
    assert answer.success, answer.message
    folder = Path(answer.message)
    assert folder.parent == snapshots
    assert [p.name for p in snapshots.iterdir()] == [folder.name], "no part is left"
    one = folder / "0000"
    assert np.array_equal(cv2.imread(str(one / "labels.png"), cv2.IMREAD_UNCHANGED), mask)
    red = cv2.imread(str(one / "camera.jpg"))[..., 2]
    by_colour = np.corrcoef([red.ravel(), *RGB.reshape(-1, 3).T])[0, 1:]
    assert red.shape == RGB.shape[:2]
    assert by_colour[0] > by_colour[2] + 0.1, "colours in their order"
    with np.load(one / "camera.npz") as saved:  # pickles are refused by default
        assert saved["data"].tobytes() == RGB.tobytes()
        assert json.loads(str(saved["message"]))["encoding"] == "rgb8"
    outcome = json.loads((one / "outcome.json").read_text())
    assert (outcome["end"], outcome["fused"]) == ("used", [])
    given = yaml.safe_load((folder / "parameters.yaml").read_text())["/**/mmsam"]
    assert given["ros__parameters"]["snapshot.folder"] == str(snapshots)
    saved_statuses = json.loads((folder / "diagnostics.json").read_text())["status"]
    assert saved_statuses[0]["name"] == "/mmsam: segmentation"


def test_the_executor_is_woken_once_a_snapshot_is_there() -> None:
    """It would sleep until the next message: a camera may send none."""
    woken: Queue[bool] = Queue()
    begun = Event()
    thread = _InThread(lambda: begun.wait() and "folder", lambda: woken.put(thread._ended))
    waiting = thread.__await__()
    next(waiting)
    begun.set()
    assert woken.get(timeout=60)
    with pytest.raises(StopIteration, match="folder"):
        next(waiting)


def test_a_snapshot_holds_a_calibration_by_parameters(tmp_path: Path) -> None:
    k = [60.0, 0.0, 40.0, 0.0, 60.0, 30.0, 0.0, 0.0, 1.0]
    given = {"camera.info.width": 80, "camera.info.height": 60, "camera.info.k": k}
    given |= {"camera.info.p": [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]}
    parameters = check_parameters({**given, "snapshot.folder": str(tmp_path)}, pytest.fail)
    folder = Recorder(parameters, make_camera_infos(parameters)).write({})
    info = json.loads((folder / "camera_info.json").read_text())["camera"]
    assert (info["width"], info["k"], info["roi"]["width"]) == (80, k, 0)


def test_a_snapshot_of_seconds_holds_refused_sets_too(manager: Manager) -> None:
    assert manager.set(snapshot__seconds=60.0) == ""
    lidar = manager.client.publisher(PointCloud2, "/lidar/points")
    manager.client.spin_until(lidar.get_subscription_count, "the cloud is read")
    key = "camera.refused:encoding"

    def refused() -> bool:
        stamp = manager.stamp()
        lidar.publish(cloud(stamp, np.ones((9, 4), np.float32)))
        manager.camera.publish(image(stamp, RGB, "rgb9"))
        return key in manager.client.diagnostics()

    def outcomes(folder: Path) -> list[Any]:
        return [json.loads(p.read_text()) for p in sorted(folder.glob("*/outcome.json"))]

    def kept() -> bool:
        """A mask is there before its set is kept."""
        folders.append(Path(manager.call(Trigger, "snapshot").message))
        return outcomes(folders[-1])[-1]["end"] == "used"

    folders: list[Path] = []
    manager.mask()
    manager.client.spin_until(refused, key)
    manager.mask()
    manager.client.spin_until(kept, "the last mask in a snapshot")
    folder, found = folders[-1], outcomes(folders[-1])
    where = [outcome["end"] for outcome in found].index("refused")
    assert found[where]["reason"] == "encoding"
    with np.load(folder / f"{where:04d}" / "camera.npz") as saved:
        assert json.loads(str(saved["message"]))["encoding"] == "rgb9"
    assert manager.set(snapshot__seconds=0.0) == ""
    manager.mask()
    folder = Path(manager.call(Trigger, "snapshot").message)
    assert [p.name for p in folder.iterdir() if p.is_dir()] == ["0000"]


def test_a_snapshot_that_cannot_be_written_says_why(
    started: tuple[NodeProcess, Manager], tmp_path: Path, snapshots: Path
) -> None:
    node, manager = started
    manager.mask()
    (tmp_path / "file").touch()
    for folder, reason in (("file", "Not a directory"), ("/proc/none", "No such file")):
        assert manager.set(snapshot__folder=str(tmp_path / folder)) == ""
        answer = manager.call(Trigger, "snapshot")
        assert not answer.success
        assert reason in answer.message
        assert answer.message.startswith("snapshot: ")
    assert manager.set(snapshot__folder=str(tmp_path / "full")) == ""
    limits = prlimit(node.process.pid, RLIMIT_FSIZE, (4096, -1))  # as a full disk
    assert not manager.call(Trigger, "snapshot").success
    assert list((tmp_path / "full").iterdir()) == []
    prlimit(node.process.pid, RLIMIT_FSIZE, limits)
    assert manager.call(Trigger, "snapshot").success, "nothing was lost"
    assert manager.set(snapshot__folder=str(snapshots)) == ""
    assert MEMORY == 512 * 2**20, "as the parameter's description says"


def test_the_services_are_those_of_the_table(manager: Manager) -> None:
    found = dict(manager.node.get_service_names_and_types_by_node("mmsam", "/"))
    for row in SERVICES:
        assert found[row.name.replace("~", "/mmsam")] == [row.type]
