# SPDX-License-Identifier: Apache-2.0
"""What `mmsam label-bag` makes of engines that fail, memory that is full, and defects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.drives import FRAMES, SEMANTIC, label_bag, pixels, read_topic

from mmsam_ros.inference import InferenceError
from mmsam_ros.inference.engines import Engine
from mmsam_ros.inference.engines.ladder import Ladder
from mmsam_ros.ros import labelling
from mmsam_ros.ros.parameters import Parameters

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SOUND = 2  # calls of an engine before it fails
LOST = RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("failures")


class Failing:
    """An engine that fails after `SOUND` calls; for good, or up to the call `last`."""

    def __init__(self, engine: Engine, error: Exception, last: int | None = None) -> None:
        self.name, self.device, self._engine = engine.name, engine.device, engine
        self._error, self._calls, self._last = error, 0, last

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        self._calls += 1
        if self._calls > SOUND and (self._last is None or self._calls <= self._last):
            raise self._error
        return self._engine(inputs)


def lose_device(*_: Any) -> None:
    """Has the engine of this process fail for good."""
    assert labelling._segmenter is not None
    failing = Failing(labelling._segmenter.engine, LOST)
    labelling._segmenter.engine = Ladder(failing, {}, labelling._segmenter.geometry.size)


def start_losing(parameters: Parameters, threads: int) -> None:
    """In place of `labelling._start_process`, which it calls."""
    labelling._load(parameters)
    torch.set_num_threads(threads)
    lose_device()


def after(function: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    def both(*args: Any) -> None:
        function(*args)
        then(*args)

    return both


@pytest.mark.parametrize("workers", [1, 2])
def test_a_lost_engine_ends_the_run_which_goes_on_with_the_same_command(
    folder: Path, drive: Path, weights: Path, workers: int, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, part = folder / f"lost_{workers}", folder / f".lost_{workers}.part"
    more = ["--workers", str(workers)]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with monkeypatch.context() as injected:
        if workers == 1:
            injected.setattr(labelling, "_load", after(labelling._load, lose_device))
        else:  # each of which imports the package anew
            injected.setattr(labelling, "_start_process", start_losing)
        assert label_bag(drive, out, weights, *more) == 2
    said = capfd.readouterr().err
    assert "error: no engine computes any more" in said
    assert "CUDA error" in said
    assert "give the same command again to resume" in said
    assert not out.exists()
    kept = sorted(path.stem for path in part.glob("results/*.npz"))
    first = [f"{number:08d}" for number in range(len(kept))]
    assert kept == first, "the frames before the one that failed"
    assert SOUND <= len(kept) < FRAMES
    assert label_bag(drive, out, weights, *more) == 0
    assert f"resuming: {len(kept)} frames are already labelled" in capfd.readouterr().err
    assert len(read_topic(out, SEMANTIC)) == FRAMES
    assert not part.exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "out_of_memory"),
        (ZeroDivisionError("a bug"), "defect"),
        (InferenceError("the network's values are not finite"), "invalid"),
    ],
)
def test_frames_that_failed_through_no_fault_of_theirs_are_a_fault_of_the_run(
    folder: Path, drive: Path, weights: Path, error: Exception, reason: str,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*_: Any) -> None:
        assert labelling._segmenter is not None
        labelling._segmenter.engine = Failing(labelling._segmenter.engine, error, SOUND + 1)

    out = folder / reason
    monkeypatch.setattr(labelling, "_load", after(labelling._load, fail))
    assert label_bag(drive, out, weights) == 1
    said = f"1 frames are not labelled ({reason}), through no fault in the data"
    assert said in capfd.readouterr().err
    assert said in (out / "report.json").read_text()
    masks = [pixels(message) for _, message in read_topic(out, SEMANTIC)]
    assert len(masks) == FRAMES - 1


def test_a_device_that_is_lost_outside_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in preparing or in the copy of the labels; no GPU can be lost here, so its answer is."""
    monkeypatch.setattr(labelling, "lost", lambda device: f"{device}: unspecified launch failure")
    with (
        pytest.raises(labelling.EngineError, match="the device is lost: cpu: unspecified"),
        labelling._watched(torch.device("cpu")),
    ):
        raise RuntimeError("CUDA error")
    with pytest.raises(torch.OutOfMemoryError), labelling._watched(torch.device("cpu")):
        raise torch.OutOfMemoryError("it is full")
