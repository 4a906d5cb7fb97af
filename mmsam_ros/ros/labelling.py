# SPDX-License-Identifier: Apache-2.0
"""Labels of all frames of a recording, as the node makes them. Needs no ROS.

One process reads, synchronises and prepares, as what is known of a sensor comes from earlier
frames; only the network runs in several. Results are kept in a folder until all are there, so that
an interrupted run can be resumed.
"""

import io
import logging
import multiprocessing
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from mmsam_ros._util import MmsamError, follow_parent, write_atomic
from mmsam_ros.inference import Prepared, Result, Segmenter, tune_allocator
from mmsam_ros.inference.engines.ladder import EngineError, lost, out_of_memory
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.inference.prepare import prepare
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.feed import Copy, Feed
from mmsam_ros.ros.frames import FrameBuilder
from mmsam_ros.ros.parameters import Parameters, load_segmenter, make_geometry
from mmsam_ros.ros.plausibility import Plausibility
from mmsam_ros.ros.sets import DEFECT, ENGINE, INVALID, OUT_OF_MEMORY, Outcome, SyncedSet
from mmsam_ros.sensors import Frame, Refusal

_AHEAD = 2  # frames that each process of the network has waiting


class Labelled(NamedTuple):
    """How a set ended, with the network's result if it was used."""

    synced: SyncedSet
    outcome: Outcome
    frame: Frame | None
    result: Result | None


@dataclass
class _Pending:
    number: int  # of the set
    synced: SyncedSet
    frame: Frame
    refused: Mapping[str, Refusal]
    future: Future[Result]
    is_new: bool  # whether the network has to make it


