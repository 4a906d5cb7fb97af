# SPDX-License-Identifier: Apache-2.0
"""Named settings: classes, inputs and geometry of each benchmark, for weights that bring none.

A foreign checkpoint's pickle is never asked; the user names the setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmsam_ros import __version__
from mmsam_ros.model import ModelConfig, near_match
from mmsam_ros.sensors import CLASS_SETS
from mmsam_ros.weights.errors import WeightsError
from mmsam_ros.weights.spec import (
    Channel,
    Geometry,
    ModalityInput,
    Presence,
    Provenance,
    Size,
    Spec,
)

PRESETS_WITH_OWN_SIZE = ("tiny", "nano")


@dataclass(frozen=True)
class Setting:
    """A benchmark setting; the auxiliary carries its name in the network."""

    classes: str
    auxiliary: str
    aux_input: ModalityInput
    image_size: Size
    mode: str = "pad"
    stride: Size | None = None


def _channels(source: str, *fields: str) -> tuple[Channel, Channel, Channel]:
    first, second, third = (Channel(source, field) for field in fields)
    return (first, second, third)


_BYTE = (1 / 255, 1 / 255, 1 / 255)
_RGB = ModalityInput(
    channels=_channels("camera", "red", "green", "blue"),
    encoding={"camera": "rgb8"},
    scale=_BYTE,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def _png(source: str) -> ModalityInput:
    return ModalityInput(_channels(source, "red", "green", "blue"), {source: "png8"}, scale=_BYTE)


_MUSES_LIDAR = ModalityInput(
    _channels("lidar", "range", "intensity", "height"),
    {"lidar": "muses_raw"},
    mean=(1.4628459, 1.8271197, 0.07808967),
    std=(7.55678107, 9.85001751, 0.67012253),
    growth=2,
)
_MUSES_EVENT = ModalityInput(
    _channels("event", "positive", "negative", "zero"),
    {"event": "event_counts"},
    mean=(0.08768561, 0.08779435, 0.0),
    std=(0.4479273728, 0.4006636355, 1.0),
    growth=2,
)
_FMB_THERMAL = ModalityInput(
    _channels("thermal", "value", "value", "value"), {"thermal": "mono8"}, scale=_BYTE
)
# All three sensors in the published two-modality network. Raw zero stays zero, so an empty
# channel is the same whether its sensor sees nothing or is missing.
_COMPOSED = ModalityInput(
    (Channel("lidar", "range"), Channel("lidar", "height"), Channel("thermal", "value")),
    {"lidar": "muses_raw", "thermal": "mono16"},
    std=(20.0, 1.0, 255.0),
    growth=2,
    limits=(26000.0, 31500.0),
)

SETTINGS: dict[str, Setting] = {
    **{
        f"deliver_rgb_{source}": Setting("deliver", source, _png(source), (1024, 1024))
        for source in ("depth", "event", "lidar")
    },
    "fmb_rgb_thermal": Setting("fmb", "thermal", _FMB_THERMAL, (800, 800)),
    "muses_rgb_lidar": Setting(
        "muses", "lidar", _MUSES_LIDAR, (1024, 1024), mode="slide", stride=(640, 640)
    ),
    "muses_rgb_event": Setting(
        "muses", "event", _MUSES_EVENT, (1024, 1024), mode="slide", stride=(640, 640)
    ),
    "synthetic_rgb_lidar_thermal": Setting("synthetic", "lidar_thermal", _COMPOSED, (1024, 1024)),
}


def find_setting(name: str) -> Setting:
    """The setting of a name; WeightsError with the near match where there is none."""
    if name not in SETTINGS:
        raise WeightsError(f"unknown setting {name!r}{near_match(name, SETTINGS)}")
    return SETTINGS[name]


def setting_config(name: str, preset: str = "vit_l", image_size: Size | None = None) -> ModelConfig:
    """The network of a setting; `tiny` and `nano` keep their own size unless one is given.

    Raises:
        WeightsError: unknown setting.
        ModelError: unknown preset, or a size that no network takes.
    """
    setting = find_setting(name)
    if image_size is None and preset not in PRESETS_WITH_OWN_SIZE:
        image_size = setting.image_size
    return ModelConfig.preset(
        preset,
        num_classes=len(CLASS_SETS[setting.classes]),
        modalities=("rgb", setting.auxiliary),
        image_size=image_size,
        empty=setting.aux_input.empty,
    )


def make_spec(name: str, config: ModelConfig, *, trained: bool = False, **provenance: Any) -> Spec:
    """The spec of a setting for a network of its modalities.

    Args:
        name: a key of `SETTINGS`.
        config: the network; its image size becomes the geometry's.
        trained: whether the weights have seen all sensors of the setting.
        provenance: fields of `Provenance` besides the package's version.

    Raises:
        WeightsError: unknown setting, or the configuration is not of this setting.
    """
    setting = find_setting(name)
    stride = setting.stride
    if stride is not None and config.image_size != setting.image_size:
        (rows, columns), (full_rows, full_columns) = config.image_size, setting.image_size
        stride = (rows * stride[0] // full_rows, columns * stride[1] // full_columns)
    return Spec(
        config=config,
        inputs={"rgb": _RGB, setting.auxiliary: setting.aux_input},
        classes=CLASS_SETS[setting.classes],
        geometry=Geometry(
            setting.mode, config.image_size, stride, keep_ratio=setting.mode != "resize"
        ),
        presence=Presence((("camera", *setting.aux_input.sources),) if trained else ()),
        provenance=Provenance(**provenance, package_version=__version__),
    )
