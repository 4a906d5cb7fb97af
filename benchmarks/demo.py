# SPDX-License-Identifier: Apache-2.0
"""A synthetic drive through the installed node, over DDS, and what came of it (`make demo`).

    python benchmarks/demo.py --install install --out out/demo

Writes pictures, a video, a one-page summary and a labelled bag. Fails when less than 90 % of the
camera frames got a mask or less than 80 % of those fused all three sensors.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from demo_report import frames, score, write_report
from recorder import Recorder, write_labelled_bag

from mmsam_ros.cli.main import main as mmsam
from mmsam_ros.inference import Segmenter, tune_allocator
from mmsam_ros.training.metrics import Scores
from mmsam_ros.weights import default_weights, read_spec

SECONDS = 10.0
CAMERA_RATE = 5.0  # Hz
SHARE = 0.4  # of the time between two camera frames that the network may take
MIN_MASKED, MIN_FUSED = 0.9, 0.8
IMAGE, TEXT = "sensor_msgs/msg/Image", "std_msgs/msg/String"
OUTPUTS = {"/mmsam/semantic": IMAGE, "/mmsam/color": IMAGE, "/mmsam/overlay": IMAGE}
CLASSES = "/mmsam/classes"
DIAGNOSTICS = "/diagnostics"
REMAPS = {"camera/image": "/camera/image_raw", "thermal/image": "/thermal/image_raw"}
DOMAIN = "87"  # where nothing else listens, unless the user has set one


def main() -> int:
    """Render, run, check, report; 1 where too few frames came through."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", type=Path, default=Path("install"), help="colcon's prefix")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder to write")
    parser.add_argument("--weights", type=Path, help="weights (default: the package's own)")
    parser.add_argument("--seed", type=int, default=3, help="number of the test split's world")
    parser.add_argument("--picture", type=Path, help="JPEG of the second frame that is shown")
    args = parser.parse_args()
    out: Path = args.out.resolve()
    for folder in ("bag", "labelled_bag"):
        shutil.rmtree(out / folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= _environment(args.install)
    bag = _render(out, args.seed)
    weights = args.weights or default_weights()
    rate = _sustainable_rate(weights, bag)
    print(f"demo: replaying at {rate:.2f} times real time, which this machine carries", flush=True)
    facts, recorder = _drive(args.install, out, bag, weights, rate)
    labelled = out / "labelled_bag"
    topics = {t: r for t, r in recorder.topics.items() if t != DIAGNOSTICS}
    write_labelled_bag(bag, labelled, topics)
    spec = read_spec(weights)
    masks = recorder.topics["/mmsam/semantic"]
    summary = _summary(facts, recorder, rate) | _quality(score(bag, masks, spec))
    page = write_report(out, bag, masks, spec, facts, summary)
    if args.picture is not None:
        shown = cv2.imread(str(sorted(out.glob("frame_*.png"))[1]))
        assert shown is not None  # the report has just written it
        cv2.imwrite(str(args.picture), shown, [cv2.IMWRITE_JPEG_QUALITY, 88])
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    for key, value in summary.items():
        print(f"  {key}: {value}")
    print(f"demo: pictures, video and summary: {page}\ndemo: labelled bag: {labelled}")
    if not summary["holds"]:
        print("demo: FAILED: too few frames got a mask or too few fused all three sensors")
        return 1
    return 0


def _environment(install: Path) -> dict[str, str]:
    """For all processes: a DDS domain of our own, and large messages where Fast DDS runs."""
    given = os.environ
    changes = {
        "ROS_DOMAIN_ID": given.get("ROS_DOMAIN_ID", DOMAIN),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": given.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"),
    }
    fast_dds = given.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp").startswith("rmw_fastrtps")
    profile = install.resolve() / "mmsam_ros/share/mmsam_ros/config/fastdds_shm.xml"
    if fast_dds and "FASTRTPS_DEFAULT_PROFILES_FILE" not in given:
        changes["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(profile)
    return changes


def _render(out: Path, seed: int) -> Path:
    """The three-sensor bag and its calibration as node parameters."""
    bag = out / "bag"
    common = ["--seed", str(seed), "--seconds", str(SECONDS), "--camera-rate", str(CAMERA_RATE)]
    for command in (
        ["synth", "bag", str(bag), *common],
        ["bag", "calib", str(bag), "-o", str(out / "calibration.yaml")],
    ):
        if mmsam(command) != 0:
            raise SystemExit(f"demo: mmsam {' '.join(command)} failed")
    return bag


def _sustainable_rate(weights: Path, bag: Path) -> float:
    """Replay speed at which the network takes `SHARE` of the time between camera frames."""
    tune_allocator()  # as the node does
    segmenter = Segmenter.load(weights)
    _, frame = next(frames(bag))
    times = [sum(segmenter(frame).timings.values()) / 1e3 for _ in range(4)]
    return round(min(1.0, SHARE / (statistics.median(times[1:]) * CAMERA_RATE)), 2)


def _drive(
    install: Path, out: Path, bag: Path, weights: Path, rate: float
) -> tuple[dict[str, str], Recorder]:
    """Play the bag into the node; its last diagnostics and everything that was recorded."""
    topics = OUTPUTS | {CLASSES: TEXT, DIAGNOSTICS: "diagnostic_msgs/msg/DiagnosticArray"}
    node = [*_installed(install, "segment"), "--ros-args"]
    for name, target in REMAPS.items():
        node += ["-r", f"{name}:={target}"]
    config = install / "mmsam_ros/share/mmsam_ros/config/segment.yaml"
    for file in (config, out / "calibration.yaml"):
        node += ["--params-file", str(file.resolve())]
    # the deadline runs on the steady clock, the bag at another rate
    for name, value in {
        "weights": weights, "thermal.registration": "rotation", "sync.deadline": 0.1 / rate,
    }.items():  # fmt: skip
        node += ["-p", f"{name}:={value}"]
    log = out / "node.log"
    with Recorder(topics, latched=(CLASSES,)) as recorder, _process(node, log) as alive:
        ready = recorder.spin_until(
            lambda: not alive() or recorder.published("/mmsam/semantic"), timeout=60
        )
        if not (ready and alive()):
            raise SystemExit(f"demo: the node did not start:\n{log.read_text()}")
        replay = [*_installed(install, "replay"), str(bag), "--rate", str(rate)]
        with _process(replay, out / "replay.log") as playing:
            played = recorder.spin_until(lambda: not playing(), timeout=60 + SECONDS / rate)
        if not played or "played" not in (out / "replay.log").read_text():
            raise SystemExit(f"demo: the replay failed:\n{(out / 'replay.log').read_text()}")
        diagnostics = recorder.topics[DIAGNOSTICS]
        seen = len(diagnostics.data)

        def finished() -> bool:
            return len(diagnostics.data) > seen and _facts(recorder)["camera.waiting"] == "0"

        if not recorder.spin_until(finished, timeout=20):
            raise SystemExit(f"demo: the node does not come to an end:\n{log.read_text()}")
        return _facts(recorder), recorder


def _installed(install: Path, executable: str) -> list[str]:
    """The command of an installed executable, in the environment that its setup file makes."""
    path = install.resolve() / "mmsam_ros/lib/mmsam_ros" / executable
    if not path.is_file():
        raise SystemExit(
            f"demo: {path} is not there; run `make build`, or name the prefix with --install"
        )
    source = f'source "{install.resolve()}/setup.bash" && exec "$0" "$@"'
    return ["bash", "-c", source, str(path)]


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[Any]:
    """A process that ends as by Ctrl-C when left; yields whether it still runs."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield lambda: process.poll() is None
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                print(f"demo: {command[3]} had to be killed, see {log}", file=sys.stderr)


def _facts(recorder: Recorder) -> dict[str, str]:
    """The node's figures of the newest diagnostics message."""
    status = recorder.topics[DIAGNOSTICS].decode(-1).status[0]
    return {value.key: value.value for value in status.values}


def _quality(scores: Scores) -> dict[str, Any]:
    """How right the masks are, in percent, over the classes that this drive has."""
    found = scores.iou.items()
    by_class = ", ".join(f"{name} {iou:.0f}" for name, iou in found if iou is not None)
    return {"miou_of_the_drive": round(scores.miou_present, 1), "iou_by_class": by_class}


def _summary(facts: Mapping[str, str], recorder: Recorder, rate: float) -> dict[str, Any]:
    """What came through, and whether it is enough."""
    frames = round(SECONDS * CAMERA_RATE)
    masks = len(recorder.topics["/mmsam/semantic"].data)
    fused = int(facts.get("fused.camera+lidar+thermal", 0))
    masked_share, fused_share = masks / frames, fused / max(masks, 1)
    return {
        "camera_frames": frames,
        "masks": masks,
        "masks_with_all_three_sensors": fused,
        "replay_rate": rate,
        "latency_p50_ms": float(facts["latency_p50_ms"] or "nan"),
        "latency_p95_ms": float(facts["latency_p95_ms"] or "nan"),
        "weights": facts["recipe"],
        "holds": masked_share >= MIN_MASKED and fused_share >= MIN_FUSED,
    }


if __name__ == "__main__":
    sys.exit(main())
