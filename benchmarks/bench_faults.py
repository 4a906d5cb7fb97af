# SPDX-License-Identifier: Apache-2.0
"""What becomes of each camera image under faults, and whether the node stays as it is for hours.

    python benchmarks/bench_faults.py [--minutes 20]
    python benchmarks/bench_faults.py --soak 60
    python benchmarks/bench_faults.py --flood

A bag is played in a loop by a process of its own (fault_player.py), with random faults of the
sensors; node and player are killed (kill -9) in turn and started again. Every image that was sent
is accounted for: by the node's own word (debug log), or because no node was there to read it.
--soak plays it soundly into the package's weights; --flood gives a synchroniser a million messages
of which none match. Results: bench_faults.json, bench_soak.json, bench_flood.json.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from operator import eq, ge, le
from pathlib import Path
from typing import Any

import numpy as np
from fault_account import Session, account, loops
from results import ROOT, Row, bar, write

PATIENCE = 600.0  # seconds after which a mask is not waited for any longer, on any machine
DOMAIN = 91


def environment() -> dict[str, str]:
    """Of all processes: a domain and large messages."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {
        "ROS_DOMAIN_ID": os.environ.get("ROS_DOMAIN_ID", str(DOMAIN)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds_shm.xml"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": path,
    }


class Stage:
    """Node, player and a subscriber of the masks."""

    def __init__(self, folder: Path, weights: Path | None, size: tuple[int, int], sound: bool):
        from rclpy.context import Context

        self.folder, self.sound = folder, sound
        self.bag, self.parameters = _bag(folder, size)
        self.weights = weights
        self.sessions: list[Session] = []
        self.players: list[subprocess.Popen[bytes]] = []
        self.masks: list[tuple[float, int]] = []  # arrival, stamp
        os.environ.update(environment())
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image

        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("bench_faults", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._node.create_subscription(Image, "/mmsam/semantic", self._mask, 50)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 10)

    def _mask(self, message: Any) -> None:
        stamp = message.header.stamp
        self.masks.append((time.time(), stamp.sec * 10**9 + stamp.nanosec))

    def _diagnose(self, array: Any) -> None:
        found, stamp = {v.key: v.value for v in array.status[0].values}, array.header.stamp
        at, session = stamp.sec + stamp.nanosec / 1e9, self.sessions[-1]
        if "camera.received" in found and at > session.started:
            ended = int(found["camera.received"]) - int(found["camera.waiting"])
            session.counted.append((at, ended))

    def start_node(self) -> None:
        """Another process of the node."""
        log = self.folder / f"node{len(self.sessions)}.log"
        command = [sys.executable, "-m", "mmsam_ros.ros.main", "--ros-args"]
        command += ["--log-level", "mmsam:=debug", "--params-file", str(self.parameters)]
        command += ["-p", "device:=cpu"]
        command += ["-p", f"weights:={self.weights}"] if self.weights else []
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=environment(), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
            )
        self.sessions.append(Session(log, process))

    def start_player(self) -> None:
        """Another process of the player."""
        seed, script = len(self.players), str(ROOT / "benchmarks/fault_player.py")
        log = str(self.folder / f"sent{seed}.log")
        command = [sys.executable, script, str(self.bag), log, "--seed", str(seed)]
        command += ["--sound"] * self.sound
        self.players.append(subprocess.Popen(command, env=environment(), cwd=ROOT))

    def kill_node(self) -> float:
        """kill -9, another one, and the seconds until its first mask."""
        self._end_node(signal.SIGKILL)
        self.start_node()
        return self._recovery()

    def kill_player(self) -> float:
        """As `kill_node`, of the player."""
        self.players[-1].kill()
        self.players[-1].wait()
        self.start_player()
        return self._recovery()

    def _end_node(self, number: int) -> None:
        session = self.sessions[-1]
        session.killed = time.time()
        session.process.send_signal(number)
        session.process.wait()

    def _recovery(self) -> float:
        began = time.time()
        self.spin_for(0.3)  # what was on its way
        known = len(self.masks)
        self.spin_until(lambda: len(self.masks) > known, "a mask after a restart")
        return time.time() - began

    def spin_until(self, holds: Callable[[], Any], what: str) -> None:
        """Handle events until it holds."""
        end = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}; {self.sessions[-1].log.read_text()[-2000:]}")
            self._executor.spin_once(timeout_sec=0.05)
            self._look()

    def spin_for(self, seconds: float) -> None:
        """Handle events; a node that ends meanwhile is started again."""
        end, sampled = time.monotonic() + seconds, 0.0
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)
            self._look()
            if time.monotonic() > sampled + min(10.0, seconds / 10):
                sampled = time.monotonic()
                self.sessions[-1].sample()

    def _look(self) -> None:
        session = self.sessions[-1]
        if session.killed is None and session.process.poll() is not None:
            raise RuntimeError(f"the node has ended: {session.log.read_text()[-2000:]}")

    def close(self) -> None:
        """End the player, then the node once it has said what became of all images."""
        self.players[-1].kill()
        self.players[-1].wait()
        self.spin_for(2.0)
        self._end_node(signal.SIGINT)
        self._executor.shutdown()
        self._context.try_shutdown()

    def sent(self) -> list[tuple[float, int, str, int]]:
        """Time, stamp, fault and subscriptions of each image that was sent."""
        rows = []
        for path in sorted(self.folder.glob("sent*.log")):
            for line in path.read_text().splitlines():
                words = line.split("\t")
                if len(words) == 4:  # else cut by the kill
                    rows.append((float(words[0]), int(words[1]), words[2], int(words[3])))
        return sorted(rows)


