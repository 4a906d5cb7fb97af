# SPDX-License-Identifier: Apache-2.0
"""The managed node between processes: transitions and their errors."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from domains import free_domain
from harness import NodeProcess, image, nano_weights, running
from lifecycle_msgs.msg import Transition
from managing import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, RGB, Manager
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

from mmsam_ros.inference import Segmenter
from mmsam_ros.ros import parameters, pipeline
from mmsam_ros.ros.node import ERROR, FAILURE, FAULT_CODE, SUCCESS, SegmentNode, run
from mmsam_ros.ros.sets import Entry, Outcome, SyncedSet
from mmsam_ros.sensors import Frame

pytestmark = pytest.mark.dds
STAMP = 1_700_000_000_000_000_000


@pytest.fixture(scope="module")
def waiting(weights: Path) -> Iterator[tuple[NodeProcess, Manager]]:
    """A node that waits to be configured."""
    with running(
        free_domain(3), "-p", f"weights:={weights}", "-p", "device:=cpu", "-p", "autostart:=false"
    ) as (node, client):
        yield node, Manager(client)


@contextmanager
def made(weights: Path, *parameters: str) -> Iterator[SegmentNode]:
    """A node in this process."""
    given = [f"weights:={weights}", "device:=cpu", *parameters]
    words = [word for value in given for word in ("-p", value)]
    rclpy.init(args=["--ros-args", *words], domain_id=free_domain(4))
    try:
        node = SegmentNode()
        yield node
        node.stop()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What holds a thread: open at the end, whatever the test has found."""
    gate = threading.Event()
    yield gate
    gate.set()


# Every transition from every state, with what becomes of it. A state's row leads there.
WAYS = {
    "unconfigured": [],
    "inactive": [CONFIGURE],
    "active": [CONFIGURE, ACTIVATE],
}
BACK = {"unconfigured": [], "inactive": [CLEANUP], "active": [DEACTIVATE, CLEANUP]}
TABLE = [
    ("unconfigured", CONFIGURE, "inactive"),
    ("unconfigured", ACTIVATE, None),
    ("unconfigured", DEACTIVATE, None),
    ("unconfigured", CLEANUP, None),
    ("inactive", CONFIGURE, None),
    ("inactive", ACTIVATE, "active"),
    ("inactive", DEACTIVATE, None),
    ("inactive", CLEANUP, "unconfigured"),
    ("active", CONFIGURE, None),
    ("active", ACTIVATE, None),
    ("active", DEACTIVATE, "inactive"),
    ("active", CLEANUP, None),
    ("unconfigured", 99, None),
]


@pytest.mark.parametrize(("start", "transition", "end"), TABLE)
def test_every_transition(
    waiting: tuple[NodeProcess, Manager], start: str, transition: int, end: str | None
) -> None:
    """One that the state does not have is answered with "no", and changes nothing."""
    _, manager = waiting
    for step in WAYS[start]:
        assert manager.change(step)
    assert manager.state() == start
    assert manager.change(transition) == (end is not None)
    assert manager.state() == (end or start)
    is_read = manager.state() == "active"  # which other processes learn a moment later
    manager.client.spin_until(
        lambda: bool(manager.camera.get_subscription_count()) == is_read, f"camera read: {is_read}"
    )
    for step in BACK[manager.state()]:
        assert manager.change(step)


def test_a_configure_that_fails_says_why_and_can_be_tried_again(
    waiting: tuple[NodeProcess, Manager], weights: Path, tmp_path: Path
) -> None:
    node, manager = waiting
    (tmp_path / "no.safetensors").write_bytes(b"no")
    for values, said in [
        ({"weights": "/absent.safetensors"}, "/absent.safetensors"),
        ({"weights": str(tmp_path / "no.safetensors")}, "not a safetensors file"),
        ({"device": "cuda:7"}, "CUDA devices"),
        ({"thermal__registration": "homography"}, "thermal.homography: found no value"),
        ({"plausibility": "refuse"}, "the weights have no statistics of lidar and thermal"),
    ]:
        before = {key: manager.get(key.replace("__", ".")) for key in values}
        assert [manager.set(**{k: v}) for k, v in values.items()] == [""] * len(values)
        assert not manager.change(CONFIGURE)
        assert manager.state() == "unconfigured"
        manager.client.spin_until(lambda x=said: x in node.output, said)
        (line,) = [x for x in node.output.splitlines() if "cannot configure: " in x and said in x]
        assert "Traceback" not in line
        manager.client.spin_until(
            lambda: not manager.node.count_publishers("/mmsam/semantic"), "nothing is left of it"
        )
        for key, value in before.items():
            assert manager.set(**{key: value.string_value}) == ""
    for transition in (CONFIGURE, ACTIVATE):
        assert manager.change(transition)
    assert np.array_equal(manager.mask(), Segmenter.load(weights, "cpu")(Frame(RGB, {})).labels)
    for transition in (DEACTIVATE, CLEANUP):
        assert manager.change(transition)


