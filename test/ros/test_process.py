# SPDX-License-Identifier: Apache-2.0
"""Each way in which a set can end, without a node: its outcome, its counts, settled once."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from harness import GUARD, camera_info, cloud, image, nano_weights
from malformed import CASES, Case

from mmsam_ros.inference import Result, Segmenter
from mmsam_ros.inference.prepare import prepare
from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.diagnostics import Monitor
from mmsam_ros.ros.frames import FrameBuilder
from mmsam_ros.ros.outputs import Request, SegmentedFrame
from mmsam_ros.ros.plausibility import IntensityScale, Plausibility
from mmsam_ros.ros.sets import CAMERA, Outcome, SyncedSet
from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig, Synchroniser
from mmsam_ros.ros.worker import Processor, Worker
from mmsam_ros.sensors import ChannelStatistics, Registration, pose_matrix
from mmsam_ros.sensors.limits import shortened

SIZE = 96  # pixels a side
STAMP = 10**9
SENSORS = ("lidar", "thermal")
RNG = np.random.default_rng(4)
RGB = RNG.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
POINTS = RNG.uniform((2, -8, -2, 0), (40, 8, 3, 1), (5000, 4)).astype(np.float32)
COUNTS = RNG.integers(24000, 33000, (80, 80), np.uint16)


class Poses:
    """The LiDAR looks where the camera looks."""

    def lookup(self, sensor: str, camera_frame: str, sensor_frame: str, time_ns: int) -> Any:
        return pose_matrix([0.0, 0.2, 0.0], [0.5, -0.5, 0.5, 0.5])


class Published:
    """In place of the publishers of a node."""

    request = Request(confidence=True, probabilities=False, threshold=0.0)

    def __init__(self) -> None:
        self.results: list[tuple[Any, Result]] = []

    def publish(self, segmented: SegmentedFrame) -> None:
        self.results.append((segmented.header, segmented.result))


@dataclasses.dataclass
class Rig:
    """A worker with real processing; `settled` holds what it said of each set."""

    segmenter: Segmenter
    running: bool = True
    outputs: Published = dataclasses.field(default_factory=Published)
    settled: list[tuple[SyncedSet, Outcome]] = dataclasses.field(default_factory=list)
    logged: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.infos = CameraInfos()
        self.infos.update(CAMERA, camera_info(0, SIZE, SIZE))
        builder = FrameBuilder(self.segmenter.spec, self.infos, Poses(), Registration())
        self.process = Processor(builder, self.segmenter, self.outputs, lambda: self.running)
        self.sync = Synchroniser(
            SyncConfig({name: AuxiliarySync(slop=0.02) for name in SENSORS}, deadline=0.0)
        )
        self.monitor = Monitor(self.logged.append)
        self.ended = threading.Semaphore(0)

    def settle(self, synced: SyncedSet, outcome: Outcome) -> None:
        self.settled.append((synced, outcome))
        self.monitor.settled(synced, outcome)
        self.sync.settle(synced, outcome)  # raises the second time
        self.ended.release()

    def run(self, *frames: dict[str, Any]) -> list[Outcome]:
        """Send frames to a worker, wait for all and stop it; the outcomes in order."""
        worker = Worker(self.sync, self.process, self.settle)
        for k, frame in enumerate(frames):
            for stream, message in frame.items():
                worker.feed(stream, STAMP + k * STAMP, message, time.monotonic())
        worker.start()
        for _ in frames:
            assert self.ended.acquire(timeout=GUARD)
        worker.stop()
        assert len({id(synced) for synced, _ in self.settled}) == len(self.settled)
        return [outcome for _, outcome in self.settled]

    def counts(self) -> dict[str, dict[str, int]]:
        """Outcomes by stream; what was received has ended in exactly one of them."""
        counts = self.sync.counts()
        for tally in counts.values():
            assert tally.pop("waiting") == 0
            assert tally.pop("received") == sum(tally.values())
        return {s: {k: n for k, n in tally.items() if n} for s, tally in counts.items()}


def frame(**instead: Any) -> dict[str, Any]:
    """All messages of a moment, the camera's last."""
    messages = {
        "lidar": cloud(STAMP, POINTS),
        "thermal": image(STAMP, COUNTS, "mono16", "thermal"),
        "camera": image(STAMP, RGB, "rgb8"),
    }
    return messages | instead


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    return Segmenter.load(nano_weights(path, "synthetic_rgb_lidar_thermal"), "cpu")


@pytest.fixture
def rig(segmenter: Segmenter) -> Rig:
    return Rig(segmenter)


