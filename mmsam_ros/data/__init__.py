# SPDX-License-Identifier: Apache-2.0
"""Data sets and transforms (no ROS, no CUDA)."""
