# SPDX-License-Identifier: Apache-2.0
"""Pages in a headless Chromium, as a user sees them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_GUARD = 300.0  # seconds after which it hangs, on any machine


def screenshot(page: Path, target: Path, size: tuple[int, int] = (1200, 1600)) -> NDArray[np.uint8]:
    """rgb (H, W, 3) of a page; skips where there is no browser. MMSAM_BROWSER names another."""
    browser = os.environ.get("MMSAM_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), "")
    if not browser:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)}; MMSAM_BROWSER names another")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
               "--disable-dev-shm-usage", f"--user-data-dir={target.parent / 'profile'}",
               f"--window-size={size[0]},{size[1]}", f"--screenshot={target}",
               page.resolve().as_uri()]  # fmt: skip
    subprocess.run(command, check=True, timeout=_GUARD, capture_output=True)
    shown = cv2.imread(str(target))
    assert shown is not None
    return np.asarray(shown[..., ::-1], np.uint8)
