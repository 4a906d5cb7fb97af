# SPDX-License-Identifier: Apache-2.0
"""The metadata.yaml of a recording: which files it has, and claims to check them by. Needs no ROS.

Recorders write it when they end, and people edit files afterwards: it is never believed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rosbags.interfaces import Qos

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.storage import read_offers

NAME = "metadata.yaml"
SUFFIXES = (".mcap", ".db3", ".bag")
PACKED = (".zstd", ".zst")


@dataclass
class Metadata:
    """What it says; what is missing in it is empty or None."""

    files: list[str] = field(default_factory=list)  # as listed
    messages: int | None = None
    start: int | None = None  # ns
    duration: int | None = None  # ns
    offers: dict[str, list[Qos]] = field(default_factory=dict)  # QoS by topic


def read_metadata(path: Path) -> Metadata:
    """RosError if it is no metadata of a bag."""
    try:
        table = yaml.safe_load(path.read_text("utf-8"))["rosbag2_bagfile_information"]
        metadata = Metadata(
            [str(name) for name in table.get("relative_file_paths") or []],
            _whole(table.get("message_count")),
            _whole((table.get("starting_time") or {}).get("nanoseconds_since_epoch")),
            _whole((table.get("duration") or {}).get("nanoseconds")),
        )
        for entry in table.get("topics_with_message_count") or []:
            topic = entry["topic_metadata"]
            metadata.offers[topic["name"]] = read_offers(topic.get("offered_qos_profiles", ""))
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RosError(f"{path.name} cannot be read ({reason})") from error
    return metadata


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def bag_files(folder: Path) -> list[Path]:
    """The files of a folder that are named as those of bags are, numbers in order."""

    def is_bag(path: Path) -> bool:
        name = path.name
        for end in PACKED:
            name = name.removesuffix(end)
        return name.endswith(SUFFIXES) and not name.startswith(".") and path.is_file()

    return sorted(filter(is_bag, folder.iterdir()), key=lambda path: (len(path.name), path.name))


def locate(folder: Path, listed: Sequence[str]) -> tuple[list[Path], list[str]]:
    """(files, names that are missing): where a listed file lies now. Old lists begin with the
    name of the folder, and a file may have been unpacked or packed since.
    """
    found, missing = [], []
    for name in listed:
        base = name.replace("\\", "/").split("/")[-1]
        plain = base
        for end in PACKED:
            plain = plain.removesuffix(end)
        names = [name, base, plain, *(plain + end for end in PACKED)]
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            missing.append(base)
        elif path not in found:
            found.append(path)
    return found, missing