def test_new_weights_are_a_transition(
    waiting: tuple[NodeProcess, Manager], weights: Path, tmp_path: Path
) -> None:
    """Refused while active; set while inactive, they keep it from activating the old ones."""
    _, manager = waiting
    other = nano_weights(tmp_path / "other.safetensors", "muses_rgb_lidar")
    old, new = (Segmenter.load(w, "cpu")(Frame(RGB, {})).labels for w in (weights, other))
    assert not np.array_equal(old, new)
    for transition in (CONFIGURE, ACTIVATE):
        assert manager.change(transition)
    assert np.array_equal(manager.mask(), old)
    reason = manager.set(weights=str(other))
    assert reason.startswith("parameter weights is not live: it needs a new configure")
    assert "ros2 lifecycle set /mmsam deactivate" in reason
    assert manager.get("weights").string_value == str(weights)
    assert manager.change(DEACTIVATE)
    assert manager.set(weights=str(other)) == ""
    assert not manager.change(ACTIVATE)
    assert manager.state() == "inactive"
    for transition in (CLEANUP, CONFIGURE, ACTIVATE):
        assert manager.change(transition)
    assert np.array_equal(manager.mask(), new)
    assert manager.change(DEACTIVATE)
    assert manager.set(weights=str(weights)) == ""
    assert manager.change(CLEANUP)


def test_deactivate_keeps_the_weights_and_the_counts(waiting: tuple[NodeProcess, Manager]) -> None:
    _, manager = waiting
    assert manager.change(CONFIGURE)
    for round_ in range(2):
        assert manager.change(ACTIVATE)
        manager.mask()
        manager.wait_for_mode("DEGRADED", "masks without lidar, thermal")
        assert manager.change(DEACTIVATE)
        assert manager.wait_for_mode("OFF", "inactive")["missing"] == []
        manager.client.spin_until(
            lambda: manager.camera.get_subscription_count() == 0, "no subscription"
        )
        facts = manager.client.diagnostics()
        assert int(facts["masks"]) > round_
        statuses = manager.statuses().values()
        assert {(s.level, s.message) for s in statuses} == {(b"\0", "inactive")}
    assert manager.change(CLEANUP)
    assert set(manager.statuses()) == {"segmentation"}
    manager.wait_for_mode("OFF", "not configured")


def test_shutdown_is_for_good_and_the_process_ends_cleanly(weights: Path) -> None:
    with running(
        free_domain(4), "-p", f"weights:={weights}", "-p", "device:=cpu"
    ) as (_, client):  # fmt: skip
        manager = Manager(client)
        manager.mask()
        assert manager.state() == "active", "autostart"
        assert "read-only" in manager.set(autostart=False)
        assert manager.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert manager.state() == "finalized"
        assert not manager.change(CONFIGURE)
        assert manager.state() == "finalized"


@pytest.mark.parametrize("configured", [False, True])
def test_shutdown_of_a_node_that_was_never_active(weights: Path, configured: bool) -> None:
    """Services, mode and diagnostics are there in every state."""
    with made(weights, "autostart:=false") as node:

        def entities() -> set[str]:
            names = {s.srv_name for s in node.services} | {p.topic_name for p in node.publishers}
            return names | {f"timer {timer.timer_period_ns}" for timer in node.timers}

        before = entities()
        assert any(name.endswith("enable") for name in before)
        if configured:
            assert node.trigger_configure() == SUCCESS
        assert node.trigger_shutdown() == SUCCESS
        assert entities() == before


def test_a_lost_engine_is_an_error_in_diagnostics(weights: Path) -> None:
    """Also when masks came until now."""
    with made(weights) as node:
        assert node.pipeline is not None
        node.pipeline.fault = "the device is lost"
        found = {s.name.rpartition(": ")[2]: s for s in node.diagnostics().status}
        for part in ("segmentation", "inference"):
            assert found[part].level == DiagnosticStatus.ERROR
            assert found[part].message == "the device is lost"


