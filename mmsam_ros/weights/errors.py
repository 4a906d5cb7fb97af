# SPDX-License-Identifier: Apache-2.0
"""The error of this room."""


class WeightsError(ValueError):
    """A weights file that cannot be read, verified or converted."""
