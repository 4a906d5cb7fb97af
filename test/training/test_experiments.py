# SPDX-License-Identifier: Apache-2.0
"""Every experiment builds, takes a step, and differs from the method only in what it names."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from runs import STILL
from support.trees import make_deliver, make_muses

from mmsam_ros.cli.main import main
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.open import BENCHMARKS, open_frames
from mmsam_ros.model import MMSAMAdapter, build_model
from mmsam_ros.training.config import TrainConfig, TrainingError
from mmsam_ros.training.configure import config_files, load_config
from mmsam_ros.training.experiments import load_experiment, run_experiment, table_rows
from mmsam_ros.training.loader import FrameSampler, TrainingFrames, make_loader
from mmsam_ros.training.loop import loss_function
from mmsam_ros.training.recipe import parameter_groups
from mmsam_ros.training.start import build, components, freeze, network_of
from mmsam_ros.weights import load_model

pytestmark = pytest.mark.slow
SCRATCH = ("--start.sam=scratch", "--start.convnext=scratch")
SMALL = (
    *SCRATCH, *STILL, "--model.preset=nano", "--model.image_size=[64, 64]",
    "--augment.base_size=[64, 64]", "--augment.crop=[64, 64]", "--batch.effective=2",
    "--batch.per_device=2", "--data.workers=0", "--device.accelerator=cpu",
    "--device.checkpointing=false",
)  # fmt: skip
# nano's widths in the experiments' proportions, as its groups of 16 take them
SMALL_TRUNKS = {
    "symmetric": "[32, 48, 96, 128]",
    "ratio_quarter": "[16, 16, 32, 48]",
    "ratio_half": "[16, 16, 48, 64]",
    "ratio_quadruple": "[32, 64, 128, 192]",
}
ENCODER, HEAD, NORMS = "encoder", "head", "level_embed, up, norms"
RGB, AUX = "prior.trunks.rgb", "prior.trunks.lidar"
FUSION, PROJECTIONS = "prior.fusion", "prior.projections"
INJECTOR, EXTRACTOR = "injector", "extractor"
ALL = {ENCODER, HEAD, NORMS, RGB, AUX, FUSION, PROJECTIONS, INJECTOR, EXTRACTOR}
COUPLED = {INJECTOR, EXTRACTOR}
# the components that an experiment trains
TRAINED: dict[str, set[str]] = {
    "fused": ALL,
    "sam_head": {ENCODER, HEAD, NORMS},
    "conv_prior_rgb": ALL - {RGB, AUX, FUSION} | {"prior.stem", "prior.stages"},
    "convnext_rgb": ALL - {AUX, FUSION},
    "auxiliary_only": ALL - {RGB, FUSION},
    "lora_rgb": ALL - {ENCODER, AUX, FUSION} - COUPLED | {"LoRA"},
    "lora_auxiliary": ALL - {ENCODER, RGB, FUSION} - COUPLED | {"LoRA"},
    "lora_fused": ALL - {ENCODER} - COUPLED | {"LoRA"},
    "symmetric": ALL,
    "ratio_quarter": ALL,
    "ratio_half": ALL,
    "ratio_quadruple": ALL,
    "fusion_add": ALL - {FUSION},
    "fusion_concat": ALL - {FUSION},
    "shared_encoder": ALL - {RGB, AUX} | {"prior.trunks.shared"},
    "sam_frozen": ALL - {ENCODER},
    "sam_frozen_mlp": ALL,
    "from_scratch": ALL,
    "no_extractor": ALL - {EXTRACTOR},
}
# ConvNeXt without classifier, with the four output norms
TRUNK_MILLIONS = {
    "fused": 49.5, "symmetric": 87.6, "ratio_quarter": 15.0, "ratio_half": 27.8,
    "ratio_quadruple": 196.2,
}  # fmt: skip


@cache
def whole(name: str) -> tuple[MMSAMAdapter, TrainConfig]:
    """The experiment's own network, without memory for its parameters."""
    config = load_config(load_experiment(name).arguments())
    with torch.device("meta"):
        benchmark = BENCHMARKS[config.dataset]
        modalities = {sensor: benchmark.modalities[sensor] for sensor in config.sensors}
        model = build_model(network_of(config, benchmark, benchmark.classes, modalities))
    freeze(model, config.start.freeze)
    return model, config


def test_every_experiment_is_tested() -> None:
    assert set(config_files("experiments")) == set(TRAINED)


@pytest.mark.parametrize("name", TRAINED)
def test_trainable_parameters_by_component(name: str) -> None:
    method = components(whole("fused")[0])
    found = components(whole(name)[0])
    assert {part for part, (_, trained) in found.items() if trained} == TRAINED[name]
    for part, (total, trained) in found.items():
        assert trained in (0, total) or (name, part) == ("sam_frozen_mlp", ENCODER)
    unchanged = {ENCODER, HEAD} & found.keys()
    if name not in TRUNK_MILLIONS:
        unchanged |= found.keys() & method.keys() & {RGB, AUX, INJECTOR, EXTRACTOR}
    assert {part: found[part][0] for part in unchanged} == {
        part: method[part][0] for part in unchanged
    }
    if millions := TRUNK_MILLIONS.get(name):
        assert found[RGB] == found[AUX]
        assert found[RGB][0] / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_mlps_alone_train_in_a_frozen_encoder() -> None:
    model, _ = whole("sam_frozen_mlp")
    encoder = dict(model.encoder.named_parameters())
    assert {n for n, p in encoder.items() if p.requires_grad} == {
        n for n in encoder if ".mlp." in n
    }


