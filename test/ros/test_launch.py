# SPDX-License-Identifier: Apache-2.0
"""The launch file: what it starts and with what, and what it refuses."""

from __future__ import annotations

import ast
import json
import signal
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from launching import SCOPES, defaults, handlers, set_scope, started, weights_of_a_run

from mmsam_ros.ros.interface import INPUTS, LAUNCH_ARGUMENTS, OUTPUTS, PARAMETERS
from mmsam_ros.ros.player import RATES


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_of_a_run(tmp_path_factory.mktemp("weights"))


def test_every_argument_is_declared(launch: Any) -> None:
    actions = launch.generate_launch_description().args[0]
    declared = {a.args[0]: a.kwargs for a in actions if a.kind == "DeclareLaunchArgument"}
    assert declared.keys() >= {
        "weights", "device", "precision", "params_file", "calibration", "bag", "loop", "rate",
        "rviz", "use_sim_time", "image_topic", "points_topic", "thermal_topic",
    }  # fmt: skip
    for name, given in declared.items():
        assert given["choices"] is None or given["default_value"] in given["choices"], name
    tree = ast.parse(Path(launch.__file__).read_text())
    read = {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and getattr(node.value, "id", "") == "values"
        and isinstance(node.slice, ast.Constant)
    }
    assert read <= declared.keys()


def test_the_choices_are_those_of_the_node(launch: Any) -> None:
    rows = {row.name: row for row in PARAMETERS}
    assert launch.CHOICES["precision"] == ["", *rows["precision"].choices]
    assert launch.CHOICES["registration"] == ["", *rows["thermal.registration"].choices]
    assert {"", "auto", "cpu", "cuda", "cuda:1"} <= set(launch.CHOICES["device"])
    for name in ("loop", "rviz", "use_sim_time"):
        assert set(launch.CHOICES[name]) == {"true", "false", "True", "False"}


def test_node_gets_weights_parameters_and_topics(
    launch: Any, root: Path, weights: Path, tmp_path: Path
) -> None:
    calibration = tmp_path / "c.yaml"
    calibration.touch()
    given = {"weights": str(weights), "image_topic": "/cam", "calibration": str(calibration)}
    node, _ = started(launch, **given)
    assert (node.kwargs["package"], node.kwargs["executable"]) == ("mmsam_ros", "segment")
    assert node.kwargs["name"] == "mmsam"
    file, second, values = node.kwargs["parameters"]
    assert "/**/mmsam" in yaml.safe_load(Path(file).read_text())
    assert second == str(calibration)
    assert values == {"weights": str(weights)}
    assert ("camera/image", "/cam") in node.kwargs["remappings"]
    for version in ("FASTRTPS", "FASTDDS"):  # 2, 3
        profile = node.kwargs["additional_env"][f"{version}_DEFAULT_PROFILES_FILE"]
        assert Path(profile).resolve() == root / "config/fastdds_shm.xml"


def test_the_topics_are_those_that_the_node_reads(launch: Any) -> None:
    assert {topic for topic, _ in launch.TOPICS} == {topic.name for topic in INPUTS}
    defaults = {name: default for name, default, _ in launch.ARGUMENTS}
    assert all(defaults[argument] == topic for topic, argument in launch.TOPICS)
    assert dict(launch.TOPICS) == LAUNCH_ARGUMENTS, "which the node's log names"


