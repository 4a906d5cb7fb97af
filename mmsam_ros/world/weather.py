# SPDX-License-Identifier: Apache-2.0
"""Weather and case of a scene, as numbers that the sensors' physics use."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from mmsam_ros._util import check_word
from mmsam_ros.data.errors import DataError
from mmsam_ros.world.style import RGB, Dice, Range

CASES = (
    "ordinary", "motionblur", "overexposure", "underexposure", "lidarjitter", "thermallowres",
)  # fmt: skip


class Sky(NamedTuple):
    """Light of sun and sky."""

    sun: RGB  # irradiance of the sun
    above: RGB  # irradiance from the sky
    below: RGB  # irradiance from the ground
    low: RGB  # radiance of the sky at the horizon
    high: RGB  # radiance of the sky overhead


class _Weather(NamedTuple):
    """Ranges and constants of one weather."""

    sky: Sky
    sight: Range  # metres over which the air takes 63 % of the light
    cover: Range  # share of the sky that clouds cover
    wet: float  # of the ground, 0..1
    rain: Range  # drops in the air, 0..1
    day: float  # 1: surfaces have their temperature of the day, 0: of the night
    contrast: float  # of temperatures, relative to a dry day or night


_TABLE = {
    "sun": _Weather(
        Sky((2.6, 2.35, 2.0), (0.62, 0.74, 0.95), (0.22, 0.20, 0.17), (1.05, 1.12, 1.18),
            (0.20, 0.42, 0.88)), (500, 1200), (0.0, 0.7), 0, (0, 0), 1.0, 1.0,
    ),
    "cloud": _Weather(
        Sky((0.0, 0.0, 0.0), (1.30, 1.34, 1.42), (0.35, 0.34, 0.32), (0.95, 0.98, 1.02),
            (0.62, 0.66, 0.72)), (300, 700), (0.9, 1.0), 0, (0, 0), 0.75, 0.75,
    ),
    "fog": _Weather(
        Sky((0.0, 0.0, 0.0), (1.05, 1.07, 1.10), (0.35, 0.35, 0.35), (0.80, 0.82, 0.84),
            (0.78, 0.80, 0.83)), (11, 42), (1.0, 1.0), 0.25, (0, 0), 0.5, 0.6,
    ),
    "rain": _Weather(
        Sky((0.0, 0.0, 0.0), (0.72, 0.76, 0.82), (0.20, 0.20, 0.20), (0.52, 0.55, 0.59),
            (0.34, 0.37, 0.42)), (90, 220), (1.0, 1.0), 1.0, (0.35, 1.0), 0.5, 0.5,
    ),
    "night": _Weather(
        Sky((0.0, 0.0, 0.0), (0.005, 0.0055, 0.0075), (0.005, 0.005, 0.0055),
            (0.040, 0.033, 0.032), (0.006, 0.008, 0.014)), (500, 1200), (0.0, 0.0), 0, (0, 0),
        0.0, 1.0,
    ),
}  # fmt: skip
WEATHERS = tuple(_TABLE)


@dataclass(frozen=True)
class Conditions:
    """Weather and case of one scene; sky and cover to contrast: see `_Weather`."""

    weather: str
    sky: Sky
    fog: float  # extinction of visible light, 1/m
    cover: float
    wet: float
    rain: float
    day: float
    contrast: float
    air: float  # kelvin above the materials' nominal temperatures
    exposure: float  # factor on the metered exposure
    shutter: float  # seconds
    shake: tuple[float, float] = (0.0, 0.0)  # the camera's rotation about its x and y axes, rad/s
    jitter: float = 0.0  # deviation of the LiDAR's beams, degrees
    coarse: int = 1  # side of the square of thermal pixels of one detector

    @property
    def night(self) -> bool:
        return self.weather == "night"

    @property
    def lamps(self) -> bool:
        """Whether vehicles have their lights on."""
        return self.weather in ("night", "fog", "rain")

    @classmethod
    def draw(cls, seed: int, weather: str = "sun", case: str = "ordinary") -> Self:
        """The conditions of a seed's scene; DataError for an unknown weather or case."""
        check_word("weather", weather, WEATHERS, DataError)
        check_word("case", case, CASES, DataError)
        given, rng = _TABLE[weather], Dice(seed, 21)
        shutter, exposure = 1 / 40 if weather == "night" else 1 / 400, 2 ** rng.uniform(-0.5, 0.5)
        stops, turn, blur = rng.uniform(0, 1), rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.8)
        spoilt: dict[str, dict[str, Any]] = {
            "ordinary": {},
            "motionblur": {"shutter": 1 / 14, "shake": (blur * np.sin(turn), blur * np.cos(turn))},
            "overexposure": {"exposure": 2 ** (2.6 + 1.6 * stops)},
            "underexposure": {"exposure": 2 ** (-5.0 - 2.5 * stops)},
            "lidarjitter": {"jitter": 0.5 + 0.9 * stops},
            "thermallowres": {"coarse": 6},
        }
        level, tint = rng.uniform(0.75, 1.2), rng.uniform(0.93, 1.07, 3)
        lights = (np.array(given.sky) * level * tint).tolist()
        sky = Sky(*((red, green, blue) for red, green, blue in lights))
        plain = cls(
            weather, sky, 1 / rng.uniform(*given.sight), rng.uniform(*given.cover), given.wet,
            rng.uniform(*given.rain), given.day, given.contrast, rng.uniform(-12, 7), exposure,
            shutter,
        )  # fmt: skip
        return replace(plain, **spoilt[case])
