# SPDX-License-Identifier: Apache-2.0
"""`mmsam predict`: label images and overlays of image files, with the files of other sensors."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import write_atomic
from mmsam_ros.cli.arguments import CliError, add_inference, add_out
from mmsam_ros.data.files import ARRAYS, IMAGES, composed, entries
from mmsam_ros.sensors import (
    AUXILIARY_SENSORS,
    ClassInfo,
    Frame,
    LidarPoints,
    Planes,
    SensorImage,
    palette,
)

_FILES = {
    "lidar": "points (.npy: x, y, z, intensity) or a raster (.npz, .npy, .png)",
    "thermal": "8- or 16-bit image",
    "event": "raster (.png, .npz)",
    "depth": "raster (.png)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Segment image files, with what other sensors saw at the same moment. For each image it "
        "writes NAME_labels.png (class ids) and NAME_overlay.png. With a directory or several "
        "images the sensors' options take directories, which hold files of the same names."
    )
    option = parser.add_argument
    option("images", nargs="+", type=Path, metavar="IMAGE", help="file or directory")
    for sensor in AUXILIARY_SENSORS:
        option(f"--{sensor}", type=Path, metavar="FILE", help=_FILES[sensor])
    option("--calib", type=Path, metavar="FILE",
           help="calib.json: needed for points and for a thermal camera's own view")  # fmt: skip
    option("--weights", type=Path, metavar="FILE",
           help="weights file or name (default: the package's)")  # fmt: skip
    add_inference(parser)
    add_out(parser, "folder to write", "out/predict")


def run(args: argparse.Namespace) -> None:
    path = args.weights
    is_name = path is None or (path.name == str(path) and not path.suffix)
    if not is_name and not os.path.isfile(os.path.expanduser(path)):
        raise CliError(f"{path}: no such file")  # before torch is loaded, which knows the names
    from mmsam_ros.data.frames import FrameSet, Record
    from mmsam_ros.data.read import Calibration
    from mmsam_ros.inference import Segmenter, tune_allocator
    from mmsam_ros.inference.channels import ChannelWatch
    from mmsam_ros.inference.draw import overlay
    from mmsam_ros.weights import default_weights

    tune_allocator()
    given = {s: path for s in AUXILIARY_SENSORS if (path := getattr(args, s)) is not None}
    pairs = pair_files(args.images, given)
    if args.out.resolve() in (path.resolve() for path in args.images):
        raise CliError(f"--out: found {args.out}, which holds the images; expected another folder, "
                       "or the results would be images of the next run")  # fmt: skip
    results = {image: result_paths(args.out, image) for image in pairs}
    own = {image.resolve(): image for image in pairs}
    for image, paths in results.items():
        if found := next((p for path in paths.values() if (p := own.get(path.resolve()))), None):
            raise CliError(
                f"{found} would be overwritten by the results of {image}; expected another --out, "
                "or images without the results of an earlier run"
            )
    calibration = Calibration.read(args.calib) if args.calib else None
    weights = args.weights or default_weights()
    if args.weights is None:
        print(f"Evaluation only; do not use on a vehicle: these are the package's {weights.name}, "
              "see its model card. --weights takes others.", file=sys.stderr)  # fmt: skip
    segmenter = Segmenter.load(
        weights, args.device, args.precision, engine=args.engine, providers=args.providers
    )
    spec = segmenter.spec
    frames = FrameSet("", "", (), spec.classes, spec.modalities, calibration=calibration)
    watch = ChannelWatch(spec)

    def review(frame: Frame, planes: Planes) -> Planes:
        for sensor in planes.auxiliaries.keys() - planes.blank.keys():
            points = isinstance(frame.sensors[sensor], LidarPoints)
            watch.add(sensor, planes.auxiliaries[sensor], points=points)
        return planes

    views: dict[str, str] = {}  # of sensors without registration, sizes that are not the camera's
    for image, files in pairs.items():
        read = {sensor: path for sensor, path in files.items() if sensor in spec.sensors}
        frame = frames.read(Record(image.stem, image, read, None, coarse=tuple(read))).frame
        prepared = segmenter.prepare(frame, review)
        result = segmenter.infer(prepared, confidence=False)
        views |= {s: text for s, text in unlike_camera(frame).items() if s in result.present}
        picture = overlay(frame.rgb, result.labels, palette(spec.classes))
        for kind, pixels in (("labels", result.labels), ("overlay", picture[..., ::-1])):
            write_atomic(results[image][kind], cv2.imencode(".png", pixels)[1].tobytes())
        print(f"{image}: {' + '.join(('camera', *result.present))}")
        reasons = dict.fromkeys(spec.sensors, "not given")  # the last reason counts
        reasons |= {sensor: f"{path} has no file of this name" for sensor, path in given.items()}
        reasons |= dict.fromkeys(files, "it shows nothing")
        reasons |= {sensor: refusal.text for sensor, refusal in prepared.refused.items()}
        reasons |= dict.fromkeys(given.keys() - set(spec.sensors), "these weights do not read it")
        for sensor, reason in reasons.items():
            if sensor not in result.present:
                print(f"  {sensor} not used: {reason}")
        print(f"  {_shares(result.labels, spec.classes)}")
    for sensor, sizes in views.items():
        print(f"warning: {sensor}: an image of {sizes} is taken to show exactly the camera's view; "
              "if it does not, register it with --calib", file=sys.stderr)  # fmt: skip
    for sensor in spec.sensors:
        for finding in watch.findings(sensor):
            print(f"warning: {sensor} {finding.subject} {finding.found}", file=sys.stderr)
    print(f"{args.out}: labels and overlays of {len(pairs)} images")


def unlike_camera(frame: Frame) -> dict[str, str]:
    """Sizes of sensor images that have no registration and not the camera image's size."""
    (height, width), found = frame.size, {}
    for sensor, data in frame.sensors.items():
        if isinstance(data, SensorImage) and data.registration.homography is None:
            rows, columns = data.data.shape[:2]
            if (rows, columns) != (height, width):
                found[sensor] = f"{columns}x{rows} beside {width}x{height}"
    return found


