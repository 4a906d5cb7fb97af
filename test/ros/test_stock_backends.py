# SPDX-License-Identifier: Apache-2.0
"""What our synchroniser and message_filters' both promise."""

from __future__ import annotations

from typing import Any

import pytest
from harness import header
from sensor_msgs.msg import Image

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sets import CAMERA, Outcome
from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig, Synchroniser
from mmsam_ros.ros.sync_stock import StockSynchroniser

CONFIG = SyncConfig({"lidar": AuxiliarySync(slop=0.02)}, deadline=1.0)


def backend(name: str) -> Any:
    if name == "native":
        return Synchroniser(CONFIG)
    pytest.importorskip("message_filters", reason="message_filters is not on pip")
    return StockSynchroniser(CONFIG)


@pytest.mark.parametrize("name", ["native", "message_filters"])
def test_complete_sets_of_both(name: str) -> None:
    sync = backend(name)
    sets = []
    for k in range(10):
        stamp = k * 100_000_000
        lidar = stamp + 5_000_000
        sets += sync.add(CAMERA, stamp, Image(header=header(stamp, "c")), k * 0.1)
        sets += sync.add("lidar", lidar, Image(header=header(lidar, "l")), k * 0.1 + 0.005)
    assert [s.camera.stamp_ns for s in sets] == [k * 100_000_000 for k in range(10)]
    for synced in sets:
        assert synced.auxiliaries["lidar"].stamp_ns == synced.camera.stamp_ns + 5_000_000
        sync.settle(synced, Outcome("used"))
    counts = sync.counts()
    for stream in (CAMERA, "lidar"):
        tally = counts[stream]
        assert tally["received"] == 10
        assert sum(n for outcome, n in tally.items() if outcome != "received") == 10
    assert counts[CAMERA]["used"] == 10


def test_message_filters_is_refused_where_it_is_not_installed() -> None:
    try:
        import message_filters  # noqa: F401
    except ImportError:
        with pytest.raises(RosError, match=r"sync_backend.*not installed"):
            StockSynchroniser(CONFIG)
    else:
        pytest.skip("message_filters is installed")
