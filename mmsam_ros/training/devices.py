# SPDX-License-Identifier: Apache-2.0
"""Lightning Fabric for a run, and what of the network depends on the machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only, rank_zero_warn
from lightning.fabric.wrappers import _FabricModule as FabricModule
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from mmsam_ros._util import first_line, require
from mmsam_ros.data.open import find_benchmark
from mmsam_ros.model import MMSAMAdapter, build_model
from mmsam_ros.model.convnext import ConvNeXtBlock
from mmsam_ros.model.encoder import Block
from mmsam_ros.model.fusion import BatchNorm
from mmsam_ros.model.interaction import Extractor, Injector
from mmsam_ros.training.config import DeviceConfig, TrainConfig, TrainingError

T = TypeVar("T")
_SHARDED = (Block, ConvNeXtBlock)
_OF_TASK = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")  # set for each process of a job
_INTERACTIVE = ("bash", "interactive")  # names of jobs in which Fabric ignores SLURM
_RECOMPUTED = (*_SHARDED, Injector, Extractor)


def start_fabric(device: DeviceConfig) -> Fabric:
    """Fabric with all its processes, which it starts unless torchrun or SLURM has done so.

    TrainingError where the machine cannot do what is asked for.
    """
    _check_slurm()
    sharded = ModelParallelStrategy(_shard, save_distributed_checkpoint=False)
    try:
        fabric = Fabric(
            accelerator=device.accelerator,
            devices=device.devices or "auto",
            num_nodes=device.nodes,
            strategy=sharded if device.strategy == "fsdp" else device.strategy,
            precision="bf16-mixed" if device.precision == "bf16-mixed" else "32-true",
        )
        fabric.launch()
        # a variable such as RANK that no launcher has set would leave a run without its log
        rank_zero_only.rank = fabric.global_rank  # type: ignore[attr-defined]
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise TrainingError(f"{device} does not fit this machine: {error}") from error
    return fabric


@contextmanager
def arithmetic(device: DeviceConfig) -> Iterator[None]:
    """TF32 in matrix products and convolutions on CUDA or not at all, and a deterministic cuDNN;
    torch's flags are as before afterwards.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    tf32 = device.precision == "tf32"
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32

    def set_flags(deterministic: bool, benchmark: bool, convolutions: bool, products: bool) -> None:
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
        cudnn.allow_tf32, matmul.allow_tf32 = convolutions, products

    set_flags(True, False, tf32, tf32)
    try:
        yield
    finally:
        set_flags(*before)


def departures(fabric: Fabric, config: TrainConfig) -> list[str]:
    """Where arithmetic and batch norms here differ from what is asked for or published."""
    notes, gpu = [], fabric.device.type == "cuda"
    has_tf32 = gpu and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    if config.device.precision == "tf32" and not has_tf32:
        notes.append(f"device.precision tf32: {fabric.device} does not have it, fp32 is used")
    published = find_benchmark(config.dataset).pooled_frames
    processes = fabric.world_size if gpu else 1
    pooled = config.batch.per_device * processes
    if published and pooled != published:
        each, rest = divmod(published, processes)
        devices, each = (f"--device.devices {published} ", 1) if rest else ("", each)
        text = f"batch norms pool {pooled} frame(s), in the published training {published}"
        notes.append(f"{text}: {devices}--batch.per_device {each} does the same")
    return notes


def _check_slurm() -> None:
    """TrainingError in a SLURM job whose processes neither srun nor torchrun has started: Fabric
    would wait for the others forever, or miss its variables.
    """
    tasks = os.environ.get("SLURM_NTASKS")
    own_launch = "TORCHELASTIC_RUN_ID" in os.environ or (
        os.environ.get("SLURM_JOB_NAME") in _INTERACTIVE
    )
    if tasks is None or own_launch:
        return
    missing = [name for name in _OF_TASK if name not in os.environ]
    if tasks != "1" and "SLURM_STEP_ID" not in os.environ:
        missing.append("SLURM_STEP_ID")
    if missing:
        raise TrainingError(
            f"found SLURM_NTASKS {tasks}, but not {', '.join(missing)}, which srun sets: start "
            "with srun (srun mmsam ...), or unset SLURM_NTASKS to use this machine alone"
        )


