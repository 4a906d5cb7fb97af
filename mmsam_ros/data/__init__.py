# SPDX-License-Identifier: Apache-2.0
"""Data sets, transforms and the synthetic world (numpy, OpenCV and Embree; no ROS, no CUDA)."""
