# SPDX-License-Identifier: Apache-2.0
"""What an evaluation leaves: results.json, results.md, report.html, and a submission to MUSES."""

import base64
import json
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray

from mmsam_ros._util import atomic_path, write_atomic
from mmsam_ros.data.check import count_notes
from mmsam_ros.data.open import find_benchmark
from mmsam_ros.training.config import TrainingError
from mmsam_ros.training.devices import gathered, world_size
from mmsam_ros.training.evaluate import Evaluation, FrameResult
from mmsam_ros.training.metrics import ALL, Scores, SubsetMatrices
from mmsam_ros.training.run import environment
from mmsam_ros.weights import file_sha256, weights_file

_SUBSETS = 20  # on the terminal; files have all
_SHOWN = 3  # worst frames, and as many best ones
_WIDTH = 320  # of a picture, in pixels
FOLDER = "labelTrainIds"  # in a submission
FULL_TEST = 750  # frames of MUSES's test set
Size = tuple[int, int]
Table = tuple[str, list[str], list[list[str]]]  # title, header, rows


class Examples:
    """The worst and the best frames."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.miou: dict[str, float] = {}  # of frames by name, over the present classes, in percent
        self._kept: list[tuple[float, FrameResult]] = []

    def add(self, result: FrameResult) -> None:
        """Take note of a frame; one without a labelled pixel has no score."""
        if result.matrix is None or not result.matrix.any():
            return
        value = Scores.of(result.matrix, 1, self.evaluation.names).miou_present
        self.miou[result.item.record.name] = value
        self._keep([(value, result.on_cpu())])

    def gather(self) -> None:
        """Take note of the frames of all processes; every one must call it."""
        parts = gathered((self.miou, self._kept))
        self.miou = dict(sorted(item for miou, _ in parts for item in miou.items()))
        self._kept = []
        self._keep([item for _, kept in parts for item in kept])

    def _keep(self, found: list[tuple[float, FrameResult]]) -> None:
        self._kept += found
        self._kept.sort(key=lambda kept: (kept[0], kept[1].item.record.name))
        del self._kept[_SHOWN:-_SHOWN]

    def pictures(self) -> dict[str, dict[str, str]]:
        """JPEG by caption of the worst and the best frames, by title."""
        found = {}
        for i, (value, result) in enumerate(self._kept):
            which = "worst" if 2 * i < len(self._kept) else "best"
            title = f"{which}: {result.item.record.name}, mIoU over its classes {value:.2f}"
            images = result.pictures(self.evaluation.frames, self.evaluation.spec)
            found[title] = {caption: _jpeg(image) for caption, image in images.items()}
        return found


def results(evaluation: Evaluation, matrices: SubsetMatrices, examples: Examples) -> dict[str, Any]:
    """All that is known of an evaluation, as plain values; results.json holds it.

    Published numbers stand beside it where data set, split and sensors are theirs, and all of their
    frames were evaluated as published; else `notes` say what differs.
    """
    config, spec, frames = evaluation.config, evaluation.spec, evaluation.frames
    scores = matrices.scores(evaluation.names) if evaluation.labelled else {}
    rows = find_benchmark(frames.dataset).published_rows(frames.split, spec.sensors)
    notes = _departures(evaluation) if rows else []
    return {
        "config": asdict(config) | {"dataset": frames.dataset},
        "weights_sha256": file_sha256(weights_file(config.weights)),
        "geometry": asdict(evaluation.predict.geometry),
        "device": str(evaluation.segmenter.device),
        "count": len(frames),
        "rasters": frames.rasters,
        "classes": [*evaluation.names],
        "scores": {name: vars(score) for name, score in scores.items()},
        "confusion": matrices.matrix().tolist(),
        "frames": examples.miou,
        "published": [] if notes else [asdict(row) for row in rows],
        "notes": notes,
        "environment": environment(world_size()),
    }


def _departures(evaluation: Evaluation) -> list[str]:
    """What keeps an evaluation from standing beside the published numbers."""
    config, frames = evaluation.config, evaluation.frames
    changed = config.drop or config.corrupt or config.tta or config.limit
    if config.geometry != "published" or changed:
        return ["not evaluated as published: no published numbers beside it"]
    notes = count_notes(frames)
    size, expected = evaluation.spec.config.image_size, find_benchmark(frames.dataset).network_size
    if size != expected:
        notes.append(f"the network's size is {size}, published is {expected}")
    return [f"{note}: no published numbers beside it" for note in notes]


def facts(content: dict[str, Any]) -> dict[str, str]:
    """What was evaluated and how, in words."""
    config, geometry = content["config"], content["geometry"]
    words = {
        "weights": f"{config['weights']} (sha256 {content['weights_sha256']})",
        "data": f"{config['dataset']} {config['split']}, {content['count']} frames",
        "rasters": content["rasters"].removeprefix("rasters "),
        "geometry": f"{config['geometry']}: {geometry['mode']}, (height, width) {geometry['size']}",
        "dropped": ", ".join(config["drop"]),
        "degraded": ", ".join(config["corrupt"]),
        "test-time augmentation": ", ".join(config["tta"]),
        "arithmetic": f"{config['precision']} on {content['device']}",
        "note": "; ".join(content["notes"]),
        "command": " ".join(content["environment"]["command"]),
        "date": content["environment"]["date"],
    }
    return {key: word for key, word in words.items() if word}


def tables(content: dict[str, Any]) -> list[Table]:
    """Scores by subset, published numbers beside ours, IoU by class; percent."""
    scores = content["scores"]
    if not scores:
        return []
    keys = ("miou", "miou_present", "macc", "aacc")
    header = ["subset", "frames", "mIoU (absent = 0)", "mIoU (present)", "mAcc", "aAcc", "absent"]
    rows = [
        [name, str(s["frames"]), *(f"{s[key]:.2f}" for key in keys), ", ".join(s["absent"])]
        for name, s in scores.items()
    ]
    found = [("Scores", header, rows)]
    if published := content["published"]:
        subsets = [name for name in scores if any(name in row["miou"] for row in published)]
        miou = {name: s["miou"] for name, s in scores.items()}
        rows = [
            [row["method"], row["table"], *(_number(row["miou"].get(name)) for name in subsets)]
            for row in [*published, {"method": "this run", "table": "", "miou": miou}]
        ]
        found.append(("Published, mIoU (absent = 0)", ["method", "source", *subsets], rows))
    iou = [[name, _number(x, "absent")] for name, x in scores[ALL]["iou"].items()]
    return [*found, ("Classes", ["class", "IoU"], iou)]


def summary(content: dict[str, Any]) -> tuple[dict[str, str], list[Table], str]:
    """What fits a terminal: facts, tables of at most 80 columns, and the classes as a paragraph."""
    shown = facts(content) | {"weights": content["config"]["weights"]}
    short = {key: word for key, word in shown.items() if key not in ("command", "date")}
    scores = content["scores"]
    if not scores:
        return short, [], ""
    header = ["subset", "frames", "mIoU", "present", "mAcc", "aAcc", "absent"]
    keys = ("miou", "miou_present", "macc", "aacc")
    names = [name for name in scores if not name.startswith("product=")]
    rows = [
        [name, str(s["frames"]), *(f"{s[key]:.2f}" for key in keys), str(len(s["absent"]))]
        for name, s in ((name, scores[name]) for name in names[:_SUBSETS])
    ]
    title = "Scores, %: mIoU counts absent classes as 0, present leaves them out"
    found = [(title, header, rows)]
    if published := content["published"]:
        rows = [[row["method"], row["table"], f"{row['miou'][ALL]:.2f}"] for row in published]
        rows.append(["this run", "", f"{scores[ALL]['miou']:.2f}"])
        found.append(("Published, mIoU of all frames", ["method", "source", "mIoU"], rows))
    iou = (f"{name} {_number(x, 'absent')}" for name, x in scores[ALL]["iou"].items())
    if len(names) > _SUBSETS:
        short["subsets"] = f"the first {_SUBSETS} of {len(names)} are shown"
    return short, found, f"IoU by class: {', '.join(iou)}"


def _number(value: float | None, missing: str = "") -> str:
    return missing if value is None else f"{value:.2f}"


def write_report(out: Path, content: dict[str, Any], examples: Examples) -> None:
    """Write results.json, results.md and report.html into the folder `out`."""
    loader = PackageLoader(__package__, ".")
    html = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    counts = np.array(content["confusion"], float)
    page = html.get_template("report.html.j2").render(
        content=content,
        facts=facts(content),
        tables=tables(content)[:-1],
        colours=_colours(examples.evaluation),
        shares=(100 * counts / counts.sum(1, keepdims=True).clip(min=1)).tolist(),
        pictures=examples.pictures(),
    )
    lines = ["# Evaluation", "", *(f"* {key}: {word}" for key, word in facts(content).items())]
    for title, header, rows in tables(content):
        lines += ["", f"## {title}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    write_atomic(out / "results.json", json.dumps(content, indent=1) + "\n")
    write_atomic(out / "results.md", "\n".join(lines) + "\n")
    write_atomic(out / "report.html", page)


def _colours(evaluation: Evaluation) -> list[str]:
    """HTML colours of the scored classes: the network's, else the data set's."""
    tables = (evaluation.frames.classes, evaluation.spec.classes)
    colours = {info.name: info.rgb for table in tables for info in table}
    return ["#{:02x}{:02x}{:02x}".format(*colours[name]) for name in evaluation.names]


def _jpeg(rgb: NDArray[np.uint8]) -> str:
    """RGB (h, w, 3) as a small picture within a page."""
    size = (_WIDTH, max(1, round(_WIDTH * rgb.shape[0] / rgb.shape[1])))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_NEAREST)
    data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


class Submission:
    """Writes predictions to labelTrainIds/ in `out`, and a zip of it, as the MUSES server takes it:
    training ids in REC####_frame_######.png.
    """

    def __init__(self, out: Path, num_classes: int) -> None:
        self._folder, self._num_classes = out / FOLDER, num_classes
        self._sizes: dict[str, Size] = {}
        self._folder.mkdir(parents=True, exist_ok=True)

    def add(self, result: FrameResult) -> None:
        """Write one frame's prediction; TrainingError where that fails."""
        name = result.item.record.name
        self._sizes[name] = result.item.frame.size
        path = self._folder / f"{name}.png"
        if not cv2.imwrite(str(path), result.prediction.cpu().numpy()):
            raise TrainingError(f"{path}: cannot be written")

    def gather(self) -> None:
        """Take note of the frames that all processes have written; every one must call it."""
        self._sizes = {name: size for part in gathered(self._sizes) for name, size in part.items()}

    def close(self) -> str:
        """Write the archive, and say what it is; TrainingError lists what makes it invalid."""
        path = self._folder.with_suffix(".zip")
        with atomic_path(path) as part:
            with zipfile.ZipFile(part, "w") as archive:  # PNGs are compressed already
                for file in sorted(self._folder.iterdir()):
                    archive.write(file, f"{FOLDER}/{file.name}")
            if faults := check_submission(part, self._sizes, self._num_classes):
                listed = "; ".join(faults[:5])
                raise TrainingError(f"{path}: not written, {len(faults)} faults: {listed}")
        frames = len(self._sizes)
        whole = "all" if frames == FULL_TEST else f"incomplete: the test set has {FULL_TEST}"
        return f"{path}: checked, {frames} frames ({whole})"


