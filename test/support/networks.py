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
# of 200 training frames
SEEN_BY_ONE_RIG = {
    "lidar": {
        "range": ChannelStatistics(2.261, 68.59, 15.63, 0.898, -0.520),
        "intensity": ChannelStatistics(5.290, 200.4, 49.14, 0.898, -0.391),
        "height": ChannelStatistics(-1.828, 6.066, -0.538, 0.898, -0.732),
    },
    "thermal": {"value": ChannelStatistics(1.020, 253.7, 158.1, 0.338, 0.657)},
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


def lean_spec(name: str, *, rgb_only: bool = False, **parts: Any) -> Spec:
    """That of a network with one block at each level, which is compiled and exported
    sooner; with these parts of its configuration.
    """
    spec = spec_of(name, rgb_only=rgb_only)
    trunk = replace(spec.config.trunk, depths=(1, 1, 1, 1))
    interaction = replace(spec.config.interaction, num_extra_extractors=1)
    config = replace(spec.config, trunk=trunk, interaction=interaction, **parts)
    return replace(spec, config=config)


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


def of_one_rig(spec: Spec) -> Spec:
    """The package's weights, as if trained on the standard rig of the synthetic world alone, in the
    unit of its LiDAR.
    """
    lidar = replace(spec.inputs["lidar"], encoding="muses_raw")
    inputs = {**spec.inputs, "lidar": lidar}
    return replace(spec, inputs=inputs, seen={**spec.seen, **SEEN_BY_ONE_RIG})


def network_of(name: str, preset: str = "nano", **options: Any) -> MMSAMAdapter:
    """The network of one of `NETWORKS`, as it is initialised."""
    return build_model(spec_of(name, preset, **options).config)


def random_network(spec: Spec, seed: int = 11) -> MMSAMAdapter:
    """The network of a spec with seeded weights under which every branch shows."""
    model = build_model(spec.config)
    randomise(model, seed=seed)
    return model
