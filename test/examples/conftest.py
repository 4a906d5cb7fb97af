# SPDX-License-Identifier: Apache-2.0
"""The node's harness and DDS domains, as in test/ros."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "ros"))

from domains import free_domain
from harness import environment

os.environ |= environment(free_domain(10))  # see test/ros/conftest.py
