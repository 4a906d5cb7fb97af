# SPDX-License-Identifier: Apache-2.0
"""A SLURM job whose command was not started by srun says so, instead of waiting for processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from mmsam_ros.training.config import DeviceConfig, TrainingError
from mmsam_ros.training.devices import join_processes, start_fabric, world_size

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


@pytest.mark.parametrize(
    "variables",
    [
        {},
        BATCH | {"SLURM_NTASKS": "2"},  # a script of sbatch: an evaluation is one process there
        BATCH | {"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"},
        BATCH | {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "bash"},
    ],
)
def test_an_evaluation_is_one_process(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    enter(monkeypatch, variables)
    join_processes("cpu")
    assert world_size() == 1


def test_an_evaluation_is_as_many_processes_as_srun_starts() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = (
        "from mmsam_ros.training.devices import *; join_processes('cpu');"
        "print('share', *own_share(5), is_first(), gathered(own_share(5)[0]))"
    )
    started = []
    for rank in ("0", "1"):
        variables = BATCH | {
            "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0",
            "SLURM_NODELIST": "localhost", "SLURM_PROCID": rank, "SLURM_LOCALID": rank,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                env={**os.environ, **variables},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    said = [process.communicate()[0].splitlines()[-1] for process in started]
    assert said == ["share 0 2 4 True [0, 1]", "share 1 3 False [0, 1]"]


@pytest.mark.parametrize(
    ("name", "value"), [("SLURM_PROCID", "x"), ("RANK", ""), ("LOCAL_RANK", "-1")]
)
def test_variables_that_hold_no_number_are_named(name: str, value: str) -> None:
    command = [sys.executable, "-m", "mmsam_ros.cli.main", "train", "--help"]
    environment = {**os.environ, name: value}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"mmsam: error: environment: {name} is {value!r}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID"])
def test_a_single_process_is_the_first_whatever_the_environment_says(name: str) -> None:
    """Lightning takes the number when it is imported; the run's log would be left out."""
    code = (
        "from lightning.fabric.utilities.rank_zero import rank_zero_only as only\n"
        "from mmsam_ros.training.config import DeviceConfig\n"
        "from mmsam_ros.training.devices import start_fabric\n"
        "start_fabric(DeviceConfig(accelerator='cpu'))\n"
        "print('rank', only.rank)"
    )
    environment = {**os.environ, name: "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["rank 0"], done.stderr
