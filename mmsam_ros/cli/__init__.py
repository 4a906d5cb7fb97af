# SPDX-License-Identifier: Apache-2.0
"""The `mmsam` command; one file a verb."""
