# SPDX-License-Identifier: Apache-2.0
"""The error and the warning of `mmsam_ros.data`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsam_ros._util import MmsamError


class DataError(MmsamError):
    """A data set, an option of the synthetic world or an output folder cannot be used; says why."""


class DataWarning(UserWarning):
    """A data set can be used, but something about it is not as its layout says."""


@contextmanager
def naming(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """A file that cannot be read, and errors of these types, become a DataError with its path."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: is missing") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except errors as error:
        raise DataError(f"{path}: {error}") from error
