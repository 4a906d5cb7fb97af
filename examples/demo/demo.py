# SPDX-License-Identifier: Apache-2.0
"""A synthetic drive through the installed node, over DDS (`make demo`).

    python examples/demo/demo.py --install install --out out/demo

Renders a bag, starts the node, replays the bag, records what the node publishes, and writes
pictures, a video, a summary and a labelled bag. Exits with 1 if fewer than 90 % of the camera
frames got a mask, or if fewer than 80 % of the masks were made from all three sensors.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import rclpy
import torch
from drive import read_frames, read_truth, write_labelled_bag
from recorder import CLASSES, DIAGNOSTICS, SEMANTIC, Recorder, labels, stamp
from report import write_report

from mmsam_ros.inference import Segmenter, tune_allocator
from mmsam_ros.sensors import ClassInfo
from mmsam_ros.training.metrics import Scores, SubsetMatrices
from mmsam_ros.weights import default_weights

SECONDS, CAMERA_RATE = 10.0, 5.0  # length of the drive, Hz
SHARE = 0.4  # of the time between two camera frames that the network may take
MIN_MASKED, MIN_FUSED = 0.9, 0.8
DOMAIN = "87"  # a DDS domain where nothing else runs, unless the user has set one


def main() -> int:
    """Render, run, check, report; 1 where too few frames came through."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", type=Path, default=Path("install"), help="colcon's prefix")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder to write")
    parser.add_argument("--weights", type=Path, help="weights (default: the package's own)")
    parser.add_argument("--seed", type=int, default=3, help="number of the test split's world")
    parser.add_argument("--picture", type=Path, help="also write the second picture to this JPEG")
    args = parser.parse_args()
    install, out, weights = args.install.resolve(), args.out.resolve(), args.weights
    weights = weights or default_weights()
    for folder in ("bag", "labelled_bag"):
        shutil.rmtree(out / folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    set_environment(install)

    bag, calibration = out / "bag", out / "calibration.yaml"
    mmsam(install, "synth", "bag", bag, "--seed", args.seed, "--seconds", SECONDS,
          "--camera-rate", CAMERA_RATE)  # fmt: skip
    mmsam(install, "bag", "calib", bag, "--out", calibration)
    rate = sustainable_rate(weights, bag)
    print(f"demo: replaying at {rate:.2f} times real time, which this machine sustains", flush=True)
    rclpy.init()
    recorder = Recorder()
    run(install, out, weights, rate, recorder)
    rclpy.shutdown()

    write_labelled_bag(bag, out / "labelled_bag", recorder.outputs)
    masks = {stamp(message): labels(message) for message in recorder.messages[SEMANTIC]}
    table = json.loads(recorder.messages[CLASSES][-1].data)["classes"]
    classes = [ClassInfo(c["id"], c["name"], tuple(c["rgb"])) for c in table]
    facts = recorder.diagnostics()
    summary = count(facts, len(masks), rate) | quality(score(bag, masks, classes))
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    pictures = write_report(out, bag, masks, classes, facts, summary)
    if args.picture:
        shown = cv2.imread(str(pictures[1]))
        assert shown is not None  # the report has just written it
        cv2.imwrite(str(args.picture), shown, [cv2.IMWRITE_JPEG_QUALITY, 88])
    for key, value in summary.items():
        print(f"  {key}: {value}")
    print(f"demo: pictures, video and summary: {out / 'index.html'}")
    print(f"demo: labelled bag: {out / 'labelled_bag'}")
    if not summary["holds"]:
        print("demo: FAILED: too few frames got a mask, or too few masks used all three sensors")
        return 1
    return 0


def set_environment(install: Path) -> None:
    """For all processes: a DDS domain of their own, and large messages where Fast DDS runs."""
    os.environ.setdefault("ROS_DOMAIN_ID", DOMAIN)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp").startswith("rmw_fastrtps"):
        profile = install / "mmsam_ros/share/mmsam_ros/config/fastdds_shm.xml"
        os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))


def installed(install: Path, executable: str, *args: object) -> list[str]:
    """The command of an installed executable, in the environment that its setup file makes."""
    path = install / "mmsam_ros/lib/mmsam_ros" / executable
    if not path.is_file():
        raise SystemExit(
            f"demo: {path} is not there; run `make build`, or name the prefix with --install"
        )
    source = f'source "{install}/setup.bash" && exec "$0" "$@"'
    return ["bash", "-c", source, str(path), *map(str, args)]


