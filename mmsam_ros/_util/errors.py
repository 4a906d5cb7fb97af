# SPDX-License-Identifier: Apache-2.0
"""The base of all errors that a user can fix."""

from __future__ import annotations


class MmsamError(ValueError):
    """Something outside the code is wrong: a file, a value, a device. The message says what was
    found, what was expected and what to change. Every room derives its own error from it.
    """
