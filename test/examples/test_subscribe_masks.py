# SPDX-License-Identifier: Apache-2.0
"""The example prints what is in masks that come over DDS."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from domains import free_domain
from harness import GUARD, LATCHED, Client, environment, image
from sensor_msgs.msg import Image
from std_msgs.msg import String

pytestmark = pytest.mark.dds


def test_it_prints_the_share_of_every_class(root: Path, tmp_path: Path) -> None:
    domain = free_domain()
    client = Client(domain)
    # before the example starts: it must get the latched message all the same
    classes = client.node.create_publisher(String, "/mmsam/classes", LATCHED)
    table = [
        {"id": 0, "name": "road", "rgb": [1, 2, 3]},
        {"id": 4, "name": "car", "rgb": [4, 5, 6]},
    ]
    classes.publish(String(data=json.dumps({"classes": table})))
    masks = client.publisher(Image, "/mmsam/semantic")
    labels = np.zeros((4, 6), np.uint8)
    labels[0], labels[1, :3] = 4, 255
    padded = image(7 * 10**9 + 5, np.pad(labels, ((0, 0), (0, 2)), constant_values=9), "mono8")
    padded.width = 6  # two bytes of padding in each row
    printed = tmp_path / "printed"
    with printed.open("w") as file:
        example = subprocess.Popen(
            [sys.executable, str(root / "examples/subscribe_masks.py")],
            cwd=root, env=environment(domain), stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        client.spin_until(
            lambda: (
                "classes: road, car, no label" in printed.read_text()
                and masks.get_subscription_count()
            ),
            "the example has the classes",
        )
        masks.publish(padded)
        client.spin_until(lambda: "7.000000005" in printed.read_text(), "the example has the mask")
        example.send_signal(signal.SIGINT)
        assert example.wait(GUARD) == 0, printed.read_text()
    finally:
        example.kill()
        client.close()
    said = printed.read_text().splitlines()
    assert said[-1] == "7.000000005: road 62.5 %, car 25.0 %, no label 12.5 %"