def mmsam(install: Path, *args: object) -> None:
    """Run the installed `mmsam` to its end."""
    if subprocess.run(installed(install, "mmsam", *args), check=False).returncode:
        raise SystemExit(f"demo: mmsam {' '.join(map(str, args))} failed")


def sustainable_rate(weights: Path, bag: Path) -> float:
    """Replay speed at which the network takes `SHARE` of the time between camera frames."""
    tune_allocator()  # as the node does
    segmenter = Segmenter.load(weights)
    _, frame = next(read_frames(bag))
    seconds = [sum(segmenter(frame).timings.values()) / 1e3 for _ in range(4)]
    return round(min(1.0, SHARE / (statistics.median(seconds[1:]) * CAMERA_RATE)), 2)


def run(install: Path, out: Path, weights: Path, rate: float, recorder: Recorder) -> None:
    """Replay the bag into the node until the node has nothing left to do."""
    config = install / "mmsam_ros/share/mmsam_ros/config/segment.yaml"
    node = installed(
        install, "segment", "--ros-args",
        "--params-file", config, "--params-file", out / "calibration.yaml",
        "-p", f"weights:={weights}", "-p", "thermal.registration:=rotation",
        # the deadline runs on the steady clock, the bag at another rate
        "-p", f"sync.deadline:={0.1 / rate}",
    )  # fmt: skip
    replay = installed(install, "mmsam", "replay", out / "bag", "--rate", rate)
    with process(node, out / "node.log") as alive:
        ready = recorder.spin_until(lambda: not alive() or recorder.count_publishers(SEMANTIC), 60)
        if not (ready and alive()):
            raise SystemExit(f"demo: the node did not start:\n{(out / 'node.log').read_text()}")
        with process(replay, out / "replay.log") as playing:
            ended = recorder.spin_until(lambda: not playing(), 60 + SECONDS / rate)
        log = (out / "replay.log").read_text()
        if not ended or "played" not in log:
            raise SystemExit(f"demo: the replay failed:\n{log}")
        seen = len(recorder.messages[DIAGNOSTICS])
        idle = recorder.spin_until(
            lambda: (
                len(recorder.messages[DIAGNOSTICS]) > seen
                and recorder.diagnostics()["camera.waiting"] == "0"
            ),
            timeout=20,
        )
        if not idle:
            raise SystemExit(f"demo: the node is still busy:\n{(out / 'node.log').read_text()}")


@contextmanager
def process(command: list[str], log: Path) -> Iterator[Callable[[], bool]]:
    """A process that is ended as by Ctrl-C; yields whether it still runs."""
    with log.open("w") as file:
        running = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield lambda: running.poll() is None
    finally:
        running.send_signal(signal.SIGINT)
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            print(f"demo: {command[3]} had to be killed, see {log}", file=sys.stderr)


def score(bag: Path, masks: Mapping[int, Any], classes: list[ClassInfo]) -> Scores:
    """The masks against the drive's ground truth, by stamp."""
    matrices = SubsetMatrices(len(classes))
    for when, truth in read_truth(bag):
        if when in masks:
            matrices.update(torch.from_numpy(masks[when]), torch.from_numpy(truth), {})
    return matrices.scores([info.name for info in classes])["all"]


def count(facts: Mapping[str, str], masks: int, rate: float) -> dict[str, Any]:
    """What came through, and whether it is enough."""
    frames, fused = round(SECONDS * CAMERA_RATE), int(facts.get("fused.camera+lidar+thermal", 0))
    return {
        "camera_frames": frames,
        "masks": masks,
        "masks_with_all_three_sensors": fused,
        "replay_rate": rate,
        "latency_p50_ms": float(facts["latency_p50_ms"] or "nan"),
        "latency_p95_ms": float(facts["latency_p95_ms"] or "nan"),
        "weights": facts["recipe"],
        "holds": masks / frames >= MIN_MASKED and fused / max(masks, 1) >= MIN_FUSED,
    }


def quality(scores: Scores) -> dict[str, Any]:
    """Scores in percent, over the classes that this drive has."""
    found = scores.iou.items()
    by_class = ", ".join(f"{name} {iou:.0f}" for name, iou in found if iou is not None)
    return {"miou_of_the_drive": round(scores.miou_present, 1), "iou_by_class": by_class}


if __name__ == "__main__":
    sys.exit(main())
