# SPDX-License-Identifier: Apache-2.0
"""The launch file without `ros2 launch`, which is not on pip: its actions are recorded, and what
they start is run as `launch` would run it. That `launch` accepts the actions is not shown.
"""

from __future__ import annotations

import importlib.util
import json
import queue
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest
from harness import GUARD, ROOT, environment, nano_weights

MODULES = {
    "launch": ["LaunchDescription"],
    "launch.actions": [
        "DeclareLaunchArgument", "ExecuteProcess", "LogInfo", "OpaqueFunction",
        "PopLaunchConfigurations", "PushLaunchConfigurations", "RegisterEventHandler", "Shutdown",
        "TimerAction",
    ],
    "launch.event_handlers": ["OnExecutionComplete", "OnProcessExit", "OnProcessIO"],
    "launch.substitutions": [],
    "launch_ros": [],
    "launch_ros.actions": ["Node"],
    "launch_ros.parameter_descriptions": [],
}  # fmt: skip
FILE = "segment.launch.py"
EXECUTABLES = {
    "segment": "mmsam_ros.ros.main",
    "segment_multi": "mmsam_ros.ros.multi",
    "replay": "mmsam_ros.ros.replay",
}


@dataclass
class Recorded:
    """A constructor call."""

    kind: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    return_code: int | None = None  # of a process that has ended


class LaunchConfiguration:
    """An argument's value."""

    def __init__(self, name: str) -> None:
        self.name = name

    def perform(self, context: Context) -> str:
        return context.values[self.name]


def parameter_value(value: Any, *, value_type: type) -> Any:
    """In place of launch_ros's, which keeps a value from being read as YAML."""
    assert isinstance(value, value_type)
    return value


@dataclass
class Context:
    """In place of LaunchContext: the arguments, and whether the launch is at its end."""

    values: dict[str, str]
    argv: list[str] = field(default_factory=list)
    is_shutdown: bool = False
    saved: list[dict[str, str]] = field(default_factory=list)  # outer scopes

    @property
    def launch_configurations(self) -> dict[str, str]:
        """Where launch keeps arguments, and what groups set."""
        return self.values


