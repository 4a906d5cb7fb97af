# SPDX-License-Identifier: Apache-2.0
"""What engines keep: under a key that follows the code, whole whoever else makes the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import mmsam_ros
from mmsam_ros.inference.engines.cache import new_folder

CODE = ("model/network.py", "inference/export.py", "inference/engines/onnx.py")
KEYS = """
import sys
from pathlib import Path
import mmsam_ros
from mmsam_ros.inference.engines.cache import fingerprint
from mmsam_ros.model import ModelConfig, build_model

model = build_model(ModelConfig.preset("nano", num_classes=3))
print(fingerprint(model), fingerprint(model))
for name in sys.argv[1:]:
    with Path(mmsam_ros.__file__).parent.joinpath(name).open("a") as file:
        file.write("# another release\\n")
    print(fingerprint(model))
"""


def test_the_key_follows_the_code_of_network_export_and_engines(tmp_path: Path) -> None:
    shutil.copytree(
        Path(mmsam_ros.__file__).parent, tmp_path / "mmsam_ros",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", KEYS, *CODE], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second, *others = done.stdout.split()
    assert first == second
    assert len({first, *others}) == 1 + len(CODE)


def test_who_makes_the_same_folder_in_the_same_moment_uses_the_first(tmp_path: Path) -> None:
    count, failures = 8, []
    barrier = threading.Barrier(count)

    def make(path: Path, number: int) -> None:
        try:
            with new_folder(path) as part:
                (part / "file").write_text(str(number))
                barrier.wait(600)
        except OSError as error:
            failures.append(error)

    for turn in range(20):
        path = tmp_path / str(turn)
        makers = [threading.Thread(target=make, args=(path, n)) for n in range(count)]
        for maker in makers:
            maker.start()
        for maker in makers:
            maker.join()
        assert (path / "file").read_text() in map(str, range(count))
        assert [found.name for found in path.iterdir()] == ["file"]
    assert not failures
    assert len(list(tmp_path.iterdir())) == 20