def check_submission(path: Path, sizes: Mapping[str, Size], num_classes: int) -> list[str]:
    """Every fault of a .zip file that has to hold frames of `sizes` (height, width) by name."""
    expected = {f"{FOLDER}/{name}.png": size for name, size in sizes.items()}
    pattern = rf"{FOLDER}/REC\d{{4}}_frame_\d{{6}}\.png"
    with zipfile.ZipFile(path) as archive:
        counts = Counter(archive.namelist())
        data = {name: np.frombuffer(archive.read(name), np.uint8) for name in counts}
    faults = [f"{name} is there {n} times" for name, n in counts.items() if n > 1]
    wrong = [name for name in expected if not re.fullmatch(pattern, name)]
    faults += [f"{name}: expected {FOLDER}/REC####_frame_######.png" for name in wrong]
    faults += [f"{name} is missing" for name in sorted(expected.keys() - data.keys())]
    faults += [f"{name} is no frame of this run" for name in sorted(data.keys() - expected.keys())]
    for name in sorted(expected.keys() & data.keys()):
        size, image = expected[name], cv2.imdecode(data[name], cv2.IMREAD_UNCHANGED)
        if image is None:
            faults.append(f"{name} is no image")
        elif image.dtype != np.uint8 or image.shape != size:
            faults.append(f"{name} is {image.dtype} {image.shape}, expected uint8 {size}")
        elif np.max(image) >= num_classes:
            faults.append(f"{name} has the id {np.max(image)}, expected below {num_classes}")
    return faults
