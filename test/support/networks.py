# SPDX-License-Identifier: Apache-2.0
"""Specs and networks of the data sets, by short names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.open import BENCHMARKS
from mmsam_ros.model import MMSAMAdapter, build_model
from mmsam_ros.sensors import (
    SYNTHETIC_CLASSES,
    ChannelStatistics,
    ClassInfo,
    Modality,
    plain_modality,
)
from mmsam_ros.training.start import benchmark_geometry, network_config
from mmsam_ros.weights import Spec, make_spec
from support.randomise import randomise

SYNTHETIC = {
    "lidar": plain_modality("muses_raw"),
    "thermal": plain_modality("mono16", (26000.0, 31500.0)),
}
# name: data set and sensors besides the camera
NETWORKS = {
    "deliver_rgb_depth": ("deliver", ("depth",)),
    "deliver_rgb_event": ("deliver", ("event",)),
    "deliver_rgb_lidar": ("deliver", ("lidar",)),
    "fmb_rgb_thermal": ("fmb", ("thermal",)),
    "muses_rgb_event": ("muses", ("event",)),
    "muses_rgb_lidar": ("muses", ("lidar",)),
    "synthetic_rgb_lidar_thermal": ("folder", ("lidar", "thermal")),
}


def spec_of(
    name: str,
    preset: str = "nano",
    image_size: tuple[int, int] | None = None,
    *,
    rgb_only: bool = False,
    **provenance: Any,
) -> Spec:
    """The spec of one of `NETWORKS`."""
    dataset, sensors = NETWORKS[name]
    benchmark = BENCHMARKS[dataset]
    known = benchmark.modalities or SYNTHETIC
    modalities = {} if rgb_only else {sensor: known[sensor] for sensor in sensors}
    classes = benchmark.classes or SYNTHETIC_CLASSES
    return _spec(dataset, classes, modalities, preset, image_size, **provenance)


def spec_for(
    frames: FrameSet, preset: str = "nano", image_size: tuple[int, int] | None = None
) -> Spec:
    """The spec of a network for a data set's frames."""
    return _spec(frames.dataset, frames.classes, frames.modalities, preset, image_size)


def _spec(
    dataset: str,
    classes: tuple[ClassInfo, ...],
    modalities: Mapping[str, Modality],
    preset: str,
    image_size: tuple[int, int] | None,
    **provenance: Any,
) -> Spec:
    benchmark = BENCHMARKS[dataset]
    config = network_config(benchmark, classes, modalities, preset, image_size)
    geometry = benchmark_geometry(benchmark.mode, benchmark, config.image_size)
    return make_spec(
        config, modalities, classes, geometry, **{"data": "none", "recipe": "test", **provenance}
    )


def in_the_lidars_unit(spec: Spec) -> Spec:
    """The package's weights, as if trained on intensity in the unit of the synthetic LiDAR."""
    lidar = replace(spec.inputs["lidar"], encoding="muses_raw")
    # of 200 training frames
    intensity = ChannelStatistics(low=5.29, high=200.4, mean=49.1, empty=0.898, slope=-0.391)
    seen = {**spec.seen, "lidar": {**spec.seen["lidar"], "intensity": intensity}}
    return replace(spec, inputs={**spec.inputs, "lidar": lidar}, seen=seen)


def network_of(name: str, preset: str = "nano", **options: Any) -> MMSAMAdapter:
    """The network of one of `NETWORKS`, as it is initialised."""
    return build_model(spec_of(name, preset, **options).config)


def random_network(spec: Spec, seed: int = 11) -> MMSAMAdapter:
    """The network of a spec with seeded weights under which every branch shows."""
    model = build_model(spec.config)
    randomise(model, seed=seed)
    return model
