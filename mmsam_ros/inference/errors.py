# SPDX-License-Identifier: Apache-2.0
"""The error of `mmsam_ros.inference`."""

from mmsam_ros._util import MmsamError


class InferenceError(MmsamError):
    """A frame or device that these weights cannot run on."""
