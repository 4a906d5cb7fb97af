# SPDX-License-Identifier: Apache-2.0
"""Weather and case of a scene, as numbers that the sensors' physics use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmsam_ros.data.errors import DataError
from mmsam_ros.world.style import RGB, Dice, Range

CASES = (
    "ordinary", "motionblur", "overexposure", "underexposure", "lidarjitter", "thermallowres",
)  # fmt: skip


@dataclass(frozen=True)
class _Weather:
    """Ranges and constants of one weather.

    sun, above, below: irradiance (RGB) of the sun, of the sky overhead, from the ground
    low, high: radiance of the sky at the horizon and overhead
    sight: metres over which the air takes 63 % of the light
    cover: how much of the sky are clouds, 0..1; wet: of the ground; rain: drops in the air, 0..1
    day: 1: surfaces have their temperature of the day, 0: of the night
    contrast: of temperatures, against a dry day or night
    """

    sun: RGB
    above: RGB
    below: RGB
    low: RGB
    high: RGB
    sight: Range
    cover: Range
    wet: float
    rain: Range
    day: float
    contrast: float


_TABLE = {
    "sun": _Weather(
        (2.6, 2.35, 2.0), (0.62, 0.74, 0.95), (0.22, 0.20, 0.17), (1.05, 1.12, 1.18),
        (0.20, 0.42, 0.88), (500, 1200), (0.0, 0.7), 0, (0, 0), 1.0, 1.0,
    ),
    "cloud": _Weather(
        (0.0, 0.0, 0.0), (1.30, 1.34, 1.42), (0.35, 0.34, 0.32), (0.95, 0.98, 1.02),
        (0.62, 0.66, 0.72), (300, 700), (0.9, 1.0), 0, (0, 0), 0.75, 0.75,
    ),
    "fog": _Weather(
        (0.0, 0.0, 0.0), (1.05, 1.07, 1.10), (0.35, 0.35, 0.35), (0.80, 0.82, 0.84),
        (0.78, 0.80, 0.83), (11, 42), (1.0, 1.0), 0.25, (0, 0), 0.5, 0.6,
    ),
    "rain": _Weather(
        (0.0, 0.0, 0.0), (0.72, 0.76, 0.82), (0.20, 0.20, 0.20), (0.52, 0.55, 0.59),
        (0.34, 0.37, 0.42), (90, 220), (1.0, 1.0), 1.0, (0.35, 1.0), 0.5, 0.5,
    ),
    "night": _Weather(
        (0.0, 0.0, 0.0), (0.005, 0.0055, 0.0075), (0.005, 0.005, 0.0055), (0.040, 0.033, 0.032),
        (0.006, 0.008, 0.014), (500, 1200), (0.0, 0.0), 0, (0, 0), 0.0, 1.0,
    ),
}  # fmt: skip
WEATHERS = tuple(_TABLE)


@dataclass(frozen=True)
class Conditions:
    """What one scene has of its weather and its case.

    Light and sky as in the table; fog: extinction of visible light, 1/m. exposure: factor on what
    the camera meters; shutter: seconds; shake: camera's turn about its x and y axes, rad/s.
    jitter: deviation of the LiDAR's beams, degrees. coarse: thermal pixels a side that share one
    detector. air: kelvin above the materials' nominal temperatures.
    """

    weather: str
    case: str
    sun: RGB
    above: RGB
    below: RGB
    low: RGB
    high: RGB
    fog: float
    cover: float
    wet: float
    rain: float
    exposure: float
    shutter: float
    shake: tuple[float, float]
    jitter: float
    coarse: int
    day: float
    contrast: float
    air: float

    @property
    def night(self) -> bool:
        return self.weather == "night"

    @property
    def lamps(self) -> bool:
        """Whether vehicles have their lights on."""
        return self.weather in ("night", "fog", "rain")

    @classmethod
    def draw(cls, seed: int, weather: str = "sun", case: str = "ordinary") -> Conditions:
        """The conditions of a seed's scene; DataError for an unknown weather or case."""
        for name, word, known in (("weather", weather, WEATHERS), ("case", case, CASES)):
            if word not in known:
                raise DataError(f"{name} is {word!r}, expected one of {', '.join(known)}")
        given, rng = _TABLE[weather], Dice(seed, 21)
        shutter = 1 / 40 if weather == "night" else 1 / 400
        exposure, shake, jitter, coarse = 2 ** rng.uniform(-0.5, 0.5), (0.0, 0.0), 0.0, 1
        stops, turn, blur = rng.uniform(0, 1), rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.8)
        if case == "motionblur":
            shutter, shake = 1 / 14, (blur * np.sin(turn), blur * np.cos(turn))
        elif case == "overexposure":
            exposure = 2 ** (2.6 + 1.6 * stops)
        elif case == "underexposure":
            exposure = 2 ** (-5.0 - 2.5 * stops)
        elif case == "lidarjitter":
            jitter = 0.5 + 0.9 * stops
        elif case == "thermallowres":
            coarse = 6
        level, tint = rng.uniform(0.75, 1.2), rng.uniform(0.93, 1.07, 3)

        def light(rgb: RGB) -> RGB:
            red, green, blue = (float(v) for v in np.array(rgb) * level * tint)
            return red, green, blue

        return cls(
            weather, case, light(given.sun), light(given.above), light(given.below),
            light(given.low), light(given.high), 1 / rng.uniform(*given.sight),
            rng.uniform(*given.cover), given.wet, rng.uniform(*given.rain), exposure, shutter,
            shake, jitter, coarse, given.day, given.contrast, rng.uniform(-12, 7),
        )  # fmt: skip
