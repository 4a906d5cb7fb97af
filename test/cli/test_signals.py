# SPDX-License-Identifier: Apache-2.0
"""A signal to a verb ends all its processes, without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.trees import make_folder

GUARD = 600  # seconds after which a process hangs, on any machine
pytestmark = pytest.mark.slow


def _default_signals() -> None:
    """Nothing is ignored, whatever started the tests (`nohup` does, and a shell's `&`)."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def _nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def verb(*words: str, nohup: bool = False) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "mmsam_ros.cli.main", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=_nohup if nohup else _default_signals,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def session(leader: int) -> dict[int, str]:
    """Processes of a session that run, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader and fields[0] != "Z":
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended meanwhile
                continue
    return found


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + GUARD
    while not holds():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)


def workers(leader: int) -> int:
    """Processes besides the leader that do its work."""
    return sum(
        "resource_tracker" not in line for pid, line in session(leader).items() if pid != leader
    )


def second_rank(leader: int) -> bool:
    """Whether Lightning has started a process for the second device."""
    for pid in session(leader):
        with suppress(OSError):
            if b"\0LOCAL_RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes():
                return True
    return False


def ended(process: subprocess.Popen[str], number: int, *, group: bool = False) -> str:
    """Send a signal and wait for the end of all; what was printed as error."""
    (os.killpg if group else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=GUARD)
    wait_for(lambda: not session(process.pid))
    assert "Traceback" not in said
    return said


def rendering(folder: Path) -> tuple[str, ...]:
    """Many frames, of which the first is soon there."""
    return ("synth", "folder", str(folder / "out"), "--frames", "train=2000", "--size", "64x48")


@pytest.mark.parametrize(
    ("number", "group", "code"),
    [
        (signal.SIGTERM, False, -signal.SIGTERM),  # kill, systemd, docker stop
        (signal.SIGTERM, True, -signal.SIGTERM),  # timeout, a batch system
        (signal.SIGHUP, False, -signal.SIGHUP),  # a closed terminal, a lost ssh
        (signal.SIGHUP, True, -signal.SIGHUP),
        (signal.SIGUSR1, False, -signal.SIGUSR1),  # the warning of a batch system
        (signal.SIGQUIT, False, -signal.SIGQUIT),
        (signal.SIGKILL, False, -signal.SIGKILL),  # too little memory
        (signal.SIGINT, True, 128 + signal.SIGINT),  # Ctrl-C
        (signal.SIGINT, False, 128 + signal.SIGINT),
    ],
)
def test_the_pool_of_synth_folder_ends(tmp_path: Path, number: int, group: bool, code: int) -> None:
    with verb(*rendering(tmp_path), "--workers", "2") as process:
        wait_for(lambda: any(tmp_path.rglob("images/*.png")), process)
        assert workers(process.pid) == 2
        ended(process, number, group=group)
        assert process.returncode == code
    assert not (tmp_path / "out").exists(), "the same command begins again"
    if number == signal.SIGINT:
        assert not list(tmp_path.iterdir())


def training(folder: Path, *more: str) -> tuple[str, ...]:
    """A long run of a small network."""
    make_folder(folder / "data")
    return (
        "train", "--dataset=folder", "--sensors=[lidar, thermal]", "--data.workers=2",
        f"--data.root={folder / 'data'}", f"--out={folder / 'run'}", "--model.preset=nano",
        "--model.image_size=[64, 96]", "--augment.base_size=[64, 96]", "--augment.crop=[64, 96]",
        "--start.sam=scratch", "--start.convnext=scratch", "--schedule.epochs=1000",
        "--batch.effective=4", "--batch.per_device=2", "--device.accelerator=cpu", *more,
    )  # fmt: skip


def test_the_loaders_of_a_training_end(tmp_path: Path) -> None:
    """The first signal lets it write its checkpoint; the second one ends it at once."""
    with verb(*training(tmp_path)) as process:
        wait_for(lambda: workers(process.pid) >= 2, process)
        os.kill(process.pid, signal.SIGTERM)
        ended(process, signal.SIGTERM)
        assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_the_processes_of_several_devices_end(tmp_path: Path) -> None:
    """As soon as there is a second one; without the first it ends by itself."""
    with verb(*training(tmp_path, "--device.devices=2")) as process:
        wait_for(lambda: second_rank(process.pid), process)
        ended(process, signal.SIGTERM)
        assert process.returncode == -signal.SIGTERM


def test_nohup_is_heeded(tmp_path: Path) -> None:
    with verb(*rendering(tmp_path), nohup=True) as process:
        wait_for(lambda: any(tmp_path.rglob("images/*.png")), process)
        os.kill(process.pid, signal.SIGHUP)
        count = len(list(tmp_path.rglob("images/*.png")))
        wait_for(lambda: len(list(tmp_path.rglob("images/*.png"))) > count, process)


def test_a_training_writes_its_checkpoint_when_its_terminal_is_closed(tmp_path: Path) -> None:
    with verb(*training(tmp_path)) as process:
        wait_for(lambda: workers(process.pid) >= 2, process)
        ended(process, signal.SIGHUP, group=True)
        assert process.returncode == 128 + signal.SIGHUP
    assert (tmp_path / "run/checkpoint.pt").exists()


def test_the_same_command_makes_a_bag_that_was_interrupted(tmp_path: Path) -> None:
    words = ("synth", "bag", str(tmp_path / "drive"), "--size", "64x48", "--seconds")
    with verb(*words, "600") as process:
        wait_for(lambda: any(tmp_path.rglob("*.mcap")), process)
        ended(process, signal.SIGINT)
        assert process.returncode == 128 + signal.SIGINT
    assert not list(tmp_path.iterdir())
    with verb(*words, "0.3") as process:
        assert process.wait(GUARD) == 0
    found = {path.name for path in (tmp_path / "drive").iterdir()}
    assert found == {"drive.mcap", "metadata.yaml", "calibration.yaml"}


@pytest.mark.parametrize("library", ["cv2", "libtorch_cpu"])
def test_ctrl_c_while_a_verb_imports(library: str) -> None:
    with verb("predict", "/absent.png") as process:
        maps = Path(f"/proc/{process.pid}/maps")
        wait_for(lambda: library in maps.read_text(), process)
        ended(process, signal.SIGINT)
        assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
