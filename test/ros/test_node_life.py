# SPDX-License-Identifier: Apache-2.0
"""A node's own life: what it starts with, what it survives, and how it ends."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from domains import free_domain
from harness import (
    GUARD,
    LIDAR_POSE,
    Client,
    NodeProcess,
    cloud,
    environment,
    image,
    running,
)
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from mmsam_ros.inference import Segmenter
from mmsam_ros.ros.diagnostics import FAILURES
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.node import FAULT_CODE, SegmentNode
from mmsam_ros.weights import default_weights

pytestmark = pytest.mark.dds
SIZE = 1024  # pixels a side: 1 MP
STEP = 100_000_000  # ns between frames


def test_compressed_camera_is_taken_when_raw_has_gone(weights: Path) -> None:
    with running(
        free_domain(1), "-p", f"weights:={weights}", "-p", "device:=cpu", "-r", "__ns:=/front",
        "-r", "camera/image:=/cam/color",
    ) as (_, client):  # fmt: skip
        publisher = client.publisher(CompressedImage, "/cam/color/compressed")
        masks = client.record(Image, "/front/mmsam/semantic")
        client.spin_until(publisher.get_subscription_count, "subscription to compressed")
        rgb = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
        message = CompressedImage(format="jpeg")
        message.data.frombytes(cv2.imencode(".jpg", rgb)[1].tobytes())
        message.header.frame_id = "front"
        message.header.stamp = client.node.get_clock().now().to_msg()
        broken = CompressedImage(format="jpeg", header=message.header)
        broken.data.frombytes(message.data.tobytes()[: len(message.data) // 2])
        publisher.publish(broken)
        client.spin_until(
            lambda: client.diagnostics().get("camera.refused:compressed") == "1", "the refusal"
        )
        message.header.stamp = client.node.get_clock().now().to_msg()
        publisher.publish(message)
        client.spin_until(lambda: masks, "a mask")
        assert (masks[0].height, masks[0].width) == (120, 160)
        assert masks[0].header.frame_id == "front"


def test_without_weights_the_node_takes_the_packages_own_and_says_so() -> None:
    with running(free_domain(6), "-p", "device:=cpu") as (node, client):
        client.spin_until(lambda: client.node.count_publishers("/mmsam/semantic"), "the node")
        assert client.diagnostics()["weights"] == default_weights().name
        assert "Evaluation only; do not use on a vehicle" in node.output


def test_what_does_not_come_or_never_matches_is_in_the_log(weights: Path) -> None:
    """A LiDAR on TAI, which is 37 s ahead; a thermal image on another topic."""
    with running(
        free_domain(1), "-p", f"weights:={weights}", "-p", "device:=cpu", "-p", LIDAR_POSE,
        "-r", "__ns:=/front", "-r", "thermal/image:=/heat",
    ) as (node, client):  # fmt: skip
        camera, lidar = (
            client.publisher(kind, f"/front/{name}")
            for kind, name in ((Image, "camera/image"), (PointCloud2, "lidar/points"))
        )
        heat = client.publisher(Image, "/thermal/image_raw")
        rgb, points = np.zeros((48, 64, 3), np.uint8), np.ones((10, 4), np.float32)

        def said(*texts: str) -> bool:
            """Publishes until the node has said it."""
            now = time.time_ns()
            camera.publish(image(now, rgb, "rgb8"))
            lidar.publish(cloud(now + 37 * 10**9, points))
            heat.publish(image(now, rgb[..., 0], "mono8"))
            return all(text in node.output for text in texts)

        lines = (
            "thermal: nothing received for 5 s on /heat or /heat/compressed. Published: ",
            "/thermal/image_raw; remap thermal/image (launch argument thermal_topic) to the right",
            "camera_info: nothing received for 5 s on /front/camera/camera_info, and no other",
            "lidar: its messages come but never match (masks use older ones or none): its stamps",
            "s ahead of the camera's. If its clock is off by a constant, set lidar.offset to -3",
            "s after the start, of camera\n",
        )
        client.spin_until(lambda: said(*lines), "all of it")
        assert float(client.diagnostics()["stamps_ahead.lidar"].split()[0]) == pytest.approx(
            37.0, abs=0.5
        )


def test_ctrl_c_in_the_middle_of_a_frame_is_clean(weights: Path) -> None:
    """`running` asserts exit code 0 and no traceback."""
    with running(
        free_domain(7), "-p", f"weights:={weights}", "-p", "device:=cpu", "-p", "use_sim_time:=true"
    ) as (node, client):
        publisher = client.publisher(Image, "/camera/image")
        masks = client.record(Image, "/mmsam/semantic")
        client.spin_until(publisher.get_subscription_count, "the camera is read, without a /clock")
        rgb = np.zeros((SIZE, SIZE, 3), np.uint8)
        for k in range(20):
            publisher.publish(image(k * STEP, rgb, "rgb8"))
        client.spin_until(lambda: masks, "the first mask")
        node.stop()
        assert "defect" not in node.output


@pytest.mark.parametrize("library", ["_rclpy_pybind11", "libtorch_cpu", "torch/lib/libtorch.so"])
def test_ctrl_c_while_it_imports_ends_it_at_once(weights: Path, library: str) -> None:
    """Once the library is there, the import of what needs it goes on for a while."""
    node = NodeProcess(free_domain(7), "-p", f"weights:={weights}", "-p", "device:=cpu")
    maps = Path(f"/proc/{node.process.pid}/maps")
    while library not in maps.read_text():
        assert node.process.poll() is None, node.output
    began = time.monotonic()
    code = node.stop()
    assert code in (0, -signal.SIGINT)
    assert node.output == ""
    assert time.monotonic() - began < 20, "seconds; under load, it takes 60 to load the rest"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("weights:=/no.pt", "parameter weights: /no.pt: no such file"),
        ("engine:=trt", "parameter engine: found 'trt', expected one of 'torch'"),
        ("lidar.slob:=0.1", "parameter 'lidar.slob' does not exist; did you mean 'lidar.slop'"),
    ],
)
def test_wrong_values_are_said_before_torch_is_loaded(given: str, said: str) -> None:
    """By what the process has imported when it is at its end."""
    words = ["-X", "importtime", "-m", "mmsam_ros.ros.main", "--ros-args", "-p", given]
    done = subprocess.run(
        [sys.executable, *words], env=environment(free_domain(2)), stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 2
    assert f"cannot start: {said}" in done.stderr
    assert "rclpy.node" in done.stderr
    assert "import time:" in done.stderr
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


@contextmanager
def node_in_this_process(domain: int, *args: str) -> Iterator[Client]:
    """A spinning node that a test can reach into, and a client."""
    rclpy.init(args=["--ros-args", *args], domain_id=domain)
    try:
        node, executor, client = SegmentNode(), SingleThreadedExecutor(), Client(domain)
        executor.add_node(node)
        spinning = Thread(target=executor.spin)
        spinning.start()
        try:
            yield client
        finally:
            client.close()
            executor.shutdown()
            spinning.join(GUARD)
            assert not spinning.is_alive()
            node.stop()
            node.destroy_node()
    finally:
        rclpy.try_shutdown()


def test_a_full_memory_costs_frames_not_the_node(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CUDA raises it; there is none here to run out of."""

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")

    args = ["-p", f"weights:={weights}", "-p", "device:=cpu", "-p", "sync.deadline:=0.0"]
    with node_in_this_process(free_domain(9), *args) as client:
        camera = client.publisher(Image, "/camera/image")
        client.spin_until(camera.get_subscription_count, "the node subscribes")
        facts: dict[str, str] = {}

        def send_until(count: int, key: str) -> None:
            """Frames one by one, each until it is counted."""
            for k in range(1, count + 1):
                camera.publish(image(next(stamps), np.zeros((SIZE, SIZE, 3), np.uint8), "rgb8"))
                client.spin_until(
                    lambda n=k: facts.update(client.diagnostics()) or facts.get(key) == str(n),
                    f"{key} is {k}",
                )

        stamps = itertools.count(STEP, STEP)
        monkeypatch.setattr(Segmenter, "infer", full)
        send_until(FAILURES, "camera.refused:out_of_memory")
        last = "out_of_memory: CUDA out of memory. Tried to allocate 2 GiB. ("
        assert facts["last_refusal.camera"].startswith(last)
        assert facts["message"] == f"{FAILURES} frames in a row failed"
        monkeypatch.undo()
        send_until(1, "camera.used")
        assert "failed" not in facts["message"]


