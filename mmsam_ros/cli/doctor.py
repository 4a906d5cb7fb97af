# SPDX-License-Identifier: Apache-2.0
"""`mmsam doctor`: what may keep the node from running well here, and what to do about it."""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mmsam_ros._util import MmsamError, cuda_seen
from mmsam_ros._util.findings import ERROR, OK, WARNING, Finding, exit_code
from mmsam_ros._util.openmp import wait_passively
from mmsam_ros.cli.output import print_findings

if TYPE_CHECKING:
    from mmsam_ros.model import MMSAMAdapter

_DISTRIBUTION = "jazzy"
_ABSENT = "is not installed"
_PYTHON = (3, 11)
_TORCH = (2, 6)
_PACKAGES = {"cv2": "opencv-python-headless", "mcap": "mcap", "numpy": "numpy", "rich": "rich",
             "rosbags": "rosbags", "safetensors": "safetensors", "timm": "timm",
             "torch": "torch", "torchvision": "torchvision", "yaml": "PyYAML"}  # fmt: skip
# modules that the node can do without: ROS package of each, and what is missing then
_OPTIONAL = {
    "tf2_ros": ("tf2-ros-py", "extrinsics are read from the parameters <sensor>.extrinsics only"),
    "vision_msgs": ("vision-msgs", "~/label_info is not published"),
}
_MESSAGE = 512 << 10  # bytes above which Fast DDS's own transports lose best-effort messages
_SHARED, _MEMORY, _DISK = 256 << 20, 2 << 30, 1 << 30  # bytes that are enough
_SMALL, _GAIN = 64 << 20, 0.8  # bytes of weights that are timed; share of the time that matters
_BUFFER = 8 << 20  # bytes of a socket for a message of a camera or LiDAR
_DOMAINS = 101  # higher ones use ports that Linux gives to others
_MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check the installation: Python, PyTorch, ROS, the middleware and what it needs for large "
        "messages, device, memory, weights, engines, folders. --live looks at a running node. The "
        "exit status is 0 if all is well, 1 if there are warnings, 2 if there are errors."
    )
    option = parser.add_argument
    option(
        "--weights", type=Path, metavar="FILE", help="weights file or name (default: the package's)"
    )
    option("--live", action="store_true", help="look at a running node instead; needs ROS")
    option("--node", default="/mmsam", metavar="NAME", help="node to look at, with namespace")
    option("--seconds", type=float, default=5.0, metavar="S", help="how long to listen")
    option("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    wait_passively()  # as the node does; what is timed depends on it
    if args.live:
        findings = _live(args.node, args.seconds)
    else:
        findings = list(check_installation(args.weights))
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=1))
    else:
        print_findings(findings)
    return exit_code(findings)


def _live(node: str, seconds: float) -> list[Finding]:
    try:
        from mmsam_ros.ros.live import look_at
    except ImportError as error:
        return [Finding(ERROR, "ROS", f"--live needs ROS 2 ({error})", _source())]
    return look_at(node, seconds)


def check_installation(weights: Path | None) -> Iterator[Finding]:
    """Findings about this machine; `weights`: instead of the package's."""
    lacks = {name: lack for module, name in _PACKAGES.items() if (lack := _lack(module))}
    yield from _python(lacks)
    yield from _ros()
    yield from _middleware()
    yield from _shared_memory()
    if lacks:  # the package's own modules cannot be imported without them
        text = "device, weights, engines and folders are not looked at: packages are missing"
        yield Finding(WARNING, "mmsam_ros", text, "see the errors, then run mmsam doctor again")
        return
    yield from _torch()
    yield from _weights(weights)
    yield from _engines()
    yield from _folders()


