# SPDX-License-Identifier: Apache-2.0
"""Where rclpy writes its log files: without a writable folder, it does not start."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmsam_ros.ros.errors import RosError


def ensure_log_folder(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have rclpy log to a temporary folder if its own is not writable; call this before rclpy.init.
    Its own is ROS_LOG_DIR, ROS_HOME/log or ~/.ros/log. RosError if neither is writable.
    """
    places = (("ROS_LOG_DIR", ""), ("ROS_HOME", "log"), ("HOME", ".ros/log"))
    set_ones = [
        Path(os.path.expanduser(environment[name])) / below
        for name, below in places
        if environment.get(name)
    ]
    if set_ones and _is_writable(set_ones[0]):
        environment["ROS_LOG_DIR"] = str(set_ones[0])
        return
    found = f"{set_ones[0]} cannot be written" if set_ones else "HOME is not set"
    try:
        instead = Path(tempfile.gettempdir()) / f"ros_log_{os.getuid()}"
    except FileNotFoundError as error:
        raise RosError(f"{found}, and neither can a temporary folder: set ROS_LOG_DIR") from error
    if not _is_writable(instead):
        raise RosError(f"{found}, and neither can {instead}: set ROS_LOG_DIR to another folder")
    environment["ROS_LOG_DIR"] = str(instead)
    print(f"{found}: log files go to {instead}; ROS_LOG_DIR sets another folder", file=sys.stderr)


@contextmanager
def forwarded(logger: Any) -> Iterator[None]:
    """Forward the package's Python logging to a ROS logger while the block runs."""
    package, handler = logging.getLogger("mmsam_ros"), _Forward(logger)
    before = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)


class _Forward(logging.Handler):
    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        # rclpy allows only one severity per line of code
        if record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
