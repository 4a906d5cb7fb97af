# SPDX-License-Identifier: Apache-2.0
"""Frame in, labels out: geometry, normalisation, windows, drawing."""

from mmsam_ros.inference.allocator import tune_allocator
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.inference.prepare import Prepared
from mmsam_ros.inference.segmenter import Result, Segmenter

__all__ = ["InferenceError", "Prepared", "Result", "Segmenter", "tune_allocator"]
