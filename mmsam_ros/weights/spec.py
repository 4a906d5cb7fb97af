# SPDX-License-Identifier: Apache-2.0
"""What a weights file says of itself: inputs, classes, geometry, presence, provenance.

Training writes it, and nothing else tells the node what the network expects.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmsam_ros._util import MmsamError, from_mapping
from mmsam_ros.model import ModelConfig
from mmsam_ros.model.config import legal_sizes
from mmsam_ros.sensors import ENCODINGS, FIELDS, ClassInfo, SensorError, topic_names
from mmsam_ros.weights.errors import WeightsError

FORMAT = "mmsam/1"
KEYS = ("config", "inputs", "classes", "geometry", "presence", "provenance")
GEOMETRY_MODES = ("pad", "resize", "slide")
Size = tuple[int, int]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Channel:
    """One channel of a modality: a field ("range") of a source ("lidar")."""

    source: str
    field: str


@dataclass(frozen=True)
class ModalityInput:
    """How a modality's three channels come about: (raw * scale - mean) / std.

    Attributes:
        channels: where each comes from; several sources may be composed.
        encoding: encoding of each source (see `sensors.ENCODINGS`).
        scale: factor on the raw value, per channel.
        mean: of the scaled value, per channel.
        std: of the scaled value, per channel.
        growth: side of the square that a projected point covers, in pixels.
        limits: counts of a 16-bit thermal image that map to 0 and 255, or None.
    """

    channels: tuple[Channel, Channel, Channel]
    encoding: Mapping[str, str]
    scale: Triple = (1.0, 1.0, 1.0)
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    growth: int = 1
    limits: tuple[float, float] | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, each once, in channel order."""
        return tuple(dict.fromkeys(c.source for c in self.channels))

    @property
    def empty(self) -> Triple:
        """The normalised value of raw zero."""
        a, b, c = ((0.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        return (a, b, c)


@dataclass(frozen=True)
class Geometry:
    """What training, evaluation and node do to a frame to get the network's input.

    Attributes:
        mode: `pad` scales until the frame fits and pads at the bottom and right, `resize` scales
            each side, `slide` runs windows over the native frame.
        size: (height, width) of the network's input.
        stride: step of the windows (rows, columns), for `slide` alone.
        keep_ratio: whether the scaling keeps the ratio of the sides; follows from the mode.
        interpolation: of images; `bilinear` without antialiasing is what is trained.
    """

    mode: str
    size: Size
    stride: Size | None = None
    keep_ratio: bool = True
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class Score:
    """Measured quality: mIoU in percent on a named data set."""

    miou: float
    dataset: str


@dataclass(frozen=True)
class Presence:
    """Which subsets of sensors were trained, and how well each does ("camera+lidar": score)."""

    trained_subsets: tuple[tuple[str, ...], ...] = ()
    scores: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from."""

    data: str
    recipe: str
    seed: int | None = None
    package_version: str = ""
    source: str = ""
    source_sha256: str = ""


@dataclass(frozen=True)
class Spec:
    """All of the above with the network's configuration, validated as a whole.

    Raises:
        WeightsError: a value is out of range or parts do not fit together; names the key.
    """

    config: ModelConfig
    inputs: Mapping[str, ModalityInput]
    classes: tuple[ClassInfo, ...]
    geometry: Geometry
    presence: Presence
    provenance: Provenance

    def __post_init__(self) -> None:
        _check_classes(self)
        _check_inputs(self)
        check_geometry(self.geometry, self.config)
        _check_presence(self)

    @property
    def sources(self) -> tuple[str, ...]:
        """Sensors besides the camera that the network reads ("lidar", "thermal" …)."""
        found = (s for name in self.config.auxiliaries for s in self.inputs[name].sources)
        return tuple(dict.fromkeys(found))

    @property
    def encodings(self) -> dict[str, str]:
        """How each source is stored, the camera included."""
        return {k: v for given in self.inputs.values() for k, v in given.encoding.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, by key."""
        return {key: _plain(getattr(self, key)) for key in KEYS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Spec:
        """Inverse of `to_dict`.

        Raises:
            WeightsError: an unknown or missing key, a wrong type, or a value out of range.
        """
        try:
            return from_mapping(cls, values, "spec")
        except MmsamError as error:
            raise WeightsError(str(error)) from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def _require(holds: bool, key: str, found: object, expected: str) -> None:
    if not holds:
        raise WeightsError(f"{key}: found {found!r}, expected {expected}")


def _check_classes(spec: Spec) -> None:
    ids = [c.id for c in spec.classes]
    count = spec.config.num_classes
    _require(ids == list(range(count)), "classes", ids, f"ids 0 to {count - 1} in order")
    try:
        topic_names(spec.classes)
    except SensorError as error:
        raise WeightsError(f"classes: {error}") from error


def _check_inputs(spec: Spec) -> None:
    modalities = spec.config.modalities
    _require(set(spec.inputs) == set(modalities), "inputs", sorted(spec.inputs), str(modalities))
    rgb = [(c.source, c.field) for c in spec.inputs["rgb"].channels]
    expected_rgb = [("camera", name) for name in FIELDS["rgb8"]]
    _require(rgb == expected_rgb, "inputs.rgb.channels", rgb, str(expected_rgb))
    _require("camera" not in spec.sources, "inputs", spec.sources, "'camera' for rgb only")
    for name, given in spec.inputs.items():
        _check_input(f"inputs.{name}", given)
    for name in spec.config.auxiliaries if spec.config.combine.absent == "empty" else ():
        empty, expected = spec.config.empty, spec.inputs[name].empty
        close = all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(empty, expected, strict=True))
        _require(close, "config.empty", empty, f"the normalised raw zero {expected}")


def _check_input(key: str, given: ModalityInput) -> None:
    sources = set(given.sources)
    _require(set(given.encoding) == sources, f"{key}.encoding", dict(given.encoding), str(sources))
    for source, encoding in given.encoding.items():
        known = ENCODINGS.get(source)
        _require(known is not None, f"{key}.channels", source, f"one of {sorted(ENCODINGS)}")
        _require(encoding in (known or ()), f"{key}.encoding.{source}", encoding, f"one of {known}")
    for channel in given.channels:
        fields = FIELDS[given.encoding[channel.source]]
        _require(channel.field in fields, f"{key}.channels", channel, f"a field of {fields}")
    for triple in ("scale", "mean", "std"):
        values = getattr(given, triple)
        _require(all(map(math.isfinite, values)), f"{key}.{triple}", values, "finite values")
    _require(0 not in given.scale, f"{key}.scale", given.scale, "factors other than 0")
    _require(all(s >= 1e-6 for s in given.std), f"{key}.std", given.std, "at least 1e-6")
    _require(1 <= given.growth <= 31, f"{key}.growth", given.growth, "1 to 31 pixels")
    needs_limits = given.encoding.get("thermal") == "mono16"
    ordered = given.limits is not None and -math.inf < given.limits[0] < given.limits[1] < math.inf
    _require(
        ordered if needs_limits else given.limits is None,
        f"{key}.limits",
        given.limits,
        "[low, high] counts" if needs_limits else "none (only mono16 thermal has limits)",
    )


def _check_presence(spec: Spec) -> None:
    known = {"camera", *spec.sources}
    subsets = [*spec.presence.trained_subsets, *(k.split("+") for k in spec.presence.scores)]
    for subset in subsets:
        _require(set(subset) <= known, "presence", "+".join(subset), f"sensors of {sorted(known)}")
    for subset, score in spec.presence.scores.items():
        _require(0 <= score.miou <= 100, f"presence.scores.{subset}", score.miou, "0 to 100")


def check_geometry(geometry: Geometry, config: ModelConfig) -> None:
    """Raise WeightsError unless the network can run on what the geometry gives."""
    mode, size, stride = geometry.mode, geometry.size, geometry.stride
    _require(mode in GEOMETRY_MODES, "geometry.mode", mode, f"one of {GEOMETRY_MODES}")
    legal = legal_sizes(config.image_size)
    _require(size in legal, "geometry.size", size, f"one of {legal}")
    if mode == "slide":
        fits = stride is not None and all(0 < s <= w for s, w in zip(stride, size, strict=True))
        _require(fits, "geometry.stride", stride, f"two values from 1 to the window {size}")
    else:
        _require(stride is None, "geometry.stride", stride, f"none with mode {mode!r}")
    _require(
        geometry.keep_ratio == (mode != "resize"),
        "geometry.keep_ratio",
        geometry.keep_ratio,
        f"{mode != 'resize'} with mode {mode!r}",
    )
    known = geometry.interpolation == "bilinear"
    _require(known, "geometry.interpolation", geometry.interpolation, "'bilinear'")
