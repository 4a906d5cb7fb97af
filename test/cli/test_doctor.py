# SPDX-License-Identifier: Apache-2.0
"""`mmsam doctor` finds what is broken here, each with its remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.networks import random_network, spec_of

from mmsam_ros._util.findings import ERROR, OK, WARNING, Finding, exit_code
from mmsam_ros.cli import doctor
from mmsam_ros.cli.main import main
from mmsam_ros.inference import InferenceError
from mmsam_ros.inference.engines import choose
from mmsam_ros.inference.engines.choose import ENGINES, time_threads
from mmsam_ros.inference.engines.eager import find_device
from mmsam_ros.model import MMSAMAdapter


def small_network() -> MMSAMAdapter:
    return random_network(spec_of("fmb_rgb_thermal", image_size=(64, 64)))


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_this_installation(root: Path, capsys: pytest.CaptureFixture[str],
                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    profile = str(root / "config/fastdds_shm.xml")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", profile)
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    code = main(["doctor", "--json"])
    findings = [Finding(**finding) for finding in json.loads(capsys.readouterr().out)]
    found = by_subject(findings)
    assert code == exit_code(findings)
    assert not [finding for finding in findings if finding.level == ERROR]
    assert all(finding.remedy for finding in findings if finding.level != OK)
    assert found["middleware"].level == OK
    assert {f"engine {name}" for name in ENGINES if name != "auto"} <= found.keys()
    assert "camera + lidar + thermal" in found["weights"].text


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("numpy", "ImportError"), ("yaml", "ModuleNotFoundError"), ("cv2", "AttributeError"),
        ("torch", "OSError"), ("rclpy", "ImportError"), ("rich", "ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_packages_that_are_there_but_broken(tmp_path: Path, module: str, error: str) -> None:
    """As with the numpy or the Python of another ROS: an error with its reason, no traceback."""
    (tmp_path / f"{module}.py").write_text(f"raise {error}('libfoo.so.1: cannot open')")
    paths = os.pathsep.join((str(tmp_path), *filter(None, sys.path)))
    command = [sys.executable, "-m", "mmsam_ros.cli.main", "doctor", "--json"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True)
    assert done.returncode == 2, done.stderr.decode()
    findings = [Finding(**finding) for finding in json.loads(done.stdout)]
    found = [finding for finding in findings if "libfoo.so.1: cannot open" in finding.text]
    names = {"cv2": "opencv-python-headless", "yaml": "PyYAML", "rclpy": "ROS"}
    assert names.get(module, module) in by_subject(found)  # and what imports it
    assert all(finding.level == ERROR and finding.remedy for finding in found)
    is_seen = "weights" in by_subject(findings)
    assert is_seen == (module == "rclpy")  # the others are needed to look


def test_numbers_of_threads_are_timed() -> None:
    model = small_network()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seconds = time_threads(model, model.config.image_size)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert list(seconds) == [1, 2, 3]
    assert all(0 < taken < 60 for taken in seconds.values())


@pytest.mark.parametrize(
    ("seconds", "level"),
    [
        ({1: 0.4, 2: 0.25, 4: 0.2}, OK),
        ({1: 0.19, 2: 0.19, 4: 0.2}, OK),  # within the scatter
        ({1: 0.4, 2: 0.15, 4: 0.3}, WARNING),
    ],
)
def test_more_threads_that_are_slower(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], level: str
) -> None:
    monkeypatch.setattr(choose, "time_threads", lambda *_: seconds)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (finding,) = doctor._threads(small_network())
    assert finding.level == level
    assert ("OMP_NUM_THREADS=2" in finding.remedy) == (level == WARNING)


@pytest.mark.parametrize("built", [True, False])
def test_devices_are_those_that_pytorch_sees(monkeypatch: pytest.MonkeyPatch, built: bool) -> None:
    """A PyTorch without CUDA sees none, whatever the machine has; only its answers are replaced."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    said = "PyTorch sees no CUDA devices"
    lack = f", as PyTorch {torch.__version__} is built without CUDA"
    (finding,) = (f for f in doctor._torch() if f.subject == "device")
    assert said in finding.text
    assert (lack in finding.text) == (not built)
    with pytest.raises(InferenceError, match=f"found 'cuda:1', but {said}") as caught:
        find_device("cuda:1")
    assert (lack in str(caught.value)) == (not built)


def test_exit_codes() -> None:
    ok, warning, error = (Finding(level, "x", "") for level in (OK, WARNING, ERROR))
    assert [exit_code(f) for f in ([], [ok], [ok, warning], [error, ok])] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("text", "level"),
    [
        (None, ERROR),  # no such file
        ("<profiles/>", WARNING),
        ("<maxMessageSize>65500</maxMessageSize>", WARNING),
        ("<maxMessageSize> 8388608 </maxMessageSize>", OK),
    ],
)
def test_profiles_of_fast_dds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, level: str
) -> None:
    path = tmp_path / "profile.xml"
    if text is not None:
        path.write_text(text)
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(path))
    (finding,) = doctor._middleware()
    assert finding.level == level
    assert "fastdds_shm.xml" in finding.remedy or level == OK


def test_a_variable_that_this_fast_dds_ignores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "profile.xml"
    path.write_text("<maxMessageSize>8388608</maxMessageSize>")
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(path))
    (finding,) = doctor._middleware()
    assert finding.level == WARNING
    assert "FASTDDS_DEFAULT_PROFILES_FILE is set, which this Fast DDS ignores" in finding.text


def test_other_middlewares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_zenoh_cpp")
    assert [finding.level for finding in doctor._middleware()] == [OK]
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    (finding,) = doctor._middleware()
    assert finding.level == (OK if limit >= 8 << 20 else WARNING)
    assert "rmem_max" in finding.text


def test_what_is_wrong_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not weights")
    (finding,) = doctor._weights(broken)
    assert finding.level == ERROR
    assert "broken.safetensors" in finding.text
    assert next(iter(doctor._weights(Path("tiny_synthetic")))).level == OK  # by its name
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMSAM_CACHE", str(tmp_path / "file"))
    found = by_subject(list(doctor._folders()))
    assert found["cache"].level == ERROR
    assert "MMSAM_CACHE" in found["cache"].remedy


@pytest.mark.parametrize(("domain", "is_wrong"), [("0", False), ("101", False), ("150", True),
                                                  ("x", True), ("-1", True)])  # fmt: skip
def test_domains(monkeypatch: pytest.MonkeyPatch, domain: str, is_wrong: bool) -> None:
    pytest.importorskip("rclpy")
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    assert ("ROS_DOMAIN_ID" in by_subject(list(doctor._ros()))) == is_wrong