FULL = """
import sys
import torch
from mmsam_ros.inference import Segmenter
from mmsam_ros.ros.main import main
from mmsam_ros.ros.worker import FullMemory

def full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

Segmenter.prepare = full
FullMemory.LASTING = 0.0
sys.exit(main())
"""


def test_a_memory_that_stays_full_ends_the_process(weights: Path) -> None:
    """Outside of the engine, which has others to fall back on."""
    domain = free_domain(2)
    args = ["-p", f"weights:={weights}", "-p", "device:=cpu", "-p", "sync.deadline:=0.0"]
    with subprocess.Popen(
        [sys.executable, "-c", FULL, "--ros-args", *args], env=environment(domain),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as node:  # fmt: skip
        client = Client(domain)
        try:
            camera = client.publisher(Image, "/camera/image")
            client.spin_until(camera.get_subscription_count, "the node subscribes")
            camera.publish(image(STEP, np.zeros((64, 64, 3), np.uint8), "rgb8"))
            said, _ = node.communicate(timeout=GUARD)
        finally:
            client.close()
            node.kill()
    assert node.returncode == FAULT_CODE, said
    assert "fault: memory has been full for 0 s: CUDA out of memory" in said


FAULTY = """
import sys
from mmsam_ros.inference import Segmenter
from mmsam_ros.ros import parameters
from mmsam_ros.ros.main import main

class Lost:
    "An engine whose device is lost from the third frame on."
    def __init__(self, engine):
        self.name, self.device, self._engine, self._calls = "onnx", engine.device, engine, 0
    def __call__(self, inputs):
        self._calls += 1
        if self._calls > 2:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return self._engine(inputs)

class Injected(Segmenter):
    def warm_up(self):
        self.engine = Lost(self.engine)

parameters.Segmenter = Injected
if sys.argv.pop(1) == "alone":
    parameters.rungs = lambda *_: {}
sys.exit(main())
"""


@pytest.mark.parametrize("others", ["alone", "torch"])
def test_a_lost_engine_is_replaced_or_ends_the_process(weights: Path, others: str) -> None:
    """Injected at `Engine`'s interface. Alone: the node says so in its last diagnostics and ends
    with code 3, for the launch file to start another. Else PyTorch goes on.
    """
    domain = free_domain(3)
    args = ["-p", f"weights:={weights}", "-p", "device:=cpu", "-p", "sync.deadline:=0.0"]
    with tempfile.TemporaryFile("w+") as log:
        node = subprocess.Popen(
            [sys.executable, "-c", FAULTY, others, "--ros-args", *args],
            env=environment(domain), stdout=log, stderr=subprocess.STDOUT, cwd=Path.cwd(),
        )  # fmt: skip
        client = Client(domain)
        try:
            masks = client.record(Image, "/mmsam/semantic")
            arrays = client.record(DiagnosticArray, "/diagnostics")

            def last() -> dict[str, str]:
                return {v.key: v.value for a in arrays[-1:] for v in a.status[0].values}

            camera = client.publisher(Image, "/camera/image")
            client.spin_until(
                lambda: camera.get_subscription_count() and client.node.count_publishers(
                    "/mmsam/semantic"
                ),
                "the node subscribes",
            )  # fmt: skip
            rgb = np.zeros((64, 64, 3), np.uint8)
            for k in range(1, 5):
                camera.publish(image(k * STEP, rgb, "rgb8"))
                wanted = min(k, 2) if others == "alone" else k
                client.spin_until(lambda n=wanted: len(masks) >= n or node.poll(), f"mask {wanted}")
                if others == "alone" and k == 3:
                    break
            if others == "torch":
                assert client.diagnostics()["engine"] == "torch"
                node.send_signal(signal.SIGINT)
            assert node.wait(GUARD) == (FAULT_CODE if others == "alone" else 0)
            if others == "alone":
                client.spin_until(lambda: "camera.refused:engine" in last(), "last diagnostics")
            log.seek(0)
            said = log.read()
        finally:
            client.close()
            node.kill()
    assert "engine onnx failed, trying once more: RuntimeError: CUDA error" in said
    if others == "torch":
        assert "engine torch takes over: RuntimeError: CUDA error" in said
        return
    assert "fault: no engine computes any more, the last one was onnx: RuntimeError: CUDA" in said
    figures = last()
    assert figures["mode"] == "FAULT"
    assert figures["camera.refused:engine"] == "1"
    assert figures["last_refusal.camera"].startswith("engine: no engine computes any more")
    assert len(masks) == 2


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["-p", "weights:=/absent.safetensors"], "weights: /absent.safetensors: no such file"),
        (
            ["-p", "weights:=~/absent.safetensors"],
            f"{Path.home()}/absent.safetensors: no such file",
        ),
        (["-p", "weights:=/tmp"], "parameter weights: /tmp: is a folder, expected a file"),
        (["-p", "weights:=5"], "parameter weights: found 5, expected a string"),
        (["-p", "lidar.slob:=0.1"], "parameter 'lidar.slob' does not exist; did you mean 'lidar.s"),
        (["-p", "lidar.slop:=near"], "lidar.slop"),
        (["-p", "use_sim_time:=maybe"], "use_sim_time"),
        (["-r", "foo"], "Couldn't parse remap rule"),
        (["--foo"], "--foo"),
        (["--", "-p", "weights:=w"], "arguments -p weights:=w are not read: ROS arguments follow"),
    ],
)
def test_wrong_parameters_stop_the_node_with_the_reason(
    weights: Path, args: list[str], reason: str
) -> None:
    node = NodeProcess(free_domain(2), "-p", f"weights:={weights}", *args)
    code = node.process.wait(GUARD)
    assert code == 2, node.output
    assert "cannot start" in node.output
    assert reason in node.output
    assert "Traceback" not in node.output


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["camera/image:=/x", "thermal/image:=/x"], "topic /x: found as the input camera/image"),
        (["camera/image:=/x", "lidar/points:=x"], "topic /x: found as the input camera/image"),
        (["thermal/camera_info:=camera/camera_info"], "topic /camera/camera_info: found as"),
        (["~/overlay:=camera/image"], "topic /camera/image: found as an output and as the input"),
        (["~/color:=/y", "~/overlay:=/y"], "topic /y: found as an output and as an output"),
    ],
)
def test_two_topics_of_one_name_are_refused(weights: Path, rules: list[str], said: str) -> None:
    """A thermal image that is the camera's gives masks that look valid."""
    words = [word for rule in rules for word in ("-r", rule)]
    rclpy.init(
        args=["--ros-args", "-p", f"weights:={weights}", "-p", "device:=cpu", *words],
        domain_id=free_domain(2),
    )
    try:
        with pytest.raises(RosError, match=f"^{said}"):
            SegmentNode()
    finally:
        rclpy.try_shutdown()