def test_used(rig: Rig) -> None:
    [outcome] = rig.run(frame())
    assert (outcome.end, outcome.fused, outcome.sensors) == ("used", SENSORS, {})
    steps = {"convert", "prepare", "network", "labels", "publish"}
    assert set(outcome.timings) == steps
    assert rig.counts() == {name: {"used": 1} for name in (CAMERA, *SENSORS)}
    [(header, result)] = rig.outputs.results
    assert header.frame_id == "camera"
    assert result.labels.shape == (SIZE, SIZE)
    assert result.confidence is not None, "somebody asks for it"
    assert rig.logged == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused_messages(rig: Rig, case: Case) -> None:
    messages = frame()
    messages[case.stream] = case.spoil(messages[case.stream])
    [outcome] = rig.run(messages)
    refused = {case.stream: {f"refused:{case.reason}": 1}}
    if case.stream == CAMERA:
        assert (outcome.end, outcome.reason) == ("refused", case.reason)
        assert rig.counts() == {name: {"dropped:camera": 1} for name in SENSORS} | refused
    else:
        others = {CAMERA, *SENSORS} - {case.stream}
        assert (outcome.end, outcome.sensors[case.stream].reason) == ("used", case.reason)
        assert case.stream not in outcome.fused
        assert rig.counts() == {name: {"used": 1} for name in others} | refused
    [refusal] = outcome.refusals
    assert rig.logged == [f"{case.stream} refused ({case.reason}): {shortened(refusal.text)}"]
    assert len(rig.outputs.results) == (case.stream != CAMERA)


