# SPDX-License-Identifier: Apache-2.0
"""A SLURM job whose command was not started by srun says so, instead of waiting for processes."""

from __future__ import annotations

import os

import pytest

from mmsam_ros.training.config import DeviceConfig, TrainingError
from mmsam_ros.training.devices import start_fabric

DEVICE = DeviceConfig(accelerator="cpu")
# What sbatch sets for its script, which is a process of its own, and what salloc leaves out.
BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "1",
         "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip
ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "1"}


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_", "MASTER_")):
            monkeypatch.delenv(name)


def enter(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        (BATCH | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, "SLURM_STEP_ID"),
        (BATCH | {"SLURM_NTASKS": "8"}, "SLURM_STEP_ID"),
        (ALLOCATION | {"SLURM_NTASKS": "1"}, "SLURM_PROCID"),
        (ALLOCATION | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, "SLURM_PROCID"),
        ({"SLURM_NTASKS": "1"}, "SLURM_LOCALID"),
    ],
)
def test_without_srun_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], missing: str
) -> None:
    enter(monkeypatch, variables)
    with pytest.raises(TrainingError, match=f"but not .*{missing}.*: start with srun"):
        start_fabric(DEVICE)


@pytest.mark.parametrize(
    "variables",
    [
        ALLOCATION,  # no tasks: not a parallel job
        BATCH | {"SLURM_NTASKS": "1"},
        BATCH | {"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"},
        ALLOCATION | {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"},
        ALLOCATION | {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"},
    ],
)
def test_one_process_starts(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    enter(monkeypatch, variables)
    fabric = start_fabric(DEVICE)
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


def test_processes_of_srun_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with this job is found later, by Fabric: devices are not tasks."""
    enter(monkeypatch, BATCH | {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"})
    with pytest.raises(TrainingError, match="--ntasks-per-node=2"):
        start_fabric(DEVICE)
