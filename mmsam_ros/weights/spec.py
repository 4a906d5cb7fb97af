# SPDX-License-Identifier: Apache-2.0
"""What a weights file says of itself: inputs and what they looked like in training, classes,
geometry, presence, provenance.

Training writes it, and nothing else tells the node what the network expects.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar, Literal, Self

from mmsam_ros import __version__
from mmsam_ros._util import Checked, MmsamError, from_mapping, require
from mmsam_ros.model import ModelConfig
from mmsam_ros.model.config import Size, legal_sizes
from mmsam_ros.sensors import (
    CAMERA,
    ENCODINGS,
    FIELDS,
    RGB,
    ClassInfo,
    Modality,
    Seen,
    topic_names,
)

FORMAT = "mmsam/1"
KEYS = ("config", "inputs", "classes", "geometry", "presence", "provenance", "seen")

RGB_INPUT = Modality(
    ("red", "green", "blue"), "rgb8", scale=(1 / 255, 1 / 255, 1 / 255),
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
)  # fmt: skip
"""The camera image, with ImageNet's statistics."""


class WeightsError(MmsamError):
    """A weights file that cannot be read, verified or converted."""


@dataclass(frozen=True)
class Geometry(Checked):
    """What training, evaluation and node do to a frame to get the network's input.

    Images are scaled bilinearly without antialiasing.

    Attributes:
        mode: `pad` scales until the frame fits and pads at the bottom and right, `resize` scales
            each side, `slide` runs windows over the native frame.
        size: (height, width) of the network's input.
        stride: step of the windows (rows, columns), for `slide` alone.
    """

    error: ClassVar[type[MmsamError]] = WeightsError
    where: ClassVar[str] = "geometry"

    mode: Literal["pad", "resize", "slide"]
    size: Size
    stride: Size | None = None

    def check(self) -> None:
        if self.mode != "slide":
            self.require(self.stride is None, "stride", f"none with mode {self.mode!r}")
            return
        steps = zip(self.stride or (0, 0), self.size, strict=True)
        fits = all(0 < step <= side for step, side in steps)
        self.require(fits, "stride", f"two values from 1 to the window {self.size}")

    def check_network(self, config: ModelConfig) -> None:
        """WeightsError unless the network can run on what the geometry gives."""
        legal = legal_sizes(config.image_size)
        self.require(self.size in legal, "size", f"one of {legal}")