@pytest.mark.parametrize("name", ["lora_rgb", "lora_auxiliary", "lora_fused"])
def test_lora_is_on_queries_and_values_and_does_not_decay(name: str) -> None:
    model, config = whole(name)
    adapters = {n: p for n, p in model.named_parameters() if ".lora_" in n}
    assert {n.split(".", 3)[3] for n in adapters} == {"attn.qkv.lora_a", "attn.qkv.lora_b"}
    # of two thirds of the 3072 outputs, rank 16 each
    assert {tuple(p.shape) for p in adapters.values()} == {(32, 1024), (2048, 16)}
    groups = parameter_groups(model, config)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {decay[id(p)] for p in adapters.values()} == {0.0}


def test_start_weights_are_the_papers() -> None:
    sam = {name: whole(name)[1].start.sam for name in TRAINED}
    assert {name for name, start in sam.items() if start == "scratch"} == {"from_scratch"}
    # T14 leaves the trunks pretrained
    assert whole("from_scratch")[1].start.convnext != "scratch"


def test_papers_numbers() -> None:
    papers = {name: load_experiment(name).paper for name in TRAINED}
    rows = {n: (p.table, p.all, p.easy, p.hard) for n, p in papers.items() if p}
    assert rows == {
        "sam_head": ("T9", 53.32, 54.28, 35.57),
        "conv_prior_rgb": ("T9", 55.90, 56.93, 37.13),
        "lora_rgb": ("T9", 53.18, 54.28, 35.05),
        "convnext_rgb": ("T9", 55.98, 57.07, 37.93),
        "lora_auxiliary": ("T9", 49.77, 50.81, 32.59),
        "auxiliary_only": ("T9", 54.90, 55.49, 44.06),
        "lora_fused": ("T9", 53.97, 54.74, 40.22),
        "fused": ("T4", 57.14, 57.75, 45.46),
        "symmetric": ("T10", 55.27, 55.93, 42.22),
        "fusion_add": ("T11", 56.09, 56.66, 45.53),
        "fusion_concat": ("T11", 56.87, 57.51, 44.78),
        "shared_encoder": ("T12", 56.21, 56.81, 44.79),
        "sam_frozen": ("T13", 55.35, 56.00, 43.30),
        "sam_frozen_mlp": ("T13", 55.35, 56.00, 43.30),
        "from_scratch": ("T14", 53.73, 54.46, 40.97),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deliver")
    make_deliver(folder, size=(64, 64))
    return folder


def small(name: str, root: Path) -> list[str]:
    """Options under which an experiment runs on a CPU in seconds."""
    extra = [*SMALL, f"--data.root={root}"]
    if name in SMALL_TRUNKS:
        extra.append(f"--model.trunk.widths={SMALL_TRUNKS[name]}")
        extra.append("--model.trunk.depths=[1, 1, 2, 1]")
    return extra


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_changes_what_trains_and_nothing_else(name: str, root: Path) -> None:
    config = load_config(load_experiment(name).arguments(small(name, root)))
    frames = open_frames("deliver", root, "train", ("lidar",))
    torch.manual_seed(0)
    net, spec = build(config, frames)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimiser = torch.optim.AdamW(parameter_groups(net, config), lr=1e-3)
    batches = make_loader(TrainingFrames(frames, spec, config), FrameSampler(len(frames), config))
    batch = next(batches)
    inputs = {m: x for m, x in batch.inputs.items() if m in net.config.modalities}
    for _ in range(3):  # what starts behind a zero moves a step later
        optimiser.zero_grad()
        loss_function(config.loss)(net(inputs), batch.label).backward()
        optimiser.step()
    changed = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    expected = {n for n, p in net.named_parameters() if p.requires_grad}
    assert changed == expected


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of two experiments that have run, and the command."""
    out = tmp_path_factory.mktemp("experiments")
    command = ["experiments", "run", "fused", "fusion_add", "--seeds", "0", "1", "--out", str(out)]
    command += [*small("fused", root), "--schedule.epochs=1", "--schedule.warmup_epochs=0"]
    assert main(command) == 0
    return out, command


def test_run_and_table(
    finished: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = finished
    contents = {
        path: json.loads(path.read_text()) for path in sorted(out.glob("*/seed*/result.json"))
    }
    assert len(contents) == 4
    for content in contents.values():
        assert {"all", "difficulty=easy", "difficulty=hard"} <= content["scores"].keys()
    assert main(["experiments", "table", "--out", str(out)]) == 0
    table = (out / "table.md").read_text()
    row = next(line for line in table.splitlines() if "MM SAM-adapter" in line)
    values = [
        content["scores"]["all"]["miou"]
        for content in contents.values()
        if content["experiment"] == "fused"
    ]
    assert f"{sum(values) / 2:.2f} ± {abs(values[0] - values[1]) / 2**0.5:.2f}" in row
    assert "57.14" not in row, "the paper's network is another"
    assert re.search(r"rgb 0\.\d\d, lidar 0\.\d\d", row), "every trunk's parameters"


def test_the_papers_numbers_are_in_the_table(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out, _ = finished
    content = json.loads((out / "fused/seed0/result.json").read_text())
    assert content["paper"] is None
    (tmp_path / "fused/seed0").mkdir(parents=True)
    content["paper"] = vars(load_experiment("fused").paper)
    (tmp_path / "fused/seed0/result.json").write_text(json.dumps(content))
    (row,) = table_rows(tmp_path)
    assert (row[2], row[4], row[6]) == ("57.14", "57.75", "45.46")


def test_seeds_of_different_options_are_not_averaged(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out, _ = finished
    for seed in (0, 1):
        content = json.loads((out / f"fused/seed{seed}/result.json").read_text())
        content["config"]["schedule"]["epochs"] += seed
        (tmp_path / f"fused/seed{seed}").mkdir(parents=True)
        (tmp_path / f"fused/seed{seed}/result.json").write_text(json.dumps(content))
    with pytest.raises(TrainingError, match=r"averaged with seed 0: config.schedule.epochs: 1 be"):
        table_rows(tmp_path)


def test_a_run_begins_with_the_weights_of_its_own_seed(root: Path, tmp_path: Path) -> None:
    text = "title: {}\nbase: deliver_rgb_lidar\noptions:\n  {}\n"
    path = f"{tmp_path}/rgb/seed{{seed}}/best.safetensors"
    begun = f"model.combine.absent: fallback\n  start.fallback: {path}"
    for name, option in (("rgb", "model.inputs: rgb"), ("fallback", begun)):
        (tmp_path / f"{name}.yaml").write_text(text.format(name, option))
    names = [str(tmp_path / f"{name}.yaml") for name in ("rgb", "fallback")]
    command = ["experiments", "run", *names, "--seeds", "0", "1", "--out", str(tmp_path)]
    command += [*small("fused", root), "--schedule.epochs=1", "--schedule.warmup_epochs=0"]
    assert main(command) == 0  # the table, which averages them, too
    for seed in (0, 1):
        rgb, own = (
            load_model(tmp_path / f"{n}/seed{seed}/best.safetensors")[0]
            for n in ("rgb", "fallback")
        )
        assert own.fallback is not None
        assert all(
            torch.equal(value, own.fallback.state_dict()[key])
            for key, value in rgb.state_dict().items()
        )


def test_a_test_split_that_cannot_be_scored_is_seen_before_training(
    tmp_path: Path,
) -> None:
    root = make_deliver(tmp_path / "data", per_split={"train": 2, "val": 1})
    with pytest.raises(DataError, match="found no frames of the split 'test'"):
        run_experiment("fused", 0, tmp_path / "out", small("fused", root))
    root = make_muses(tmp_path / "muses", per_split={"train": 2, "val": 1, "test": 1})
    extra = ["--dataset=muses", "--sensors=lidar", *small("fused", root)]
    with pytest.raises(TrainingError, match="the labels of the split 'test' are withheld"):
        run_experiment("fused", 0, tmp_path / "out", extra)
    assert not (tmp_path / "out").exists()


def test_what_is_finished_is_not_repeated(finished: tuple[Path, list[str]]) -> None:
    out, command = finished
    again = out / "fused/seed1/result.json"
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/seed*/*")}
    lost = json.loads(again.read_text())
    again.unlink()  # as if it was stopped between training and result
    assert main(command) == 0
    assert json.loads(again.read_text())["scores"] == lost["scores"]
    other = out / "fused/seed0/metrics.jsonl"
    assert other.stat().st_mtime_ns == before[other]


def test_a_finished_run_of_other_options_is_refused(
    finished: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, command = finished
    assert main([*command, "--optimiser.lr=1e-3"]) == 2
    said = capsys.readouterr().err
    assert "result.json is of another run: config.optimiser.lr" in said
    assert "0.001 now" in said


def test_unknown_names_and_keys_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["experiments", "run", "fusedd", "--out", str(tmp_path)]) == 2
    assert "did you mean 'fused'" in capsys.readouterr().err
    path = tmp_path / "mine.yaml"
    path.write_text("title: mine\nbase: deliver_rgb_lidar\noption: {}\n")
    with pytest.raises(TrainingError, match="'option'; did you mean 'options'"):
        load_experiment(str(path))
    assert main(["experiments", "table", "--out", str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert main(["experiments", "list"]) == 0
    assert "no_extractor" in capsys.readouterr().out
