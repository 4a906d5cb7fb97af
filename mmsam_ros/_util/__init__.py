# SPDX-License-Identifier: Apache-2.0
"""What every room uses and no room owns; imports nothing but the standard library."""

from mmsam_ros._util.errors import MmsamError
from mmsam_ros._util.files import atomic_path, write_atomic
from mmsam_ros._util.machine import machine, revision, versions
from mmsam_ros._util.mapping import Checked, from_mapping, ranged, require
from mmsam_ros._util.words import check_word, near_match

__all__ = [
    "Checked",
    "MmsamError",
    "atomic_path",
    "check_word",
    "from_mapping",
    "machine",
    "near_match",
    "ranged",
    "require",
    "revision",
    "versions",
    "write_atomic",
]
