# SPDX-License-Identifier: Apache-2.0
"""The data room's error."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsam_ros._util import MmsamError


class DataError(MmsamError):
    """A data set, an option of the synthetic world or an output folder cannot be used; says why."""


@contextmanager
def naming(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Errors of these types in the block become a DataError that begins with the path."""
    try:
        yield
    except errors as error:
        raise DataError(f"{path}: {error}") from error
