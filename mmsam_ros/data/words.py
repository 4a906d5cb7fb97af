# SPDX-License-Identifier: Apache-2.0
"""Words of all data sets, and keys that their files may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmsam_ros._util import check_word
from mmsam_ros.data.errors import DataError

SPLITS = ("train", "val", "test")


def check_keys(
    where: str, value: Any, required: Iterable[str], optional: Iterable[str] = ()
) -> Mapping[str, Any]:
    """The mapping itself; DataError for anything else, for an unknown and for a missing key."""
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: found {type(value).__name__}, expected an object with keys")
    required = list(required)
    known = dict.fromkeys([*required, *optional])
    for key in value:
        check_word(where, key, known, DataError)
    for key in required:
        if key not in value:
            raise DataError(f"{where}: key {key!r} is missing")
    return value
