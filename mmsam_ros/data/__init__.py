# SPDX-License-Identifier: Apache-2.0
"""Data sets of frames on disk, their transforms and checks (no ROS, no CUDA)."""

SPLITS = ("train", "val", "test")
