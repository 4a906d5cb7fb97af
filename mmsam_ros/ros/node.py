# SPDX-License-Identifier: Apache-2.0
"""The node `mmsam`: synchronised sensors in, labelled masks out (`ros2 run mmsam_ros segment`).

Callbacks only store messages; one worker thread decodes, infers and publishes.
"""

import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from mmsam_ros.inference import tune_allocator
from mmsam_ros.ros import parameters as setup
from mmsam_ros.ros.calibration import Extrinsics
from mmsam_ros.ros.candidates import info_candidates, sensor_candidates
from mmsam_ros.ros.diagnostics import Monitor
from mmsam_ros.ros.logs import forwarded
from mmsam_ros.ros.notes import Notes
from mmsam_ros.ros.outputs import Outputs, advertise
from mmsam_ros.ros.preflight import NODE, START_ERRORS
from mmsam_ros.ros.sets import CAMERA, Outcome, SyncedSet
from mmsam_ros.ros.topics import Input, check_names
from mmsam_ros.ros.watch import Watch
from mmsam_ros.ros.worker import Processor, Worker
from mmsam_ros.sensors import made_of_points
from mmsam_ros.weights import default_weights

GRAPH_PERIOD = 0.2  # seconds between looks at who publishes
DIAGNOSTICS_PERIOD = 1.0  # seconds


