# SPDX-License-Identifier: Apache-2.0
"""The SROS 2 policy of the node: what it may read, write and answer, from the interface's tables.

    python -m mmsam_ros.ros.policy > config/sros2_policy.xml

Needs no ROS. Names are those before remapping; a name that is remapped has to be changed there.
"""

import re
from collections.abc import Iterable
from xml.etree import ElementTree

from mmsam_ros.ros.interface import INPUTS, OUTPUTS, SERVICES

NODE = "mmsam"
_OF_ROS = ("/parameter_events", "/rosout")  # every node writes them
_READ = ("/clock", "/tf", "/tf_static")  # with use_sim_time; with tf2_ros
_LIFECYCLE = ("change_state", "get_state", "get_available_states", "get_available_transitions",
              "get_transition_graph")  # fmt: skip
_TF = ("tf2_frames",)  # of tf2_ros' buffer: refused, configure would fail
_PARAMETERS = ("describe_parameters", "get_parameter_types", "get_parameters", "list_parameters",
               "set_parameters", "set_parameters_atomically", "get_type_description")  # fmt: skip


def inputs() -> list[str]:
    """Topics that the node may subscribe to."""
    names = list(_READ)
    for topic in INPUTS:
        names.append(topic.name)
        if topic.compressed:
            names.append(f"{topic.name}/compressed")
        if topic.name == "depth/image":
            names.append(f"{topic.name}/compressedDepth")
    return names


def outputs() -> list[str]:
    """Topics that it may publish; `*` stands for the name of a class or of a step."""
    own = [re.sub("<.*>", "*", topic.name) for topic in OUTPUTS]
    return [*_OF_ROS, *own, "~/transition_event"]


def services() -> list[str]:
    """Services that it may answer."""
    own = [row.name for row in SERVICES]
    return [*(f"~/{name}" for name in (*_PARAMETERS, *_LIFECYCLE)), *_TF, *own]


def policy() -> str:
    """The policy as XML, version 0.2.0."""
    root = ElementTree.Element("policy", version="0.2.0")
    enclave = ElementTree.SubElement(ElementTree.SubElement(root, "enclaves"), "enclave")
    enclave.set("path", f"/{NODE}")
    profiles = ElementTree.SubElement(enclave, "profiles")
    profile = ElementTree.SubElement(profiles, "profile", ns="/", node=NODE)
    _add(profile, "topic", "subscribe", inputs())
    _add(profile, "topic", "publish", outputs())
    _add(profile, "service", "reply", services())
    ElementTree.indent(root)
    note = "made by: python -m mmsam_ros.ros.policy; see docs/security.md"
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- {note} -->\n'
    return head + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(profile: ElementTree.Element, kind: str, right: str, names: Iterable[str]) -> None:
    group = ElementTree.SubElement(profile, f"{kind}s", {right: "ALLOW"})
    for name in sorted(set(names)):
        ElementTree.SubElement(group, kind).text = name


if __name__ == "__main__":
    print(policy(), end="")
