# SPDX-License-Identifier: Apache-2.0
"""The report of a labelled recording, as JSON and as a page that needs no other file."""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.inference.draw import overlay
from mmsam_ros.ros.labelling import Labelled, Labelling
from mmsam_ros.ros.parameters import weights_path
from mmsam_ros.ros.sets import OWN_FAILURES
from mmsam_ros.sensors import CAMERA, NO_LABEL, palette

_PICTURES, _WIDTH = 6, 640  # on the page, and pixels of each
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; color: #222;
  padding: 0 1rem }
table { border-collapse: collapse; margin: .6rem 0 }
td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top }
td { font-variant-numeric: tabular-nums }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem }
figure { margin: 0 }
img { width: 100%; border-radius: 4px }
.swatch { display: inline-block; width: .9em; height: .9em; border-radius: 2px; margin-right: .4em }
"""


class Report:
    """Counts the sets that `Labelling.run` gives.

    Attributes:
        masks: Frames that were labelled.
        refusals: The first text of each kind of refusal so far.
        faults: Parts of the recording that could not be read, and frames that are not labelled for
            a reason outside the data (`OWN_FAILURES`); known after `finish`.
    """

    def __init__(
        self, bag: Path, out: Path, labelling: Labelling, given: Mapping[str, Any]
    ) -> None:
        self._labelling, self._spec = labelling, labelling.builder.spec
        self.masks, self.faults = 0, list[str]()
        self._pixels = np.zeros(256, np.int64)
        self._fused: Counter[str] = Counter()
        self._first_text: dict[str, str] = {}  # of each kind of refusal
        self._findings: dict[str, dict[str, Any]] = {}
        self._pictures: list[tuple[int, bytes]] = []  # stamp and JPEG
        self._every = max(1, -(-labelling.feed.camera.msgcount // _PICTURES))
        inputs = labelling.feed.inputs
        self._content: dict[str, Any] = {
            "recording": str(bag),
            "labelled": str(out),
            "weights": weights_path(labelling.parameters).name,
            "recipe": self._spec.provenance.recipe,
            "parameters": dict(given),
            "topics": {name: c.topic for name, c in (*inputs.streams.items(),
                                                     *((f"{n}_info", c)
                                                       for n, c in inputs.infos.items()))},
        }  # fmt: skip

    def add(self, ended: Labelled) -> None:
        """Count a set."""
        stamp = ended.synced.camera.stamp_ns
        for refusal in ended.outcome.refusals:
            self._first_text.setdefault(f"{refusal.sensor}: {refusal.reason}", refusal.text)
        for subject, text in self._labelling.plausibility.findings.items():
            found = self._findings.setdefault(subject, {"frames": 0, "first_stamp": stamp})
            found |= {"frames": found["frames"] + 1, "text": text}
        if ended.result is None or ended.frame is None:
            return
        if self.masks % self._every == 0:
            self._pictures.append((stamp, self._picture(ended.frame.rgb, ended.result.labels)))
        self.masks += 1
        self._fused["+".join((CAMERA, *ended.result.present))] += 1
        self._pixels += np.bincount(ended.result.labels.ravel(), minlength=256)

    def finish(self, lines: Sequence[str]) -> None:
        """Sum up; `lines` are those of the log."""
        feed = self._labelling.feed
        counts = feed.sync.counts()
        broken = (f"{topic}: {n} messages cannot be read" for topic, n in feed.broken.items())
        own = (f"{n} frames are not labelled ({reason}), through no fault in the data"
               for reason in OWN_FAILURES
               if (n := counts[CAMERA].get(f"refused:{reason}")))  # fmt: skip
        self.faults = [*feed.reader.faults, *broken, *own]
        names = {info.id: info.name for info in self._spec.classes} | {NO_LABEL: "no label"}
        total = max(1, int(self._pixels.sum()))
        present = np.flatnonzero(self._pixels).tolist()
        camera = counts[CAMERA]
        lost = {key: n for key, n in camera.items() if ":" in key or key == "late" if n}
        self._content |= {
            "frames": {
                "expected": feed.camera.msgcount,
                "labelled": self.masks,
                "not labelled": lost,
                "unreadable": feed.broken[feed.camera.topic],
                "unexplained": feed.camera.msgcount - feed.broken[feed.camera.topic]
                - feed.reader.repeated - self.masks - sum(lost.values()),
            },
            "sensors": {s: {k: n for k, n in tally.items() if n and k != "waiting"}
                        for s, tally in counts.items() if s != CAMERA},
            "fused": dict(self._fused.most_common()),
            "refusals": self.refusals,
            "implausible": self._findings,
            "classes": {names.get(i, str(i)): round(100 * self._pixels[i] / total, 3)
                        for i in present},
            "faults": self.faults,
            "log": list(lines),
        }  # fmt: skip

    @property
    def refusals(self) -> dict[str, str]:
        return self._labelling.feed.refusals | self._first_text

    def reasons(self) -> str:
        """Why frames were not labelled, in short."""
        reasons = [*self.faults, *(f"{kind}: {text}" for kind, text in self.refusals.items())]
        return "; ".join(reasons) or "no image"

    def summary(self) -> str:
        """One line."""
        frames = self._content["frames"]
        lost = ", ".join(f"{n} {why}" for why, n in frames["not labelled"].items())
        fused = ", ".join(f"{n} {names}" for names, n in self._fused.most_common())
        return (f"{self.masks} of {frames['expected']} frames labelled ({fused})"
                + (f"; {lost}" if lost else ""))  # fmt: skip

    def json(self) -> str:
        """The report for scripts."""
        return json.dumps(self._content, indent=1) + "\n"

    def html(self) -> str:
        """The report as a page."""
        content = self._content
        tables = {
            "Frames": {**content["frames"], **content["frames"]["not labelled"]},
            **{f"Messages: {sensor}": tally for sensor, tally in content["sensors"].items()},
            "Sensors in the masks": content["fused"],
            "Left out, first time": content["refusals"],
            "Implausible": {s: f"{f['frames']} frames: {f['text']}"
                            for s, f in content["implausible"].items()},
            "Topics": content["topics"],
            "Parameters": content["parameters"],
        }  # fmt: skip
        tables["Frames"].pop("not labelled")
        facts = {k: content[k] for k in ("recording", "labelled", "weights", "recipe")}
        log = [*content["faults"], *content["log"]]
        body = [
            "<h1>Labelled recording</h1>", _table(facts),
            '<div class="pictures">', *map(_figure, self._pictures), "</div>",
            "<h2>Classes, % of all pixels</h2>", self._classes(),
            *(f"<h2>{escape(title)}</h2>{_table(rows)}" for title, rows in tables.items() if rows),
            *(["<h2>Log</h2>", _list(log)] if log else []),
        ]  # fmt: skip
        return (
            '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
            f"<title>Labelled recording</title><style>{_STYLE}</style>\n" + "\n".join(body)
        )

    def _classes(self) -> str:
        colours = {info.name: info.rgb for info in self._spec.classes}
        shares = sorted(self._content["classes"].items(), key=lambda item: -item[1])
        rows = (
            f'<tr><td><span class="swatch" style="background: rgb{colours.get(name, (0, 0, 0))}">'
            f"</span>{escape(name)}</td><td>{share:.2f}</td></tr>"
            for name, share in shares
        )
        return f"<table>{''.join(rows)}</table>"

    def _picture(self, rgb: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
        picture = overlay(rgb, labels, palette(self._spec.classes))
        height, width = picture.shape[:2]
        size = (_WIDTH, max(1, round(height * _WIDTH / width)))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        return bytes(cv2.imencode(".jpg", small[..., ::-1])[1].tobytes())


def _figure(picture: tuple[int, bytes]) -> str:
    stamp, jpeg = picture
    data = base64.b64encode(jpeg).decode()
    return (
        f'<figure><img alt="mask over the camera image" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{stamp // 10**9}.{stamp % 10**9:09d} s</figcaption></figure>"
    )


def _table(rows: Mapping[str, Any]) -> str:
    cells = (f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
    return f"<table>{''.join(cells)}</table>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
