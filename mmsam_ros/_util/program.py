# SPDX-License-Identifier: Apache-2.0
"""What entry points have in common: errors are one line, and exit codes."""

import errno
import multiprocessing
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from mmsam_ros._util.errors import MmsamError

ERROR = 2  # exit code of an error that the user can fix
_GONE = (errno.EPIPE, errno.EIO)  # of a pipe that nobody reads, of a terminal that was closed
_TEMPORARY = ("multiprocessing", "tempfile")  # whose errors may name no file


def run_program(name: str, run: Callable[[], int | None]) -> int:
    """The exit code of `run`, which is 2 with one line on an error of the package, of a file or for
    lack of memory.

    If the reader of its output has gone, as in `| head`, it ends silently, with the code that a
    shell gives to SIGPIPE.
    """
    failure: Exception | None = None
    try:
        code = run() or 0
    except (MmsamError, OSError, MemoryError) as error:
        failure = error
    finally:
        lost = _flush()
    failure = failure or lost
    if isinstance(failure, OSError) and failure.errno in _GONE and (lost or _reader_has_gone()):
        return 128 + signal.SIGPIPE
    if failure:
        print(f"{name}: error: {_describe(failure)}", file=sys.stderr)
        return ERROR
    return code


def stop_signals() -> tuple[signal.Signals, ...]:
    """Which ask a program to end: Ctrl-C, kill, and a closed terminal unless nohup ignores that."""
    asked = signal.SIGINT, signal.SIGTERM
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return asked if ignored else (*asked, signal.SIGHUP)


def follow_parent() -> None:
    """Let this process of a pool end with its parent, which Ctrl-C is left to: it is sent to the
    whole group. A process that waits for work would outlive a parent that is killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _describe(error: Exception) -> str:
    text = str(error) or "there is not enough memory"  # a MemoryError is often empty
    if isinstance(error, OSError) and error.filename is None and error.__traceback__:
        frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
        if frame.f_globals.get("__name__", "").partition(".")[0] in _TEMPORARY:
            text += "; is /dev/shm or the temporary folder (TMPDIR) missing, full or read-only?"
    return text


def _flush() -> OSError | None:
    """Flush standard output and error; the error of one that cannot be written, whose rest is
    discarded.
    """
    found = None
    for stream in filter(None, (sys.stderr, sys.stdout)):  # none was closed from the beginning
        try:
            stream.flush()
        except OSError as error:
            found = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return found


def _reader_has_gone() -> bool:
    """Whether nobody reads standard output or error any more."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