def load(prefix: Path, patch: pytest.MonkeyPatch, file: str = FILE) -> Any:
    """A launch file as a module; the package's share folder is the repository."""
    for module, names in MODULES.items():
        fake = types.ModuleType(module)
        for name in names:
            setattr(fake, name, lambda *args, _kind=name, **kwargs: Recorded(_kind, args, kwargs))
        patch.setitem(sys.modules, module, fake)
    patch.setattr(
        sys.modules["launch.substitutions"], "LaunchConfiguration", LaunchConfiguration,
        raising=False,
    )  # fmt: skip
    described = sys.modules["launch_ros.parameter_descriptions"]
    patch.setattr(described, "ParameterValue", parameter_value, raising=False)
    (prefix / "share/ament_index/resource_index/packages").mkdir(parents=True)
    (prefix / "share/ament_index/resource_index/packages/mmsam_ros").touch()
    (prefix / "share/mmsam_ros").symlink_to(ROOT)
    patch.setenv("AMENT_PREFIX_PATH", str(prefix))
    profiles = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    for name in (*profiles, "RMW_IMPLEMENTATION"):
        patch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("segment_launch", ROOT / "launch" / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights_of_a_run(folder: Path) -> Path:
    """Weights in a folder and a file whose names have blanks."""
    folder = folder / "of a run"
    folder.mkdir()
    return nano_weights(folder / "nano #1.safetensors", "synthetic_rgb_lidar_thermal")


def defaults(launch: Any, **values: str) -> Context:
    """The arguments with their defaults; given ones must be among the choices."""
    for name, choices in launch.CHOICES.items():
        assert values.get(name, choices[0]) in choices
    return Context({name: default for name, default, _ in launch.ARGUMENTS} | values)


def started(launch: Any, **values: str) -> tuple[Recorded, list[Recorded]]:
    """The node that the launch file starts, and all other actions."""
    actions = launch.start(defaults(launch, **values))
    (node,) = (a for a in actions if a.kind == "Node")
    return node, [a for a in actions if a is not node]


def handlers(actions: list[Recorded], kind: str) -> list[dict[str, Any]]:
    """What is registered for a kind of event."""
    found = (a.args[0] for a in actions if a.kind == "RegisterEventHandler")
    return [handler.kwargs for handler in found if handler.kind == kind]


def command(action: Recorded) -> list[str]:
    """What a process action runs, with our executables as modules."""
    if action.kind == "ExecuteProcess":
        return list(action.kwargs["cmd"])
    given = action.kwargs
    words = [sys.executable, "-m", EXECUTABLES[given["executable"]], *given.get("arguments", [])]
    words.append("--ros-args")
    for name, rule in (("name", "__node"), ("namespace", "__ns")):
        if given.get(name):
            words += ["-r", f"{rule}:={given[name]}"]
    for entry in given.get("parameters", []):
        if isinstance(entry, dict):
            for name, value in entry.items():
                words += ["-p", f"{name}:={json.dumps(value)}"]  # YAML, as in launch's file
        else:
            words += ["--params-file", entry]
    for source, target in given.get("remappings", []):
        words += ["-r", f"{source}:={target}"]
    return words


SCOPES = ("PushLaunchConfigurations", "PopLaunchConfigurations", "OpaqueFunction")


def set_scope(action: Recorded, context: Context) -> None:
    """What an action of `SCOPES` does."""
    if action.kind == "PushLaunchConfigurations":
        context.saved.append(dict(context.values))
    elif action.kind == "PopLaunchConfigurations":
        context.values = context.saved.pop()
    else:
        assert action.kwargs["function"](context) is None


class Launched:
    """A running launch: its actions' processes, and a thread that handles what they say and do."""

    def __init__(self, launch: Any, context: Context, domain: int) -> None:
        self.context, self.domain = context, domain
        self.lines: list[str] = []  # of the launch and of all processes
        self.code: int | None = None  # once it is over
        self._handlers: list[Recorded] = []
        self._events: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._waiting: list[threading.Thread] = []  # for the end of each process
        self._thread = threading.Thread(target=self._run, args=(launch.start,))
        self._thread.start()

    def interrupt(self) -> None:
        """Ctrl-C: all processes of the group get it."""
        self.context.is_shutdown = True
        self._signal()

    def wait(self) -> int:
        """The exit code when all processes have ended."""
        self._thread.join(GUARD)
        assert self.code is not None, "\n".join(self.lines)
        return self.code

    def _run(self, start: Callable[[Context], list[Recorded]]) -> None:
        code = self._guarded(lambda: start(self.context))
        while any(t.is_alive() for t in self._waiting) or not self._events.empty():
            try:
                code = self._guarded(self._events.get(timeout=0.05)) or code
            except queue.Empty:
                continue
        self.code = code

    def _guarded(self, make: Callable[[], Any]) -> int:
        """Do what a function returns; an exception is a line, the end, and exit code 1."""
        try:
            actions = make() or []
        except RuntimeError as error:
            self.lines.append(f"[ERROR] [launch]: {error}")
            self.context.is_shutdown = True
            self._signal()
            return 1
        for action in actions if isinstance(actions, list) else [actions]:
            self._do(action)
        return 0

    def _do(self, action: Recorded) -> None:
        if action.kind == "LogInfo":
            self.lines.append(f"[INFO] [launch.user]: {action.kwargs['msg']}")
        elif action.kind == "RegisterEventHandler":
            self._handlers.append(action.args[0])
        elif action.kind == "TimerAction":
            self._later(action)
        elif action.kind in SCOPES:
            set_scope(action, self.context)
        elif action.kind == "Shutdown":
            self.context.is_shutdown = True
            self._signal()
        else:
            self._start(action)

    def _later(self, action: Recorded) -> None:
        def wait() -> None:
            time.sleep(action.kwargs["period"])
            if not self.context.is_shutdown:
                self._events.put(lambda: action.kwargs["actions"])

        self._waiting.append(threading.Thread(target=wait))
        self._waiting[-1].start()

    def _start(self, action: Recorded) -> None:
        env = environment(self.domain) | action.kwargs.get("additional_env", {})
        process = subprocess.Popen(
            command(action), env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._processes.append(process)
        readers = [
            threading.Thread(target=self._read, args=(action, pipe, name))
            for pipe, name in ((process.stdout, "on_stdout"), (process.stderr, "on_stderr"))
        ]
        for thread in readers:
            thread.start()

        def await_end() -> None:
            for thread in readers:
                thread.join()
            event = types.SimpleNamespace(returncode=process.wait())
            for handler in self._of("OnProcessExit", action):
                self._events.put(lambda h=handler: h.kwargs["on_exit"](event, self.context))

        self._waiting.append(threading.Thread(target=await_end))
        self._waiting[-1].start()

    def _read(self, action: Recorded, pipe: IO[bytes], name: str) -> None:
        for line in pipe:
            self.lines.append(line.decode().rstrip())
            event = types.SimpleNamespace(text=line)
            for handler in self._of("OnProcessIO", action):
                self._events.put(lambda h=handler, e=event: h.kwargs[name](e))

    def _of(self, kind: str, action: Recorded) -> list[Recorded]:
        return [h for h in self._handlers if h.kind == kind and h.kwargs["target_action"] is action]

    def _signal(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
