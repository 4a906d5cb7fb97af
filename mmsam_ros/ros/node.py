# SPDX-License-Identifier: Apache-2.0
"""The node `mmsam`: synchronised sensors in, labelled masks out (`ros2 run mmsam_ros segment`).

A managed node. `pipeline.py` is what configure builds, `control.py` answers calls, and `health.py`
says how far the masks can be relied on.
"""

import signal
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from mmsam_ros.inference import Segmenter, tune_allocator
from mmsam_ros.inference.engines.ladder import free_memory
from mmsam_ros.ros import parameters as setup
from mmsam_ros.ros.control import Control
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.health import Health
from mmsam_ros.ros.pipeline import Entities, Pipeline
from mmsam_ros.ros.preflight import NODE, START_ERRORS

GRAPH_PERIOD = 0.2  # seconds between looks at who publishes, and at the mode
DIAGNOSTICS_PERIOD = 1.0  # seconds
FAULT_CODE = 3  # exit code
_OPENCV_THREADS = 4  # on 16 cores its threads take longer to wake than to work
Load = Callable[[setup.Parameters, Callable[[str], Any]], Segmenter]
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR


class FaultError(RosError):
    """A fault that the node cannot recover from; a new process may."""


class SegmentNode(LifecycleNode):
    """Configure loads the weights, activate reads the sensors, deactivate stops that, cleanup frees
    the device. A transition that fails says why; configure and activate leave the node as it was,
    the others leave it unconfigured.

    With `autostart` the constructor configures and activates; MmsamError for parameters or weights
    that cannot be used.

    Args:
        load: makes the segmenter from the parameters; None: `load_segmenter`.
        options: of the node, such as its namespace.
    """

    def __init__(self, *, load: Load | None = None, **options: Any) -> None:
        super().__init__(NODE, **options)
        self._load = load
        self.pipeline: Pipeline | None = None
        self.active, self.enabled = False, True
        self._error: Exception | None = None  # of a transition at the start
        self.parameters = setup.declare_parameters(self)
        self._control, self._health = Control(self, self), Health(self, self)
        self._guard_transitions()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # use_sim_time must not stop these
        self.create_timer(GRAPH_PERIOD, self._watch_graph, clock=steady)
        self.create_timer(DIAGNOSTICS_PERIOD, self._report, clock=steady)
        self._entities = Entities(self)  # what a transition makes; all above stays
        self._health.look()
        self._starting = self.parameters["autostart"]  # what fails then is said by `run`
        if self._starting:
            self._bring_up()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load the weights and warm up."""
        self._entities = Entities(self)
        done = self._attempt("configure", self._configure)
        if done != SUCCESS:
            self.stop()
        return done

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and make masks."""
        done = self._attempt("activate", self._activate)
        if done != SUCCESS:
            self.active = False
            self.follow()
        return done

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the present frame and unsubscribe; the weights stay."""
        self.active = False
        return self._attempt("deactivate", self.follow, ERROR)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free weights and device."""
        return self._attempt("clean up", self.stop, ERROR)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup, but final."""
        return self._attempt("shut down", self.stop, ERROR)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup: the node can be configured again."""
        self._attempt("clean up after the error", self.stop)
        return SUCCESS

    def follow(self, patience: float | None = None) -> None:
        """Start or stop reading the sensors by `active` and `enabled`; see `Pipeline.stop`."""
        if self.pipeline is not None and self.pipeline.running != (self.active and self.enabled):
            if self.pipeline.running:
                self.pipeline.stop(patience)
            else:
                self.pipeline.start()
        self._health.look()

    def stop(self) -> None:
        """Stop, and free what configure has built, even if stopping fails."""
        self.active = False
        try:
            self.follow()
        finally:
            self.pipeline = None
            self._entities.destroy()
            free_memory()
            self._health.look()

    def diagnostics(self) -> Any:
        """The present content of `/diagnostics`."""
        return self._health.array()

    def _bring_up(self) -> None:
        """Configure and activate; raises the error of the one that fails."""
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != SUCCESS and self._error is not None:
                self.destroy_node()
                raise self._error
        self._starting = False

    def _configure(self) -> None:
        self.pipeline = Pipeline(self, self.parameters, self._load or setup.load_segmenter)
        self._health.look()

    def _activate(self) -> None:
        assert self.pipeline is not None
        if changed := self._control.changed():
            raise RosError(
                f"parameter {', '.join(changed)} has been set since configure, which has to read "
                "it first: cleanup, configure, activate"
            )
        self.active = True
        self.follow()
        ready = ", ".join(f"{name} {value}" for name, value in self.pipeline.settings.items())
        self.get_logger().info(f"ready: {ready}")

    def _attempt(
        self, name: str, act: Callable[[], None], failed: TransitionCallbackReturn = FAILURE
    ) -> TransitionCallbackReturn:
        """Do a transition; if it fails, the state stays as it was, or with ERROR is what `on_error`
        makes of it.
        """
        try:
            act()
        except Exception as error:  # rclpy would drop it, and what it says
            if self._starting:
                self._error = error
            else:  # the error is not kept: its traceback holds what was loaded
                said = str(error) if isinstance(error, START_ERRORS) else traceback.format_exc()
                self.get_logger().error(f"cannot {name}: {said}")
            return failed
        return SUCCESS

    def _guard_transitions(self) -> None:
        """Refuse a transition that the present state does not have: rclpy would end the process."""
        service, log = self._service_change_state, self.get_logger()
        change = service.callback

        def guarded(
            request: ChangeState.Request, response: ChangeState.Response
        ) -> ChangeState.Response:
            try:
                return change(request, response)
            except rclpy_implementation.RCLError as error:
                wanted = request.transition.label or request.transition.id
                log.error(f"transition {wanted} is not possible now: {error}")
                response.success = False
                return response

        service.callback = guarded

    def _watch_graph(self) -> None:
        if self.pipeline is not None:
            if self.pipeline.fault:
                self._health.report()
                raise FaultError(self.pipeline.fault)
            self.pipeline.watch_graph()
        self._health.look()

    def _report(self) -> None:
        if self.pipeline is not None:
            self.pipeline.report()
        self._health.report()


def run(
    args: Sequence[str] | None = None,
    make: Callable[[], Iterable[SegmentNode]] = lambda: (SegmentNode(),),
) -> int:
    """Run the nodes that `make` gives until told to stop; 2 if one cannot start, `FAULT_CODE`
    after a fault.
    """
    tune_allocator()
    cv2.setNumThreads(min(_OPENCV_THREADS, cv2.getNumThreads()))
    nodes: list[SegmentNode] = []
    begun = spinning = False
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # see main.py
        rclpy.init(args=list(args) if args is not None else None)
        begun = True
        executor = SingleThreadedExecutor()
        for node in make():
            nodes.append(node)
            executor.add_node(node)
        spinning = True
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except FaultError as fault:
        rclpy.logging.get_logger(NODE).fatal(f"fault: {fault}; this process ends")
        return FAULT_CODE
    except START_ERRORS as error:
        if not spinning and (rclpy.ok() or not begun):  # else told to stop while it started
            rclpy.logging.get_logger(NODE).fatal(f"cannot start: {error}")
            return 2
        if rclpy.ok():  # else a callback met the end of the context
            raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut the closing
        for node in nodes:
            node.stop()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
