# SPDX-License-Identifier: Apache-2.0
"""All verbs look alike: help, sizes, lists, devices."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmsam_ros._util import run_program
from mmsam_ros.cli.arguments import count, device, image_size, words
from mmsam_ros.cli.main import VERBS, build_parser, main
from mmsam_ros.data.errors import DataWarning


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of its verbs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from parsers(verb)


def actions() -> list[tuple[str, argparse.Action]]:
    return [
        (f"{parser.prog} {'/'.join(action.option_strings) or action.dest}", action)
        for parser in parsers(build_parser())
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction)
    ]


def test_help_texts_are_of_one_style() -> None:
    for name, action in actions():
        assert action.help, f"{name}: no help"
        first = action.help.split()[0]
        assert not (first.istitle() and len(first) > 2), f"{name}: {action.help}"
        assert not action.help.endswith("."), f"{name}: {action.help}"


def test_help_is_short(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def lines(*argv: str) -> list[str]:
        with pytest.raises(SystemExit) as left:
            main([*argv, "--help"])
        assert left.value.code == 0
        return capsys.readouterr().out.splitlines()

    listed = lines()
    for verb, text in VERBS.items():
        assert any(line.split() == [verb, *text.split()] for line in listed)
    assert 24 <= len(lines("train")) <= 40
    assert "--root DIR" in "".join(lines("train"))


def test_options_mean_the_same_in_every_verb() -> None:
    shared = ("--out", "--sensors", "--dataset", "--root", "--device", "--precision", "--size")
    used: dict[str, set[object]] = {name: set() for name in shared}
    for name, action in actions():
        for option in set(action.option_strings) & set(shared):
            if not name.startswith("mmsam train"):  # its options are YAML
                used[option].add(str(action.type).split(" at ")[0])
    for option, types in used.items():
        assert len(types - {"None"}) <= (2 if option == "--root" else 1), f"{option}: {types}"


def test_types() -> None:
    assert image_size("640x480") == (640, 480)
    assert count("3") == 3
    assert [device(word) for word in ("auto", "cpu", "cuda", "cuda:1")]
    assert words(["lidar", "thermal"])("thermal,lidar,thermal") == ("thermal", "lidar")
    for read, wrong in (
        (image_size, "640"), (image_size, "0x3"), (image_size, "640 x 480"), (count, "0"),
        (count, "-1"), (device, "gpu"), (device, "cuda:"), (words(["lidar"]), "lidr"),
    ):  # fmt: skip
        with pytest.raises(argparse.ArgumentTypeError):
            read(wrong)


def test_wrong_words_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in (
        (["eval", "--weights", "w", "--root", "r", "--drop", "lidr"], "did you mean 'lidar'"),
        (["eval", "--weights", "w", "--root", "r", "--split", "tset"], "invalid choice: 'tset'"),
        (["eval", "--weights", "w", "--data.root", "r"], "--root"),
        (["predict", "x.png", "--device", "gpu"], "expected auto, cpu or cuda[:N]"),
        (["data", "check", "--root", "r", "--data", "muses"], "--dataset"),
        (["synth", "bag", "out", "--size", "640"], "expected WIDTHxHEIGHT"),
        (["experiments", "list", "--schedule.epochs=1"], "unrecognised arguments: --schedule"),
        (["weigths"], "invalid choice: 'weigths'"),
    ):
        with pytest.raises(SystemExit) as left:
            main(argv)
        assert left.value.code == 2
        assert message in capsys.readouterr().err


def test_names_that_the_locale_cannot_print(tmp_path: Path) -> None:
    """Also without HOME, terminal and UTF-8: one line each."""
    folder = tmp_path / "Größe 1"
    folder.mkdir()
    for name in (b"a.png", b"\xff.png"):  # the second one is no text in any encoding
        (folder / os.fsdecode(name)).touch()
    for locale in ({"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii:strict"}):
        environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path), **locale}
        code = "import sys; from mmsam_ros.cli.main import main; sys.exit(main())"
        words = ["data", "check", "--dataset", "folder", "--root", str(folder)]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], env=environment, capture_output=True,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert done.stderr.count(b"\n") == 1
        assert b"meta.json: is missing" in done.stderr


def test_a_broken_yaml_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose error in PyYAML has five."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    path = tmp_path / "mmsam_ros/registry.yaml"
    path.parent.mkdir()
    path.write_text("a: [")
    for argv in (["weights", "list"], ["experiments", "run", str(path)]):
        assert main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"mmsam: error: {path}: ")


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    text = warnings.formatwarning(DataWarning("uneven"), DataWarning, "read.py", 3)
    assert text == "mmsam: warning: uneven\n"
    assert "read.py:3: UserWarning" in warnings.formatwarning("x", UserWarning, "read.py", 3)


def writing(lines: int) -> list[str]:
    """A program that prints; a buffer may hold its lines until the end."""
    code = (
        "import sys; from mmsam_ros._util import run_program;"
        f"sys.exit(run_program('mmsam', lambda: print('a line\\n' * {lines})))"
    )
    return [sys.executable, "-c", code]


VERB = [sys.executable, "-m", "mmsam_ros.cli.main", "experiments", "list"]
LITTLE, MUCH = writing(1), writing(100_000)


@pytest.mark.parametrize(
    ("words", "errors_too"),
    [(VERB, False), (LITTLE, False), (LITTLE, True), (MUCH, False), (MUCH, True)],
)
def test_a_pipe_that_nobody_reads_is_no_error(words: list[str], errors_too: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stderr = writer if errors_too else subprocess.PIPE
    done = subprocess.run(words, stdout=writer, stderr=stderr)
    os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE
    assert not done.stderr


@pytest.mark.parametrize("words", [LITTLE, MUCH])
def test_a_full_disk_is_named(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "mmsam: error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_output_that_was_closed_from_the_beginning_is_no_error(closed: str) -> None:
    """As some supervisors start their programs."""
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *LITTLE], capture_output=True)
    assert done.returncode == 0
    assert not done.stderr


def lack_of_semaphores() -> None:
    """The error that a machine without /dev/shm gives, for a name that none takes."""
    from multiprocessing import synchronize

    with pytest.MonkeyPatch.context() as patch:
        name = staticmethod(lambda: "/" + "x" * 300)
        patch.setattr(synchronize.SemLock, "_make_name", name)
        synchronize.Lock(ctx=multiprocessing.get_context("spawn"))


def write_to_a_full_disk() -> None:
    with Path("/dev/full").open("w") as file:
        file.write("x")


def no_folder_for_temporary_files() -> None:
    tempfile.TemporaryDirectory(dir="/proc/none")


@pytest.mark.parametrize(
    ("cause", "named", "hint"),
    [
        (lack_of_semaphores, "Invalid argument", True),
        (write_to_a_full_disk, "No space left on device", False),
        (lambda: (_ for _ in ()).throw(ConnectionResetError(104, "reset by peer")), "reset", False),
        (lambda: (_ for _ in ()).throw(BrokenPipeError(32, "Broken pipe")), "Broken pipe", False),
        (no_folder_for_temporary_files, "'/proc/none", False),
        (lambda: [0] * 2**60, "not enough memory", False),
    ],
)
def test_errors_of_the_machine_name_their_own_cause(
    cause: Callable[[], object], named: str, hint: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> int:
        cause()
        return 0

    assert run_program("mmsam", run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mmsam: error: ")
    assert named in line
    assert ("/dev/shm" in line) == hint


@pytest.mark.parametrize(
    ("module", "words", "remedy"),
    [
        ("lightning", ["experiments", "list"], "pip install h5py jinja2 lightning"),
        ("embreex", ["synth", "bag", "drive"], "pip install embreex"),
        ("safetensors", ["weights", "list"], "mmsam doctor"),
    ],
)
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, module: str, words: list[str], remedy: str
) -> None:
    text = f"raise ModuleNotFoundError('No module named {module}', name='{module}')"
    (tmp_path / f"{module}.py").write_text(text)
    paths = os.pathsep.join((str(tmp_path), *filter(None, sys.path)))
    done = subprocess.run(
        [sys.executable, "-m", "mmsam_ros.cli.main", *words], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{module} is not installed" in done.stderr
    assert remedy in done.stderr
