# SPDX-License-Identifier: Apache-2.0
"""The metadata.yaml of a recording: which files it has, and claims to check them by. Needs no ROS.

Recorders write it when they end, and people edit files afterwards: it is never believed.
"""

from collections.abc import Sequence
from pathlib import Path

import yaml

from mmsam_ros._util.documents import load_yaml
from mmsam_ros.ros.errors import RosError

NAME = "metadata.yaml"
MCAP, BAG = b"\x89MCAP0\r\n", b"#ROSBAG"  # magic bytes
_SUFFIXES = (".mcap", ".db3", ".bag")
_PACKED = (".zstd", ".zst")
_NO_METADATA = (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError,
                RecursionError)  # fmt: skip


def read_metadata(path: Path) -> tuple[list[str], dict[str, int]]:
    """(files as listed, claimed numbers by unit); RosError if it is not the metadata of a bag."""
    try:
        table = load_yaml(path.read_text("utf-8"))["rosbag2_bagfile_information"]
        files = [str(name) for name in table.get("relative_file_paths") or []]
        claims = {
            "messages": table.get("message_count"),
            "ns at the start": (table.get("starting_time") or {}).get("nanoseconds_since_epoch"),
            "ns of duration": (table.get("duration") or {}).get("nanoseconds"),
        }
    except FileNotFoundError as error:
        raise RosError(f"no {path.name}") from error
    except _NO_METADATA as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RosError(f"{path.name} cannot be read ({reason})") from error
    if not files:
        raise RosError(f"{path.name} lists no files")
    return files, {unit: value for unit, value in claims.items() if type(value) is int}


def bag_files(folder: Path) -> list[Path]:
    """The files of a folder with a bag's suffix or magic bytes (`.mcap.active`, a copy); numbers in
    order.
    """
    files = (path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    bags = (path for path in files if _unpacked(path.name).endswith(_SUFFIXES) or _begins(path))
    return sorted(bags, key=lambda path: (len(path.name), path.name))


def _begins(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MCAP)).startswith((MCAP, BAG))
    except OSError:  # whatever it is, nothing says that it is a bag
        return False


def locate(present: Sequence[Path], listed: Sequence[str]) -> tuple[list[Path], list[str]]:
    """(files, names that are missing): which of the present files are listed.

    Old lists begin with a folder, and a file may have been unpacked or packed since.
    """
    by_name = {_unpacked(path.name): path for path in reversed(present)}
    names = dict.fromkeys(name.replace("\\", "/").split("/")[-1] for name in listed)
    found = {by_name[_unpacked(name)]: None for name in names if _unpacked(name) in by_name}
    return list(found), [name for name in names if _unpacked(name) not in by_name]


def _unpacked(name: str) -> str:
    """The name in lower case, without the suffix of a compressed file."""
    name = name.lower()
    for end in _PACKED:
        name = name.removesuffix(end)
    return name
