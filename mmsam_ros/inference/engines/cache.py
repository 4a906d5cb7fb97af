# SPDX-License-Identifier: Apache-2.0
"""What engines make once and keep: exported networks, compiled kernels, measurements."""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mmsam_ros.model
from mmsam_ros import __version__
from mmsam_ros._util import flush, versions
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.model import MMSAMAdapter

_PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
)


def cache_folder(name: str) -> Path:
    """A folder for one kind of files: in MMSAM_CACHE, else XDG_CACHE_HOME/mmsam, ~/.cache/mmsam,
    or without a home in the folder of temporary files.

    InferenceError where it cannot be made, or others could put kernels of theirs into it.
    """
    places = (("MMSAM_CACHE", ""), ("XDG_CACHE_HOME", "mmsam"), ("HOME", ".cache/mmsam"))
    given = (Path(os.environ[key], below) for key, below in places if os.environ.get(key))
    shared = Path(tempfile.gettempdir(), f"mmsam_cache_{os.getuid()}")  # all users write beside it
    folder = next(given, shared) / name
    reason = "set MMSAM_CACHE to a folder that can be written"
    try:
        if folder.parent == shared:
            shared.mkdir(0o700, exist_ok=True)
            found = shared.lstat()
            if found.st_uid != os.getuid() or found.st_mode & 0o022:
                raise InferenceError(f"{shared}: other users can write there; {reason}")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InferenceError(f"{folder}: cannot be made ({error.strerror}); {reason}") from error
    return folder


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` if the block ends without an error.

    If another process has been faster, even by a moment, what it has made stays.
    """
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as part:
        inside = Path(part, path.name)
        inside.mkdir()
        yield inside
        for file in inside.iterdir():
            flush(file)
        try:
            inside.rename(path)
        except OSError:
            if not path.is_dir():
                raise


def fingerprint(model: MMSAMAdapter, *facts: object) -> str:
    """A hash of weights, configuration, code, versions and further facts."""
    known = [dataclasses.asdict(model.config), __version__, versions(_PACKAGES), *map(str, facts)]
    digest = hashlib.sha256(json.dumps(known).encode())
    for path in _code():
        digest.update(path.read_bytes())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _code() -> list[Path]:
    """The source files that cached files depend on: the network, its export, and the engines."""
    here = Path(__file__).parent
    network = Path(mmsam_ros.model.__path__[0])
    return [*sorted(network.glob("*.py")), here.parent / "export.py", *sorted(here.glob("*.py"))]