def test_a_camera_that_changes_in_flight(rig: Rig) -> None:
    """Each mask has the size of its own image, and another order of colours is no other picture.
    Points need the CameraInfo of the new size, and without registration a thermal image the shape.
    """
    half = image(STAMP, RGB[: SIZE // 2], "rgb8")
    turned = image(STAMP, RGB[..., ::-1], "bgr8")
    for camera, fused in ((image(STAMP, RGB, "rgb8"), SENSORS), (half, ()),
                          (turned, SENSORS)):  # fmt: skip
        outcome = rig.run(frame(camera=camera))[-1]
        assert (outcome.end, outcome.fused) == ("used", fused)
    first, small, last = (result.labels for _, result in rig.outputs.results)
    assert small.shape == (SIZE // 2, SIZE)
    assert np.array_equal(first, last)
    assert rig.counts()["lidar"] == {"used": 2, "refused:camera_info": 1}


def test_a_calibration_that_comes_late_or_changes(rig: Rig) -> None:
    """The points are left out until it comes, and follow it at once."""
    rig.infos._received.clear()
    assert rig.run(frame())[-1].sensors["lidar"].reason == "no_camera_info"
    good, turned = camera_info(0, SIZE, SIZE), camera_info(0, SIZE, SIZE)
    turned.k[2], turned.p[2] = SIZE / 4, SIZE / 4
    wrong = camera_info(0, 2 * SIZE, 2 * SIZE)
    for info, fused in ((good, SENSORS), (turned, SENSORS), (wrong, ("thermal",)), (good, SENSORS)):
        rig.infos.update(CAMERA, info)
        assert rig.run(frame())[-1].fused == fused
    labels = [result.labels for _, result in rig.outputs.results]
    assert np.array_equal(labels[1], labels[4])
    assert not np.array_equal(labels[1], labels[2])
    assert np.array_equal(labels[0], labels[3]), "without the points"


def fail_with(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def host_memory_errors() -> list[Exception]:
    """What numpy, torch and Python raise where the machine's memory is too small."""
    errors: list[Exception] = [MemoryError()]
    for ask in (np.empty, torch.empty):
        try:
            ask(2**58, dtype=np.uint8 if ask is np.empty else torch.uint8)
        except (MemoryError, RuntimeError) as error:
            errors.append(error.with_traceback(None))
    assert len(errors) == 3
    return errors


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")


@pytest.mark.parametrize(
    ("error", "reason", "text"),
    [
        (RuntimeError("a bug"), "defect", "RuntimeError: a bug"),
        (FULL, "out_of_memory", "CUDA out of memory. Tried to allocate 2 GiB."),
        *((error, "out_of_memory", "") for error in host_memory_errors()),
    ],
)
@pytest.mark.parametrize("step", ["build", "prepare", "infer", "publish"])
def test_failures_cost_one_frame(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str, text: str, step: str
) -> None:
    owner = {"build": FrameBuilder, "publish": rig.outputs}.get(step, Segmenter)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail_with(error))
        [outcome] = rig.run(frame())
    assert (outcome.end, outcome.reason) == ("refused", reason)
    assert text in outcome.text
    assert rig.logged == [f"camera refused ({reason}): {outcome.text}"]
    ends = {name: {"dropped:camera": 1} for name in SENSORS}
    assert rig.counts() == ends | {CAMERA: {f"refused:{reason}": 1}}
    rig.run(frame())
    assert rig.counts()[CAMERA] == {f"refused:{reason}": 1, "used": 1}


@pytest.mark.parametrize("step", ["prepare", "infer", "publish"])
def test_a_device_that_is_lost_outside_the_engine_is_a_fault(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The engine's own errors are its ladder's; after them all that asks the device fails."""
    gone = fail_with(RuntimeError("CUDA error: an illegal memory access was encountered"))
    owner = {"publish": rig.outputs}.get(step, Segmenter)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, gone)
        stream = SimpleNamespace(synchronize=gone if step != "publish" else lambda: None)
        patch.setattr("torch.cuda.current_stream", lambda _: stream)
        patch.setattr(Segmenter, "device", torch.device("cuda"))
        patch.setattr(Segmenter, "_now", lambda _: time.perf_counter())
        patch.setattr("mmsam_ros.inference.segmenter.prepare", on_cpu)
        [outcome] = rig.run(frame())
    assert outcome.reason == ("engine" if step != "publish" else "defect")


def on_cpu(taken: Any, spec: Any, plan: Any, device: Any, **others: Any) -> Any:
    """`prepare` for a device that is not here."""
    return prepare(taken, spec, plan, torch.device("cpu"), **others)


def test_a_full_memory_of_a_lost_device_costs_the_frame(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the worker: what cannot be given back is no news."""
    monkeypatch.setattr("torch.cuda.empty_cache", fail_with(RuntimeError("CUDA error")))
    monkeypatch.setattr(Segmenter, "infer", fail_with(FULL))
    [outcome] = rig.run(frame())
    assert outcome.reason == "out_of_memory"


def test_a_sensor_that_was_refused_stays_so_if_the_frame_fails(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Segmenter, "infer", fail_with(RuntimeError("a bug")))
    broken = image(STAMP, COUNTS, "mono16", "thermal")
    broken.step = 0
    rig.run(frame(thermal=broken))
    assert rig.counts() == {
        CAMERA: {"refused:defect": 1},
        "lidar": {"dropped:camera": 1},
        "thermal": {"refused:step": 1},
    }


def test_an_error_while_ros_shuts_down_is_no_defect(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.outputs, "publish", fail_with(RuntimeError("context is invalid")))
    rig.running = False
    [outcome] = rig.run(frame())
    assert (outcome.end, outcome.reason) == ("dropped", "shutdown")
    assert rig.counts() == {name: {"dropped:shutdown": 1} for name in (CAMERA, *SENSORS)}
    assert rig.logged == []


@pytest.mark.parametrize(
    ("error", "reason"), [(RuntimeError("a bug"), "defect"), (FULL, "out_of_memory")]
)
def test_a_failure_after_the_mask_was_sent_is_said_and_the_frame_used(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def publish(segmented: SegmentedFrame) -> None:
        segmented.sent.append("/mmsam/semantic")
        raise error

    monkeypatch.setattr(rig.outputs, "publish", publish)
    [outcome] = rig.run(frame())
    assert (outcome.end, outcome.reason, outcome.fused) == ("used", reason, SENSORS)
    assert rig.counts() == {name: {"used": 1} for name in (CAMERA, *SENSORS)}
    [line] = rig.logged
    assert line.startswith(f"camera refused ({reason}): after /mmsam/semantic: ")
    assert str(error).partition("\n")[0] in line
    figures = rig.monitor.figures(SENSORS, 60.0)
    assert (figures.masks, figures.failures) == (1, 1)


def test_every_way_to_end_at_once_adds_up(rig: Rig) -> None:
    """Used, refused and dropped sets of one run; sets that wait when the worker stops."""
    inside = rig.process
    worker: Worker

    def process(synced: SyncedSet) -> Outcome:
        if synced.camera.stamp_ns == STAMP:  # while this one is processed, three more come
            for k in (1, 2, 3):
                for stream, message in frame().items():
                    worker.feed(stream, STAMP + k * STAMP, message, time.monotonic())
        if synced.camera.stamp_ns == 4 * STAMP:
            worker._stopping.set()
            for stream, message in frame().items():
                worker.feed(stream, 5 * STAMP, message, time.monotonic())
        return inside(synced)

    worker = Worker(rig.sync, process, rig.settle)
    first = frame(thermal=image(STAMP, RGB, "rgb8", "thermal"))
    for stream, message in first.items():
        worker.feed(stream, STAMP, message, time.monotonic())
    worker.start()
    worker.join(GUARD)
    worker.stop()
    ends = {"used": 2, "dropped:busy": 2, "dropped:shutdown": 1}
    assert rig.counts() == {
        CAMERA: ends,
        "lidar": ends,
        "thermal": ends | {"used": 1, "refused:encoding": 1},
    }
    assert len(rig.outputs.results) == 2


def test_what_is_not_plausible_is_left_out(segmenter: Segmenter) -> None:
    """The clouds have intensity from 0 to 1 and the weights another one."""
    seen = {
        "lidar": {
            "range": ChannelStatistics(2.0, 60.0, 15.0, 0.9),
            "intensity": ChannelStatistics(4.0, 200.0, 50.0, 0.9),
        }
    }
    spec = dataclasses.replace(segmenter.spec, seen=seen)
    rig = Rig(segmenter)
    look = Plausibility(spec, "refuse", rig.logged.append, IntensityScale(spec, 1.0), CameraInfos())
    rig.process = dataclasses.replace(rig.process, plausibility=look)
    outcomes = rig.run(*[frame()] * 5)
    assert [outcome.fused for outcome in outcomes] == [SENSORS] * 2 + [("thermal",)] * 3
    assert outcomes[-1].sensors["lidar"].reason == "implausible"
    assert "lidar.intensity_scale" in outcomes[-1].sensors["lidar"].text
    assert rig.counts()["lidar"] == {"used": 2, "refused:implausible": 3}
    assert any("lidar intensity is 0" in line for line in rig.logged)
