# SPDX-License-Identifier: Apache-2.0
"""What an evaluation leaves: results.json, results.md and report.html, which needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray
from torch import Tensor

from mmsam_ros.data.check import count_notes
from mmsam_ros.data.open import find_benchmark
from mmsam_ros.inference.draw import colorise
from mmsam_ros.sensors import palette
from mmsam_ros.training.evaluate import Evaluation, FrameResult, published_geometry
from mmsam_ros.training.metrics import ALL, Scores, SubsetMatrices
from mmsam_ros.training.run import environment
from mmsam_ros.weights import file_sha256

_WIDTH = 320  # of a picture, in pixels
Table = tuple[str, list[str], list[list[str]]]  # title, header, rows


@dataclass(frozen=True, eq=False)
class Examples:
    """Every frame's mIoU over its present classes, and the `count` worst and best frames."""

    evaluation: Evaluation
    count: int = 3
    miou: dict[str, float] = dataclasses.field(default_factory=dict)
    _kept: list[tuple[float, FrameResult]] = dataclasses.field(default_factory=list)

    def add(self, result: FrameResult) -> None:
        """Take note of a frame; one without a labelled pixel has no score."""
        if result.matrix is None or not result.matrix.any():
            return
        names = [info.name for info in self.evaluation.spec.classes]
        value = Scores.of(result.matrix, 1, names).miou_present
        self.miou[result.item.record.name] = value
        self._kept.append((value, result))
        self._kept.sort(key=lambda kept: kept[0])
        del self._kept[self.count : -self.count]

    def pictures(self) -> dict[str, list[tuple[str, float, list[tuple[str, str]]]]]:
        """Name, mIoU and captioned images of the worst and the best frames."""
        shown = [(r.item.record.name, value, self._images(r)) for value, r in self._kept]
        half = (len(shown) + 1) // 2
        return {"worst": shown[:half], "best": shown[: half - 1 : -1] if half else []}

    def _images(self, result: FrameResult) -> list[tuple[str, str]]:
        sample = self.evaluation.frames.sample(result.item)
        colours = palette(self.evaluation.spec.classes)
        images = [("camera", _jpeg(_visible(sample["rgb"])))]
        images += [(name, _jpeg(_visible(image))) for name, image in sample["planes"].items()]
        for name, labels in (("truth", sample["label"]), ("prediction", result.prediction)):
            images.append((name, _jpeg(colorise(labels.cpu().numpy(), colours))))
        return images


def results(evaluation: Evaluation, matrices: SubsetMatrices, examples: Examples) -> dict[str, Any]:
    """All that is known of an evaluation, as plain values; results.json holds it.

    Published numbers stand beside it where data set, split and sensors are theirs, and all of their
    frames were evaluated as published; else `notes` say what differs.
    """
    config, spec, frames = evaluation.config, evaluation.spec, evaluation.frames
    published = config.geometry == "published"
    geometry = published_geometry(spec, frames.dataset) if published else spec.geometry
    names = [info.name for info in spec.classes]
    scores = matrices.scores(names) if evaluation.labelled else {}
    rows = find_benchmark(frames.dataset).published_rows(frames.split, spec.sensors)
    notes = _departures(evaluation) if rows else []
    return {
        "config": dataclasses.asdict(config) | {"dataset": frames.dataset},
        "weights_sha256": file_sha256(config.weights),
        "geometry": dataclasses.asdict(geometry),
        "device": str(evaluation.segmenter.device),
        "count": len(frames),
        "classes": names,
        "scores": {name: score.to_dict() for name, score in scores.items()},
        "confusion": matrices.matrix(ALL).tolist(),
        "frames": examples.miou,
        "published": [] if notes else [dataclasses.asdict(row) for row in rows],
        "notes": notes,
        "environment": environment(1),
    }


def _departures(evaluation: Evaluation) -> list[str]:
    """What keeps an evaluation from standing beside the published numbers."""
    config, frames = evaluation.config, evaluation.frames
    if config.geometry != "published" or config.drop or config.corrupt or config.limit:
        return ["not evaluated as published: no published numbers beside it"]
    size = evaluation.spec.config.image_size
    expected = find_benchmark(frames.dataset).network_size
    notes = count_notes(frames)
    if size != expected:
        notes.append(f"the network's size is {size}, published is {expected}")
    return [f"{note}: no published numbers beside it" for note in notes]


def facts(content: dict[str, Any]) -> dict[str, str]:
    """What was evaluated and how, in words."""
    config, geometry = content["config"], content["geometry"]
    words = {
        "weights": f"{config['weights']} (sha256 {content['weights_sha256']})",
        "data": f"{config['dataset']} {config['split']}, {content['count']} frames",
        "geometry": f"{config['geometry']}: {geometry['mode']}, (height, width) {geometry['size']}",
        "dropped": ", ".join(config["drop"]),
        "degraded": ", ".join(config["corrupt"]),
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
    found = [
        ("Scores", header, [
            [name, str(s["frames"]), *(f"{s[key]:.2f}" for key in keys), ", ".join(s["absent"])]
            for name, s in scores.items()
        ])
    ]  # fmt: skip
    if published := content["published"]:
        subsets = [name for name in scores if any(name in row["miou"] for row in published)]
        rows = [(row["method"], row["table"], row["miou"]) for row in published]
        rows.append(("this run", "", {name: s["miou"] for name, s in scores.items()}))
        found.append(
            ("Published, mIoU (absent = 0)", ["method", "source", *subsets], [
                [method, table, *(f"{miou[s]:.2f}" if s in miou else "" for s in subsets)]
                for method, table, miou in rows
            ])
        )  # fmt: skip
    iou = [[n, "absent" if x is None else f"{x:.2f}"] for n, x in scores[ALL]["iou"].items()]
    return [*found, ("Classes", ["class", "IoU"], iou)]


def write_report(out: Path, content: dict[str, Any], examples: Examples) -> None:
    """Write results.json, results.md and report.html into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(_markdown(content), encoding="utf-8")
    template = files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    counts = np.array(content["confusion"], float)
    html = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    page = html.render(
        content=content,
        facts=facts(content),
        tables=tables(content)[:-1],
        colours=["#{:02x}{:02x}{:02x}".format(*c.rgb) for c in examples.evaluation.spec.classes],
        shares=(100 * counts / counts.sum(1, keepdims=True).clip(min=1)).tolist(),
        pictures=examples.pictures(),
    )
    (out / "report.html").write_text(page, encoding="utf-8")


def _markdown(content: dict[str, Any]) -> str:
    lines = ["# Evaluation", "", *(f"* {key}: {word}" for key, word in facts(content).items())]
    for title, header, rows in tables(content):
        lines += ["", f"## {title}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) + "\n"


def _visible(image: Tensor) -> NDArray[np.uint8]:
    """Raw values (1 or 3, h, w) as (h, w, 3); what is not of bytes is stretched to them."""
    planes = image.permute(1, 2, 0).numpy()
    if planes.dtype != np.uint8:
        planes = np.rint(np.interp(planes, (planes.min(), planes.max()), (0, 255))).astype(np.uint8)
    return np.broadcast_to(planes, (*planes.shape[:2], 3))


def _jpeg(rgb: NDArray[np.uint8]) -> str:
    """RGB (h, w, 3) as a small picture within a page."""
    size = (_WIDTH, max(1, round(_WIDTH * rgb.shape[0] / rgb.shape[1])))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_NEAREST)
    data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
