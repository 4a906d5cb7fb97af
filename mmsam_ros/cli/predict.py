# SPDX-License-Identifier: Apache-2.0
"""`mmsam predict`: label images and overlays of image files, with the files of other sensors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmsam_ros.cli.arguments import add_inference, add_out, auxiliary_sensors
from mmsam_ros.cli.errors import CliError
from mmsam_ros.cli.output import say

if TYPE_CHECKING:
    from mmsam_ros.data.folder import Calibration
    from mmsam_ros.inference import Prepared, Result
    from mmsam_ros.sensors import Frame
    from mmsam_ros.weights import Spec

NAME = "predict"
HELP = "segment image files"
_IMAGES = (".png", ".jpg", ".jpeg")
_FILES = {
    "lidar": "points (.npy: x, y, z, intensity) or a raster (.npz, .npy, .png)",
    "thermal": "8- or 16-bit image",
    "event": "raster (.png, .npz)",
    "depth": "raster (.png)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.description = (
        "Segment image files, with what other sensors saw at the same moment. Of each image it "
        "writes NAME_labels.png (class ids) and NAME_overlay.png. With a directory or several "
        "images the sensors' options take directories, which hold files of the same names."
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="file or directory")
    for sensor in auxiliary_sensors():
        parser.add_argument(f"--{sensor}", type=Path, metavar="FILE", help=_FILES[sensor])
    parser.add_argument(
        "--calib", type=Path, metavar="FILE",
        help="calib.json: for points, and for a thermal camera with a view of its own",
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="weights file (default: the package's)"
    )
    add_inference(parser)
    add_out(parser, "folder to write", "out/predict")


def run(args: argparse.Namespace) -> int:
    """Segments the images and prints what was seen in each, and by which sensors."""
    from mmsam_ros.data.folder import Calibration
    from mmsam_ros.inference import Segmenter
    from mmsam_ros.weights import default_weights

    given = {s: path for s in auxiliary_sensors() if (path := getattr(args, s)) is not None}
    pairs = pair_files(args.images, given)
    calibration = Calibration.read(args.calib) if args.calib else None
    if args.weights is None:
        print("Evaluation only; do not use on a vehicle: these weights were trained on synthetic "
              "scenes. --weights takes others.", file=sys.stderr)  # fmt: skip
    segmenter = Segmenter.load(args.weights or default_weights(), args.device, args.precision)
    for image, files in pairs.items():
        frame = read_frame(image, files, segmenter.spec, calibration)
        prepared = segmenter.prepare(frame)
        result = segmenter.infer(prepared, confidence=False)
        _write(args.out, image.stem, frame, result, segmenter.spec)
        _print(image, given, files, prepared, result, segmenter.spec)
    say(f"{args.out}: labels and overlays of {len(pairs)} images")
    return 0


def pair_files(images: Sequence[Path], sensors: Mapping[str, Path]) -> dict[Path, dict[str, Path]]:
    """The images, each with the files of its sensors that are there.

    Raises:
        CliError: an image or sensor file is missing, or two images have the same name.
    """
    found: list[Path] = []
    for path in images:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        inside = [file for file in inside if file.suffix.lower() in _IMAGES and file.is_file()]
        if not inside:
            raise CliError(f"{path}: found no image, expected {', '.join(_IMAGES)}")
        found += inside
    if len({path.stem for path in found}) < len(found):
        raise CliError("two images have the same name, and so would their results")
    pairs: dict[Path, dict[str, Path]] = {image: {} for image in found}
    for sensor, path in sensors.items():
        if path.is_dir():
            by_stem = {file.stem: file for file in sorted(path.iterdir()) if file.is_file()}
            for image in found:
                if image.stem in by_stem:
                    pairs[image][sensor] = by_stem[image.stem]
        elif len(found) > 1 or not path.is_file():
            expected = "a directory, as there are several images" if len(found) > 1 else "a file"
            raise CliError(f"--{sensor}: found {path}, expected {expected}")
        else:
            pairs[found[0]][sensor] = path
    return pairs


def read_frame(
    image: Path, files: Mapping[str, Path], spec: Spec, calibration: Calibration | None
) -> Frame:
    """A frame of the files of those sensors that the weights read.

    Raises:
        MmsamError: a file is broken, or has not the form that the weights read; names it.
    """
    from mmsam_ros.data.folder import read_sensor
    from mmsam_ros.data.read import read_rgb
    from mmsam_ros.sensors import Frame

    sensors = {
        sensor: read_sensor(sensor, path, spec.encodings[sensor], calibration)
        for sensor, path in files.items()
        if sensor in spec.sensors
    }
    return Frame(read_rgb(image), sensors, calibration.camera if calibration else None)


def _write(out: Path, name: str, frame: Frame, result: Result, spec: Spec) -> None:
    import cv2

    from mmsam_ros._util import write_atomic
    from mmsam_ros.inference.draw import overlay
    from mmsam_ros.sensors import palette

    picture = overlay(frame.rgb, result.labels, palette(spec.classes))
    for kind, pixels in (("labels", result.labels), ("overlay", picture[..., ::-1])):
        write_atomic(out / f"{name}_{kind}.png", cv2.imencode(".png", pixels)[1].tobytes())


def _print(
    image: Path,
    given: Mapping[str, Path],
    files: Mapping[str, Path],
    prepared: Prepared,
    result: Result,
    spec: Spec,
) -> None:
    import numpy as np

    say(f"{image}: {' + '.join(('camera', *result.present))}")
    unused = dict.fromkeys(spec.sensors, "not given")
    unused |= {sensor: f"{path} has no file of this name" for sensor, path in given.items()}
    unused |= dict.fromkeys(files, "it shows nothing")
    unused |= {sensor: refusal.text for sensor, refusal in prepared.refused.items()}
    unused |= dict.fromkeys(given.keys() - set(spec.sensors), "these weights do not read it")
    for sensor, reason in unused.items():
        if sensor not in result.present:
            say(f"  {sensor} not used: {reason}")
    counts = np.bincount(result.labels.ravel(), minlength=len(spec.classes))
    order = sorted(spec.classes, key=lambda info: -counts[info.id])
    shares = ((info.name, 100 * counts[info.id] / result.labels.size) for info in order)
    say(f"  {', '.join(f'{name} {share:.1f} %' for name, share in shares if share)}")
