# SPDX-License-Identifier: Apache-2.0
"""Named settings: classes, inputs and geometry of each benchmark, for weights that bring none.

A foreign checkpoint's pickle is never asked; the user names the setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from mmsam_ros import __version__
from mmsam_ros._util import near_match
from mmsam_ros.model import CombineConfig, ModelConfig
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
BY_PRESENCE = CombineConfig("masked", gate=True)
"""How several auxiliaries are combined, unless asked otherwise."""


@dataclass(frozen=True)
class Setting:
    """What a data set gives a network.

    Attributes:
        name: `deliver_rgb_lidar` and the like.
        classes: table of the training ids.
        auxiliaries: modalities besides RGB by their names in the network, and how their channels
            come about.
        image_size: (height, width) of the published network's input.
        mode, stride: of the geometry.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    auxiliaries: Mapping[str, ModalityInput]
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
# how far apart a channel's values lie; raw zero stays zero
_SPREAD = {"range": 20.0, "intensity": 50.0, "height": 1.0, "positive": 1.0, "negative": 1.0,
           "zero": 1.0}  # fmt: skip


def _plain(
    source: str, encoding: str, limits: tuple[float, float] | None = None, growth: int = 2
) -> ModalityInput:
    """A source of one's own: its three channels, or its only one thrice."""
    first, second, third = (3 * FIELDS[encoding])[:3]
    std = (_SPREAD.get(first, 255.0), _SPREAD.get(second, 255.0), _SPREAD.get(third, 255.0))
    return ModalityInput(
        _channels(source, first, second, third), {source: encoding}, std=std,
        growth=growth if encoding in ("muses_raw", "muses_png16") else 1, limits=limits,
    )  # fmt: skip


def _setting(classes: str, side: int, **auxiliaries: ModalityInput) -> Setting:
    slide = {"mode": "slide", "stride": (640, 640)} if classes == "muses" else {}
    name = f"{classes}_rgb_{'_'.join(auxiliaries)}"
    return Setting(name, CLASS_SETS[classes], auxiliaries, (side, side), **slide)  # type: ignore[arg-type]


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        *(_setting("deliver", 1024, **{s: _png(s)}) for s in ("depth", "event", "lidar")),
        _setting("fmb", 800, thermal=_FMB_THERMAL),
        _setting("muses", 1024, lidar=_MUSES_LIDAR),
        _setting("muses", 1024, event=_MUSES_EVENT),
        _setting(
            "synthetic",
            1024,
            lidar=_plain("lidar", "muses_raw"),
            thermal=_plain("thermal", "mono16", (26000.0, 31500.0)),
        ),
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
    growth: int = 2,
) -> Setting:
    """The setting of a data set of one's own; every source is a modality.

    Args:
        classes: table of the training ids.
        encodings: of each source besides the camera.
        limits: counts of a 16-bit thermal image that map to 0 and 255.
        growth: side of the square that a projected LiDAR point covers, in the network's pixels.

    Raises:
        WeightsError: no source, or an unknown one.
    """
    unknown = [f"{s}: {e}" for s, e in encodings.items() if e not in ENCODINGS.get(s, ())]
    if unknown or not encodings:
        raise WeightsError(f"sources are {dict(encodings)}, expected some of {dict(ENCODINGS)}")
    auxiliaries = {
        source: _plain(source, encoding, limits if encoding == "mono16" else None, growth)
        for source, encoding in encodings.items()
    }
    return Setting(f"folder_rgb_{'_'.join(encodings)}", classes, auxiliaries, (1024, 1024))


def setting_config(
    setting: str | Setting,
    preset: str = "vit_l",
    image_size: Size | None = None,
    *,
    rgb_only: bool = False,
    **changes: Any,
) -> ModelConfig:
    """The network of a setting; `tiny` and `nano` keep their own size unless one is given.

    Several auxiliaries are combined by presence, with RGB's reliability gate, unless `changes` has
    another `combine`.

    Args:
        setting: one of `SETTINGS`, or its name.
        preset: see `ModelConfig.preset`, which also takes the `changes`.
        image_size: (height, width).
        rgb_only: a network without auxiliaries.
        changes: further fields of `ModelConfig`.

    Raises:
        WeightsError: unknown setting.
        ModelError: unknown preset, or a size that no network takes.
    """
    setting = find_setting(setting) if isinstance(setting, str) else setting
    if image_size is None and preset not in PRESETS_WITH_OWN_SIZE:
        image_size = setting.image_size
    auxiliaries = {} if rgb_only else setting.auxiliaries
    if len(auxiliaries) > 1:
        changes = {"combine": BY_PRESENCE, **changes}
    elif auxiliaries:
        (given,) = auxiliaries.values()
        changes["empty"] = given.empty
    return ModelConfig.preset(
        preset,
        num_classes=len(setting.classes),
        modalities=("rgb", *auxiliaries),
        image_size=image_size,
        **changes,
    )


def make_spec(
    setting: str | Setting,
    config: ModelConfig,
    *,
    trained: bool = False,
    dropped: bool = False,
    **provenance: Any,
) -> Spec:
    """The spec of a setting for a network of its modalities, or of RGB alone.

    Args:
        setting: one of `SETTINGS`, or its name.
        config: the network; its image size becomes the geometry's.
        trained: whether the weights have seen all sensors of the setting.
        dropped: whether they have seen every subset with the camera, too.
        provenance: fields of `Provenance` besides the package's version.

    Raises:
        WeightsError: unknown setting, or the configuration is not of this setting.
    """
    setting = find_setting(setting) if isinstance(setting, str) else setting
    stride = setting.stride
    inputs = {"rgb": _RGB} | {name: setting.auxiliaries[name] for name in config.auxiliaries}
    sensors = [source for given in inputs.values() for source in given.sources]
    subsets = [tuple(sensors)] if trained else []
    if trained and dropped:
        others = sensors[1:]
        counts = reversed(range(len(others)))
        subsets += [("camera", *some) for n in counts for some in combinations(others, n)]
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
        presence=Presence(tuple(subsets)),
        provenance=Provenance(**provenance, package_version=__version__),
    )