class SegmentNode(Node):
    """Reads the sensors that the weights read and publishes masks; MmsamError for parameters or
    weights that cannot be used.
    """

    def __init__(self) -> None:
        super().__init__(NODE)
        log = self.get_logger()
        self._inputs: list[Input] = []
        # its time begins here
        self._monitor = Monitor(
            log.warning, inform=log.info, topic=self._topic,
            stamp=lambda: self.get_clock().now().nanoseconds,
        )  # fmt: skip
        parameters = setup.declare_parameters(self)
        with forwarded(log):
            self._segmenter = setup.load_segmenter(parameters)
        spec = self._segmenter.spec
        self._sensors = spec.sensors
        notes = Notes(self.get_logger().info, self.get_logger().warning)
        self._infos = setup.make_camera_infos(parameters, notes)
        names = (CAMERA, "thermal")
        self._infos.topics = {n: self.resolve_topic_name(f"{n}/camera_info") for n in names}
        poses = Extrinsics(self, {s: parameters[f"{s}.extrinsics"] for s in self._sensors})
        builder = setup.make_frame_builder(parameters, spec, self._infos, poses, notes)
        self._views = builder.views
        outputs = Outputs(
            self, spec, threshold=parameters["confidence_threshold"],
            repeat=parameters["repeat_classes"],
        )  # fmt: skip
        self._diagnostics = advertise(self, "/diagnostics")
        self._sync = setup.make_synchroniser(parameters, self._sensors)
        warn = self.get_logger().warning
        self._plausibility = setup.make_plausibility(parameters, spec, self._infos, warn)
        process = Processor(builder, self._segmenter, outputs, self.context.ok, self._plausibility)
        self._worker = Worker(self._sync, process, self._settle)
        self._inputs = self._make_inputs(parameters)
        check_names(self, self._inputs)
        self._watch = self._make_watch(parameters)
        self._facts = self._settings(parameters, poses, outputs)
        self._warn_of_settings(parameters)
        self._worker.start()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # use_sim_time must not stop these
        self.create_timer(GRAPH_PERIOD, self._watch_graph, clock=steady)
        self.create_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=steady)
        self.get_logger().info(f"ready: {', '.join(f'{k} {v}' for k, v in self._facts.items())}")

    def stop(self) -> None:
        """End the worker; sets that wait are counted as dropped."""
        self._worker.stop()

    def _topic(self, stream: str) -> str | None:
        """The topic that a stream is read from now."""
        return next((i.topic for i in self._inputs if i.name == stream), None)

    def _settle(self, synced: SyncedSet, outcome: Outcome) -> None:
        """The one place where a set ends; called by the worker."""
        self._monitor.settled(synced, outcome)
        self._sync.settle(synced, outcome)

    def _settings(
        self, parameters: setup.Parameters, poses: Extrinsics, outputs: Outputs
    ) -> dict[str, Any]:
        """What runs, for log and diagnostics."""
        geometry = self._segmenter.geometry
        return {
            "weights": Path(parameters["weights"] or default_weights()).name,
            "recipe": self._segmenter.spec.provenance.recipe,
            "device": str(self._segmenter.device),
            "precision": parameters["precision"],
            "engine": self._segmenter.engine.name,
            "geometry": f"{geometry.mode} {geometry.size[1]}x{geometry.size[0]}",
            "inputs": "+".join((CAMERA, *self._sensors)),
            "sync_backend": parameters["sync_backend"],
            "image_backend": parameters["image_backend"],
            "extrinsics": poses.source,
            "label_info": "yes" if outputs.has_label_info else "no vision_msgs",
        }

    def _warn_of_settings(self, parameters: setup.Parameters) -> None:
        """Log defaults and overrides that a user may not have meant."""
        segmenter, warn = self._segmenter, self.get_logger().warning
        topic = self.resolve_topic_name("camera/image")
        if not parameters["weights"]:
            warn(
                f"parameter weights is not set: using {default_weights().name}, trained on "
                "synthetic scenes. Evaluation only; do not use on a vehicle"
            )
        if parameters["device"] == "auto" and segmenter.device.type == "cpu":
            warn("parameter device is 'auto' and there is no CUDA device: running on the CPU")
        if segmenter.geometry != segmenter.spec.geometry:
            warn(
                f"geometry is {self._facts['geometry']} by parameter; the weights were trained "
                f"with {segmenter.spec.geometry.mode}"
            )
        if parameters["camera.image"] == "auto" and "rect" in topic.rpartition("/")[2]:
            warn(
                f"parameter camera.image is 'auto', but {topic} looks rectified. If its CameraInfo "
                "still has the distortion of the raw image (as from image_proc), set it to "
                "'rectified'"
            )

    def _make_inputs(self, parameters: setup.Parameters) -> list[Input]:
        """An input for every stream, and for every CameraInfo that is needed."""
        spec, reliability = self._segmenter.spec, parameters["input_reliability"]
        inputs: list[Input] = []
        for sensor in (CAMERA, *self._sensors):
            candidates = sensor_candidates(sensor, parameters, spec, self.resolve_topic_name)
            store = partial(self._store, sensor)
            inputs.append(Input(self, sensor, candidates, reliability, store))
        for name, topic in info_candidates(self._sensors, self._infos.fixed).items():
            update = partial(self._infos.update, name)
            inputs.append(Input(self, f"{name}_info", [topic], reliability, update))
        return inputs

    def _make_watch(self, parameters: setup.Parameters) -> Watch:
        """On the inputs that this configuration needs."""
        points = "lidar" in self._sensors and made_of_points(
            self._segmenter.spec.encodings["lidar"]
        )
        infos = points or parameters["thermal.registration"] == "rotation"
        needed = [i for i in self._inputs if infos or not i.name.endswith("_info")]
        offsets = {sensor: parameters[f"{sensor}.offset"] for sensor in self._sensors}
        log = self.get_logger()
        return Watch(needed, self._sync.unmatched, offsets, log.warning, log.info)

    def _watch_graph(self) -> None:
        """Follow publishers; a sensor that nobody publishes is not waited for."""
        for stream in self._inputs:
            published = stream.update()
            if stream.name in self._sensors:
                self._sync.expect(stream.name, published)
        self._worker.wake()

    def _store(self, stream: str, message: Any) -> None:
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        self._worker.feed(stream, stamp_ns, message, time.monotonic())

    def _publish_diagnostics(self) -> None:
        self._watch.look()
        self._monitor.report()
        facts = self._facts | {f"topic.{i.name}": i.topic or "none published" for i in self._inputs}
        for sensor, ahead in self._sync.unmatched().items():
            facts[f"stamps_ahead.{sensor}"] = f"{ahead:.2f} s"
        facts |= {f"view.{sensor}": text for sensor, text in self._views.copy().items()}
        name = f"{self.get_fully_qualified_name()}: segmentation"
        found = self._plausibility.findings
        status = self._monitor.status(name, self._sync.counts(), facts, found)
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def run(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop; 2 if it cannot start."""
    tune_allocator()
    node: SegmentNode | None = None
    begun = False
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # see main.py
        rclpy.init(args=list(args) if args is not None else None)
        begun = True
        node = SegmentNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except START_ERRORS as error:
        if node is None and (rclpy.ok() or not begun):  # else told to stop while it started
            rclpy.logging.get_logger(NODE).fatal(f"cannot start: {error}")
            return 2
        if rclpy.ok():  # else a callback met the end of the context
            raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut the closing
        if node is not None:
            node.stop()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
