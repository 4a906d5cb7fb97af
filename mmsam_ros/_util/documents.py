# SPDX-License-Identifier: Apache-2.0
"""YAML documents that others wrote. Needs PyYAML, so it is not among what `_util` exports."""

from typing import Any

import yaml

MOST = 10**6  # values of a document, aliases written out


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """What a document holds, as `yaml.safe_load` gives it.

    YAMLError also where aliases of aliases stand for more than `MOST` values: a few lines can be
    billions, which the first text or merge that is made of them would write out. RecursionError
    for one that leads to what it is in.
    """
    reader = loader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None
        if (count := _values(node, {})) > MOST:
            raise yaml.YAMLError(f"aliases stand for {count} values, expected at most {MOST}")
        return reader.construct_document(node)
    finally:
        reader.dispose()


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values of a node, those of aliases as often as they come."""
    if id(node) not in known:
        below = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_values(part, known) for part in below)
    return known[id(node)]
