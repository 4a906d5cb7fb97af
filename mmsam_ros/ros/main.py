# SPDX-License-Identifier: Apache-2.0
"""Entry point of `ros2 run mmsam_ros segment`."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from mmsam_ros._util.openmp import wait_passively
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.logs import ensure_log_folder


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; see `mmsam_ros.ros.node`."""

    def start() -> int:
        from mmsam_ros.ros.preflight import can_start

        if not can_start(args):
            return 2
        from mmsam_ros.ros.node import run  # loads torch, which takes seconds

        return run(args)

    return begin(start)


def begin(start: Callable[[], int]) -> int:
    """Call `start` in a process that is made ready for the node; its exit code."""
    # Until the node takes the signals, Ctrl-C ends the process at once. As an exception, in the
    # middle of an import, it would be a traceback, or be lost in an except clause of that module.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    wait_passively()
    try:
        ensure_log_folder()
    except RosError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 2
    code = start()
    if any(thread.daemon for thread in threading.enumerate()):  # the worker's, see `Worker.stop`
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # its frame may never end, and it uses what the interpreter takes down
    gc.freeze()  # else the end of the interpreter visits all objects of torch, for a second
    return code


if __name__ == "__main__":
    sys.exit(main())
