# SPDX-License-Identifier: Apache-2.0
"""What configure builds from the parameters and cleanup frees: from the inputs to the outputs.

Callbacks only store messages; one worker thread decodes, infers and publishes.
"""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from mmsam_ros._util import cuda_seen
from mmsam_ros.inference import Result, Segmenter
from mmsam_ros.ros import parameters as setup
from mmsam_ros.ros.calibration import Extrinsics, nanoseconds
from mmsam_ros.ros.candidates import info_candidates, sensor_candidates
from mmsam_ros.ros.diagnostics import Monitor
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.intake import Intake
from mmsam_ros.ros.interface import INPUTS
from mmsam_ros.ros.logs import forwarded
from mmsam_ros.ros.notes import Notes
from mmsam_ros.ros.outputs import Outputs
from mmsam_ros.ros.plausibility import check_mode
from mmsam_ros.ros.sets import CAMERA, ENGINE, Outcome, SyncedSet
from mmsam_ros.ros.snapshot import Recorder
from mmsam_ros.ros.timings import Timings
from mmsam_ros.ros.topics import Input, check_names
from mmsam_ros.ros.watch import Watch
from mmsam_ros.ros.worker import PATIENCE, FullMemory, Pace, Processor, Worker
from mmsam_ros.sensors import Frame, made_of_points
from mmsam_ros.weights import default_weights