class Results:
    """Results that are on disk already, by the number of the set."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(list(self._folder.glob("*.npz")))

    def read(self, number: int, used: tuple[str, ...]) -> Result | None:
        """The result; None if it is missing or was made from other sensors."""
        try:
            with np.load(self._path(number), allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except (FileNotFoundError, BadZipFile, ValueError, OSError, EOFError):
            return None  # it is made again
        if "labels" not in found or tuple(found["sensors"].tolist()) != used:
            return None
        return Result(found["labels"], found.get("confidence"), used, {})

    def write(self, number: int, result: Result) -> None:
        arrays: dict[str, NDArray[Any]] = {"labels": result.labels}
        if result.confidence is not None:
            arrays["confidence"] = result.confidence
        arrays["sensors"] = np.array(result.present, dtype="U16")
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, **arrays)
        write_atomic(self._path(number), packed.getvalue())

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.npz"


@dataclass(frozen=True)
class Labelling:
    """Everything between a recording and its labels."""

    feed: Feed
    builder: FrameBuilder
    plausibility: Plausibility
    parameters: Parameters
    results: Results
    confidence: bool = True
    workers: int = 1

    def run(self, copy: Copy | None = None) -> Iterator[Labelled]:
        """Every set, in order; each is settled in the synchroniser. `copy`: see `Feed.sets`.

        RosError once no engine works any more, after the sets before it.
        """
        with _Network(self.parameters, self.workers) as network:
            waiting: deque[Labelled | _Pending] = deque()
            sets = self.feed.sets(self.builder.infos, copy, self.builder.motion)
            for number, synced in enumerate(sets):
                waiting.append(self._begin(number, synced, network))
                while waiting and (len(waiting) > _AHEAD * self.workers or _is_done(waiting[0])):
                    yield self._end(waiting.popleft())
            while waiting:
                yield self._end(waiting.popleft())

    def _begin(self, number: int, synced: SyncedSet, network: "_Network") -> Labelled | _Pending:
        refused: dict[str, Refusal] = {}
        try:
            frame, refused = self.builder.build(synced)
            frame_ids, stamp = self.builder.frame_ids(synced), synced.camera.stamp_ns / 1e9
            review = partial(self.plausibility, frame_ids=frame_ids, stamp=stamp)
            plan = Plan.of(network.geometry(self.builder.spec), frame.size)
            with torch.inference_mode(), _watched(network.device):
                prepared = prepare(frame, self.builder.spec, plan, network.device, review=review)
        except Exception as error:
            return self._refuse(synced, error, refused)
        future = Future[Result]()
        if known := self.results.read(number, prepared.used):
            future.set_result(known)
        else:
            future = network.submit(prepared, self.confidence)
        refused = {**refused, **prepared.refused}
        return _Pending(number, synced, frame, refused, future, is_new=known is None)

    def _end(self, ended: Labelled | _Pending) -> Labelled:
        labelled = ended if isinstance(ended, Labelled) else self._await(ended)
        if labelled.outcome.reason == ENGINE:  # as the node ends: all later frames would fail, too
            raise RosError(
                f"{labelled.outcome.text}. What is labelled so far is kept: give the same command "
                "again to resume"
            )
        return labelled

    def _await(self, ended: _Pending) -> Labelled:
        synced, refused = ended.synced, ended.refused
        try:
            result = ended.future.result()
        except BrokenExecutor as error:
            raise RosError(
                "a process of the network has ended, perhaps for lack of memory: give fewer "
                "--workers; give the same command again to resume"
            ) from error
        except Exception as error:
            return self._refuse(synced, error, refused)
        if ended.is_new:
            self.results.write(ended.number, result)
        outcome = Outcome("used", sensors=refused, fused=result.present, timings=result.timings)
        return self._settle(synced, outcome, ended.frame, result)

    def _refuse(
        self, synced: SyncedSet, error: Exception, refused: Mapping[str, Refusal]
    ) -> Labelled:
        """Count it as the node does, where a bug costs one frame."""
        reason, text = DEFECT, "".join(traceback.format_exception(error))
        if isinstance(error, MmsamError):
            reason, text = getattr(error, "reason", INVALID), str(error)
        elif full := out_of_memory(error):
            reason, text = OUT_OF_MEMORY, full
        return self._settle(synced, Outcome("refused", reason, text, refused))

    def _settle(
        self, synced: SyncedSet, outcome: Outcome, frame: Frame | None = None,
        result: Result | None = None,
    ) -> Labelled:  # fmt: skip
        self.feed.sync.settle(synced, outcome)
        return Labelled(synced, outcome, frame, result)


def _is_done(waiting: Labelled | _Pending) -> bool:
    return isinstance(waiting, Labelled) or waiting.future.done()


class _Network:
    """The network, in a thread of this process or in several processes."""

    def __init__(self, parameters: Parameters, workers: int) -> None:
        self.parameters = parameters
        self._executor: Executor
        if workers == 1:
            _load(parameters)
            assert _segmenter is not None
            self.device = _segmenter.device
            self._executor = ThreadPoolExecutor(1)
        else:
            self.device = torch.device("cpu")
            threads = max(1, torch.get_num_threads() // workers)
            spawn = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(
                workers, spawn, _start_process, (parameters, threads)
            )

    def __enter__(self) -> "_Network":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def geometry(self, spec: Any) -> Any:
        """The geometry that the parameters set."""
        return make_geometry(self.parameters, spec)

    def submit(self, prepared: Prepared, confidence: bool) -> Future[Result]:
        """Start making the labels."""
        asked = {"confidence": confidence, "threshold": self.parameters["confidence_threshold"]}
        if isinstance(self._executor, ThreadPoolExecutor):
            return self._executor.submit(_infer, prepared, asked)
        # arrays are copied; tensors would go through /dev/shm, which containers have little of
        arrays = {name: image.numpy() for name, image in prepared.inputs.items()}
        return self._executor.submit(_infer_arrays, replace(prepared, inputs={}), arrays, asked)


_log = logging.getLogger("mmsam")
_segmenter: Segmenter | None = None  # of this process


def _load(parameters: Parameters) -> None:
    global _segmenter
    tune_allocator()
    _segmenter = load_segmenter(parameters, _log.warning)


def _start_process(parameters: Parameters, threads: int) -> None:
    follow_parent()
    torch.set_num_threads(threads)
    _load(parameters)


@contextmanager
def _watched(device: torch.device) -> Iterator[None]:
    """Raise EngineError for what fails outside the engine because the device is lost."""
    try:
        yield
    except (MmsamError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if said := lost(device):
            raise EngineError(f"the device is lost: {said}") from error
        raise


def _infer(prepared: Prepared, asked: dict[str, Any]) -> Result:
    assert _segmenter is not None
    with _watched(_segmenter.device):
        return _segmenter.infer(prepared, **asked)


def _infer_arrays(
    prepared: Prepared, arrays: dict[str, NDArray[Any]], asked: dict[str, Any]
) -> Result:
    assert _segmenter is not None
    with _watched(_segmenter.device):
        inputs = {name: torch.from_numpy(a).to(_segmenter.device) for name, a in arrays.items()}
    return _infer(replace(prepared, inputs=inputs), asked)