def _python(lacks: Mapping[str, str]) -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _PYTHON:
        yield Finding(ERROR, "Python", f"{found} is too old", "use Python 3.11 to 3.13")
    else:
        yield Finding(OK, "Python", found)
    missing = [name for name, lack in lacks.items() if lack == _ABSENT]
    if missing:
        yield Finding(ERROR, "packages", f"not installed: {', '.join(missing)}",
                      f"pip install {' '.join(missing)}")  # fmt: skip
    for name in lacks.keys() - missing:
        yield Finding(ERROR, name, lacks[name], f"pip install --force-reinstall {name}; a "
                      "version that fits numpy's may be needed, see docs/install.md")  # fmt: skip


def _lack(module: str) -> str | None:
    """Why a module cannot be used; None where it can."""
    try:
        if find_spec(module) is None:
            return _ABSENT
        with redirect_stdout(sys.stderr):  # some say there what they lack; --json is for programs
            import_module(module)
    # the last two where numpy is another one than a module was built for
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        return f"cannot be loaded: {error}"
    return None


def _ros() -> Iterator[Finding]:
    distribution = os.environ.get("ROS_DISTRO", "")
    if lack := _lack("rclpy"):
        text = f"rclpy {lack}: the node does not run; label-bag, predict and train do"
        level = WARNING if lack == _ABSENT else ERROR
        yield Finding(level, "ROS", text, _source())
        return
    known = distribution or "rclpy is found, ROS_DISTRO is not set (as with ROS from wheels)"
    if distribution and distribution != _DISTRIBUTION:
        yield Finding(WARNING, "ROS", f"{distribution}, tested is {_DISTRIBUTION}", _source())
    else:
        yield Finding(OK, "ROS", known)
    for name, (package, lack) in _OPTIONAL.items():
        if reason := _lack(name):
            remedy = f"apt install ros-{distribution or _DISTRIBUTION}-{package}"
            if not distribution:
                remedy += "; with ROS from wheels there is none"
            yield Finding(WARNING, name, f"{reason}: {lack}", remedy)
    domain = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not domain.isdecimal() or int(domain) > _DOMAINS:
        yield Finding(WARNING, "ROS_DOMAIN_ID", f"found {domain}, expected 0 to {_DOMAINS}",
                      "ports of higher domains are the system's: choose a lower one")  # fmt: skip


def _source() -> str:
    return f"source /opt/ros/{_DISTRIBUTION}/setup.bash, or see docs/install.md"


def _middleware() -> Iterator[Finding]:
    """Which one, and whether it is set up for messages of megabytes."""
    name = os.environ.get("RMW_IMPLEMENTATION") or "rmw_fastrtps_cpp"
    if "fastrtps" in name:
        yield _fast_dds(name)
    elif "cyclone" in name:
        yield _socket_buffers(name)
    else:
        yield Finding(OK, "middleware", name)


def _fast_dds(name: str) -> Finding:
    given = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE", "")
    remedy = (
        "for each process that publishes images or clouds: export FASTRTPS_DEFAULT_PROFILES_FILE="
        "$(ros2 pkg prefix --share mmsam_ros)/config/fastdds_shm.xml (the launch file does it for "
        "the node)"
    )
    trap = f"best-effort messages above {_MESSAGE >> 10} KiB are mostly lost between processes"
    if not given:
        ignored = "FASTDDS_DEFAULT_PROFILES_FILE"  # read by Fast DDS 3
        more = f" ({ignored} is set, which this Fast DDS ignores)" if ignored in os.environ else ""
        return Finding(WARNING, "middleware", f"{name} without a profile{more}: {trap}", remedy)
    try:
        text = Path(given).read_text("utf-8", "replace")
    except OSError as error:
        found = f"{name}: the profile {given} cannot be read ({error.strerror}): {trap}"
        return Finding(ERROR, "middleware", found, remedy)
    sizes = re.findall(r"<maxMessageSize>\s*(\d+)\s*</maxMessageSize>", text)
    if max(map(int, sizes), default=0) <= _MESSAGE:
        found = f"{name}: no transport of {given} has a larger maxMessageSize: {trap}"
        return Finding(WARNING, "middleware", found, remedy)
    return Finding(OK, "middleware", f"{name} with {given}")


