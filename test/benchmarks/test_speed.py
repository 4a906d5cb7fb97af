# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of speed run, in small, and docs/performance.md is made of their results."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def program(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A benchmark's module by name."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_the_page_is_made_from_the_results(root: Path, program: Any) -> None:
    performance = program("performance")
    contents = performance.load()
    assert performance.page(contents) == (root / "docs/performance.md").read_text()
    for name, plot in performance.plots(contents).items():
        assert (root / "docs" / name).read_text() == plot


def test_every_benchmark_is_run_and_shown(root: Path, program: Any) -> None:
    """What `make bench` runs is what the page has a section for."""
    names = re.search(r"^BENCHMARKS := (.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert names
    shown = {name.removeprefix("bench_") for name in program("performance").TABLES}
    assert set(names[1].split()) == shown
    programs = {path.stem for path in (root / "benchmarks").glob("bench_*.py")}
    assert programs == {f"bench_{name}" for name in shown - {"soak", "flood"}}


def test_a_page_says_what_holds_and_what_is_missing(program: Any) -> None:
    entries = [program("results").bar(*rest) for rest in (
        ("fast", 3.0, "x", 2.5, lambda a, b: a >= b), ("fast", 2.0, "x", 2.5, lambda a, b: a >= b),
        ("late", None, "ms", 16.0, lambda a, b: a <= b, "no GPU on this machine"),
    )]  # fmt: skip
    other = [program("results").bar("fast", 2.75, "x", 2.5, lambda a, b: a >= b)]
    contents = {
        "cpu_bf16": {"bench_frame": {"bars": entries[:1]}, "bench_gpu": {"bars": entries[2:]}},
        "cpu_avx2": {"bench_frame": {"bars": entries[1:2]}},
        "gpu": {"bench_frame": {"bars": other}},
    }
    table = program("performance").bars_table(contents)
    assert table.splitlines() == [
        "| bar | limit | CPU with bf16 units | CPU with AVX2 | GPU |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| fast | 2.5 x | 3 x | **2 x** | 2.75 x |",
        "| late | 16 ms | not measured: no GPU on this machine |  |  |",
    ]


@pytest.mark.parametrize(
    ("machine", "kind"),
    [
        ({"gpu": None, "flags": ["avx2"]}, "cpu_avx2"),
        ({"gpu": None, "flags": ["avx2", "avx512f"]}, "cpu_avx512"),
        ({"gpu": None, "flags": ["avx2", "avx512f", "avx512_bf16"]}, "cpu_bf16"),
        ({"gpu": None, "flags": ["asimd"]}, "cpu"),
        ({"gpu": "NVIDIA H100", "flags": ["avx2", "avx512_bf16"]}, "gpu"),
    ],
)
def test_results_of_one_kind_of_machine_stand_together(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Any, kind: str
) -> None:
    """Another kind's results of speed are kept; what does not depend on it has one file."""
    results = program("results")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(results, "machine", lambda: machine)
    monkeypatch.setattr(sys, "argv", [str(results.ROOT / "benchmarks/bench_frame.py")])
    results.write("bench_frame", [], [])
    results.write("evidence", [], [])
    assert (tmp_path / kind / "bench_frame.json").is_file()
    assert (tmp_path / "evidence.json").is_file()


def test_components_of_the_network(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They add up, and the multiply-adds are those that the layers' sizes give."""
    bench = program("bench_model")
    monkeypatch.setattr(bench, "TOKENS", 64)
    case = {"preset": "nano", "device": "cpu", "precision": "fp32", "allocator": "default"}
    plain, prepared = (bench.measure(case | {"network": kind}) for kind in ("plain", "prepared"))
    for row in (plain, prepared):
        times, products = row["components_ms"], row["components_gmac"]
        assert sum(times.values()) == pytest.approx(row["total_ms"], abs=0.5)
        assert sum(products.values()) == pytest.approx(row["gmac"], abs=0.01)
        parts = {"embed", "windowed blocks", "global blocks", "trunks", "fusion", "injectors",
                 "extractors", "head", "up"}  # fmt: skip
        assert parts <= set(times)
        assert times.keys() == products.keys()
        assert 0 < row["share_of_matrix_rate"] < 1
    assert prepared["gmac"] < plain["gmac"]
    config = program("networks").config_of("nano")
    height, width = config.image_size
    embed = height * width * 3 * config.encoder.embed_dim / 1e9
    assert plain["components_gmac"]["embed"] == pytest.approx(embed, abs=0.0006)


def forward_of(checkout: Path, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "benchmarks/plain_forward.py"), "nano"]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_forward_pass_is_that_of_the_checkout(root: Path, tmp_path: Path) -> None:
    own = forward_of(root, root)
    assert own.returncode == 0, own.stderr
    assert all(value > 0 for value in json.loads(own.stdout).values())
    package = tmp_path / "mmsam_ros"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.py").write_text("raise SystemExit(7)")
    assert forward_of(tmp_path, root).returncode == 7


def test_vit_l_is_compared_with_the_state_before(
    program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = program("bench_model")
    row = {"preset": "vit_l", "device": "cpu", "precision": "fp32"}
    old = row | {"network": "before", "allocator": "default", "total_ms": 60.0}
    new = row | {"network": "prepared", "allocator": "tuned", "total_ms": 20.0}
    new |= {"share_of_matrix_rate": 0.9, "peak_gib": 3.0}
    for flags in (["avx2"], ["avx2", "avx512_bf16"]):
        monkeypatch.setattr(bench, "machine", lambda own=flags: {"gpu": None, "flags": own})
        values = [b["value"] for b in bench.bars([old, new])]
        assert values[0] == 3.0  # of float32
        assert len(values) == 3
        assert bench.bars([new])[0]["value"] is None


@pytest.mark.parametrize(
    ("program_text", "reason"),
    [
        ("raise SystemExit('no room')", "no room"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with status -9"),
    ],
)
def test_a_case_that_fails_or_is_killed_has_a_reason(
    program: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program_text: str, reason: str
) -> None:
    """The kernel kills for want of memory, without a word of the process."""
    (tmp_path / "bench.py").write_text(program_text)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bench.py")])
    row = program("results").in_process({"threads": 1})
    assert row.pop("reason").endswith(reason)
    assert row == {"threads": 1}
    monkeypatch.setattr(program("bench_labels"), "write", lambda _, rows, bars: None)
    program("bench_labels").report()


@pytest.mark.parametrize(
    "case",
    [
        {"what": "area", "size": (48, 64)},
        {"what": "points", "points": 0},
        {"what": "classes", "classes": 30},
        {"what": "modalities", "modalities": 3},
    ],
    ids=lambda case: case["what"],
)
def test_scale(program: Any, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    bench = program("bench_scale")
    monkeypatch.setattr(bench, "REPEATS", 1)
    monkeypatch.setattr(bench, "SIZE", (48, 64))
    row = bench.measure(case)
    assert row["network_ms"] > 0
    assert ("labels_ms" in row) == (case["what"] != "modalities")


def test_what_a_gpu_is_measured_by_runs_on_a_cpu(program: Any) -> None:
    bench = program("bench_gpu")
    base = {"device": "cpu", "preset": "nano"}
    for way in (("plain", "fp32"), ("torch", "bf16")):
        row = bench.measure(base | {"what": "network", "way": way[0], "precision": way[1]})
        assert row["p50_ms"] > 0
    row = bench.measure({"what": "frame", "device": "cpu", "size": (48, 64), "engine": "torch"})
    assert {"p50_ms", "prepare_ms", "network_ms", "labels_ms"} <= set(row)


def test_operations_of_a_gpu_run_on_a_cpu(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, operations = program("bench_gpu"), program("operations")
    monkeypatch.setattr(operations, "ATTENTION", {"global": (1, 2, (3, 4), 8)})
    monkeypatch.setattr(operations, "SAMPLING", {"injector": (5, [(4, 6), (2, 3)])})
    cases = operations.cases("cpu")
    assert {(c["what"], c["way"]) for c in cases} == {
        ("attention", "torch"), ("attention", "triton"), ("sampling", "torch"),
        ("sampling", "triton"), ("sampling", "deformops"),
    }  # fmt: skip
    for case in cases:
        if case["way"] == "torch":
            row = bench.measure(case)
            assert row["p50_ms"] >= 0
            assert row["difference"] < (1e-5 if case["precision"] == "fp32" else 0.05)


def test_an_engine_that_fails_passes_no_bar(program: Any) -> None:
    bars = program("bench_engines").bars
    same, off = {"cosine": 1.0, "argmax": 1.0}, {"cosine": 0.99, "argmax": 0.9995}
    good = {"agreement": {"plain": off, "torch": same, "onnx": same | {"argmax": 0.9995}}}
    assert [bar["value"] for bar in bars([good, good])] == [1.0, 0.9995]
    failed = bars([good, {"reason": "RuntimeError: onnx failed"}])
    assert [(bar["value"], bar["reason"]) for bar in failed] == [
        (None, "RuntimeError: onnx failed")
    ] * 2


def test_bars_of_a_gpu(program: Any) -> None:
    """A ratio to plain float32 of the fastest way; null where there is no GPU."""
    bench = program("bench_gpu")
    ways = (*bench.NETWORK, *bench.COMPILED)
    network = [{"what": "network", "way": way, "precision": p} for way, p in ways]
    steps = [{"what": "training step", "precision": p} for p in ("fp32", "bf16-mixed")]
    absent = [row | {"reason": bench.NO_GPU} for row in network + steps]
    assert {(b["value"], b["holds"], b["reason"]) for b in bench.bars(absent)} == {
        (None, None, bench.NO_GPU)
    }
    same, off = {"cosine": 1.0}, {"cosine": 0.9}
    timed = [row | same | {"p50_ms": 100.0} for row in network]
    for row in timed:
        fast = {("plain", "tf32"): 5.0, ("plain", "bf16"): 6.0, ("compile", "bf16"): 7.0}
        row["p50_ms"] = fast.get((row["way"], row["precision"]), row["p50_ms"])
        if (row["way"], row["precision"]) == ("triton", "bf16"):
            row |= off | {"p50_ms": 4.0}
    taken = [row | {"seconds": s, "peak_gib": g} for row, (s, g) in
             zip(steps, ((3.0, 20.0), (1.5, 10.0)), strict=True)]  # fmt: skip
    found = [b["value"] for b in bench.bars(timed + taken)]
    # of engines that users have and that compute the same
    assert (found[0], found[-2:]) == (round(100 / 7, 2), [2.0, 2.0])


def test_the_highest_rate_has_few_drops(program: Any) -> None:
    """A node that takes 8 frames a second: the search from 2.5 to 10 Hz ends just below."""
    pytest.importorskip("rclpy")

    class Node:
        def drive(self, rate: float, frames: int) -> dict[str, float]:
            return {"rate_hz": round(rate, 2), "dropped": 0.0 if rate <= 8 else 0.2}

    row = program("bench_node").highest_rate(Node(), 5.0, 30, 6)
    assert 7.8 <= row["rate_hz"] <= 8
    assert row["dropped"] == 0


@pytest.mark.dds
@pytest.mark.slow
def test_the_node_is_driven(program: Any) -> None:
    rig, results = program("node_rig"), program("results")
    with rig.Rig(results.ROOT, 2, (48, 64), "torch") as node:
        row = node.drive(5, 3)
        assert node.facts["engine"] == "torch"
    assert row["frames"] == 3
    assert row["pss_mib"] > 50


@pytest.mark.slow
def test_a_frame_against_another_checkout(program: Any, root: Path) -> None:
    bench = program("bench_frame")
    args = bench.argparse.Namespace(engines="torch", against=root, frames=1)
    rows = bench.in_turn((48, 64), 1, args)
    assert [row["engine"] for row in rows] == ["torch", "before"]
    assert rows[0]["times_faster"] > 0
