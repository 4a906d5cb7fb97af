# SPDX-License-Identifier: Apache-2.0
"""What this process says over DDS stays on the machine and in a domain of its own."""

from __future__ import annotations

import os

from domains import free_domain
from harness import environment

# Fast DDS reads its profile once a process, so it must not depend on which test comes first.
os.environ |= environment(free_domain(10))