def join_processes(device: str) -> None:
    """Make this process one of those that torchrun or srun has started, each on its own device.

    Does nothing where it is the only one. TrainingError where the machine has fewer devices, or
    `device` is a single GPU.
    """
    found = os.environ
    if "TORCHELASTIC_RUN_ID" in found:
        world, nodes = int(found["WORLD_SIZE"]), int(found["GROUP_WORLD_SIZE"])
    elif "SLURM_STEP_ID" in found and found.get("SLURM_JOB_NAME") not in _INTERACTIVE:
        world, nodes = int(found.get("SLURM_NTASKS", 1)), int(found.get("SLURM_NNODES", 1))
    else:
        return
    if world == 1:
        return
    accelerator, _, index = device.partition(":")
    expected = f"{accelerator}: each of {world} processes takes a device of its own"
    require(not index, "device", device, expected, TrainingError)
    start_fabric(DeviceConfig(accelerator, world // nodes, nodes))  # type: ignore[arg-type]


def is_sharded(fabric: Fabric) -> bool:
    """Whether every process holds a part of each parameter (FSDP)."""
    return isinstance(fabric.strategy, ModelParallelStrategy)


def _shard(net: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard blocks and the rest; scalars cannot be sharded, see `average_scalars`."""
    for module in [m for m in net.modules() if isinstance(m, _SHARDED)]:
        fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh, ignored_params={p for p in net.parameters() if p.ndim == 0})
    return net


def average_scalars(fabric: Fabric, net: nn.Module) -> None:
    """Mean over the processes of the gradients that FSDP leaves alone."""
    if is_sharded(fabric):
        for p in net.parameters():
            if p.ndim == 0 and p.grad is not None:
                p.grad = fabric.all_reduce(p.grad, reduce_op="mean")  # type: ignore[assignment]


def set_up_network(fabric: Fabric, net: MMSAMAdapter) -> FabricModule:
    """The network on its device in Fabric's wrapper, with synchronised batch norms on several GPUs.
    With FSDP the parameters of `net` are replaced.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        synchronise_batch_norms(net)
    elif fabric.world_size > 1:
        rank_zero_warn("batch norms are not synchronised on the CPU: each process has its own")
    return fabric.setup_module(net)


class SyncBatchNorm(nn.SyncBatchNorm):
    """Takes batches of no samples; statistics stay as they are where no process has a sample.

    They are exchanged in float32: a process without samples would send its input's half precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            samples = torch.tensor([x.shape[0]], device=x.device)
            torch.distributed.all_reduce(samples, group=self.process_group)
            if not int(samples):
                return x * self.weight[:, None, None] + self.bias[:, None, None]
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float()).to(x.dtype)


def synchronise_batch_norms(net: MMSAMAdapter) -> None:
    """Put synchronised batch norms in the place of all, with their weights and statistics."""
    may_be_empty = [name for name, module in net.named_modules() if isinstance(module, BatchNorm)]
    nn.SyncBatchNorm.convert_sync_batchnorm(net)
    if net.config.combine.absent != "empty":
        for name in may_be_empty:
            synced: Any = net.get_submodule(name)
            taking = SyncBatchNorm(synced.num_features, synced.eps, synced.momentum)
            taking.load_state_dict(synced.state_dict())
            net.set_submodule(name, taking)


def world_size() -> int:
    """The number of processes that share the work."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def gathered(own: T) -> list[T]:
    """Every process's object, in their order, in every one of them; they must all call it."""
    parts = [own] * world_size()
    if len(parts) > 1:
        torch.distributed.all_gather_object(parts, own)
    return parts


def own_share(count: int) -> range:
    """The items of `count` that this process takes; all of them where it is the only one."""
    if not torch.distributed.is_initialized():
        return range(count)
    return range(torch.distributed.get_rank(), count, torch.distributed.get_world_size())


def is_first() -> bool:
    """Whether this is the process that writes."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def recompute_activations(net: nn.Module) -> None:
    """Recompute blocks, injectors and extractors in the backward pass.

    Names in the state dict stay; those of `named_parameters` do not.
    """
    wrap = checkpoint_wrapper.apply_activation_checkpointing
    wrap(net, check_fn=lambda module: isinstance(module, _RECOMPUTED))


def whole_network(fabric: Fabric, net: MMSAMAdapter) -> MMSAMAdapter:
    """`net` itself, or a copy with all parameters where they are sharded; for every process.

    The batch norms' statistics become the first process's, whose network is the one that is
    written: where they are not synchronised, each has its own since the last forward pass.
    """
    if is_sharded(fabric):
        sharded, net = net, build_model(net.config).to(fabric.device)
        whole = StateDictOptions(full_state_dict=True)
        net.load_state_dict(get_model_state_dict(sharded, options=whole))
    if fabric.world_size > 1:
        for buffer in net.buffers():
            torch.distributed.broadcast(buffer, src=0)
    return net


@contextmanager
def memory_advice(config: TrainConfig) -> Iterator[None]:
    """TrainingError with what to change where the GPU's memory is full or a worker was killed."""
    try:
        with worker_advice():
            yield
    except torch.OutOfMemoryError as error:
        used, batch = config.device, config.batch
        tries = [
            "--batch.per_device 1" if batch.per_device > 1 else "",
            "" if used.checkpointing else "--device.checkpointing true",
            "--device.precision bf16-mixed" if used.precision != "bf16-mixed" else "",
            "--device.strategy fsdp on several GPUs" if used.strategy != "fsdp" else "",
            "a smaller --model.image_size with --augment.crop, or a smaller --model.preset",
        ]
        raise TrainingError(
            f"the GPU's memory is full with batch.per_device {batch.per_device}, crop "
            f"{config.augment.crop}, precision {used.precision}, checkpointing "
            f"{used.checkpointing}, preset {config.model.preset}; the last checkpoint is as it "
            f"was. Try {', '.join(filter(None, tries))}. ({first_line(error)})"
        ) from error


@contextmanager
def worker_advice() -> Iterator[None]:
    """TrainingError where a loading process was killed."""
    try:
        yield
    except RuntimeError as error:  # torch raises it anywhere in the process
        if not str(error).startswith("DataLoader worker"):
            raise
        advice = "If memory was full, try fewer --data.workers (mmsam eval: --workers)"
        raise TrainingError(f"{error} {advice}") from error
