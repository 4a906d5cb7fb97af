# SPDX-License-Identifier: Apache-2.0
"""The launch files start a node again: after which ends, when, and on which device."""

from __future__ import annotations

import signal
import types
from pathlib import Path
from typing import Any

import pytest
from launching import Context, Recorded, defaults, handlers, load


@pytest.mark.parametrize(
    ("code", "again"),
    [(3, True), (1, True), (-signal.SIGKILL, True), (-signal.SIGSEGV, True), (0, False),
     (2, False), (-signal.SIGINT, False), (-signal.SIGTERM, False)],
)  # fmt: skip
def test_a_node_that_ends_by_a_fault_is_started_again(launch: Any, code: int, again: bool) -> None:
    assert launch.by_fault(code) == again


def test_the_pause_before_another_start_grows(
    launch: Any, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(launch.time, "monotonic", lambda: now)
    context = defaults(launch, weights=str(weights))
    event, pauses = types.SimpleNamespace(returncode=3), []
    actions = launch.start(context)
    for lived in (1, 1, 1, 1, 1, 1, 1, 1, 100, 1):
        handler = next(a.args[0] for a in actions if a.kind == "RegisterEventHandler")
        now += lived
        said, timer = handler.kwargs["on_exit"](event, context)
        pauses.append(timer.kwargs["period"])
        assert "exit code 3" in said.kwargs["msg"]
        now += timer.kwargs["period"]
        actions = timer.kwargs["actions"]
        assert [a.kwargs["executable"] for a in actions if a.kind == "Node"] == ["segment"]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 1, 2]
    context.is_shutdown = True
    assert handler.kwargs["on_exit"](event, context) == []


def say(actions: list[Recorded], text: bytes) -> None:
    """The node that is among the actions says something."""
    (watch,) = handlers(actions, "OnProcessIO")
    assert not watch["on_stderr"](types.SimpleNamespace(text=text))


def ended(actions: list[Recorded], code: int, context: Context) -> list[Recorded]:
    """What follows once the node has ended: the actions that start another one."""
    (end,) = handlers(actions, "OnProcessExit")
    said, timer = end["on_exit"](types.SimpleNamespace(returncode=code), context)
    assert f"exit code {code}, see its log; it is started again in" in said.kwargs["msg"]
    again: list[Recorded] = timer.kwargs["actions"]
    return again


def node_of(actions: list[Recorded]) -> dict[str, Any]:
    (node,) = (a.kwargs for a in actions if a.kind == "Node")
    return node


def test_a_device_that_is_away_for_a_while(launch: Any) -> None:
    """Its node cannot start (exit code 2), though another one could with the same parameters."""
    context = defaults(launch)
    actions = launch.start(context)
    (end,) = handlers(actions, "OnProcessExit")
    with pytest.raises(RuntimeError, match="exit code 2"):
        end["on_exit"](types.SimpleNamespace(returncode=2), context)
    say(actions, b"ready: weights w, device cpu, engine torch\n")
    for code in (3, 2, 2, -9, 2):
        actions = ended(actions, code, context)
    (end,) = handlers(actions, "OnProcessExit")
    (over,) = end["on_exit"](types.SimpleNamespace(returncode=0), context)
    assert over.kind == "Shutdown"


@pytest.mark.parametrize(
    ("device", "pinned"),
    [("cuda", [{"device": "cuda"}]), ("cuda:1", [{"device": "cuda:1"}]), ("cpu", [])],
)
def test_a_gpu_stays_a_gpu(launch: Any, device: str, pinned: list[dict[str, str]]) -> None:
    """Device auto would go on on the CPU. One that began on the CPU may get a GPU."""
    context = defaults(launch)
    actions = launch.start(context)
    assert node_of(actions)["parameters"][1:] == []
    say(actions, b"[INFO] [1.0] [mmsam]: ready: weights w, recipe r, dev")
    say(actions, f"ice {device}, precision fp32\n".encode())
    for code in (3, 2):  # the second one was never ready
        actions = ended(actions, code, context)
        assert node_of(actions)["parameters"][1:] == pinned


@pytest.mark.parametrize(
    ("devices", "pinned"), [(["cuda", "cuda"], "cuda"), (["cuda:0", "cpu"], "")]
)
def test_the_cameras_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: list[str], pinned: str
) -> None:
    """It is ready once all are; a camera that cannot start is no fault before."""
    multi = load(tmp_path / "prefix", monkeypatch, "mmsam_multi.launch.py")
    context = defaults(multi, cameras="front,left", device="auto")
    actions = multi.start(context)
    first, second = (f"ready: weights w, device {device}, x\n".encode() for device in devices)
    say(actions, first)
    (end,) = handlers(actions, "OnProcessExit")
    with pytest.raises(RuntimeError, match="exit code 2"):
        end["on_exit"](types.SimpleNamespace(returncode=2), context)
    say(actions, second)
    words = node_of(ended(actions, 2, context))["arguments"]
    given = [word for word in words if word.startswith("device:=")]
    assert given == [f'device:="{pinned or "auto"}"'] * 2


def test_the_cameras_of_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is ready on its own, and has its own device."""
    multi = load(tmp_path / "prefix", monkeypatch, "mmsam_multi.launch.py")
    context = defaults(multi, cameras="front,left", one_process="false")
    watches = handlers(actions := multi.start(context), "OnProcessIO")
    watches[1]["on_stdout"](types.SimpleNamespace(text=b"ready: weights w, device cuda:1, x\n"))
    front, left = handlers(actions, "OnProcessExit")
    with pytest.raises(RuntimeError, match="exit code 2"):
        front["on_exit"](types.SimpleNamespace(returncode=2), context)
    _, timer = left["on_exit"](types.SimpleNamespace(returncode=2), context)
    again = node_of(timer.kwargs["actions"])
    assert again["namespace"] == "left"
    assert again["parameters"][-1] == {"device": "cuda:1"}
