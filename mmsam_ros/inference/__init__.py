# SPDX-License-Identifier: Apache-2.0
"""Frame in, labels out."""
