# SPDX-License-Identifier: Apache-2.0
"""The SROS 2 policy: of the tables, of the right form, and what a running node needs."""

from __future__ import annotations

import fnmatch
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from domains import free_domain
from harness import nano_weights, running

from mmsam_ros.ros import interface, policy

# The schema of version 0.2.0: tag -> (attributes, those of them that must be there, children).
QUALIFIERS = {"ALLOW", "DENY"}
SCHEMA = {
    "policy": ({"version"}, {"version"}, {"enclaves"}),
    "enclaves": (set(), set(), {"enclave"}),
    "enclave": ({"path"}, {"path"}, {"profiles"}),
    "profiles": ({"type"}, set(), {"profile", "metadata"}),
    "profile": ({"ns", "node"}, {"ns", "node"}, {"topics", "services", "actions"}),
    "topics": ({"publish", "subscribe"}, set(), {"topic"}),
    "services": ({"reply", "request"}, set(), {"service"}),
    "actions": ({"call", "execute"}, set(), {"action"}),
    **{tag: (set(), set(), set()) for tag in ("topic", "service", "action")},
}


def faults(element: ElementTree.Element) -> list[str]:
    """Where an element and its children are not as the schema has them."""
    attributes, needed, children = SCHEMA[element.tag]
    found = [f"{element.tag}: {name}" for name in element.attrib.keys() - attributes]
    found += [f"{element.tag}: no {name}" for name in needed - element.attrib.keys()]
    if element.tag in ("topics", "services", "actions"):
        found += [f"{element.tag}: {v}" for v in element.attrib.values() if v not in QUALIFIERS]
    if children and not len(element):
        found.append(f"{element.tag}: empty")
    if not children and not (element.text or "").strip():
        found.append(f"{element.tag}: no name")
    for child in element:
        if child.tag not in children:
            found.append(f"{element.tag}: {child.tag}")
        else:
            found += faults(child)
    return found


def granted(root: ElementTree.Element, group: str, right: str) -> set[str]:
    """Full names that the policy allows."""
    names = {
        name.text or ""
        for owner in root.iter(group)
        if owner.get(right) == "ALLOW"
        for name in owner
    }
    return {
        f"/mmsam{n[1:]}" if n.startswith("~") else n if n.startswith("/") else f"/{n}"
        for n in names
    }  # fmt: skip


@pytest.fixture(scope="module")
def shipped(root: Path) -> ElementTree.Element:
    return ElementTree.parse(root / "config/sros2_policy.xml").getroot()


def test_the_file_is_made_of_the_tables(root: Path) -> None:
    assert (root / "config/sros2_policy.xml").read_text() == policy.policy()


def test_its_form_is_that_of_the_schema(shipped: ElementTree.Element) -> None:
    assert faults(shipped) == []
    assert shipped.get("version") == "0.2.0"
    names = [name.text for tag in ("topic", "service") for name in shipped.iter(tag)]
    assert len(names) == len(set(names))
    assert not [n for n in names if n in ("*", "/*")], "everything is not a policy"


@pytest.mark.parametrize(
    "text",
    [
        "<policy><enclaves/></policy>",
        '<policy version="0.2.0"><enclaves><enclave path="/a"><profiles><profile ns="/" node="a">'
        '<topics publish="YES"><topic>a</topic></topics></profile></profiles></enclave></enclaves>'
        "</policy>",
    ],
)
def test_the_check_finds_faults(text: str) -> None:
    assert faults(ElementTree.fromstring(text))


def test_every_row_is_granted(shipped: ElementTree.Element) -> None:
    read, written = granted(shipped, "topics", "subscribe"), granted(shipped, "topics", "publish")
    for topic in interface.INPUTS:
        assert f"/{topic.name}" in read
        assert (f"/{topic.name}/compressed" in read) == topic.compressed
    for topic in interface.OUTPUTS:
        assert re.sub("<.*>", "*", topic.name.replace("~", "/mmsam")) in written
    assert not read & written, "nothing that the node reads can come from itself"
    assert granted(shipped, "services", "request") == set()
    assert "/tf2_frames" in granted(shipped, "services", "reply"), "of tf2_ros' Buffer"


@pytest.mark.dds
def test_a_running_node_does_what_it_may(shipped: ElementTree.Element, tmp_path: Path) -> None:
    """Topics and services as the graph has them; and nothing else is granted but what depends on
    weights, optional packages, parameters and the publishers that are there.
    """
    weights = nano_weights(tmp_path / "nano.safetensors", "synthetic_rgb_lidar_thermal")
    needed = {"publish": "/mmsam/overlay/road", "reply": "/mmsam/set_parameters"}
    with running(free_domain(7), "-p", f"weights:={weights}", "-p", "device:=cpu") as (_, client):

        def of_node() -> dict[str, set[str]]:
            node = client.node
            if ("mmsam", "/") not in node.get_node_names_and_namespaces():
                return {}
            calls = {
                "publish": node.get_publisher_names_and_types_by_node,
                "subscribe": node.get_subscriber_names_and_types_by_node,
                "reply": node.get_service_names_and_types_by_node,
            }
            return {right: {n for n, _ in call("mmsam", "/")} for right, call in calls.items()}

        found: dict[str, set[str]] = {}

        def complete() -> bool:
            found.update(of_node())
            return all(name in found.get(right, ()) for right, name in needed.items())

        client.spin_until(complete, "the node's topics and services")
    for right, names in found.items():
        rights = granted(shipped, "services" if right == "reply" else "topics", right)
        outside = {n for n in names if not any(fnmatch.fnmatchcase(n, r) for r in rights)}
        assert outside == set(), right
