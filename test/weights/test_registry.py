# SPDX-License-Identifier: Apache-2.0
"""Weights by name: what is listed was hashed, and what is fetched is what is listed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from downloads import CONTENT, Server
from support.networks import random_network, spec_of
from support.trees import make_folder

from mmsam_ros.cli.main import main
from mmsam_ros.weights import WeightsError, load_model, read_spec, registry, save_model

GOOD = {"source": "https://example.org/a.pth", "licence": "MIT", "size": 5, "sha256": "0" * 64}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folders of this test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # this machine is reached without
    return tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=partial(server.serve_forever, 0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def listed(content: bytes = CONTENT, **changes: Any) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    return {"licence": "MIT", "size": len(content), "sha256": digest, **changes}


def write_registry(**entries: dict[str, Any]) -> None:
    path = registry.user_registry()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(entries))


def cached(home: Path) -> dict[str, int]:
    """Files of the cache with their sizes."""
    return {p.name: p.stat().st_size for p in (home / "cache").rglob("*") if p.is_file()}


def test_what_is_shipped_is_what_is_listed(root: Path) -> None:
    """Every weights file that lies there, and nothing else."""
    entries = registry.read_registry(root / "models/registry.yaml")
    assert {e.source for e in entries.values()} == {
        p.name for p in (root / "models").glob("*.safetensors")
    }
    for name, entry in entries.items():
        content = (root / "models" / entry.source).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size, entry.sha256)
        assert registry.fetch(name) == root / "models" / entry.source


def test_a_file_is_fetched_once(server: Server, home: Path) -> None:
    write_registry(a=listed(source=server.url))
    with pytest.raises(WeightsError, match="run: mmsam weights fetch a"):
        registry.weights_file("a")
    seen: list[tuple[int, int]] = []
    path = registry.fetch("a", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert path == home / "cache/mmsam_ros/weights/a.safetensors" == registry.weights_file("a")
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert registry.fetch("a") == path
    assert server.ranges == ["bytes=0-"]
    assert cached(home) == {"a.safetensors": len(CONTENT)}


def test_a_file_url_is_copied(home: Path) -> None:
    source = home / "some where" / "a.pth"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    write_registry(a=listed(source=source.as_uri()))
    assert registry.fetch("a").read_bytes() == CONTENT
    assert cached(home) == {"a.pth": len(CONTENT)}


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_an_interrupted_download_is_continued(
    server: Server, home: Path, takes_ranges: bool
) -> None:
    write_registry(a=listed(source=server.url))
    server.cut, server.takes_ranges = 70_000, takes_ranges
    with pytest.raises(WeightsError, match=r"fetch again to continue"):
        registry.fetch("a")
    [(name, size)] = cached(home).items()
    assert name == ".a.safetensors.part"
    assert 0 < size <= 70_000
    server.cut = None
    assert registry.fetch("a").read_bytes() == CONTENT
    assert server.ranges == ["bytes=0-", f"bytes={size}-"]
    assert cached(home) == {"a.safetensors": len(CONTENT)}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c[:100] + b"?" + c[101:],  # other bytes
        lambda c: c + b"?",  # more than is listed
        lambda c: c + bytes(5 << 20),
    ],
)
def test_other_bytes_are_refused_and_removed(
    server: Server, home: Path, change: Callable[[bytes], bytes]
) -> None:
    write_registry(a=listed(source=server.url))
    server.content = change(CONTENT)
    with pytest.raises(WeightsError, match=r"expected \w+ as in the registry; it has been removed"):
        registry.fetch("a")
    assert cached(home) == {}


def test_a_part_of_another_file_is_no_part_of_this_one(server: Server, home: Path) -> None:
    write_registry(a=listed(source=server.url))
    part = home / "cache/mmsam_ros/weights/.a.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * 1000)
    with pytest.raises(WeightsError, match="SHA-256"):
        registry.fetch("a")
    assert registry.fetch("a").read_bytes() == CONTENT
    (home / "cache/mmsam_ros/weights/a.safetensors").unlink()
    part.write_bytes(b"?" * (len(CONTENT) + 9))  # longer than the file
    assert registry.fetch("a").read_bytes() == CONTENT


def test_a_source_that_has_less_than_is_there(server: Server, home: Path) -> None:
    write_registry(a=listed(source=server.url))
    server.cut = 70_000
    with pytest.raises(WeightsError):
        registry.fetch("a")
    server.cut, server.content = None, CONTENT[:10]
    with pytest.raises(WeightsError, match="Range Not Satisfiable"):
        registry.fetch("a")
    with pytest.raises(WeightsError, match=f"ended after 10 of {len(CONTENT)} bytes"):
        registry.fetch("a")
    server.content = CONTENT
    assert registry.fetch("a").read_bytes() == CONTENT


def test_without_a_network(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_registry(a=listed(source="http://127.0.0.1:1/a.safetensors"))
    assert main(["weights", "fetch", "a"]) == 2
    said = capsys.readouterr().err
    assert "a: http://127.0.0.1:1/a.safetensors cannot be read (" in said
    assert f"Without a network, copy the file to {home}/cache/mmsam_ros/weights/a.safetens" in said
    (home / "cache/mmsam_ros/weights/a.safetensors").write_bytes(CONTENT)
    assert main(["weights", "fetch", "a"]) == 0


def test_a_file_that_has_changed_in_the_cache(server: Server, home: Path) -> None:
    write_registry(a=listed(source=server.url))
    path = registry.fetch("a")
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="has 1279999 bytes, expected 1280000"):
        registry.weights_file("a")
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(WeightsError, match="SHA-256 is"):
        registry.fetch("a")
    assert not path.exists()


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "http://example.org/a.pth", "ftp://127.0.0.1/a.pth", "data:,a"]
)
def test_redirects_lead_to_https_only(server: Server, target: str) -> None:
    write_registry(a=listed(source=server.url))
    server.redirect = target
    with pytest.raises(WeightsError, match=r"expected an https URL|not allowed"):
        registry.fetch("a")


@pytest.mark.parametrize("target", ["http://[::1/a.pth", "http://127.0.0.1:x/a.pth", "/a\x7fb.pth"])
def test_redirects_that_are_no_url(server: Server, target: str) -> None:
    write_registry(a=listed(source=server.url))
    server.redirect = target
    with pytest.raises(WeightsError, match=r"expected an https URL|a: http.* cannot be read"):
        registry.fetch("a")


def test_a_source_that_no_request_can_name(server: Server) -> None:
    source = server.url.replace("a.safetensors", "\u00fc b.safetensors")
    write_registry(a=listed(source=source))
    with pytest.raises(WeightsError, match=r"a: http.* cannot be read"):
        registry.fetch("a")


def test_two_at_once(server: Server, home: Path) -> None:
    import fcntl

    write_registry(a=listed(source=server.url))
    part = home / "cache/mmsam_ros/weights/.a.safetensors.part"
    part.parent.mkdir(parents=True)
    with part.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(WeightsError, match="another process fetches it"):
            registry.fetch("a")
    assert registry.fetch("a").read_bytes() == CONTENT


def test_a_full_disk_is_said_before(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    write_registry(a=listed(source=server.url))
    monkeypatch.setattr(registry.shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
    with pytest.raises(WeightsError, match="5 bytes are free, expected 1280000 for a"):
        registry.fetch("a")
    assert server.ranges == []


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("../a", {}, "found '../a', expected at most 64 small letters"),
        ("a/b", {}, "found 'a/b'"),
        ("/etc/passwd", {}, "found '/etc/passwd'"),
        ("a.b", {}, "found 'a.b'"),
        ("", {}, "found ''"),
        ("A", {}, "found 'A'"),
        ("a" * 65, {}, "expected at most 64"),
        ("a", {"source": "../a.pth"}, "a.source: found '../a.pth', expected an https or file URL"),
        ("a", {"source": "/etc/a.pth"}, "a.source"),
        ("a", {"source": "b/../../a.pth"}, "a.source"),
        ("a", {"source": ".."}, "a.source"),
        ("a", {"source": "http://example.org/a.pth"}, "a.source"),
        ("a", {"source": "ftp://example.org/a.pth"}, "a.source"),
        ("a", {"source": "data:text/plain,a.pth"}, "a.source"),
        ("a", {"source": "file://example.org/a.pth"}, "a.source"),
        ("a", {"source": "https:///a.pth"}, "a.source"),
        ("a", {"source": "https://[::1/a.pth"}, "a.source"),
        ("a", {"source": "https://example.org/a.sh"}, "a file of type .safetensors, .pth, .pt"),
        ("a", {"source": "https://example.org/a.pth/.."}, "a file of type"),
        ("a", {"size": 0}, "a.size"),
        ("a", {"size": "5"}, "a.size"),
        ("a", {"sha256": "0" * 63}, "a.sha256"),
        ("a", {"sha256": "Z" * 64}, "a.sha256"),
        ("a", {"licence": " "}, "a.licence"),
        ("a", {"path": "/tmp/a"}, "unknown key 'path'"),
    ],
)
def test_entries_that_are_none(name: str, changes: dict[str, Any], text: str) -> None:
    write_registry(**{name: {**GOOD, **changes}})
    with pytest.raises(WeightsError) as caught:
        registry.all_entries()
    assert text in str(caught.value)
    assert str(registry.user_registry()) in str(caught.value)


HUGE = "0x" + "f" * 5000  # YAML reads it, and Python has no decimal digits for it


@pytest.mark.parametrize(
    "text",
    ["[1, 2]", "a: !!python/object/apply:os.system ['true']", "a: [", "\xff", "a: 5", "1: {}",
     "a: &x {source: *x}", "[" * 5000, "a: {size: " + "9" * 5000 + "}", f"{HUGE}: {{}}",
     "a: {source: a.pth, licence: MIT, sha256: '" + "0" * 64 + f"', size: {HUGE}}}"],
)  # fmt: skip
def test_files_that_are_no_registry(text: str) -> None:
    write_registry()
    registry.user_registry().write_text(text, "latin-1")
    with pytest.raises(WeightsError):
        registry.all_entries()


def test_registering(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name means the same bytes for ever."""
    spec = spec_of("muses_rgb_lidar", recipe="randomised")
    path = home / "own.safetensors"
    save_model(path, random_network(spec), spec)
    words = ["weights", "register", str(path), "--name", "own", "--licence", "CC-BY-4.0"]
    assert main(words) == 0
    assert main(words) == 0, "the same bytes"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert yaml.safe_load(registry.user_registry().read_text()) == {
        "own": {"source": path.as_uri(), "licence": "CC-BY-4.0", "size": path.stat().st_size,
                "sha256": digest}
    }  # fmt: skip
    capsys.readouterr()
    assert main(["weights", "list"]) == 0
    said = capsys.readouterr().out
    assert "tiny_synthetic  Apache-2.0" in said
    assert "not fetched" in said
    assert main(["weights", "fetch", "own"]) == 0
    assert read_spec("own") == spec
    assert load_model("own")[1] == spec
    path.write_bytes(b"?")
    assert main(words) == 2
    assert "own: is the name of other weights already" in capsys.readouterr().err
    for name in ("tiny_synthetic", "../own", "Own"):
        assert main([*words[:4], name, *words[5:]]) == 2
    assert not (home / "data/own").exists()


