# SPDX-License-Identifier: Apache-2.0
"""The error of this room."""

from mmsam_ros._util import MmsamError


class CliError(MmsamError):
    """A wrong argument, or a step of a verb that did not succeed."""
