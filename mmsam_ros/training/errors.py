# SPDX-License-Identifier: Apache-2.0
"""The error of this room."""


class TrainingError(ValueError):
    """A configuration, a run folder or a machine that training or evaluation cannot go on with."""