def _socket_buffers(name: str) -> Finding:
    limit = _read_number("/proc/sys/net/core/rmem_max")
    if limit is not None and limit < _BUFFER:
        text = f"{name}: net.core.rmem_max is {limit}: images and clouds are lost"
        return Finding(WARNING, "middleware", text, "sudo sysctl -w net.core.rmem_max=2147483647")
    return Finding(OK, "middleware", f"{name}, net.core.rmem_max {limit}")


def _read_number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _shared_memory() -> Iterator[Finding]:
    folder = Path("/dev/shm")
    remedy = "in Docker: --shm-size 1g or --ipc host"
    if not os.access(folder, os.W_OK):
        text = f"{folder} cannot be written: Fast DDS passes nothing through shared memory"
        yield Finding(WARNING, "shared memory", text, remedy)
        return
    usage = shutil.disk_usage(folder)
    text = f"{folder} has {usage.free // _MIB} of {usage.total // _MIB} MiB free"
    if usage.free < _SHARED:
        expected = f"{text}, expected {_SHARED // _MIB}: images are lost"
        yield Finding(WARNING, "shared memory", expected, remedy)
    else:
        yield Finding(OK, "shared memory", text)


def _torch() -> Iterator[Finding]:
    found = version("torch")
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < _TORCH:
        yield Finding(ERROR, "PyTorch", f"{found} is too old", "pip install 'torch>=2.6'")
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            text = (
                f"{torch.cuda.get_device_name(number)}, {free // _MIB} of {total // _MIB} MiB free"
            )
            level, remedy = (OK, "") if free >= _MEMORY else (WARNING, "end other processes on it")
            yield Finding(level, f"cuda:{number}", text, remedy)
    elif Path("/dev/nvidiactl").exists():
        remedy = "install a PyTorch for this driver's CUDA (nvidia-smi shows it)"
        if torch.version.cuda:
            remedy += f"; this one is for {torch.version.cuda}"
        yield Finding(WARNING, "device", f"a GPU is there, but {cuda_seen()}", remedy)
    else:
        text = f"cpu, {torch.get_num_threads()} threads of {os.cpu_count()} cores; {cuda_seen()}"
        yield Finding(OK, "device", f"{text}: large networks take seconds per frame")


def _weights(given: Path | None) -> Iterator[Finding]:
    from mmsam_ros import weights

    try:
        path = weights.weights_file(given or weights.default_weights())
        model, spec = weights.load_model(path)
    except (MmsamError, OSError) as error:
        yield Finding(
            ERROR, "weights", str(error), "name a file that `mmsam weights info` can read"
        )
        return
    size = path.stat().st_size
    sensors = " + ".join(("camera", *spec.sensors))
    yield Finding(OK, "weights", f"{path}: {sensors}, {len(spec.classes)} classes, "
                  f"sha256 {weights.file_sha256(path)}")  # fmt: skip
    if unknown := [sensor for sensor in spec.sensors if not spec.seen.get(sensor)]:
        text = f"no statistics of {', '.join(unknown)}: implausible data is not recognised"
        yield Finding(WARNING, "weights", text, "`mmsam weights seen` adds them")
    free, needed = _available(), max(_MEMORY, 4 * size)
    text = "" if free is None else f"{free // _MIB} MiB available"
    if free is not None and free < needed:
        found = f"{text}, expected {needed // _MIB} for these weights"
        yield Finding(WARNING, "memory", found, "end other processes, or use smaller weights")
    elif free is not None:
        yield Finding(OK, "memory", text)
    if size < _SMALL:
        yield from _threads(model)


