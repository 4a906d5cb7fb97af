# SPDX-License-Identifier: Apache-2.0
"""A client that manages a node: transitions, parameters, services, mode."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from harness import LATCHED, Client, image
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String

RGB = np.random.default_rng(2).integers(0, 256, (48, 64, 3), np.uint8)
CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
STATES = {
    State.PRIMARY_STATE_UNCONFIGURED: "unconfigured", State.PRIMARY_STATE_INACTIVE: "inactive",
    State.PRIMARY_STATE_ACTIVE: "active", State.PRIMARY_STATE_FINALIZED: "finalized",
}  # fmt: skip


class Manager:
    """Calls the services of a node `mmsam`, as `ros2 lifecycle` and Nav2's manager do."""

    def __init__(self, client: Client) -> None:
        self.client, self.node = client, client.node
        self._clients: dict[str, Any] = {}
        self._stamps = itertools.count(10**9, 10**8)
        self.camera = client.publisher(Image, "/camera/image")
        self.masks = client.record(Image, "/mmsam/semantic")

    def call(self, kind: type, name: str, **fields: Any) -> Any:
        """The answer to a request."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, f"/mmsam/{name}")
        service = self._clients[name]
        self.client.spin_until(service.service_is_ready, f"service {name}")
        answer = service.call_async(kind.Request(**fields))
        self.client.spin_until(answer.done, f"the answer of {name}")
        return answer.result()

    def change(self, transition: int) -> bool:
        return bool(
            self.call(ChangeState, "change_state", transition=Transition(id=transition)).success
        )

    def state(self) -> str:
        return STATES[self.call(GetState, "get_state").current_state.id]

    def set(self, **values: Any) -> str:
        """Set one parameter (`__` stands for the dot); the reason of a refusal."""
        given = [
            Parameter(k.replace("__", "."), value=v).to_parameter_msg() for k, v in values.items()
        ]
        (result,) = self.call(SetParameters, "set_parameters", parameters=given).results
        assert result.successful == (not result.reason)
        return str(result.reason)

    def get(self, name: str) -> Any:
        (value,) = self.call(GetParameters, "get_parameters", names=[name]).values
        return value

    def mode(self) -> dict[str, Any]:
        """The newest one, as a subscriber gets it that comes late."""
        modes = self.client.record(String, "/mmsam/mode", LATCHED)
        self.client.spin_until(lambda: modes, "a mode")
        return dict(json.loads(modes[-1].data))

    def wait_for_mode(self, word: str, said: str) -> dict[str, Any]:
        def found() -> bool:
            return self.mode()["mode"] == word and said in self.mode()["reason"]

        self.client.spin_until(found, f"mode {word}: {said}")
        return self.mode()

    def stamp(self) -> int:
        """The next one, in nanoseconds."""
        return next(self._stamps)

    def mask(self) -> np.ndarray:
        """The mask of a new camera image; the image is sent again until one is there."""
        self.client.spin_until(self.camera.get_subscription_count, "the camera is read")
        before, due = len(self.masks), 0.0

        def made() -> bool:
            nonlocal due
            if time.monotonic() > due:
                self.camera.publish(image(self.stamp(), RGB, "rgb8"))
                due = time.monotonic() + 1.0
            return len(self.masks) > before

        self.client.spin_until(made, "a mask")
        message = self.masks[-1]
        return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)

    def statuses(self) -> dict[str, Any]:
        """Those of the next diagnostics, by the name of the part."""
        self.client.diagnostics()
        arrays = self.client.record(DiagnosticArray, "/diagnostics")
        return {s.name.partition(": ")[2]: s for s in arrays[-1].status}