def test_without_arguments_the_parameters_file_decides(launch: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.touch()
    node, _ = started(launch, params_file=str(mine))
    assert node.kwargs["parameters"] == [str(mine)]


@pytest.mark.parametrize(("value", "given"), [("", []), ("false", [{"autostart": False}]),
                                              ("True", [{"autostart": True}])])  # fmt: skip
def test_the_node_starts_itself(launch: Any, value: str, given: list[Any]) -> None:
    """By its parameter, not by events of launch_ros's LifecycleNode."""
    node, _ = started(launch, autostart=value)
    assert node.kind == "Node"
    assert node.kwargs["parameters"][1:] == given


def test_a_tilde_is_the_home(launch: Any, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(weights.parent))
    node, _ = started(launch, weights=f"~/{weights.name}", params_file=f"~/{weights.name}")
    assert node.kwargs["parameters"] == [str(weights), {"weights": str(weights)}]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"weights": "/absent.safetensors"}, "weights: /absent.safetensors: no such file"),
        ({"weights": "/tmp"}, "weights: /tmp: is a folder, expected a file"),
        ({"params_file": "/absent.yaml"}, "params_file: /absent.yaml: no such file"),
        ({"calibration": "calib.yml"}, "calibration: calib.yml: no such file"),
        ({"bag": "/absent"}, "bag: /absent: no such file or folder"),
        ({"rate": "fast"}, "rate: found 'fast', expected a number above 0"),
        ({"points_topic": ""}, "points_topic: is empty, expected a topic; leave it out for lidar"),
        ({"rate": "0"}, "rate: found '0', expected a number above 0"),
        ({"rate": "nan"}, "rate: found 'nan'"),
        ({"rate": "1e300"}, "rate: found '1e300'"),
        ({"rate": "1e-300"}, "rate: found '1e-300'"),
        ({"bag": "/a", "calibration": "/b"}, "calibration: /b: no such file; bag: /a: no such"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    launch: Any, values: dict[str, str], reason: str
) -> None:
    """An exception is one line of `ros2 launch`, and exit code 1."""
    with pytest.raises(RuntimeError) as caught:
        launch.start(defaults(launch, **values))
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def test_a_misspelt_argument_is_refused(launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ros2 launch` ignores it; but a launch file around this one may have its own arguments."""
    context = defaults(launch)
    context.argv = ["calibraton:=/c.yaml", "rate:=2", "colour:=blue", "emulate_tty:=true"]
    for robot in ("robot.launch.py", "segment.launch.py"):  # of the same name
        monkeypatch.setattr("sys.argv", ["ros2", "launch", "robot", robot, *context.argv])
        launch.start(context)
    expected = (
        "argument 'calibraton' does not exist; did you mean 'calibration'?; "
        "argument 'colour' does not exist"
    )
    for words in (["mmsam_ros", "segment.launch.py"], [launch.__file__]):
        monkeypatch.setattr("sys.argv", ["ros2", "launch", *words])
        with pytest.raises(RuntimeError, match=f"^{expected}$".replace("?", r"\?")):
            launch.start(context)


@pytest.mark.parametrize("of_file", [False, True])
def test_a_calibration_beside_the_bag_is_used(launch: Any, tmp_path: Path, of_file: bool) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    file = folder / "bag_0.mcap"
    file.touch()
    bag = str(file if of_file else folder)
    node, _ = started(launch, bag=bag)
    assert len(node.kwargs["parameters"]) == 1, "there is none yet"
    beside, own = folder / "calibration.yaml", tmp_path / "own.yaml"
    beside.touch()
    own.touch()
    node, others = started(launch, bag=bag)
    assert node.kwargs["parameters"][1] == str(beside)
    (said,) = (a.kwargs["msg"] for a in others if a.kind == "LogInfo")
    assert said == f"calibration: {beside}, found beside the bag"
    node, _ = started(launch, bag=bag, calibration=str(own))
    assert node.kwargs["parameters"][1] == str(own)


def test_the_profile_is_not_forced(launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each version of Fast DDS has a variable of its own, and ignores the other."""
    both = {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"}
    assert launch.shared_memory().keys() == both
    for name in both:
        with monkeypatch.context() as patch:
            patch.setenv(name, "/own.xml")
            assert launch.shared_memory().keys() == both - {name}
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    assert launch.shared_memory() == {}


def test_the_bag_starts_when_the_node_is_ready(
    launch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {"bag": str(tmp_path), "rate": "0.5", "loop": "true", "use_sim_time": "true"}
    node, others = started(launch, **values)
    assert node.kwargs["parameters"][1] == {"use_sim_time": True}
    (watch,) = handlers(others, "OnProcessIO")
    assert watch["target_action"] is node
    on_stdout, on_stderr = watch["on_stdout"], watch["on_stderr"]
    assert on_stderr(types.SimpleNamespace(text=b"[WARN] loading")) is None
    assert on_stdout(types.SimpleNamespace(text=b"[INFO] [mmsam]: rea")) is None
    assert on_stderr(types.SimpleNamespace(text=b"dy: of another stream\n")) is None
    # where RCUTILS_LOGGING_USE_STDOUT sends logs, in two pieces
    *_, play, end = on_stdout(types.SimpleNamespace(text=b"dy: weights\n"))
    assert end.kind == "PopLaunchConfigurations"
    assert (play.kwargs["package"], play.kwargs["executable"]) == ("mmsam_ros", "replay")
    options = [str(tmp_path), "--rate", "0.5", "--clock"]
    assert play.kwargs["arguments"] == [*options, "--loop"]
    assert on_stderr(types.SimpleNamespace(text=b"ready: again\n")) is None
    once = launch.player(defaults(launch, **values | {"loop": "False"}).values)
    assert once.kwargs["arguments"] == options


def test_the_bag_starts_once_whichever_node_is_ready_first(launch: Any, tmp_path: Path) -> None:
    """The first node may be killed while it loads, as by the system for want of memory."""
    context = defaults(launch, bag=str(tmp_path))
    actions = launch.start(context)
    assert not any(a.kind == "LogInfo" for a in actions)
    ready = types.SimpleNamespace(text=b"ready: weights\n")
    watches = []
    for _ in range(3):
        watches += handlers(actions, "OnProcessIO")
        (end,) = handlers(actions, "OnProcessExit")
        _, timer = end["on_exit"](types.SimpleNamespace(returncode=-9), context)
        actions = timer.kwargs["actions"]
    assert len({id(watch["target_action"]) for watch in watches}) == 3
    found = watches[1]["on_stderr"](ready)
    assert [a.kwargs["executable"] for a in found if a.kind == "Node"] == ["replay"]
    assert watches[2]["on_stderr"](ready) is None


def test_a_slow_bag_wants_a_longer_deadline(launch: Any, tmp_path: Path) -> None:
    _, others = started(launch, bag=str(tmp_path), rate="0.25")
    (said,) = (a.kwargs["msg"] for a in others if a.kind == "LogInfo")
    assert said.startswith("rate 0.25: sync.deadline runs in real time")


def test_the_rates_are_those_of_the_player(launch: Any) -> None:
    assert launch.RATES == RATES


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        (b"replay: 3 matched subscription(s) after 2.1 s, starting", False),
        (b"replay: note: a.mcap: it is cut at byte 7 of 7", True),
    ],
)
def test_a_bag_that_is_played_in_part_does_not_end_the_node(
    launch: Any, tmp_path: Path, said: bytes, ends: bool
) -> None:
    _, others = started(launch, bag=str(tmp_path))
    (watch,) = handlers(others, "OnProcessIO")
    actions = watch["on_stderr"](types.SimpleNamespace(text=b"ready: weights\n"))
    (output,), (end,) = handlers(actions, "OnProcessIO"), handlers(actions, "OnProcessExit")
    (play,) = (a for a in actions if a.kind == "Node")
    assert output["target_action"] is end["target_action"] is play
    output["on_stdout"](types.SimpleNamespace(text=said + b"\n"))
    event, context = types.SimpleNamespace(returncode=2), defaults(launch)
    if ends:
        with pytest.raises(RuntimeError, match=r"the bag was not played \(exit code 2\)"):
            end["on_exit"](event, context)
    else:
        (note,) = end["on_exit"](event, context)
        assert note.kind == "LogInfo"
        assert "played in part (exit code 2)" in note.kwargs["msg"]


def test_rviz_shows_the_topics_of_the_arguments(
    launch: Any, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    _, others = started(launch, rviz="true", image_topic="/cam", namespace="front")
    (viewer,) = (a.kwargs["cmd"] for a in others if a.kind == "ExecuteProcess")
    config, rules = Path(viewer[2]), viewer[4:]
    assert viewer[:2] == ["rviz2", "-d"]
    assert config.resolve() == root / "rviz/segment.rviz"
    renamed = dict(rule.split(":=") for rule in rules[1::2])
    assert renamed["/camera/image"] == "/cam"
    assert renamed["/lidar/points"] == "/front/lidar/points"
    assert renamed["/mmsam/overlay"] == "/front/mmsam/overlay"
    shown = set(_topics(yaml.safe_load(config.read_text())))
    assert "/mmsam/overlay" in shown
    assert shown <= renamed.keys()
    _, others = started(launch, rviz="true")
    (viewer,) = (a.kwargs["cmd"] for a in others if a.kind == "ExecuteProcess")
    assert viewer[3:] == ["--ros-args"]


def _topics(tree: Any) -> list[str]:
    """The topics of a configuration of RViz."""
    if isinstance(tree, list):
        return [name for entry in tree for name in _topics(entry)]
    if not isinstance(tree, dict):
        return []
    own = [tree["Topic"]["Value"]] if isinstance(tree.get("Topic"), dict) else []
    return own + [name for entry in tree.values() for name in _topics(entry)]


def test_the_layout_of_foxglove_shows_what_the_node_publishes(root: Path) -> None:
    layout = json.loads((root / "foxglove/segment.json").read_text())
    panels = layout["configById"]
    topics = {panel["imageMode"]["imageTopic"] for panel in panels.values() if "imageMode" in panel}
    named = {f"/{t.name}" for t in INPUTS} | {t.name.replace("~", "/mmsam") for t in OUTPUTS}
    assert "/mmsam/overlay" in topics
    assert topics <= named

    def leaves(part: Any) -> list[str]:
        return [part] if isinstance(part, str) else leaves(part["first"]) + leaves(part["second"])

    assert sorted(leaves(layout["layout"])) == sorted(panels)


def test_without_rviz_one_line_says_so(launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    _, others = started(launch, rviz="True")
    (said,) = (a.kwargs["msg"] for a in others if a.kind == "LogInfo")
    assert "rviz2 is not installed (ros-jazzy-rviz2)" in said
    assert not [a for a in others if a.kind == "ExecuteProcess"]


def test_the_end_of_a_process(launch: Any) -> None:
    """Of the node: the end of the launch, with an error if it failed. Of the bag: nothing else."""
    event, context = types.SimpleNamespace(returncode=0), defaults(launch)
    (end,) = launch.node_has_ended(event, context)
    assert end.kind == "Shutdown"
    assert launch.player_has_ended(event, context, False) == []
    event.returncode = -signal.SIGINT
    (end,) = launch.node_has_ended(event, context)
    assert end.kind == "Shutdown", "Ctrl-C while the node imports"
    event.returncode = 2
    with pytest.raises(RuntimeError, match="the node has ended with exit code 2"):
        launch.node_has_ended(event, context)
    with pytest.raises(RuntimeError, match="the bag was not played"):
        launch.player_has_ended(event, context, False)
    context.is_shutdown = True
    assert launch.node_has_ended(event, context) == []
    assert launch.player_has_ended(event, context, False) == []


def test_another_node_is_of_the_same_group(launch: Any, tmp_path: Path) -> None:
    """A GroupAction around the file has taken back its namespace by then; so for the player."""
    context = defaults(launch, bag=str(tmp_path))
    context.values["ros_namespace"] = "/robot1"
    actions = launch.start(context)
    del context.values["ros_namespace"]
    (end,), (watch,) = handlers(actions, "OnProcessExit"), handlers(actions, "OnProcessIO")
    _, timer = end["on_exit"](types.SimpleNamespace(returncode=3), context)
    played = watch["on_stdout"](types.SimpleNamespace(text=b"ready:\n"))
    for later in (timer.kwargs["actions"], played):
        spaces = []
        for action in later:
            if action.kind in SCOPES:
                set_scope(action, context)
            elif action.kind == "Node":
                spaces.append(context.values["ros_namespace"])
        assert spaces == ["/robot1"]
        assert "ros_namespace" not in context.values


def test_a_process_that_cannot_be_executed_ends_the_launch(launch: Any) -> None:
    """Launch itself would end with exit code 0."""
    context = defaults(launch)
    node, _ = started(launch)
    (over,) = (h["on_completion"] for h in handlers([launch.must_start(node, "the node")],
                                                    "OnExecutionComplete"))  # fmt: skip
    node.return_code = 0
    assert over(None, context) is None
    node.return_code = None
    with pytest.raises(RuntimeError, match="the node could not be started"):
        over(None, context)
    context.is_shutdown = True
    assert over(None, context) is None


def test_nothing_heavy_is_imported(launch: Any) -> None:
    """`ros2 launch --show-args` answers at once."""
    tree = ast.parse(Path(launch.__file__).read_text())
    modules = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    own = {"ament_index_python", "launch", "launch_ros"}
    assert modules - own == {"difflib", "os", "shutil", "signal", "sys", "time"}
