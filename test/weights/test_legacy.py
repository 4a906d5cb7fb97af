# SPDX-License-Identifier: Apache-2.0
"""Files of earlier versions are read as if they were written today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmsam_ros.weights import WeightsError, default_weights, read_spec


def rewritten(path: Path, **encoder: object) -> Path:
    """The package's weights with other keys of `config.encoder`."""
    with safe_open(default_weights(), framework="pt") as file:
        metadata = dict(file.metadata())
    config = json.loads(metadata["config"])
    config["encoder"] |= encoder
    metadata["config"] = json.dumps(config)
    save_file(load_file(default_weights()), path, metadata)
    return path


def test_the_patch_size_was_a_key(tmp_path: Path) -> None:
    spec = read_spec(rewritten(tmp_path / "old.safetensors", patch_size=16))
    assert spec == read_spec(default_weights())
    with pytest.raises(WeightsError, match=r"config\.encoder\.patch_size: found 14, expected 16"):
        read_spec(rewritten(tmp_path / "other.safetensors", patch_size=14))
