# SPDX-License-Identifier: Apache-2.0
"""The error of this room."""


class ModelError(ValueError):
    """A configuration or an input that the network cannot take."""