@dataclass(frozen=True)
class Score(Checked):
    """Measured quality: mIoU in percent on a named data set."""

    error: ClassVar[type[MmsamError]] = WeightsError
    where: ClassVar[str] = "presence.scores"

    miou: float
    dataset: str

    def check(self) -> None:
        self.require(0 <= self.miou <= 100, "miou", "0 to 100")


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
class Spec(Checked):
    """All of the above with the network's configuration, validated as a whole.

    WeightsError names the key where a value is out of range or parts do not fit together.
    """

    error: ClassVar[type[MmsamError]] = WeightsError

    config: ModelConfig
    inputs: Mapping[str, Modality]
    classes: tuple[ClassInfo, ...]
    geometry: Geometry
    presence: Presence
    provenance: Provenance
    seen: Seen = field(default_factory=dict)  # of the training data; empty: not known

    def check(self) -> None:
        count = self.config.num_classes
        ids = [info.id for info in self.classes]
        self.require(ids == list(range(count)), "classes", f"ids 0 to {count - 1} in order")
        topic_names(self.classes)  # SensorError where two collide
        self._check_inputs()
        self.geometry.check_network(self.config)
        known = {CAMERA, *self.sensors}
        subsets = [*self.presence.trained_subsets, *(k.split("+") for k in self.presence.scores)]
        fits = all(set(subset) <= known for subset in subsets)
        self.require(fits, "presence", f"sensors of {sorted(known)}")
        fits = all(
            sensor in self.sensors and set(fields) <= set(FIELDS[self.inputs[sensor].encoding])
            for sensor, fields in self.seen.items()
        )
        self.require(fits, "seen", f"fields of {', '.join(self.sensors) or 'no sensor'}")

    def _check_inputs(self) -> None:
        names = self.config.modalities
        self.require(set(self.inputs) == set(names), "inputs", f"those of the network, {names}")
        for name, modality in self.inputs.items():
            sensor = CAMERA if name == RGB else name
            if sensor not in ENCODINGS or (sensor == CAMERA) != (name == RGB):
                raise WeightsError(f"inputs: no sensor {name!r}, expected some of {[*ENCODINGS]}")
            found, known = modality.encoding, ENCODINGS[sensor]
            require(found in known, f"inputs.{name}.encoding", found, str(known), WeightsError)
        fields, known = self.inputs[RGB].fields, FIELDS["rgb8"]
        require(fields == known, "inputs.rgb.fields", fields, str(known), WeightsError)
        empty = empty_value(self.config, self.inputs)
        pairs = zip(self.config.empty, empty, strict=True)
        fits = all(math.isclose(a, b, abs_tol=1e-6) for a, b in pairs)
        self.require(fits, "config.empty", f"the raw zero's {empty}")

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors besides the camera that the network reads ("lidar", "thermal" …)."""
        return self.config.auxiliaries

    @property
    def modalities(self) -> dict[str, Modality]:
        """The auxiliaries, in the network's order."""
        return {name: self.inputs[name] for name in self.config.auxiliaries}

    @property
    def encodings(self) -> dict[str, str]:
        """How the data of each sensor besides the camera is stored."""
        return {name: modality.encoding for name, modality in self.modalities.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, by key; `config.empty` is not stored, it follows from `inputs`."""
        values = dataclasses.asdict(self)
        del values["config"]["empty"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; MmsamError names a key that is unknown, missing or wrong."""
        config = from_mapping(ModelConfig, values.get("config"), "config")
        inputs = from_mapping(_Inputs, {"inputs": values.get("inputs")}, "spec").inputs
        config = dataclasses.replace(config, empty=empty_value(config, inputs))
        return from_mapping(cls, {**values, "config": config}, "spec")


@dataclass(frozen=True)
class _Inputs:
    inputs: Mapping[str, Modality]


def empty_value(config: ModelConfig, inputs: Mapping[str, Modality]) -> tuple[float, float, float]:
    """What the network takes an absent auxiliary for; 0 where it leaves absent ones out."""
    given = [inputs[name] for name in config.auxiliaries if name in inputs]
    return given[0].empty if given and config.combine.absent == "empty" else (0.0, 0.0, 0.0)


def make_spec(
    config: ModelConfig,
    modalities: Mapping[str, Modality],
    classes: tuple[ClassInfo, ...],
    geometry: Geometry,
    *,
    trained: bool = False,
    dropped: bool = False,
    **provenance: Any,
) -> Spec:
    """The spec of a network; `modalities` that it does not read are left out.

    `trained` weights have seen all sensors together, with `dropped` every subset that has the
    camera, too; those with a fallback the camera alone as well. `provenance` has the fields of
    `Provenance` besides the package's version.
    WeightsError where the parts do not fit together.
    """
    sensors = config.auxiliaries
    if missing := [sensor for sensor in sensors if sensor not in modalities]:
        raise WeightsError(f"the network reads {', '.join(missing)}, found {[*modalities]}")
    counts = [*reversed(range(len(sensors) + 1))] if dropped else [len(sensors)]
    if not dropped and config.combine.absent == "fallback":
        counts.append(0)
    subsets = [(CAMERA, *some) for n in counts for some in combinations(sensors, n)]
    inputs = {RGB: RGB_INPUT} | {sensor: modalities[sensor] for sensor in sensors}
    presence = Presence(tuple(subsets) if trained else ())
    origin = Provenance(**provenance, package_version=__version__)
    return Spec(config, inputs, classes, geometry, presence, origin)
