# SPDX-License-Identifier: Apache-2.0
"""YAML documents of a few lines whose aliases stand for billions of values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mmsam_ros._util import MmsamError
from mmsam_ros._util.documents import MOST, load_yaml
from mmsam_ros.ros.metadata import read_metadata
from mmsam_ros.ros.parameter_files import read_file
from mmsam_ros.training.configure import read_yaml
from mmsam_ros.weights.registry import read_registry


def lists(levels: int) -> str:
    """Lists of ten lists of ten lists …; the last one is named `last`."""
    lines = [f"  - &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, levels)]
    return "\n".join(["lists:", "  - &a0 [0]", *lines, f"last: *a{levels - 1}", ""])


def merges(levels: int) -> str:
    """Mappings of which each merges two of those before."""
    lines = [f"  - &a{k} {{<<: [*a{k - 1}, *a{k - 1}]}}" for k in range(1, levels)]
    return "\n".join(["maps:", "  - &a0 {x: 1}", *lines, ""])


@pytest.mark.parametrize("text", [lists(12), merges(40)])
def test_aliases_for_billions_of_values_are_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=rf"stand for \d+ values, expected at most {MOST}"):
        load_yaml(text)


@pytest.mark.parametrize("text", ["", "a: &a 1\nb: [*a, *a]\n", lists(4), "[1, ~, 2026-01-01]"])
def test_others_are_what_they_were(text: str) -> None:
    assert load_yaml(text) == yaml.safe_load(text)


def test_an_alias_that_leads_to_what_it_is_in_is_refused() -> None:
    with pytest.raises(RecursionError):
        load_yaml("a: &a [*a]")


@pytest.mark.parametrize("read", [read_metadata, read_file, read_yaml, read_registry])
def test_every_file_of_yaml_is_read_so(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(lists(12))
    with pytest.raises(MmsamError, match=r"file\.yaml.*aliases stand for"):
        read(path)