def result_paths(out: Path, image: Path) -> dict[str, Path]:
    """The files that are written of an image, by what they hold."""
    return {kind: out / f"{image.stem}_{kind}.png" for kind in ("labels", "overlay")}


def pair_files(images: Sequence[Path], sensors: Mapping[str, Path]) -> dict[Path, dict[str, Path]]:
    """The images, each with the files of its sensors that are there.

    CliError where an image or sensor file is missing, or two have the same name.
    """
    found: list[Path] = []
    for path in images:
        if not path.exists():
            raise CliError(f"{path}: no such file or directory")
        files = [file for file in (entries(path) if path.is_dir() else [path]) if file.is_file()]
        inside = [file for file in files if file.suffix.lower() in IMAGES]
        if not inside:
            raise CliError(f"{path}: found no image, expected {', '.join(IMAGES)}")
        if left := len(files) - len(inside):
            kinds = sorted({file.suffix or file.name for file in files if file not in inside})
            print(f"warning: {path}: {left} files are left out ({', '.join(kinds)}), expected "
                  f"{', '.join(IMAGES)}", file=sys.stderr)  # fmt: skip
        found += inside
    first: dict[str, Path] = {}
    for path in found:
        if first.setdefault(path.stem, path) is not path:
            both = f"{first[path.stem]} and {path}"
            raise CliError(f"two images have the same name, and so would their results: {both}")
    pairs: dict[Path, dict[str, Path]] = {image: {} for image in found}
    for sensor, path in sensors.items():
        if path.is_dir():
            inside = [file for file in entries(path) if file.suffix.lower() in (*ARRAYS, *IMAGES)]
            by_stem: dict[str, Path] = {}
            for file in inside:
                if (other := by_stem.setdefault(composed(file.stem), file)) is not file:
                    both = f"{other.name} and {file.name}"
                    raise CliError(f"{path}: found two files of the same name, {both}")
        elif len(found) == 1 and path.is_file():
            by_stem = {composed(found[0].stem): path}
        else:
            expected = "a directory, as there are several images" if len(found) > 1 else "a file"
            raise CliError(f"--{sensor}: found {path}, expected {expected}")
        for image in found:
            if composed(image.stem) in by_stem:
                pairs[image][sensor] = by_stem[composed(image.stem)]
    return pairs


def _shares(labels: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> str:
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    present = (info for info in classes if counts[info.id])
    ordered = sorted(present, key=lambda info: -counts[info.id])
    return ", ".join(f"{info.name} {100 * counts[info.id] / labels.size:.1f} %" for info in ordered)
