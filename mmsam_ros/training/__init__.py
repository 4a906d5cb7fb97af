# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation of the network."""

import os

from mmsam_ros._util import MmsamError

# what launchers set, and Lightning reads, some of it as soon as it is imported
for _name in (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_WORLD_SIZE", "SLURM_PROCID", "SLURM_LOCALID",
    "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NNODES", "JSM_NAMESPACE_RANK",
):  # fmt: skip
    if not os.environ.get(_name, "0").isdecimal():
        raise MmsamError(
            f"environment: {_name} is {os.environ[_name]!r}, expected a whole number as torchrun "
            f"and srun set it; unset {_name} to use this machine alone"
        )
