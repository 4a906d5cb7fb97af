# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 side: node, synchroniser, message conversion, diagnostics, replay. Thin on purpose.

Nothing is imported here, so that the modules which need no ROS (`sync`, `bags`, `calibration`)
also work where rclpy is not installed.
"""
