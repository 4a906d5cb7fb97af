# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests, and the order in which their files run."""

from __future__ import annotations

import os
from pathlib import Path

# before anything loads torch: see mmsam_ros/ros/main.py
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# Workers share the cores. Processes that a test starts inherit it.
workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
if workers and "OMP_NUM_THREADS" not in os.environ:
    threads = max(1, len(os.sched_getaffinity(0)) // int(workers))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
if os.environ.get("MMSAM_TEST_ONEDNN") == "0":  # test/numerics.py
    torch.backends.mkldnn.set_flags(False)

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker begins one when the others have ended."""

    marks: dict[Path, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    order = ("distributed", "slow", "dds")
    ranks = {
        path: min((i for i, name in enumerate(order) if name in names), default=len(order))
        for path, names in marks.items()
    }
    items.sort(key=lambda item: ranks[item.path])


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the repository; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "reference").is_dir():
        pytest.skip("the reference data is not beside the repository (../shared)")
    return folder
