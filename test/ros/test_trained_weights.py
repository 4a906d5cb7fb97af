# SPDX-License-Identifier: Apache-2.0
"""What `mmsam train` exports, the node runs as `mmsam eval` scores it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from domains import free_domain
from harness import image, running
from sensor_msgs.msg import Image
from support.trees import make_folder

from mmsam_ros.cli.main import main
from mmsam_ros.training.evaluate import EvalConfig, Evaluation

pytestmark = pytest.mark.dds
SIZE = (96, 128)  # of the network
CAMERA = (120, 150)  # scaled and padded to it
STEP = 100_000_000  # ns between frames


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and, in run/, what the command left of a short training."""
    folder = tmp_path_factory.mktemp("trained")
    make_folder(folder / "data", size=CAMERA)
    command = [
        "train", "--config=folder_rgb_lidar_thermal", f"--data.root={folder / 'data'}",
        f"--out={folder / 'run'}", "--model.preset=nano", f"--model.image_size={list(SIZE)}",
        f"--augment.base_size={list(SIZE)}", f"--augment.crop={list(SIZE)}", "--start.sam=scratch",
        "--start.convnext=scratch", "--data.workers=0",
        "--batch.effective=4", "--batch.per_device=4",
        "--schedule.epochs=4", "--schedule.warmup_epochs=0", "--optimiser.lr=3e-3",
        "--device.accelerator=cpu", "--log.validate_every=2",
    ]  # fmt: skip
    assert main(command) == 0
    return folder


def test_the_node_labels_as_the_evaluation_does(trained: Path) -> None:
    weights = trained / "run/best.safetensors"
    evaluation = Evaluation(
        EvalConfig(str(weights), str(trained / "data"), geometry="native", device="cpu")
    )
    with running(
        free_domain(), "-p", f"weights:={weights}", "-p", "device:=cpu", "-p", "sync.deadline:=10.0"
    ) as (_, client):
        camera = client.publisher(Image, "/camera/image")
        lidar = client.publisher(Image, "/lidar/image")
        thermal = client.publisher(Image, "/thermal/image")
        masks = client.record(Image, "/mmsam/semantic")
        publishers = (camera, lidar, thermal)
        client.spin_until(
            lambda: (
                all(p.get_subscription_count() for p in publishers)
                and client.node.count_publishers("/mmsam/semantic")
            ),
            "the node subscribes",
        )
        seen = set()
        for i in range(len(evaluation.frames)):
            item, stamp = evaluation.frames[i], 10**9 + i * STEP
            raster, counts = (item.frame.sensors[name].data for name in ("lidar", "thermal"))
            lidar.publish(image(stamp, raster, "32FC3"))
            thermal.publish(image(stamp, counts, "mono16"))
            camera.publish(image(stamp, item.frame.rgb, "rgb8"))
            client.spin_until(lambda n=i: len(masks) > n, f"mask {i}")
            labels = np.frombuffer(masks[i].data, np.uint8).reshape(CAMERA)
            expected, _ = evaluation.predict(item)
            assert (labels == expected.numpy()).all()
            seen |= set(np.unique(labels).tolist())
        expected_count = str(len(evaluation.frames))
        client.spin_until(
            lambda: client.diagnostics().get("fused.camera+lidar+thermal") == expected_count,
            "diagnostics that count every frame as fused",
        )
    assert len(seen) > 1


def test_the_command_scores_it_and_the_spec_knows(trained: Path) -> None:
    run = trained / "run"
    command = ["eval", "--weights", str(run / "last.safetensors"), "--root", str(trained / "data")]
    command += ["--split", "val", "--device", "cpu", "--geometry", "native"]
    assert main([*command, "--out", str(trained / "report")]) == 0
    results = json.loads((trained / "report/results.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "miou" in line][-1]
    assert results["scores"]["all"]["miou"] == pytest.approx(last["miou"]["all"], abs=0.05)
