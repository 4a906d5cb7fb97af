# SPDX-License-Identifier: Apache-2.0
"""`mmsam synth`: data from the synthetic world."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from mmsam_ros._util import whole_folder, write_atomic
from mmsam_ros.cli.arguments import add_verb, count, image_size
from mmsam_ros.cli.output import progress
from mmsam_ros.data import SPLITS
from mmsam_ros.world import Vehicle, build_street, draw_rig, world_seed
from mmsam_ros.world.scene import CASES, WEATHERS

_CALIBRATION = "calibration.yaml"


def _frames(text: str) -> dict[str, int]:
    """Type of frames by split; anything else, and a split that is named twice, is an error."""
    counts = dict(re.findall(r"(train|val|test)=(\d+)", text))
    if not counts or ",".join(map("=".join, counts.items())) != text:
        raise argparse.ArgumentTypeError(f"{text!r} is not like train=200,val=40,test=40")
    return {split: int(number) for split, number in counts.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    text = "write a drive as a ROS 2 bag with calibration and ground truth"
    option = add_verb(verbs, "bag", write_drive, text).add_argument
    option("out", type=Path, metavar="OUT", help="new bag; the folder must not exist")
    option("--seed", type=int, default=0, metavar="N", help="number of the world")
    option("--split", choices=SPLITS, default="test", help="worlds to choose from")
    option("--weather", choices=WEATHERS, default="sun", help="weather of the drive")
    option("--case", choices=CASES, default="ordinary", help="what makes it hard")
    option("--seconds", type=float, default=10.0, metavar="S", help="length of the drive")
    option("--camera-rate", type=float, default=5.0, metavar="HZ", help="camera images per second")
    _add_rig(option, "640x480")
    text = "write a data set in the folder layout"
    option = add_verb(verbs, "folder", write_folder, text).add_argument
    option("out", type=Path, metavar="OUT", help="top folder; must not exist")
    option("--frames", type=_frames, required=True, metavar="SPLIT=N,...",
           help="frames in each split, such as train=200,val=40,test=40")  # fmt: skip
    option("--per-scene", type=count, default=8, metavar="N", help="frames per drive")
    option("--first", type=int, default=0, metavar="N", help="number of the first world")
    option("--workers", type=count, metavar="N", help="processes (default: one per core)")
    _add_rig(option, "512x384")


def _add_rig(option: Callable[..., object], size: str) -> None:
    width = int(size.split("x")[0])
    option("--rig", type=int, default=0, metavar="N", help="sensor rig; 0: standard, else drawn")
    text = f"image size (default: {size}; a drawn rig: {width} wide, its own aspect ratio)"
    option("--size", type=image_size, default=(width, None), metavar="WIDTHxHEIGHT", help=text)


def write_drive(args: argparse.Namespace) -> None:
    from mmsam_ros.ros.bags import parameters_yaml, read_parameters
    from mmsam_ros.world.bag import write_bag

    rig = draw_rig(args.rig, *args.size, camera_rate=args.camera_rate)
    seed = world_seed(args.split, args.seed)
    world = build_street(seed, weather=args.weather, case=args.case, seconds=args.seconds)
    with whole_folder(args.out) as folder, progress("rendering") as advance:
        counts = write_bag(folder, Vehicle(world, rig), args.seconds, advance)
        parameters = read_parameters(folder)
        parameters["thermal"]["registration"] = "rotation"  # its view is not the camera's
        write_atomic(folder / _CALIBRATION, parameters_yaml(parameters))
    for topic, number in counts.items():
        print(f"{number:6d} {topic}")
    print(f"bag: {args.out}, with its calibration for the node: {args.out / _CALIBRATION}")


def write_folder(args: argparse.Namespace) -> None:
    from mmsam_ros.world.dataset import plan, render

    rig = draw_rig(args.rig, *args.size)
    scenes = plan(args.frames, per_scene=args.per_scene, first=args.first)
    with whole_folder(args.out) as folder, progress("rendering") as advance:
        counts = render(folder, scenes, rig, workers=args.workers, report=advance)
    for (split, word), number in counts.items():
        print(f"{number:6d} {split}, {word}")
    print(f"folder: {args.out}")
