# SPDX-License-Identifier: Apache-2.0
"""The node says of a sensor that it is implausible, leaves it out, and names what cures it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from domains import free_domain
from harness import Client, NodeProcess, camera_info, cloud, image, running
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from support.networks import of_one_rig

from mmsam_ros.sensors import pose_values
from mmsam_ros.weights import read_spec, save_spec
from mmsam_ros.world.dataset import Scene
from mmsam_ros.world.style import world_seed
from mmsam_ros.world.vehicle import make_rig

pytestmark = pytest.mark.dds
RIG = make_rig(192, 144)
STEP = 800_000_000  # ns between frames
POSE = [float(v) for v in pose_values(RIG.T_camera_lidar)]
SCENE = Scene(world_seed("test", 900), "test", "sun", "ordinary", range(4))


def drive(client: Client, factor: float) -> None:
    """Four frames, with the intensity in another unit and an unregistered thermal camera."""
    kinds = {
        "camera/image": Image, "camera/camera_info": CameraInfo, "lidar/points": PointCloud2,
        "thermal/image": Image, "thermal/camera_info": CameraInfo,
    }  # fmt: skip
    publishers = {name: client.publisher(kind, f"/{name}") for name, kind in kinds.items()}
    masks = client.record(Image, "/mmsam/semantic")
    client.spin_until(
        lambda: (
            all(p.get_subscription_count() for p in publishers.values())
            and client.node.count_publishers("/mmsam/semantic")
        ),
        "the node subscribes",
    )
    infos = []
    for spec in (RIG.camera, RIG.thermal):
        info = camera_info(0, spec.width, spec.height)
        focal, (u, v) = float(spec.K[0, 0]), spec.K[:2, 2].tolist()
        info.k = [focal, 0.0, u, 0.0, focal, v, 0.0, 0.0, 1.0]
        info.p = [focal, 0.0, u, 0.0, 0.0, focal, v, 0.0, 0.0, 0.0, 1.0, 0.0]
        infos.append(info)
    publishers["camera/camera_info"].publish(infos[0])
    publishers["thermal/camera_info"].publish(infos[1])
    client.diagnostics()  # they have arrived
    for number, sample in enumerate(SCENE.samples(RIG), start=1):
        stamp = 10**9 + number * STEP
        scaled = sample.cloud.intensity[:, None] * np.float32(factor)
        points = np.concatenate([sample.cloud.xyz, scaled], axis=1).astype(np.float32)
        publishers["lidar/points"].publish(cloud(stamp, points))
        publishers["thermal/image"].publish(image(stamp, sample.thermal, "mono16", "thermal"))
        publishers["camera/image"].publish(image(stamp, sample.picture.rgb, "rgb8"))
        client.spin_until(lambda n=number: len(masks) >= n, f"mask {number}")


def options(**parameters: Any) -> list[str]:
    given = {
        "device": "cpu",
        "sync.deadline": 10.0,
        "health.silence": 60.0,
        "lidar.extrinsics": POSE,
    }
    given |= parameters
    return [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]


def finished(pair: tuple[NodeProcess, Client], factor: float) -> tuple[dict[str, str], bytes]:
    client = pair[1]
    drive(client, factor)
    client.diagnostics()  # one that was on its way
    values = client.diagnostics()
    statuses: list[DiagnosticArray] = client.received["/diagnostics"]
    return values, statuses[-1].status[0].level


@pytest.fixture
def weights(root: Path, tmp_path: Path) -> str:
    """The package's, but they mind the unit of the LiDAR's intensity."""
    path = tmp_path / "unit.safetensors"
    shutil.copy(root / "models/tiny_synthetic.safetensors", path)
    save_spec(path, of_one_rig(read_spec(path)))
    return str(path)


def test_what_is_implausible_is_left_out_if_asked_for(weights: str) -> None:
    given = options(weights=weights, plausibility="refuse")
    with running(free_domain(), *given) as pair:
        values, level = finished(pair, 1 / 255)
        assert level == DiagnosticStatus.WARN
        assert "lidar.intensity_scale" in values["implausible.lidar.intensity"]
        assert "thermal.registration" in values["implausible.thermal.view"]
        # it takes three frames to judge by statistics, and one by calibration
        assert (values["fused.camera+lidar"], values["fused.camera"]) == ("2", "2")
        assert values["last_refusal.lidar"].startswith("implausible: intensity is ")
        assert values["mode"] == "DEGRADED"
        assert values["mode_reason"].endswith("with implausible lidar, thermal")
        output = pair[0].output
        assert output.count("implausible: lidar intensity is ") == 1
        assert output.count("implausible: thermal view is 64 degrees wide, the camera's 75") == 1


def test_what_the_node_names_cures_it(weights: str) -> None:
    registered = {"thermal.registration": "rotation", "thermal.extrinsics": [
        float(v) for v in pose_values(RIG.T_camera_thermal)
    ]}  # fmt: skip
    cured = options(weights=weights, **registered, **{"lidar.intensity_scale": "auto"})
    with running(free_domain(), *cured) as pair:
        values, _ = finished(pair, 1 / 255)
        assert not [key for key in values if key.startswith("implausible")]
        assert values["fused.camera+lidar+thermal"] == "4"
        assert values["mode"] == "FULL"
        assert "implausible" not in pair[0].output
