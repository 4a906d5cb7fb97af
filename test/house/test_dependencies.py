# SPDX-License-Identifier: Apache-2.0
"""setup.py and package.xml name what the code imports, all of it and nothing else."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

# Modules whose package has another name, in ROS and in rosdep's `python3-…`.
ROS_PACKAGES = {"tf2_ros": "tf2_ros_py"}
ROSDEP = {"cv2": "opencv", "PIL": "pil"}
# Imported by libraries that we import: by torch.utils.tensorboard, by timm.
INDIRECT = {"train": {"tensorboard"}, "": {"torchvision"}}
# Comes with PyTorch where it has a use, for CUDA on Linux.
OF_TORCH = {"triton"}
# Commands that the package is started with.
COMMANDS = {"ros2launch"}
# ROS packages that are not on pip.
NOT_ON_PIP = {
    "cv_bridge", "launch", "launch_ros", "message_filters", "sensor_msgs_py", "tf2_ros",
    "vision_msgs",
}  # fmt: skip
# Tests that need these are skipped where they are missing.
NOT_IN_ROSDEP = {"segment-anything"}
# Folders whose imports belong to an extra of setup.py.
EXTRAS = {"train": ("data", "training"), "synth": ("world",)}
# Packages that are asked for when they are chosen, with `load_optional`; torch.onnx imports onnx.
OPTIONAL = {"onnx": {"onnx"}}
# Extras of commands, which the package does not import.
TOOLS = ("docs", "view")


@pytest.fixture(autouse=True)
def _names_of_pip(root: Path) -> None:
    """Skip where packages came from elsewhere, as apt's OpenCV: they have other names there."""
    installed = {normal(name) for names in owners().values() for name in names}
    needed = (names for extra, names in listed(root).items() if extra not in TOOLS)
    missing = set().union(*needed) - installed
    if missing:
        pytest.skip(f"not installed by pip: {', '.join(sorted(missing))}")


def imports(paths: Iterable[Path]) -> set[str]:
    """Top-level modules that files import anywhere, other than Python's and ours."""
    found: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module is not None
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - OF_TORCH - {"mmsam_ros"}


@cache
def owners() -> Mapping[str, list[str]]:
    """The installed distributions that hold a module."""
    return packages_distributions()


def is_ros(module: str) -> bool:
    found = owners().get(module, [])
    return module in NOT_ON_PIP or any(owner.startswith("ros-") for owner in found)


def distribution(module: str) -> str:
    (owner,) = set(owners()[module])
    return normal(owner)


def normal(requirement: str) -> str:
    """The name of a requirement, as package indexes compare names."""
    name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def listed(root: Path) -> dict[str, set[str]]:
    """setup.py's requirements: of the package under "", of extras under their names."""
    tree = ast.parse((root / "setup.py").read_text())
    keywords = {
        k.arg: k.value for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords
    }
    lists = {"": ast.literal_eval(keywords["install_requires"])}
    lists |= ast.literal_eval(keywords["extras_require"])
    return {extra: {normal(name) for name in names} for extra, names in lists.items()}


def files_of(root: Path, extra: str) -> set[Path]:
    """The package's files that need this extra ("": those that need none)."""
    package = root / "mmsam_ros"
    rooms = {e: {p for room in names for p in (package / room).rglob("*.py")}
             for e, names in EXTRAS.items()}  # fmt: skip
    rooms[""] = set(package.rglob("*.py")) - rooms["train"] - rooms["synth"]
    return rooms[extra]


def test_setup_py_lists_the_python_packages(root: Path) -> None:
    lists = listed(root)
    needed: dict[str, set[str]] = {}
    for extra in ("", *EXTRAS):
        modules = {m for m in imports(files_of(root, extra)) if not is_ros(m)}
        needed[extra] = {distribution(m) for m in modules | INDIRECT.get(extra, set())}
    needed[""].add("setuptools")  # as every ament_python package
    for extra in EXTRAS:
        needed[extra] -= needed[""]
    assert lists == needed | {extra: lists[extra] for extra in ("test", *OPTIONAL, *TOOLS)}


def test_setup_py_lists_what_is_loaded_when_it_is_chosen(root: Path) -> None:
    code = "".join(path.read_text() for path in (root / "mmsam_ros").rglob("*.py"))
    named = set(re.findall(r'load_optional\("(\w+)"\)', code))
    for extra, indirect in OPTIONAL.items():
        assert listed(root)[extra] == named | indirect


def test_setup_py_lists_what_tests_import(root: Path) -> None:
    """Colcon runs no test where the extra "test" lacks pytest."""
    own = {path.stem for path in (root / "test").rglob("*.py")} | {"support"}
    modules = imports((root / "test").rglob("*.py")) - own
    needed = {distribution(m) for m in modules if not is_ros(m)}
    lists = listed(root)
    known = lists[""] | lists["train"] | lists["synth"] | lists["onnx"]
    assert needed - known == lists["test"]


def depends(root: Path, kind: str) -> set[str]:
    package = ElementTree.parse(root / "package.xml").getroot()
    names = [str(element.text) for element in package.findall(kind)]
    assert len(names) == len(set(names)), names
    return set(names)


def test_package_xml_lists_the_ros_packages(root: Path) -> None:
    modules = imports([*(root / "mmsam_ros").rglob("*.py"), *(root / "launch").glob("*.py")])
    needed = {ROS_PACKAGES.get(m, m) for m in modules if is_ros(m)}
    named = {n for n in depends(root, "exec_depend") if not n.startswith("python3-")}
    assert named == needed | COMMANDS


def test_package_xml_and_readme_give_a_workspace_all_python_packages(root: Path) -> None:
    """What rosdep has is in package.xml, the rest in the README's command, each once."""
    modules = imports((root / "mmsam_ros").rglob("*.py"))
    by_key = {f"python3-{ROSDEP.get(m, m)}": distribution(m) for m in modules if not is_ros(m)}
    keys = {n for n in depends(root, "exec_depend") if n.startswith("python3-")}
    assert keys <= by_key.keys()
    readme = (root / "README.md").read_text()
    commands = re.findall(
        r"^pip install -c src/mmsam_ros/constraints.txt (.+)$", readme, re.MULTILINE
    )
    by_pip = {normal(word) for command in commands for word in command.replace('"', "").split()}
    lists = listed(root)
    assert lists[""] | lists["train"] | lists["synth"] == by_pip | {by_key[key] for key in keys}


def test_package_xml_lists_what_tests_need(root: Path) -> None:
    tests = listed(root)["test"] - NOT_IN_ROSDEP
    assert depends(root, "test_depend") == {f"python3-{name}" for name in tests}