class Pipeline:
    """Reads the sensors that the weights read and publishes masks, from `start` to `stop`.

    `parameters` is the pipeline's own copy: live ones change in it, which is enough for code that
    reads them at every use; `apply` takes over the others. MmsamError for parameters or
    weights that cannot be used.
    """

    def __init__(
        self, node: Node, parameters: Mapping[str, Any],
        load: Callable[[Mapping[str, Any], Callable[[str], Any]], Segmenter],
    ) -> None:  # fmt: skip
        self._node, self.parameters = node, dict(parameters)
        log, given = node.get_logger(), self.parameters
        self.inputs: list[Input] = []
        self.fault = ""  # why this process makes no masks any more; a new one may
        self.monitor = Monitor(
            log.warning, inform=log.info, topic=self._topic,
            stamp=lambda: node.get_clock().now().nanoseconds,
        )  # fmt: skip
        setup.check_together(given)
        with forwarded(log):
            self.segmenter = load(given, log.warning)
        spec = self.segmenter.spec
        self.sensors = spec.sensors
        notes = Notes(node.get_logger().info, node.get_logger().warning)
        self._infos = setup.make_camera_infos(given, notes)
        names = (CAMERA, "thermal")
        self._infos.topics = {n: node.resolve_topic_name(f"{n}/camera_info") for n in names}
        poses = Extrinsics(node, {s: given.get(f"{s}.extrinsics") for s in self.sensors})
        builder = setup.make_frame_builder(given, spec, self._infos, poses, notes)
        self._views, self._motion = builder.views, builder.motion
        self._outputs = Outputs(
            node, spec, threshold=given["confidence_threshold"],
            opacity=given["overlay_opacity"], repeat=given["repeat_classes"],
        )  # fmt: skip
        self._timings = Timings(node)
        self.recorder = Recorder(given, self._infos)
        self.sync = setup.make_synchroniser(given, self.sensors)
        warn = node.get_logger().warning
        self.plausibility = setup.make_plausibility(given, spec, self._infos, warn)
        self._sending = threading.Lock()
        self._process = Processor(
            builder, self.segmenter, self._outputs, node.context.ok, self._is_wanted,
            self._sending, self.plausibility, self._made,
        )  # fmt: skip
        self._offsets: dict[str, float] = {}  # by sensor, as the parameters are now
        self._intake = Intake(lambda: node.get_clock().now().nanoseconds, notes, self._offsets)
        self.inputs = self._make_inputs()
        check_names(node, self.inputs)
        self._worker: Worker | None = None
        self._pace = Pace()  # of all workers
        self._memory = FullMemory()
        self._watch: Watch | None = None
        self.settings = self._describe(poses)
        self._warn_of_settings()
        self.apply()

    @property
    def running(self) -> bool:
        """Whether sensors are read."""
        return self._worker is not None

    @property
    def optional(self) -> set[str]:
        """Inputs that are read if they are published, but that masks do not need."""
        points = "lidar" in self.sensors and made_of_points(self.segmenter.spec.encodings["lidar"])
        rotated = self.parameters["thermal.registration"] == "rotation"
        needed = {"camera_info": points or rotated, "thermal_info": rotated}
        return {name for name, is_needed in needed.items() if not is_needed}

    def start(self) -> None:
        """Subscribe, and make masks of what comes."""
        self._watch, self._memory = self._make_watch(), FullMemory()
        self._worker = Worker(self.sync, self._process, self._settle, self._pace)
        self._worker.start()
        self.watch_graph()

    def stop(self, patience: float | None = None) -> None:
        """Unsubscribe, and end the worker; sets that wait are counted as dropped. The present frame
        has `patience` seconds, see `Worker.stop`; what it gives later is not published.
        """
        try:
            for stream in self.inputs:
                stream.close()
        finally:
            if self._worker is not None:
                self._worker.stop(patience)
            # no output is sent after this, unless one hangs
            sent = self._sending.acquire(timeout=PATIENCE)
            self._worker = self._watch = None
            if sent:
                self._sending.release()

    def _is_wanted(self) -> bool:
        """Whether the calling thread is the current worker, not one that was stopped."""
        return self._worker is threading.current_thread()

    def check(self, parameters: Mapping[str, Any]) -> None:
        """RosError unless these values, of which some live ones are new, can be applied."""
        setup.check_together(parameters)
        check_mode(self.segmenter.spec, parameters["plausibility"])
        config = setup.sync_config(parameters, self.sensors)
        stock = parameters["sync_backend"] == "message_filters"
        if stock and config != setup.sync_config(self.parameters, self.sensors):
            raise RosError("with sync_backend 'message_filters', matching needs a new configure")

    def apply(self) -> None:
        """Take over live parameters that are not read at every use."""
        self.sync.update(setup.sync_config(self.parameters, self.sensors))
        self.plausibility.mode = self.parameters["plausibility"]
        self._outputs.set_threshold(self.parameters["confidence_threshold"])
        self._outputs.opacity = self.parameters["overlay_opacity"]
        self._offsets |= {s: self.parameters[f"{s}.offset"] for s in self.sensors}

    def watch_graph(self) -> None:
        """Follow publishers; a sensor that nobody publishes is not waited for."""
        if self._worker is None:
            return
        if taken := self._worker.stuck:
            self.fault = f"a frame has not ended for {taken:.0f} s"
        if self._worker.died:
            self.fault = "the thread that makes the masks has ended, see its traceback"
        for stream in self.inputs:
            published = stream.update()
            if stream.name in self.sensors:
                self.sync.expect(stream.name, published)
        self._worker.wake()

    def report(self) -> None:
        """Log what is to be said about once a second."""
        if self._watch is not None:
            self._watch.look()
            self.monitor.report()

    def facts(self) -> dict[str, Any]:
        """What runs, for diagnostics."""
        topics = {f"topic.{i.name}": i.topic or "none published" for i in self.inputs}
        ahead = {f"stamps_ahead.{s}": f"{t:.2f} s" for s, t in self.sync.unmatched().items()}
        views = {f"view.{sensor}": text for sensor, text in self._views.copy().items()}
        motion = {} if self._motion is None else {"lidar.motion": self._motion.state}
        return (
            self.settings | {"engine": self.segmenter.engine.name} | topics | ahead | views | motion
        )

    def _topic(self, stream: str) -> str | None:
        """The topic that a stream is read from now."""
        return next((i.topic for i in self.inputs if i.name == stream), None)

    def _made(
        self, synced: SyncedSet, frame: Frame, result: Result, took: Mapping[str, float]
    ) -> None:
        """Take note of a published mask; called by the worker."""
        self._timings.publish(synced, took)
        self.recorder.keep(synced, frame, result)

    def _settle(self, synced: SyncedSet, outcome: Outcome) -> None:
        """The one place where a set ends; called by the worker."""
        self.recorder.settled(synced, outcome)
        self.monitor.settled(synced, outcome)
        self.sync.settle(synced, outcome)
        self._log_ends()
        if outcome.reason == ENGINE:
            self.fault = outcome.text
        elif full := self._memory.fault(outcome, time.monotonic()):
            self.fault = full

    def _store(self, stream: str, message: Any) -> None:
        if self._worker is None:
            return
        stamp_ns = nanoseconds(message.header.stamp)
        now = time.monotonic()
        refusal = self._intake.refusal(stream, stamp_ns, message.header.frame_id, now)
        if refusal is None:
            self._worker.feed(stream, stamp_ns, message, now)
        else:
            self.sync.refuse(stream, stamp_ns, refusal.reason)
            self.monitor.refused(refusal)
        self._log_ends()

    def _log_ends(self) -> None:
        """Log what has become of each camera image, for debugging (--log-level debug)."""
        for stamp_ns, end in self.sync.ended():
            self._node.get_logger().debug(f"camera {stamp_ns}: {end}")

    def _describe(self, poses: Extrinsics) -> dict[str, Any]:
        """What runs, for log and diagnostics."""
        geometry, given = self.segmenter.geometry, self.parameters
        return {
            "weights": Path(given["weights"] or default_weights()).name,
            "recipe": self.segmenter.spec.provenance.recipe,
            "device": str(self.segmenter.device),
            "precision": given["precision"],
            "engine": self.segmenter.engine.name,
            "geometry": f"{geometry.mode} {geometry.size[1]}x{geometry.size[0]}",
            "inputs": "+".join((CAMERA, *self.sensors)),
            "sync_backend": given["sync_backend"],
            "image_backend": given["image_backend"],
            "extrinsics": poses.source,
            "label_info": "yes" if self._outputs.has_label_info else "no vision_msgs",
        }

    def _warn_of_settings(self) -> None:
        """Log defaults and overrides that a user may not have meant."""
        segmenter, warn = self.segmenter, self._node.get_logger().warning
        topic = self._node.resolve_topic_name("camera/image")
        if not self.parameters["weights"]:
            warn(
                f"parameter weights is not set: using the package's {default_weights().name}, see "
                "its model card. Evaluation only; do not use on a vehicle"
            )
        if self.parameters["device"] == "auto" and segmenter.device.type == "cpu":
            warn(f"parameter device is 'auto' and {cuda_seen()}: running on the CPU")
        if segmenter.geometry != segmenter.spec.geometry:
            warn(
                f"geometry is {self.settings['geometry']} by parameter; the weights were trained "
                f"with {segmenter.spec.geometry.mode}"
            )
        registration = self.parameters["thermal.registration"]
        if self.parameters["thermal.extrinsics"] and registration != "rotation":
            self._node.get_logger().info(
                f"thermal.extrinsics is not used with thermal.registration {registration!r}"
            )
        if self.parameters["camera.image"] == "auto" and "rect" in topic.rpartition("/")[2]:
            warn(
                f"parameter camera.image is 'auto', but {topic} looks rectified. If its CameraInfo "
                "still has the distortion of the raw image (as from image_proc), set it to "
                "'rectified'"
            )

    def _make_inputs(self) -> list[Input]:
        """An input for every stream, and for every CameraInfo that is needed."""
        node, spec, inputs = self._node, self.segmenter.spec, list[Input]()
        reliability, resolve = self.parameters["input_reliability"], self._node.resolve_topic_name
        for sensor in (CAMERA, *self.sensors):
            candidates = sensor_candidates(sensor, self.parameters, spec, resolve)
            store = partial(self._store, sensor)
            inputs.append(Input(node, sensor, candidates, reliability, store))
        for name, topic in info_candidates(self.sensors, self._infos.fixed).items():
            update = partial(self._infos.update, name)
            inputs.append(Input(node, f"{name}_info", [topic], reliability, update))
        if self._motion is not None and self._motion.by == "twist":
            twists = [topic for topic in INPUTS if topic.name == "vehicle/twist"]
            inputs.append(Input(node, "twist", twists, reliability, self._motion.update))
        return inputs

    def _make_watch(self) -> Watch:
        """A watch on the inputs that this configuration needs."""
        needed = [stream for stream in self.inputs if stream.name not in self.optional]
        log, clock = self._node.get_logger(), self._node.get_clock()
        return Watch(
            needed, self.sync.unmatched, self._offsets, log.warning, log.info,
            ros_time=lambda: clock.now().nanoseconds,
        )  # fmt: skip


class Entities:
    """The publishers, subscriptions, timers, services and clients that a node gets from now on,
    except the one for /clock, which rclpy makes when `use_sim_time` is set.
    """

    KINDS = ("publisher", "subscription", "timer", "service", "client")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._before = {kind: set(getattr(node, f"{kind}s")) for kind in self.KINDS}

    def destroy(self) -> None:
        """Destroy them."""
        for kind, before in self._before.items():
            for entity in [e for e in getattr(self._node, f"{kind}s") if e not in before]:
                if getattr(entity, "msg_type", None) is not Clock:
                    getattr(self._node, f"destroy_{kind}")(entity)
