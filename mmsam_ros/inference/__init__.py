# SPDX-License-Identifier: Apache-2.0
"""Frame in, labels out: geometry, normalisation, windows, drawing."""

from mmsam_ros.inference.allocator import tune_allocator
from mmsam_ros.inference.engines import Engine
from mmsam_ros.inference.engines.eager import TorchEngine
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.inference.prepare import Prepared, Review
from mmsam_ros.inference.segmenter import Result, Segmenter

__all__ = [
    "Engine", "InferenceError", "Prepared", "Result", "Review", "Segmenter", "TorchEngine",
    "tune_allocator",
]  # fmt: skip
