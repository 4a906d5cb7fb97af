# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 side: node, synchroniser, message conversion, diagnostics, replay.

Nothing is imported here, so that the modules which need no ROS (`bags`, `calibration`, `interface`,
`sync`) also work where rclpy is not installed.
"""
