# SPDX-License-Identifier: Apache-2.0
"""The error of this room."""


class InferenceError(ValueError):
    """A frame or a device that these weights cannot run on."""
