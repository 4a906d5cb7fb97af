# SPDX-License-Identifier: Apache-2.0
"""The error and the warning of `mmsam_ros.data`."""

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        raise DataError(f"{path}: is missing{beside(path)}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except errors as error:
        raise DataError(f"{path}: {error}") from error


def beside(path: Path) -> str:
    """Names of the files beside a missing one that differ from it in capitals, the spelling of
    accents or suffix alone, as the end of a message; empty where there are none.
    """
    names: list[str] = []
    with suppress(OSError):
        names = sorted(os.listdir(path.parent))
    stem = _folded(path.stem)
    found = [name for name in names if stem in (_folded(name), _folded(Path(name).stem))]
    return f"; found {', '.join(found)}" if found else ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
