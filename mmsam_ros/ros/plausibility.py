# SPDX-License-Identifier: Apache-2.0
"""Whether what a sensor measures can be what the weights were trained on. Needs no ROS.

A cloud with intensity of another unit, or one that is upside down, makes a mask that looks valid
and is worse than one without the sensor. The node compares the channels of each sensor with those
of the training data (`Spec.seen`), and the pose of a cloud with the camera's.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.inference.channels import FIELD, ChannelWatch, Finding
from mmsam_ros.inference.prepare import without_blank
from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.errors import RosError
from mmsam_ros.sensors import (
    CAMERA,
    FIELDS,
    LIDAR_GAIN,
    Frame,
    LidarPoints,
    Planes,
    Refusal,
    SensorImage,
    percentiles,
    robust_mean,
    sample_planes,
)
from mmsam_ros.sensors.limits import MAX_NOTES, shortened
from mmsam_ros.sensors.statistics import is_swapped, likeness
from mmsam_ros.weights import Spec

IMPLAUSIBLE = "implausible"  # reason of a refusal
AUTO = "auto"  # `lidar.intensity_scale`: by the clouds' own values
WINDOW, LEAST = 10, 3  # frames that are compared, and how many are enough to judge
PATIENCE = 20  # frames that are enough where the scene alone may be the cause
PERIOD = 1.0  # seconds of stamps between these frames: nearer ones show the same scene
LOG_PERIOD = 30.0  # seconds between two log lines about the same finding
MEMORY = 50  # frames over which the scale of the intensity is averaged
_TILT = 45.0  # degrees between a cloud's z axis and the camera's upward direction
_NOT_FINITE = 0.1  # share of values
_NEGATIVE = 0.01  # share of intensities
_NOISE = 0.3  # correlation of pixels side by side; pictures have 0.9
_LEAST_LEVELS = 3.0  # of 0 to 255 that a camera image has to span
_SAME_VIEW = 0.1  # by how much the widths of equal views may differ


class IntensityScale:
    """Brings the LiDAR's intensity to the unit of the training data, by a factor.

    `AUTO` takes the factor between the means of the live and the training data, without the
    brightest points (signs, which may be saturated), averaged over frames. RosError where that
    needs statistics that the weights lack. With `lidar_gain` a unit does not matter: no factor is
    applied, and `note` says so.
    """

    def __init__(self, spec: Spec, scale: float | str) -> None:
        encoding = spec.encodings.get("lidar")
        fields = FIELDS[encoding] if encoding else ()
        free = encoding == LIDAR_GAIN
        self.note = ""
        if free and scale != 1.0:
            self.note = (
                f"parameter lidar.intensity_scale: found {scale}, which has no effect: the weights "
                "read the intensity of any unit"
            )
        self._channel = fields.index("intensity") if "intensity" in fields and not free else None
        seen = spec.seen.get("lidar", {}).get("intensity")
        self._mean = seen.mean if seen else 0.0
        self._given = None if scale == AUTO else float(scale)
        self._log, self._count = 0.0, 0  # mean of the factors' logarithms, and their number
        if self._given is not None and not 0 < self._given < math.inf:
            raise RosError(
                f"parameter lidar.intensity_scale: found {scale}, expected a factor above 0, or "
                f"{AUTO!r}"
            )
        if self._given is None and self._channel is not None and self._mean <= 0:
            raise RosError(
                f"parameter lidar.intensity_scale: found {AUTO!r}, expected a number, as the "
                "weights have no statistics of the intensity; `mmsam weights seen` adds them"
            )

    @property
    def factor(self) -> float:
        """The present factor."""
        return math.exp(self._log) if self._given is None else self._given

    def __call__(self, planes: Planes) -> Planes:
        """The planes with the intensity scaled."""
        raster = planes.auxiliaries.get("lidar")
        if raster is None or self._channel is None or self._given == 1.0:
            return planes
        if self._given is None:
            self._measure(raster)
        scaled = raster.copy()
        scaled[..., self._channel] *= self.factor
        return replace(planes, auxiliaries={**planes.auxiliaries, "lidar": scaled})

    def _measure(self, raster: NDArray[np.float32]) -> None:
        values = sample_planes(raster).values[:, self._channel]
        mean = robust_mean(values) if len(values) else 0.0
        if mean > 0:
            self._count = min(self._count + 1, MEMORY)
            self._log += (math.log(self._mean / mean) - self._log) / self._count


def check_mode(spec: Spec, mode: str) -> str:
    """What the weights lack for a mode, empty if nothing; RosError if the mode needs it."""
    unknown = [sensor for sensor in spec.sensors if not spec.seen.get(sensor)]
    if mode == "off" or not unknown:
        return ""
    text = (
        f"parameter plausibility: found {mode!r}, but the weights have no statistics of "
        f"{' and '.join(unknown)} to compare with; `mmsam weights seen` adds them"
    )
    if mode == "refuse" and not spec.seen:
        raise RosError(f"{text}, or set it to 'warn' or 'off'")
    return text


class Plausibility:
    """Looks at the planes of each frame, and at the pose of its cloud. RosError where `refuse`
    needs statistics that the weights lack.

    Args:
        spec: of the weights; without `seen` only what needs no statistics is checked.
        mode: "warn", "refuse" (implausible sensors are left out) or "off".
        warn: logs a finding.
        scale: of the LiDAR's intensity, which is applied first.
        infos: of the camera and the thermal camera, as far as they are known.
    """

    def __init__(
        self, spec: Spec, mode: str, warn: Callable[[str], Any], scale: IntensityScale,
        infos: CameraInfos, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._spec, self.mode, self._warn, self._clock = spec, mode, warn, clock
        self._scale, self._infos = scale, infos
        self._watch = ChannelWatch(spec, WINDOW, LEAST, PATIENCE, PERIOD)
        self._next_log: dict[tuple[str, ...], float] = {}
        self.findings: Mapping[str, str] = {}  # of the newest frame, by "sensor.subject"
        self._doubts: dict[str, float] = {}  # when a sensor's data last could not be true
        if scale.note:
            warn(scale.note)
        if text := check_mode(spec, mode):
            warn(text)

    def __call__(
        self, frame: Frame, planes: Planes, frame_ids: Mapping[str, str],
        stamp: float | None = None,
    ) -> Planes:  # fmt: skip
        """The planes to use; `frame_ids`: of the camera and the sensors, for messages; `stamp` of
        the frame in seconds, None: it is not part of a drive.
        """
        planes = self._scale(planes)
        if self.mode == "off":
            self.findings, self._doubts = {}, {}
            return planes
        kept, refused = dict(planes.auxiliaries), dict(planes.refused)
        all_found: dict[str, str] = {}
        for sensor in (CAMERA, *planes.auxiliaries):
            if sensor == CAMERA:
                found = [*_of_camera(frame.rgb)]
            else:
                found = [*self._of_frame(sensor, frame, frame_ids)]
                found += self._of_channels(sensor, frame, planes, stamp)
            for finding in found:
                self._log(sensor, finding, frame_ids)
                all_found[f"{sensor}.{finding.subject}"] = finding.text
            certain = [finding for finding in found if finding.certain]
            if certain:
                self._doubts[sensor] = self._clock()
            if certain and self.mode == "refuse" and sensor != CAMERA:
                text = "; ".join(f"{finding.subject} {finding.text}" for finding in certain)
                refused[sensor] = Refusal(sensor, IMPLAUSIBLE, text)
                del kept[sensor]
        self.findings = all_found
        return replace(planes, auxiliaries=kept, refused=refused)

    def doubted(self, seconds: float) -> tuple[str, ...]:
        """Sensors, the camera included, whose data could not be true within this time."""
        since = self._clock() - seconds
        return tuple(sorted(name for name, last in [*self._doubts.items()] if last >= since))

    def _of_frame(
        self, sensor: str, frame: Frame, frame_ids: Mapping[str, str]
    ) -> Iterator[Finding]:
        """What one frame tells without statistics."""
        data = frame.sensors[sensor]
        if not isinstance(data, LidarPoints):
            if sensor == "thermal":  # in others, NaN is where nothing was measured
                yield from _finite("value", "pixels", data.data)
                yield from _smooth(data.data)
                if data.registration.homography is None:
                    yield from self._of_view(frame.size, data, frame_ids)
            return
        if "intensity" in self._spec.inputs[sensor].fields:
            x, y, z = np.isfinite(data.xyz).T
            there = x & y & z
            yield from _finite("intensity", "points", data.intensity[there])
            if self._spec.encodings[sensor] == LIDAR_GAIN:  # which makes negative ones 0
                yield from _negative(data.intensity[there])
        tilt = float(np.degrees(np.arccos(np.clip(-data.T_camera_lidar[1, 2], -1, 1))))
        if tilt > _TILT:
            cloud, camera = (frame_ids.get(name, "") for name in (sensor, CAMERA))
            yield Finding(
                "pose",
                f"has z of frame {cloud!r} {tilt:.0f} degrees from the upward direction (-y) of "
                f"the camera's frame {camera!r}, although height is read along z",
                "set lidar.frame to a frame of the sensor whose z points up, or correct the pose "
                "(TF or lidar.extrinsics) or the frame of the camera, which must be optical",
            )

    def _of_view(
        self, size: tuple[int, int], image: SensorImage, frame_ids: Mapping[str, str]
    ) -> Iterator[Finding]:
        """Whether a thermal image without registration shows what the camera shows."""
        height, width = image.data.shape[:2]
        sizes = {CAMERA: size, "thermal": (height, width)}
        try:
            models = [self._infos.model(n, *s, frame_ids.get(n, "")) for n, s in sizes.items()]
        except RosError:  # not known, or of another image
            return
        halves = [model.width / (2 * float(model.K[0, 0])) for model in models]
        if abs(halves[1] / halves[0] - 1) > _SAME_VIEW:
            camera, thermal = (2 * math.degrees(math.atan(half)) for half in halves)
            yield Finding(
                "view",
                f"is {thermal:.0f} degrees wide, the camera's {camera:.0f}, by their CameraInfo, "
                "although thermal.registration is 'none', for images of the same view",
                "set it to 'rotation' or 'homography'",
            )

    def _of_channels(
        self, sensor: str, frame: Frame, planes: Planes, stamp: float | None
    ) -> list[Finding]:
        """What the last frames tell, compared with the training data."""
        blank = planes.blank.get(sensor)
        if blank is not None and (not blank.text or without_blank(self._spec)):
            return []  # nothing was to be measured, or it is refused already
        points = isinstance(frame.sensors[sensor], LidarPoints)
        self._watch.add(sensor, planes.auxiliaries[sensor], points=points, stamp=stamp)
        return self._watch.findings(sensor, self._scale.factor)

    def _log(self, sensor: str, finding: Finding, frame_ids: Mapping[str, str]) -> None:
        """Log a finding now and then, one about a pose once per pair of frames."""
        now, is_pose = self._clock(), finding.subject == "pose"
        key = (sensor, finding.subject, *(map(shortened, frame_ids.values()) if is_pose else ()))
        if key not in self._next_log and len(self._next_log) >= MAX_NOTES:
            return  # frames that count up
        if now >= self._next_log.get(key, now):
            self._next_log[key] = math.inf if is_pose else now + LOG_PERIOD
            self._warn(f"implausible: {sensor} {finding.subject} {finding.text}")


def _finite(subject: str, things: str, values: NDArray[Any]) -> Iterator[Finding]:
    if values.dtype.kind != "f" or not values.size:
        return
    share = 1 - np.count_nonzero(np.isfinite(values)) / values.size
    if share > _NOT_FINITE:
        found = f"is NaN or infinite in {share:.0%} of the {things}"
        yield Finding(subject, found, "check the sensor's driver")


def _negative(intensity: NDArray[Any]) -> Iterator[Finding]:
    share = float((intensity < 0).mean()) if intensity.size else 0.0
    if share > _NEGATIVE:
        found = f"is below 0 in {share:.0%} of the points, as unsigned bytes read as signed"
        yield Finding("intensity", found, FIELD)


def _of_camera(rgb: NDArray[np.uint8]) -> Iterator[Finding]:
    """Whether a camera image shows anything."""
    some = np.ascontiguousarray(rgb[::4, ::4])
    levels = [percentiles(some[..., channel], (0.1, 99.9)) for channel in range(3)]
    if max(high - low for low, high in levels) < _LEAST_LEVELS:
        found = f"is red, green, blue {', '.join(f'{high:.0f}' for _, high in levels)} everywhere"
        yield Finding("image", found, "check the camera: its lens, exposure and driver")


def _smooth(image: NDArray[Any]) -> Iterator[Finding]:
    """Whether pixels side by side are alike, as in every picture."""
    image = image[::4]
    alike = likeness(image)
    if is_swapped(image):
        found = "is a picture only with the bytes of each value swapped"
        yield Finding("value", found, "correct the byte order (is_bigendian) of the driver")
    elif alike < _NOISE:
        found = f"is noise: pixels side by side have a correlation of {alike:.2f}"
        remedy = "check the camera's lens and shutter, and the encoding"
        yield Finding("value", found, remedy, certain=False)