def faults(minutes: float, size: tuple[int, int], name: str) -> Row:
    """The proof, written to benchmarks/results/<name>.json; returns its row."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), _nano(Path(folder)), size, sound=False)
        stage.start_node()
        stage.start_player()
        stage.spin_until(lambda: stage.masks, "the first mask")
        pieces = max(3, round(minutes * 2))
        recovery: dict[str, list[float]] = {"node": [], "player": []}
        for piece in range(pieces):
            stage.spin_for(60 * minutes / pieces)
            if piece < pieces - 1:
                victim = ("node", "player")[piece % 2]
                kill = stage.kill_node if victim == "node" else stage.kill_player
                recovery[victim].append(round(kill(), 1))
        stage.close()
        row = account(stage) | {
            "threads": threads(),
            "minutes": minutes,
            "loops": loops(stage),
            "restarts": {k: len(v) for k, v in recovery.items()},
            "recovery_s": recovery,
            "memory_MiB": [
                # once it has begun, and at its end
                [round(s.memory[len(s.memory) // 3]), round(s.memory[-1])]
                for s in stage.sessions
                if s.memory
            ],
        }
    bars = [
        bar("images unexplained", row["unexplained"], "images", 0, eq),
        bar("published of sound images that arrived", row["published_of_sound"], "", 0.99, ge),
        bar("loops of the bag", row["loops"], "", 3, ge),
    ]
    print(row)
    if name:
        write(name, [row], bars)
    return row


def soak(minutes: float) -> Row:
    """The package's weights for a long time, soundly."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), None, (320, 240), sound=True)
        stage.start_node()
        stage.start_player()
        stage.spin_until(lambda: stage.masks, "the first mask")
        stage.spin_for(60 * minutes)
        stage.close()
        sent = {stamp: at for at, stamp, *_ in stage.sent()}
        latency = [at - sent[stamp] for at, stamp in stage.masks if stamp in sent]
        memory = stage.sessions[0].memory
        third = max(1, len(latency) // 3)
        first, last = latency[:third], latency[-third:]
        tenth = max(1, len(memory) // 10)
        start, end = memory[tenth : 2 * tenth] or memory, memory[-tenth:]
        row: Row = account(stage) | {
            "threads": threads(),
            "minutes": minutes,
            "masks": len(stage.masks),
            "first_memory_mib": round(statistics.median(start), 1),
            "last_memory_mib": round(statistics.median(end), 1),
            "first_p99_ms": round(1e3 * float(np.percentile(first, 99)), 1),
            "last_p99_ms": round(1e3 * float(np.percentile(last, 99)), 1),
        }
    growth = row["last_memory_mib"] / row["first_memory_mib"] - 1
    longer = row["last_p99_ms"] / row["first_p99_ms"]
    print(row)
    write("bench_soak", [row], [
        bar("growth of the memory", round(growth, 4), "", 0.01, le),
        bar("latency p99, last third by first third", round(longer, 3), "", 1.1, le),
        bar("images unexplained in the soak", row["unexplained"], "images", 0, eq),
    ])  # fmt: skip
    return row


def threads() -> int | None:
    """Of the node's network, where they are set; see docs/engines.md."""
    return int(os.environ["OMP_NUM_THREADS"]) if "OMP_NUM_THREADS" in os.environ else None


def flood() -> Row:
    """A million messages of clocks that are hours apart, with disorder and jumps."""
    from mmsam_ros.ros.sets import Outcome
    from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig, Synchroniser

    queue, most, began = 30, 0, time.process_time()
    names = ("lidar", "thermal")
    config = SyncConfig({n: AuxiliarySync(0.05, 0.0, 0.2) for n in names}, 0.1, queue)
    sync, session = Synchroniser(config), Session(Path(), subprocess.Popen(["true"]))
    session.process.wait()
    for k in range(250_000):
        for number, stream in enumerate(("camera", "lidar", "thermal", "lidar")):
            stamp = (k * 100 + number * 10**7 - (k % 7) * 30) * 10**6 + 1
            for synced in sync.add(stream, stamp, None, k / 10):
                sync.settle(synced, Outcome("used"))
        if k % 1000 == 999:
            most = max(most, *(tally["waiting"] for tally in sync.counts().values()))
    row: Row = {"messages": 1_000_000, "waiting_at_most": most, "queue": queue}
    row["us_per_message"] = round(time.process_time() - began, 1)
    print(row)
    write("bench_flood", [row], [bar("messages that wait", most, "messages", 2 * queue, le)])
    return row


def _nano(folder: Path) -> Path:
    """Weights of the smallest network, untrained: what becomes of images is the same."""
    import torch

    from mmsam_ros.data.open import BENCHMARKS
    from mmsam_ros.model import build_model
    from mmsam_ros.sensors import SYNTHETIC_CLASSES, plain_modality
    from mmsam_ros.training.start import benchmark_geometry, network_config
    from mmsam_ros.weights import make_spec, save_model

    benchmark = BENCHMARKS["folder"]
    limits = (26000.0, 31500.0)
    modalities = {
        "lidar": plain_modality("muses_raw"), "thermal": plain_modality("mono16", limits)
    }  # fmt: skip
    config = network_config(benchmark, SYNTHETIC_CLASSES, modalities, "nano", None)
    geometry = benchmark_geometry(benchmark.mode, benchmark, config.image_size)
    spec = make_spec(config, modalities, SYNTHETIC_CLASSES, geometry, data="none", recipe="none")
    torch.manual_seed(0)
    path = folder / "nano.safetensors"
    save_model(path, build_model(config), spec)
    return path


def _bag(folder: Path, size: tuple[int, int]) -> tuple[Path, Path]:
    """A synthetic bag and its calibration."""
    from mmsam_ros.ros.bags import parameters_yaml, read_parameters
    from mmsam_ros.world import Vehicle, build_street, make_rig
    from mmsam_ros.world.bag import write_bag

    bag, seconds = folder / "drive", 4.0
    write_bag(bag, Vehicle(build_street(7, seconds=seconds), make_rig(*size, steps=256)), seconds)
    parameters = read_parameters(bag)
    parameters["thermal"]["registration"] = "rotation"
    del parameters["camera"]  # its CameraInfo comes, and changes, by topic
    parameters["plausibility"] = "off"
    (folder / "calibration.yaml").write_text(parameters_yaml(parameters))
    return bag, folder / "calibration.yaml"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="of the faults")
    parser.add_argument("--soak", type=float, help="minutes of sound operation instead")
    parser.add_argument("--flood", action="store_true", help="a million messages instead")
    args = parser.parse_args()
    if args.flood:
        flood()
    elif args.soak:
        soak(args.soak)
    else:
        faults(args.minutes, (160, 120), "bench_faults")


if __name__ == "__main__":
    main()