def test_a_frame_that_does_not_end_is_a_fault(
    weights: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends, and does not wait for it."""
    monkeypatch.setattr("mmsam_ros.ros.worker.STUCK_FIRST", 0.1)
    monkeypatch.setattr("mmsam_ros.ros.worker.PATIENCE", 0.1)

    def make() -> Iterator[SegmentNode]:
        node = SegmentNode()
        assert node.pipeline is not None
        worker = node.pipeline._worker
        synced = SyncedSet(Entry("camera", 1, None, 0), {}, frozenset())
        assert worker is not None
        worker._process = lambda _: gate.wait(600) and Outcome("used")
        worker._settle = lambda *_: None
        with worker._condition:
            worker._waiting.append(synced)
            worker._condition.notify()
        yield node

    values = ["-p", f"weights:={weights}", "-p", "device:=cpu"]
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain(4)))
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert run(["--ros-args", *values], make) == FAULT_CODE
    finally:
        signal.signal(signal.SIGINT, handler)


def test_enable_does_not_wait_for_the_network(
    weights: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what the frame gives after the answer is not published."""
    monkeypatch.setattr("mmsam_ros.ros.worker.PATIENCE", 600.0)
    inside, ended = threading.Event(), threading.Event()
    infer = Segmenter.infer

    def slow(*args: Any, **options: Any) -> Any:
        inside.set()
        assert gate.wait(600)
        return infer(*args, **options)

    monkeypatch.setattr(Segmenter, "infer", slow)
    with made(weights, "sync.deadline:=0.0") as node:
        held = node.pipeline
        assert held is not None
        outcomes: list[Outcome] = []
        settle = held._worker._settle
        held._worker._settle = lambda s, o: (settle(s, o), outcomes.append(o), ended.set())
        message = image(STAMP, RGB, "rgb8")
        held._worker.feed("camera", STAMP, message, time.monotonic())
        assert inside.wait(600)
        request = SetBool.Request(data=False)
        answer = node._control._enable(request, SetBool.Response())
        assert answer.success
        assert not held.running
        assert not ended.is_set()
        gate.set()
        assert ended.wait(600)
        assert outcomes == [Outcome("dropped", "shutdown")]


def test_an_output_that_hangs_keeps_nobody(
    weights: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the process could not end by a fault."""
    monkeypatch.setattr("mmsam_ros.ros.worker.PATIENCE", 0.05)
    monkeypatch.setattr("mmsam_ros.ros.pipeline.PATIENCE", 0.05)
    inside = threading.Event()
    with made(weights, "sync.deadline:=0.0") as node:
        held = node.pipeline
        assert held is not None
        worker = held._worker
        assert worker is not None
        monkeypatch.setattr(held._outputs, "publish", lambda _: (inside.set(), gate.wait(600)))
        worker.feed("camera", STAMP, image(STAMP, RGB, "rgb8"), time.monotonic())
        assert inside.wait(600)
        node.stop()
        assert worker.is_alive()
        gate.set()
        worker.join(600)


@pytest.mark.parametrize("trigger", ["trigger_deactivate", "trigger_cleanup"])
def test_an_error_in_a_transition_leaves_the_node_configurable(
    weights: Path, monkeypatch: pytest.MonkeyPatch, trigger: str
) -> None:
    """Also where stopping fails once more while it is cleaned up."""
    with made(weights) as node:
        if trigger == "trigger_cleanup":
            assert node.trigger_deactivate() == SUCCESS
            monkeypatch.setattr(SegmentNode, "follow", lambda *_: 1 / 0)
        else:
            monkeypatch.setattr(pipeline.Pipeline, "stop", lambda *_: 1 / 0)
        assert node.pipeline is not None
        worker = node.pipeline._worker
        assert getattr(node, trigger)() == ERROR
        assert node.pipeline is None
        monkeypatch.undo()
        if worker is not None:  # that nothing could stop
            worker.stop()
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS


def test_cleanup_frees_what_configure_has_loaded(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so does a configure that fails after it has loaded the weights."""
    loaded: list[weakref.ref[Segmenter]] = []
    load = parameters.load_segmenter

    def noted(given: parameters.Parameters, say: Any) -> Segmenter:
        segmenter = load(given, say)
        loaded.append(weakref.ref(segmenter))
        return segmenter

    monkeypatch.setattr(parameters, "load_segmenter", noted)
    with made(weights, "autostart:=false") as node:
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        before = {topic for topic, _ in node.get_topic_names_and_types()}
        assert "/mmsam/semantic" in before
        assert node.trigger_deactivate() == SUCCESS
        assert loaded[-1]() is not None
        assert node.set_parameters([Parameter("use_sim_time", value=True)])[0].successful
        assert node.trigger_cleanup() == SUCCESS
        assert [s.topic_name for s in node.subscriptions] == ["/clock"], "else its time stands"
        assert loaded[-1]() is None
        assert [p.topic_name for p in node.publishers if "/mmsam/" in p.topic_name] == [
            "/mmsam/mode"
        ]
        monkeypatch.setattr(pipeline, "Outputs", lambda *_: 1 / 0)
        assert node.trigger_configure() == FAILURE
        gc.collect()
        assert len(loaded) == 2
        assert loaded[-1]() is None
        monkeypatch.undo()
        assert node.trigger_configure() == SUCCESS
        monkeypatch.setattr(pipeline.Pipeline, "watch_graph", lambda _: 1 / 0)
        assert node.trigger_activate() == FAILURE
        assert not node.active
        assert node.pipeline is not None
        assert not node.pipeline.running
        monkeypatch.undo()
        assert node.trigger_activate() == SUCCESS
