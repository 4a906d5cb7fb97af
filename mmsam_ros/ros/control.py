# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a running node: its live parameters and its services."""

import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from mmsam_ros._util import MmsamError
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.health import Observed
from mmsam_ros.ros.interface import LIVE, PARAMETERS
from mmsam_ros.ros.parameters import plain_value
from mmsam_ros.ros.snapshot import plain

_ROWS = {row.name: row for row in PARAMETERS}


class Controlled(Observed, Protocol):
    """The part of the node that `Control` uses (`node.SegmentNode`)."""

    def follow(self, patience: float | None = None) -> None: ...

    def diagnostics(self) -> Any: ...


class Control:
    """Answers calls about the node. Live parameters take effect at once, with the next frame.
    Others can be set while the node is not active, and configure reads them.
    """

    def __init__(self, node: Node, what: Controlled) -> None:
        self._what, self._node, self._name = what, node, node.get_fully_qualified_name()
        self._log = node.get_logger()
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._apply)
        node.create_service(SetBool, "~/enable", self._enable)
        apart = MutuallyExclusiveCallbackGroup()  # so that all else is answered meanwhile
        node.create_service(Trigger, "~/snapshot", self._snapshot, callback_group=apart)

    def changed(self) -> list[str]:
        """Parameters that have been set since configure read them."""
        pipeline = self._what.pipeline
        return [] if pipeline is None else [
            name for name, value in self._what.parameters.items()
            if pipeline.parameters[name] != value
        ]  # fmt: skip

    def _check(self, given: Sequence[Parameter]) -> SetParametersResult:
        """Whether parameters can be set to these values, all of them together."""
        try:
            self._check_values({p.name: plain_value(p) for p in given if p.name in _ROWS})
        except MmsamError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _check_values(self, values: dict[str, Any]) -> None:
        pipeline, name = self._what.pipeline, self._name
        for key, value in values.items():
            row = _ROWS[key]
            row.check([] if value is None and row.default is None else value)
            if self._what.active and row.read != LIVE and value != self._what.parameters[key]:
                raise RosError(
                    f"parameter {key} is not live: it needs a new configure. First `ros2 lifecycle "
                    f"set {name} deactivate` and `cleanup`, set it, then `configure` and `activate`"
                )
        live = {key: value for key, value in values.items() if _ROWS[key].read == LIVE}
        if pipeline is not None and live:
            pipeline.check(pipeline.parameters | live)

    def _apply(self, given: Sequence[Parameter]) -> None:
        values = {p.name: plain_value(p) for p in given if p.name in _ROWS}
        self._what.parameters |= values
        live = {key: value for key, value in values.items() if _ROWS[key].read == LIVE}
        if self._what.pipeline is not None and live:
            self._what.pipeline.parameters |= live
            self._what.pipeline.apply()

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._what.enabled = request.data
        self._what.follow(patience=0.0)  # other calls must not wait for the network
        response.success = True
        response.message = "enabled" if request.data else "disabled: nothing is read"
        if request.data and not self._what.active:
            response.message += ", once the node is active"
        self._log.info(f"~/enable: {response.message}")
        return response

    async def _snapshot(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        pipeline = self._what.pipeline
        if pipeline is None:
            response.message = "the node is not configured: there is nothing to write"
            return response
        diagnostics = plain(self._what.diagnostics())
        try:
            folder = await _InThread(lambda: pipeline.recorder.write(diagnostics), self._wake)
        except Exception as error:  # a bug costs the snapshot, not the node
            response.message = str(error)
            known = isinstance(error, MmsamError)
            self._log.error(str(error) if known else "".join(traceback.format_exception(error)))
            return response
        response.success, response.message = True, str(folder)
        self._log.info(f"~/snapshot: {folder}")
        return response

    def _wake(self) -> None:
        if (executor := self._node.executor) is not None:  # else the node has left it
            executor.wake()


class _InThread(threading.Thread):
    """Waits for a function that runs in a thread, while the executor does other things.

    `wake` lets the executor look again: else it would wait for the next message or timer.
    """

    def __init__(self, function: Callable[[], Any], wake: Callable[[], None]) -> None:
        super().__init__(name="mmsam_snapshot", daemon=True)
        self._function, self._wake = function, wake
        self._ended = False
        self._result: Any = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._result = self._function()
        except Exception as error:  # raised where it is awaited
            self._error = error
        self._ended = True
        self._wake()

    def __await__(self) -> Generator[None, None, Any]:
        self.start()
        while not self._ended:
            yield
        if self._error is not None:
            raise self._error
        return self._result
