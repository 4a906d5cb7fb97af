# SPDX-License-Identifier: Apache-2.0
"""Helpers that all packages share; importing it needs only the standard library."""

from mmsam_ros._util.errors import MmsamError, check_word, first_line, near_match
from mmsam_ros._util.files import atomic_path, flush, whole_folder, write_atomic
from mmsam_ros._util.machine import cpu_flags, cuda_seen, machine, revision, versions
from mmsam_ros._util.mapping import Checked, from_mapping, ranged, require
from mmsam_ros._util.program import follow_parent, run_program, stop_signals

__all__ = [
    "Checked", "MmsamError", "atomic_path", "check_word", "cpu_flags", "cuda_seen", "first_line",
    "flush", "follow_parent", "from_mapping", "machine", "near_match", "ranged", "require",
    "revision", "run_program", "stop_signals", "versions", "whole_folder", "write_atomic",
]  # fmt: skip
