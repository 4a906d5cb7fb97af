# SPDX-License-Identifier: Apache-2.0
"""What happens to one synchronised set: decode, prepare, infer, publish. Needs no node."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mmsam_ros._util import MmsamError
from mmsam_ros.inference import Segmenter
from mmsam_ros.ros.frames import FrameBuilder
from mmsam_ros.ros.outputs import Outputs
from mmsam_ros.ros.sets import DEFECT, OUT_OF_MEMORY, Outcome, SyncedSet
from mmsam_ros.sensors import Refusal


@dataclass(frozen=True)
class Processor:
    """Turns a set into a published mask; the worker's thread calls it."""

    builder: FrameBuilder
    segmenter: Segmenter
    outputs: Outputs
    is_running: Callable[[], bool] = lambda: True  # once it is not, publishing fails

    def __call__(self, synced: SyncedSet) -> Outcome:
        """Process a set; never raises."""
        outcome = self._process(synced)
        if outcome.reason == OUT_OF_MEMORY:
            torch.cuda.empty_cache()  # the error and its frames are gone; the next frame may fit
        return outcome

    def _process(self, synced: SyncedSet) -> Outcome:
        refused: dict[str, Refusal] = {}
        try:
            frame, refused = self.builder.build(synced)
            prepared = self.segmenter.prepare(frame)
            refused |= prepared.refused
            result = self.segmenter.infer(prepared, confidence=self.outputs.wants_confidence)
            self.outputs.publish(synced.camera.message.header, frame.rgb, result)
        except MmsamError as error:
            reason = getattr(error, "reason", "invalid")
            return Outcome("refused", reason, str(error), refused)
        except torch.OutOfMemoryError as error:
            return Outcome("refused", OUT_OF_MEMORY, str(error).partition("\n")[0], refused)
        except Exception:  # a bug costs one frame, not the node
            if not self.is_running():
                return Outcome("dropped", "shutdown")
            return Outcome("refused", DEFECT, traceback.format_exc(), refused)
        return Outcome("used", sensors=refused, fused=result.present, timings=result.timings)
