# SPDX-License-Identifier: Apache-2.0
"""`mmsam label-bag`: the node's masks of a recording, without ROS and without dropping a frame."""

import argparse
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsam_ros._util import write_atomic
from mmsam_ros.cli.arguments import CliError, add_node, add_words, count
from mmsam_ros.cli.output import progress
from mmsam_ros.ros.bag_options import CLOUDS, OUTPUTS, Log, check_target, given_parameters

if TYPE_CHECKING:
    from mmsam_ros.cli.label_report import Report
    from mmsam_ros.ros.labelling import Labelling
    from mmsam_ros.ros.recording import Recording

VIDEO, REPORT = "overlay.mp4", ("report.json", "report.html")
_NAMED = 5  # differences that a message names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Label a recording of ROS 2 or ROS 1: synchroniser, frames and network are the node's, and "
        "so are its parameters and topics. OUT is a rosbag2 folder with /mmsam/semantic, "
        f"/mmsam/classes, /mmsam/label_info and {', '.join(REPORT)}. Give "
        "the same command again to resume an interrupted run. The exit status is 1 if a part of "
        "the recording could not be read, or a frame could not be labelled for lack of memory or "
        "through a defect; 2 if there is no OUT."
    )
    option = parser.add_argument
    option("bag", type=Path, metavar="IN", help="rosbag2 folder or file, or a ROS 1 .bag")
    option("out", type=Path, metavar="OUT", help="new bag; the folder must not exist")
    add_node(parser)
    add_words(parser, "--outputs", "topics besides the masks", OUTPUTS,
              default=("confidence", "color"))  # fmt: skip
    option("--all-topics", action="store_true", help="copy all topics of IN into OUT")
    option("--video", action="store_true", help=f"write the overlays as {VIDEO}")
    option("--workers", type=count, default=1, metavar="N", help="processes of the network")


def run(args: argparse.Namespace) -> int:
    check_target(args.out, args.bag)
    from mmsam_ros.cli.label_report import Report
    from mmsam_ros.ros.feed import Feed
    from mmsam_ros.ros.labelling import Results
    from mmsam_ros.ros.offline import make_labelling, resume_facts
    from mmsam_ros.ros.parameter_files import read_remaps
    from mmsam_ros.ros.parameters import check_parameters, weights_path
    from mmsam_ros.ros.recording import Recording
    from mmsam_ros.weights import read_spec

    log = Log()
    given = given_parameters(args.bag, args.params_file, args.param, log.info)
    parameters = check_parameters(given, log.warning)
    if not parameters["weights"]:
        log.warning("parameter weights is not set: the package's are trained on synthetic scenes. "
                    "Evaluation only; do not use on a vehicle")  # fmt: skip
    spec = read_spec(weights_path(parameters))
    part = args.out.with_name(f".{args.out.name}.part")
    new = part / args.out.name  # as the files in it are named
    with Recording(args.bag) as reader, ExitStack() as held:
        _say_notes(reader, log)
        feed = Feed(reader, parameters, spec, read_remaps(args.remap))
        held.enter_context(_locked(part))
        confidence = bool({"confidence", *CLOUDS} & {*args.outputs})
        facts = resume_facts(args.bag, parameters, args.remap, confidence=confidence)
        _check_resumed(part, facts)
        results = Results(part / "results")
        if len(results):
            log.info(f"resuming: {len(results)} frames are already labelled")
        labelling = make_labelling(feed, parameters, spec, results, log, args.workers,
                                   confidence=confidence)  # fmt: skip
        report = Report(args.bag, args.out, labelling, given)
        try:
            _write(args, labelling, new, report, log)
            _say_notes(reader, log)  # of files that hold the same as well
            report.finish(log.lines)
            if not report.masks:
                shutil.rmtree(part)
                raise CliError(f"{args.bag}: no frame could be labelled: {report.reasons()}")
            write_atomic(new / REPORT[0], report.json())
            write_atomic(new / REPORT[1], report.html())
            new.rename(args.out)
        except (KeyboardInterrupt, OSError):  # such as a full disk
            print("mmsam: give the same command again to resume", file=sys.stderr)
            raise
        shutil.rmtree(part)
    print(f"{args.out}: {report.summary()}")
    for fault in report.faults:
        print(f"warning: {args.bag}: {fault}", file=sys.stderr)
    return 1 if report.faults else 0


def _write(
    args: argparse.Namespace, labelling: "Labelling", folder: Path, report: "Report", log: Log
) -> None:
    """Label the recording into a new folder, and note what comes of it."""
    from mmsam_ros.cli.video import Video
    from mmsam_ros.inference.draw import overlay
    from mmsam_ros.ros.labelled_bag import LabelledBag
    from mmsam_ros.sensors import palette

    feed, spec = labelling.feed, labelling.builder.spec
    reader, total = feed.reader, feed.camera.msgcount
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
    seconds = max(reader.end_time - reader.start_time, 1) / 1e9
    colours, opacity = palette(spec.classes), labelling.parameters["overlay_opacity"]
    with (
        LabelledBag(folder, reader, spec, args.outputs, labelling.parameters) as bag,
        Video(folder / VIDEO, total / seconds) as video,
        progress("labelling") as advance,
    ):
        if args.all_topics:
            bag.copy_all()
        for topic, why in bag.left_out.items():
            log.info(f"{topic} is not copied: {why}")
        copy = bag.copy if args.all_topics else None
        for done, ended in enumerate(labelling.run(copy), 1):
            report.add(ended)
            _say_refusals(report, log)
            if ended.frame is not None and ended.result is not None:
                received, refused = feed.received(ended.synced), ended.outcome.sensors
                bag.add(ended.synced, received, ended.frame, ended.result, refused)
                if args.video:
                    video.add(overlay(ended.frame.rgb, ended.result.labels, colours, opacity))
            advance(done, max(total, done))
        for name in bag.lacking:
            log.warning(f"--outputs {name}: not written, as no mask was made with LiDAR points")
    _say_refusals(report, log)  # of the messages after the last set as well


def _say_notes(reader: "Recording", log: Log) -> None:
    for text in reader.notes:  # each is said once
        log.info(text)


def _say_refusals(report: "Report", log: Log) -> None:
    for kind, text in report.refusals.items():  # each is said once
        log.warning(f"{kind}: {text}")


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Hold the folder of an unfinished run; CliError if another process does, or there is none."""
    try:
        part.mkdir(parents=True, exist_ok=True)
        lock = os.open(part / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise CliError(f"{part.parent}: no folder can be made there ({error.strerror}); choose "
                       "another OUT")  from error  # fmt: skip
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise CliError(f"{part}: another process labels this recording now") from error
    try:
        yield
    finally:
        os.close(lock)


def _check_resumed(part: Path, facts: dict[str, Any]) -> None:
    """CliError if the folder holds a run of something else."""
    path = part / "job.json"
    try:
        before = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        shutil.rmtree(part / "results", ignore_errors=True)
        write_atomic(path, json.dumps(facts, indent=1))
        return
    changed = [name for name in facts if before.get(name) != facts[name]]
    if changed and not any((part / "results").glob("*.npz")):
        write_atomic(path, json.dumps(facts, indent=1))  # it ended before the first mask
    elif changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise CliError(f"{part} holds an interrupted run, with other values of: "
                       f"{', '.join(changed[:_NAMED])}{more}; give its command to resume it, or "
                       "delete the folder")  # fmt: skip
