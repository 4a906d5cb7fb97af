# SPDX-License-Identifier: Apache-2.0
"""The node `mmsam`: synchronised sensors in, labelled masks out (`ros2 run mmsam_ros segment`).

Callbacks only store; one worker thread decodes, infers and publishes.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from mmsam_ros.inference import InferenceError, Result, Segmenter, tune_allocator
from mmsam_ros.ros.camera_info import camera_model_from_parameters
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.extrinsics import Extrinsics
from mmsam_ros.ros.frames import CameraInfos, FrameBuilder, ThermalAlignment, opencv_homography
from mmsam_ros.ros.images import cv_bridge_reader, read_pixels
from mmsam_ros.ros.inputs import Candidate, Input
from mmsam_ros.ros.outputs import Outputs
from mmsam_ros.ros.parameters import NetworkParameters, NodeParameters, ParameterReader
from mmsam_ros.ros.statistics import Statistics, diagnose
from mmsam_ros.ros.stock_sync import StockSynchroniser
from mmsam_ros.ros.sync import CAMERA, SyncedSet, Synchroniser
from mmsam_ros.ros.worker import Worker
from mmsam_ros.sensors import Frame, SensorError, made_of_points
from mmsam_ros.weights import Geometry, WeightsError, default_weights, load_model

NODE = "mmsam"
RCLError = rclpy_implementation.RCLError
GRAPH_PERIOD = 0.2  # seconds between looks at who publishes
DIAGNOSTICS_PERIOD = 1.0
LOG_PERIOD = 5.0  # seconds between two lines about the same stream and reason

# What a user can mend; the node says it in one line and does not start.
StartErrors = (
    RosError,
    WeightsError,
    SensorError,
    InferenceError,
    InvalidParameterTypeException,
    InvalidParameterValueException,
)


class SegmentNode(Node):
    """Reads camera, LiDAR, thermal and what else the weights name; publishes masks.

    Raises:
        RosError, WeightsError, InferenceError: parameters or weights that cannot be run.
    """

    def __init__(self) -> None:
        super().__init__(NODE)
        reader = ParameterReader(self)
        network, parameters = reader.network(), reader.node()
        self._segmenter = load_segmenter(network)
        spec = self._segmenter.spec
        self._facts = self._describe(network, parameters)
        self._statistics = Statistics()
        self._refusals: dict[str, tuple[float, str]] = {}
        self._failures = 0  # frames in a row that a defect has cost
        self._log_times: dict[tuple[str, str], float] = {}
        self._infos = CameraInfos(parameters.rectified)
        for name, values in parameters.infos.items():
            rectified = parameters.rectified if name == CAMERA else None
            self._infos.fix(name, camera_model_from_parameters(values, name, rectified))
        poses = Extrinsics(self, parameters.extrinsics)
        self._facts["extrinsics"] = poses.source
        self._builder = FrameBuilder(
            spec, self._infos, poses, _alignment(parameters), _reader(parameters)
        )
        self._outputs = Outputs(self, spec)
        self._facts["label_info"] = "yes" if self._outputs.has_label_info else "no vision_msgs"
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._sync = _synchroniser(parameters, spec.sensors)
        self._worker = Worker(self._sync, self._process, self._drop)
        self._inputs = self._make_inputs(parameters)
        self._worker.start()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # use_sim_time must not stop these
        self.create_timer(GRAPH_PERIOD, self._watch_graph, clock=steady)
        self.create_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=steady)
        self.get_logger().info(f"ready: {', '.join(f'{k} {v}' for k, v in self._facts.items())}")

    def stop(self) -> None:
        """End the worker; what still waits is counted as dropped."""
        self._worker.stop()
        for synced in self._sync.flush(time.monotonic()):
            self._sync.settle(synced, "dropped", "shutdown")

    def _describe(self, network: NetworkParameters, parameters: NodeParameters) -> dict[str, Any]:
        """Settings for the log and diagnostics; what is not the default or falls back is logged."""
        segmenter = self._segmenter
        geometry = segmenter.geometry
        size = f"{geometry.size[0]}x{geometry.size[1]}"
        if geometry != segmenter.spec.geometry:
            self.get_logger().warning(
                f"geometry is {geometry.mode} to {size}, the weights were made for "
                f"{segmenter.spec.geometry.mode}"
            )
        if not network.weights:
            self.get_logger().warning(
                f"weights: none named, taking {default_weights().name}, which was trained on "
                "synthetic scenes: for trying, not for a road"
            )
        if network.device == "auto" and segmenter.device.type == "cpu":
            self.get_logger().warning("device auto: no CUDA device found, running on the CPU")
        return {
            "weights": Path(network.weights or default_weights()).name,
            "recipe": segmenter.spec.provenance.recipe,
            "device": str(segmenter.device),
            "precision": network.precision,
            "geometry": f"{geometry.mode} {size}",
            "inputs": "+".join((CAMERA, *segmenter.spec.sensors)),
            "sync_backend": parameters.sync_backend,
            "image_backend": parameters.image_backend,
        }

    def _make_inputs(self, parameters: NodeParameters) -> list[Input]:
        def images(topic: str, name: str) -> list[Candidate]:
            compressed = f"{self.resolve_topic_name(topic)}/compressed"
            both = {
                "raw": Candidate(topic, Image),
                "compressed": Candidate(compressed, CompressedImage),
            }
            transport = parameters.transports[name]
            return list(both.values()) if transport == "auto" else [both[transport]]

        def make(
            stream: str, candidates: list[Candidate], callback: Callable[[Any], None]
        ) -> Input:
            return Input(self, stream, candidates, parameters.reliability, callback)

        topic = self.resolve_topic_name("camera/image")
        if parameters.rectified is None and "rect" in topic.rpartition("/")[2]:
            self.get_logger().warning(
                f"camera.image auto: {topic} sounds rectified; where its CameraInfo still has the "
                "raw image's distortion, as image_proc leaves it, set camera.image: rectified"
            )
        inputs = [make(CAMERA, images("camera/image", CAMERA), partial(self._store, CAMERA))]
        spec = self._segmenter.spec
        for source in spec.sensors:
            candidates = images(f"{source}/image", source)
            if source == "lidar":
                # weights that read another raster than points make prefer that, if it is there
                points = Candidate("lidar/points", PointCloud2)
                candidates.insert(
                    0 if made_of_points(spec.encodings[source]) else len(candidates), points
                )
            inputs.append(make(source, candidates, partial(self._store, source)))
        wanted = {"camera"} | ({"thermal"} if parameters.registration == "rotation" else set())
        for name in sorted(wanted - set(parameters.infos)):
            update = partial(self._infos.update, name)
            info = Candidate(f"{name}/camera_info", CameraInfo)
            inputs.append(make(f"{name}_info", [info], update))
        return inputs

    def _watch_graph(self) -> None:
        """Follow publishers as they come and go; a sensor that nobody publishes is not awaited."""
        for stream in self._inputs:
            published = stream.update()
            if stream.stream in self._segmenter.spec.sensors:
                self._sync.expect(stream.stream, published)
        self._worker.wake()

    def _store(self, stream: str, message: Any) -> None:
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        self._worker.feed(stream, stamp_ns, message, time.monotonic())

    def _drop(self, synced: SyncedSet, reason: str) -> None:
        self._sync.settle(synced, "dropped", reason)

    def _process(self, synced: SyncedSet) -> None:
        """Decode, infer, publish, settle: the worker's thread. Never raises."""
        full = False
        try:
            frame, refused = self._builder.build(synced, self._refuse)
            result = self._segment(frame, refused)
            self._outputs.publish(synced.camera.message.header, frame.rgb, result)
        except (RosError, SensorError, InferenceError) as error:
            reason = getattr(error, "reason", "invalid")
            self._refuse(CAMERA, RosError(str(error), reason))
            self._sync.settle(synced, "refused", reason)
        except torch.OutOfMemoryError as error:
            self._failures += 1
            full = True
            text = str(error).partition("\n")[0]
            self._refuse(CAMERA, RosError(text, "out_of_memory"))
            self._sync.settle(synced, "refused", "out_of_memory")
        except Exception as error:  # the last barrier: a bug costs one frame, not the node
            if not self.context.ok():
                self._drop(synced, "shutdown")
                return
            self._failures += 1
            self._refuse(CAMERA, RosError(traceback.format_exc(), f"defect {type(error).__name__}"))
            self._sync.settle(synced, "refused", "defect")
        else:
            self._failures = 0
            self._statistics.mask(synced.camera.arrival, result.present, result.timings)
            self._sync.settle(synced, "used", refused=refused)
        if full:  # now that the error holds nothing: fragments may be enough for the next frame
            torch.cuda.empty_cache()

    def _segment(self, frame: Frame, refused: dict[str, str]) -> Result:
        """Infer; a sensor whose data cannot be used is refused and left out."""
        prepared = self._segmenter.prepare(frame)
        for refusal in prepared.refused.values():
            refused[refusal.sensor] = refusal.reason
            self._refuse(refusal.sensor, RosError(refusal.text, refusal.reason))
        return self._segmenter.infer(prepared, confidence=self._outputs.wants_confidence)

    def _refuse(self, stream: str, error: RosError) -> None:
        """Log a refusal, the same stream and reason not more often than every few seconds."""
        now, key = time.monotonic(), (stream, error.reason)
        self._refusals[stream] = (now, f"{error.reason}: {error}")
        if now >= self._log_times.get(key, 0.0):
            self._log_times[key] = now + LOG_PERIOD
            self.get_logger().warning(f"{stream} refused ({error.reason}): {error}")

    def _publish_diagnostics(self) -> None:
        topics = {f"topic.{i.stream}": i.topic or "none published" for i in self._inputs}
        status = diagnose(
            f"{self.get_fully_qualified_name()}: segmentation",
            str(self._facts["weights"]),
            self._statistics.snapshot(),
            self._sync.counts(),
            self._facts | topics,
            dict(self._refusals),
            self._failures,
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def load_segmenter(network: NetworkParameters) -> Segmenter:
    """The segmenter of the parameters.

    Raises:
        RosError: parameters that do not fit the weights.
        WeightsError, InferenceError: as `Segmenter.load`, and no weights at all.
    """
    model, spec = load_model(network.weights or default_weights())
    own, step = spec.geometry, network.geometry_stride
    mode = network.geometry_mode or own.mode
    if step and mode != "slide":
        raise RosError(
            f"parameter geometry.stride: found {step} with geometry.mode {mode!r}, "
            "expected it with 'slide' only"
        )
    stride = None
    if mode == "slide":
        stride = (step, step) if step else own.stride or (own.size[0] // 2, own.size[1] // 2)
    geometry = Geometry(
        mode,  # type: ignore[arg-type]
        own.size,
        stride,
    )
    return Segmenter(model, spec, network.device, network.precision, geometry)


def _alignment(parameters: NodeParameters) -> ThermalAlignment:
    if parameters.registration == "homography":
        return ThermalAlignment(fixed=opencv_homography(parameters.homography))
    return ThermalAlignment(rotation=parameters.registration == "rotation")


def _reader(parameters: NodeParameters) -> Any:
    return cv_bridge_reader() if parameters.image_backend == "cv_bridge" else read_pixels


def _synchroniser(
    parameters: NodeParameters, sources: tuple[str, ...]
) -> Synchroniser | StockSynchroniser:
    if parameters.sync_backend == "message_filters":
        return StockSynchroniser(parameters.sync(sources))
    return Synchroniser(parameters.sync(sources))


def run(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop; 2 where it cannot start."""
    tune_allocator()
    node: SegmentNode | None = None
    begun = False
    try:
        rclpy.init(args=list(args) if args is not None else None)
        begun = True
        node = SegmentNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (*StartErrors, RCLError) as error:
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
