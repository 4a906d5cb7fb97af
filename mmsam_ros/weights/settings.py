# SPDX-License-Identifier: Apache-2.0
"""Named settings: classes, inputs and geometry of each benchmark, for weights that bring none.

A foreign checkpoint's pickle is never asked; the user names the setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmsam_ros import __version__
from mmsam_ros.model import ModelConfig, near_match
from mmsam_ros.sensors import CLASS_SETS, ENCODINGS, FIELDS, ClassInfo
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
    """What a data set gives a network; the auxiliary carries its name in the network.

    Attributes:
        name: `deliver_rgb_lidar` and the like.
        classes: table of the training ids.
        auxiliary: name of the second modality.
        aux_input: how its channels come about.
        image_size: (height, width) of the published network's input.
        mode, stride: of the geometry.
    """

    name: str
    classes: tuple[ClassInfo, ...]
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


def _setting(classes: str, auxiliary: str, given: ModalityInput, side: int) -> Setting:
    sensors = "_".join(given.sources)
    slide = {"mode": "slide", "stride": (640, 640)} if classes == "muses" else {}
    name = f"{classes}_rgb_{sensors}"
    return Setting(name, CLASS_SETS[classes], auxiliary, given, (side, side), **slide)  # type: ignore[arg-type]


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        *(_setting("deliver", s, _png(s), 1024) for s in ("depth", "event", "lidar")),
        _setting("fmb", "thermal", _FMB_THERMAL, 800),
        _setting("muses", "lidar", _MUSES_LIDAR, 1024),
        _setting("muses", "event", _MUSES_EVENT, 1024),
        _setting("synthetic", "lidar_thermal", _COMPOSED, 1024),
    )
}


def find_setting(name: str) -> Setting:
    """The setting of a name; WeightsError with the near match where there is none."""
    if name not in SETTINGS:
        raise WeightsError(f"unknown setting {name!r}{near_match(name, SETTINGS)}")
    return SETTINGS[name]


def folder_setting(
    classes: tuple[ClassInfo, ...],
    encodings: Mapping[str, str],
    limits: tuple[float, float] | None = None,
) -> Setting:
    """The setting of a data set of one's own.

    One source gives all three channels; several share them: LiDAR range and height (the range
    alone beside two others), then one channel for each other source.

    Args:
        classes: table of the training ids.
        encodings: of each source besides the camera.
        limits: counts of a 16-bit thermal image that map to 0 and 255.

    Raises:
        WeightsError: more sources than channels, or an unknown one.
    """
    unknown = [f"{s}: {e}" for s, e in encodings.items() if e not in ENCODINGS.get(s, ())]
    if unknown or not 1 <= len(encodings) <= 3:
        raise WeightsError(f"sources are {dict(encodings)}, expected 1 to 3 of {dict(ENCODINGS)}")
    fields = {source: FIELDS[encoding] for source, encoding in encodings.items()}
    if len(fields) == 1:
        channels = [(source, (3 * given)[i]) for source, given in fields.items() for i in range(3)]
    else:
        channels = [(source, given[0]) for source, given in fields.items()]
    raster = encodings.get("lidar") in ("muses_raw", "muses_png16")
    if raster and len(fields) == 2:
        channels.insert(channels.index(("lidar", "range")) + 1, ("lidar", "height"))
    elif len(fields) == 2:
        channels.insert(1, channels[0])
    # raw zero stays zero, so that an empty channel is the same whether its sensor sees nothing or
    # is missing
    spread = {"range": 20.0, "intensity": 50.0, "height": 1.0, "positive": 1.0, "negative": 1.0,
              "zero": 1.0}  # fmt: skip
    first, second, third = (Channel(*channel) for channel in channels)
    given = ModalityInput(
        (first, second, third),
        dict(encodings),
        std=(
            spread.get(first.field, 255.0),
            spread.get(second.field, 255.0),
            spread.get(third.field, 255.0),
        ),
        growth=2 if raster else 1,
        limits=limits,
    )
    auxiliary = "_".join(encodings)
    return Setting(f"folder_rgb_{auxiliary}", classes, auxiliary, given, (1024, 1024))


def setting_config(
    setting: str | Setting,
    preset: str = "vit_l",
    image_size: Size | None = None,
    *,
    rgb_only: bool = False,
    **changes: Any,
) -> ModelConfig:
    """The network of a setting; `tiny` and `nano` keep their own size unless one is given.

    Args:
        setting: one of `SETTINGS`, or its name.
        preset: see `ModelConfig.preset`, which also takes the `changes`.
        image_size: (height, width).
        rgb_only: a network without the auxiliary.
        changes: further fields of `ModelConfig`.

    Raises:
        WeightsError: unknown setting.
        ModelError: unknown preset, or a size that no network takes.
    """
    setting = find_setting(setting) if isinstance(setting, str) else setting
    if image_size is None and preset not in PRESETS_WITH_OWN_SIZE:
        image_size = setting.image_size
    return ModelConfig.preset(
        preset,
        num_classes=len(setting.classes),
        modalities=("rgb",) if rgb_only else ("rgb", setting.auxiliary),
        image_size=image_size,
        empty=setting.aux_input.empty,
        **changes,
    )


def make_spec(
    setting: str | Setting, config: ModelConfig, *, trained: bool = False, **provenance: Any
) -> Spec:
    """The spec of a setting for a network of its modalities, or of RGB alone.

    Args:
        setting: one of `SETTINGS`, or its name.
        config: the network; its image size becomes the geometry's.
        trained: whether the weights have seen all sensors of the setting.
        provenance: fields of `Provenance` besides the package's version.

    Raises:
        WeightsError: unknown setting, or the configuration is not of this setting.
    """
    setting = find_setting(setting) if isinstance(setting, str) else setting
    stride = setting.stride
    inputs = {"rgb": _RGB}
    if config.auxiliaries:
        inputs[setting.auxiliary] = setting.aux_input
    sensors = [source for given in inputs.values() for source in given.sources]
    if stride is not None and config.image_size != setting.image_size:
        (rows, columns), (full_rows, full_columns) = config.image_size, setting.image_size
        stride = (rows * stride[0] // full_rows, columns * stride[1] // full_columns)
    return Spec(
        config=config,
        inputs=inputs,
        classes=setting.classes,
        geometry=Geometry(
            setting.mode, config.image_size, stride, keep_ratio=setting.mode != "resize"
        ),
        presence=Presence((tuple(sensors),) if trained else ()),
        provenance=Provenance(**provenance, package_version=__version__),
    )