def test_names_and_paths(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = registry.default_weights()
    assert registry.weights_file("tiny_synthetic") == shipped
    with pytest.raises(WeightsError, match="no name of the registry; did you mean 'tiny_synth"):
        read_spec("tiny_synthetc")
    monkeypatch.chdir(home)
    (home / "tiny_synthetic").write_bytes(b"a file of this name")
    assert registry.weights_file("tiny_synthetic") == Path("tiny_synthetic"), "a file comes first"
    (home / "tiny_synthetic").unlink()
    (home / "tiny_synthetic").mkdir()  # such as the folder that it was exported to
    assert registry.weights_file("tiny_synthetic") == shipped
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(home))
    assert registry.user_folder("XDG_CACHE_HOME", ".cache") == home / ".cache/mmsam_ros"
    assert os.fspath(registry.weights_file("~/x.safetensors")) == str(home / "x.safetensors")


def test_a_user_without_a_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number of the host's."""
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # so it leaves "~" there
    assert registry.weights_file("tiny_synthetic") == registry.default_weights()
    with pytest.raises(WeightsError, match="no name of the registry"):
        registry.weights_file("absent")
    (home / "w.pt").write_text("w")
    with pytest.raises(WeightsError, match=r"has no home folder.*; set HOME or XDG_DATA_HOME to a"):
        registry.register(home / "w.pt", "mine", "MIT")
    assert main(["weights", "seen", "~/x", "--dataset", "folder", "--root", str(home)]) == 2


def test_statistics_are_not_written_into_a_named_file(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name would have other bytes than its registry says, and be refused from then on."""
    spec = spec_of("muses_rgb_lidar")
    save_model(path := home / "w.safetensors", random_network(spec), spec)
    registry.register(path, "mine", "MIT")
    file = registry.fetch("mine")
    before = file.read_bytes()
    make_folder(home / "data_set", ("lidar",))
    words = ["weights", "seen", "mine", "--dataset", "folder", "--root", str(home / "data_set")]
    assert main(words) == 2
    assert f"copy {file} and give the copy" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert registry.weights_file("mine") == file


def test_two_may_register_at_once(home: Path) -> None:
    code = (
        "import sys, pathlib; from mmsam_ros.weights import registry; "
        "registry.register(pathlib.Path(sys.argv[1]), sys.argv[2], 'MIT')"
    )
    running = []
    for name in ("one", "two", "three", "four", "five"):
        (home / f"{name}.pt").write_text(name)
        words = [sys.executable, "-c", code, str(home / f"{name}.pt"), name]
        running.append(subprocess.Popen(words))
    assert [process.wait() for process in running] == [0] * 5
    assert {"one", "two", "three", "four", "five"} <= registry.all_entries().keys()
