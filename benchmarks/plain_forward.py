# SPDX-License-Identifier: Apache-2.0
"""The published network's forward pass, in whatever checkout is on PYTHONPATH, as JSON.

    PYTHONPATH=CHECKOUT python benchmarks/plain_forward.py PRESET

It needs nothing of the checkout but the network, so that the states of years can be compared.
The first pass warms up.
"""

import json
import resource
import sys
import time

import torch

from mmsam_ros.model import ModelConfig, build_model


def main() -> None:
    """Two passes in float32, with the allocator as it comes."""
    config = ModelConfig.preset(sys.argv[1], num_classes=25)
    torch.manual_seed(0)
    model = build_model(config).eval()
    inputs = {name: torch.randn(1, 3, *config.image_size) for name in config.modalities}
    with torch.inference_mode():
        for _ in range(2):
            began = time.perf_counter()
            model(inputs)
            total = 1e3 * (time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"repeats": 1, "total_ms": round(total, 1), "peak_gib": round(peak, 2)}))


if __name__ == "__main__":
    main()