def _threads(model: "MMSAMAdapter") -> Iterator[Finding]:
    """Whether more threads are faster here; in a virtual machine they may be far slower."""
    import torch

    from mmsam_ros.inference.engines.choose import time_threads

    if torch.cuda.is_available() or torch.get_num_threads() < 2:
        return
    seconds = time_threads(model, model.config.image_size)
    most, best = max(seconds), min(seconds, key=lambda count: seconds[count])
    text = ", ".join(f"{count}: {1e3 * taken:.0f} ms" for count, taken in seconds.items())
    if seconds[best] < _GAIN * seconds[most]:
        yield Finding(WARNING, "threads", f"PyTorch with {most} threads is slower than with {best} "
                      f"here (a forward pass by threads: {text})", f"export OMP_NUM_THREADS={best} "
                      "where the node starts, or set the parameter engine to onnx")  # fmt: skip
    else:
        yield Finding(OK, "threads", f"a forward pass of PyTorch by threads: {text}")


def _available() -> int | None:
    """Bytes of memory that processes can still get; in a container within its limit."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    free = int(found[1]) << 10 if found else None
    limit = _read_number("/sys/fs/cgroup/memory.max")
    used = _read_number("/sys/fs/cgroup/memory.current")
    if free is not None and limit is not None and used is not None:
        free = min(free, max(0, limit - used))
    return free


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _engines() -> Iterator[Finding]:
    from mmsam_ros.inference.engines.choose import ENGINES

    checks: dict[str, Callable[[], Finding]] = {
        "compile": _compiler, "triton": _triton, "onnx": _onnx,
    }  # fmt: skip
    for name in ENGINES:
        if name != "auto":
            make = checks.get(name)
            yield make() if make else Finding(OK, f"engine {name}", "ready")


def _compiler() -> Finding:
    if shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"):
        return Finding(OK, "engine compile", "ready")
    return Finding(OK, "engine compile", "not usable on the CPU without a C++ compiler (g++)")


def _triton() -> Finding:
    lack = _lack("triton")
    if not lack and not import_module("torch").cuda.is_available():
        lack = "not usable without a CUDA device"
    if not lack and not any(map(shutil.which, (os.environ.get("CC", "gcc"), "clang"))):
        lack = "not usable without a C compiler (gcc)"
    return Finding(OK, "engine triton", lack or "ready")


def _onnx() -> Finding:
    lacks = {name: lack for name in ("onnx", "onnxruntime", "onnxscript") if (lack := _lack(name))}
    missing = [name for name, lack in lacks.items() if lack == _ABSENT]
    if missing:
        text = f"not installed ({', '.join(missing)}); pip install onnx onnxruntime onnxscript"
        return Finding(OK, "engine onnx", text)
    if lacks:
        text = "; ".join(f"{name} {lack}" for name, lack in lacks.items())
        return Finding(WARNING, "engine onnx", text, f"install {' and '.join(lacks)} again")
    providers = import_module("onnxruntime").get_available_providers()
    return Finding(OK, "engine onnx", ", ".join(providers))


def _folders() -> Iterator[Finding]:
    from mmsam_ros.inference.engines.cache import cache_folder
    from mmsam_ros.ros.logs import ensure_log_folder

    try:
        cache = cache_folder("doctor")
        with tempfile.TemporaryFile(dir=cache):
            pass
        free = shutil.disk_usage(cache).free
        cache.rmdir()
    except (MmsamError, OSError) as error:
        yield Finding(ERROR, "cache", str(error), "set MMSAM_CACHE to a folder that can be written")
    else:
        text = f"{cache.parent}, {free // _MIB} MiB free"
        level, remedy = (OK, "") if free >= _DISK else (WARNING, "engines need space: free some")
        yield Finding(level, "cache", text, remedy)
    try:
        environment = dict(os.environ)
        ensure_log_folder(environment)
        yield Finding(OK, "log folder", environment["ROS_LOG_DIR"])
    except MmsamError as error:
        yield Finding(ERROR, "log folder", str(error), "set ROS_LOG_DIR")
    try:
        yield Finding(OK, "mmsam_ros", version("mmsam_ros"))
    except PackageNotFoundError:
        yield Finding(WARNING, "mmsam_ros", "runs from a checkout, not installed", "make setup")
