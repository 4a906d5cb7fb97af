# SPDX-License-Identifier: Apache-2.0
"""Configurations come whole, and what is misspelt is named."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import SENSORS
from support.trees import make_folder

from mmsam_ros._util import MmsamError
from mmsam_ros.cli.main import main
from mmsam_ros.data.open import open_frames
from mmsam_ros.model import ModelConfig
from mmsam_ros.training.config import BatchConfig, TrainingError
from mmsam_ros.training.configure import config_files, config_rows, find_config, load_config
from mmsam_ros.training.loader import FrameSampler
from mmsam_ros.training.run import plain
from mmsam_ros.training.start import build

SIZES = {
    "deliver": ((1042, 1042), (1024, 1024), 1, 100),
    "fmb": ((600, 800), (800, 800), 2, 200),
    "muses": ((1080, 1920), (1024, 1024), 1, 100),
}
PUBLISHED = (
    "deliver_rgb_depth", "deliver_rgb_event", "deliver_rgb_lidar", "fmb_rgb_thermal",
    "muses_rgb_event", "muses_rgb_lidar",
)  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipe(name: str) -> None:
    config = load_config(["--config", name])
    base, crop, per_device, epochs = SIZES[name.split("_")[0]]
    dataset, sensors = name.split("_rgb_")
    assert (config.dataset, config.sensors) == (dataset, (sensors,))
    augment = config.augment
    assert (augment.base_size, augment.crop, augment.scale) == (base, crop, (0.5, 2.0))
    assert (augment.blur, augment.flip, augment.max_class_share) == (0.2, 0.5, 0.75)
    assert augment.two_classes == name.startswith("muses")
    assert augment.photometric == "published"
    distortion = augment.distortion
    assert (distortion.probability, distortion.brightness, distortion.hue) == (0.5, 32, 18)
    assert distortion.contrast == distortion.saturation == (0.5, 1.5)
    assert config.loss.frames == (2 if dataset == "fmb" else 1)
    assert config.batch == BatchConfig(8, per_device)
    assert (config.loss.kind, config.loss.threshold, config.loss.min_kept) == ("ohem", 0.7, 100_000)
    optimiser = config.optimiser
    assert (optimiser.lr, optimiser.betas, optimiser.weight_decay) == (2e-4, (0.9, 0.999), 0.01)
    assert (optimiser.layer_decay, optimiser.ema) == (0.9, 0)
    schedule = config.schedule
    assert (schedule.epochs, schedule.power, schedule.warmup_epochs) == (epochs, 0.9, 10)
    assert schedule.warmup_ratio == 0.1
    assert (config.device.precision, config.device.checkpointing) == ("tf32", True)
    assert config.start.sam == "sam_vit_l"
    assert config.start.convnext == "convnext_small.fb_in22k_ft_in1k_384"
    assert config.start.freeze == ()
    assert config.model.preset == "vit_l"
    # the paper's two cards: accumulation 4, 2 and 4
    draws = FrameSampler(100, config, 0, 2)
    assert draws.accumulation == (2 if name.startswith("fmb") else 4)


@pytest.mark.parametrize(
    ("dataset", "photometric", "precision", "frames"),
    [
        ("deliver", "published", "tf32", 1),
        ("fmb", "published", "tf32", 2),
        ("muses", "published", "tf32", 1),
        ("folder", "intended", "fp32", 0),
    ],
)
def test_published_choices_are_the_benchmarks_default(
    dataset: str, photometric: str, precision: str, frames: int
) -> None:
    given = [f"--dataset={dataset}", "--sensors=lidar"]
    config = load_config(given)
    assert config.augment.photometric == photometric
    assert (config.device.precision, config.loss.frames) == (precision, frames)
    other = ["--augment.photometric=intended", "--device.precision=bf16-mixed", "--loss.frames=3"]
    config = load_config([*given, *other])
    assert config.augment.photometric == "intended"
    assert (config.device.precision, config.loss.frames) == ("bf16-mixed", 3)


@pytest.mark.parametrize(
    "name", ["folder_rgb_lidar_thermal", "synthetic_pretrain", "synthetic_tiny"]
)
def test_configurations_of_folders_are_there_too(name: str) -> None:
    config = load_config(["--config", name])
    assert (config.dataset, config.sensors) == ("folder", ("lidar", "thermal"))
    assert config.batch.effective == 8
    assert name in config_files("train").keys() - set(PUBLISHED)


def test_presets_give_the_network_and_keys_override_it() -> None:
    config = load_config(
        ["--config=deliver_rgb_lidar", "--model.preset=nano", "--model.fusion.kind=add"]
    )
    nano = ModelConfig.preset("nano", num_classes=1)
    assert config.model.encoder == nano.encoder
    assert config.model.trunk == nano.trunk
    assert (config.model.fusion.kind, config.model.fusion.groups) == ("add", nano.fusion.groups)


def test_a_stored_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = load_config(
        ["--config", "muses_rgb_event", "--start.freeze=[encoder]", "--model.image_size=[64, 96]",
         "--model.preset=tiny", "--device.devices=2"]
    )  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain(config)))
    assert load_config(["--config", str(path)]) == config
    assert load_config(["--config", str(path), "--seed=7"]).seed == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer.lr=1"], "unknown key 'optimizer'; did you mean 'optimiser'"),
        (["--optimiser.l=1"], "optimiser: unknown key 'l'; did you mean 'lr'"),
        (["--model.trunk.width=[1]"], "did you mean 'widths'"),
        (["--optimiser.lr=fast"], "optimiser.lr: found 'fast', expected float"),
        (["--optimiser.lr"], "--optimiser.lr: the value is missing"),
        (["--optimiser.lr=[1"], r"optimiser.lr: found '\[1', expected a value in YAML"),
        (["lr=1"], "found 'lr=1', expected --key value"),
        (["--model.trunk.depths=[1, 0, 1, 1]"], r"model.trunk.depths: found \(1, 0, 1, 1\), exp"),
        (["--model.fusion.kind=ad"], "model.fusion.kind: found 'ad'; did you mean 'add'"),
        (["--model.preset=vitl"], "model.preset: found 'vitl'; did you mean 'vit_l'"),
        (["--augment.blur=2"], "augment.blur: found 2.0, expected 0 to 1"),
        (["--augment.scale=[2, 1]"], "augment.scale: found .* low <= high"),
        (["--augment.distortion.hue=91"], "augment.distortion.hue: found 91, expected 0 to 90"),
        (["--augment.photometric=publshed"], "augment.photometric: .*did you mean 'published'"),
        (["--schedule.epochs=0"], "schedule.epochs: found 0, expected at least 1"),
        (["--batch.effective=0"], "batch.effective"),
        (["--device.precision=16"], "device.precision: found '16'"),
        (["--loss.kind=ohm"], "did you mean 'ohem'"),
        (["--model.inputs=lidar"], "model.inputs"),
        (["--seed=-1"], "seed: found -1, expected 0 to 4294967295"),
        (
            ["--optimiser.betas=[0.9, 1.5]"],
            "optimiser.betas: found .*, expected at least 0 and below 1",
        ),
        (["--optimiser.ema=1"], "optimiser.ema: found 1.0, expected at least 0 and below 1"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(MmsamError, match=message):
        load_config(["--config", "deliver_rgb_lidar", *arguments])


def test_wrong_keys_in_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text, message in (
        ("optimizer: {lr: 1}", "unknown key 'optimizer'; did you mean 'optimiser'"),
        ("optimiser: {learning_rate: 1}", "optimiser: unknown key 'learning_rate'"),
        ("augment: false", "augment: found False, expected keys with values"),
        ("optimiser:", "optimiser: found None, expected keys"),
        ("loss: [1]", r"loss: found \[1\], expected keys"),
        ("model: 5", "model: found 5, expected keys"),
        ("model: {trunk: 3}", r"model\.trunk: found 3, expected keys"),
        ("augment: {distortion: false}", r"augment\.distortion: found False, expected keys"),
        ("augment: {photometric: {hue: 9}}", r"augment\.photometric: found {'hue': 9}"),
    ):
        path.write_text(f"dataset: deliver\nsensors: [lidar]\n{text}\n")
        with pytest.raises(MmsamError, match=message):
            load_config(["--config", str(path)])
    with pytest.raises(TrainingError, match="did you mean 'fmb_rgb_thermal'"):
        load_config(["--config", "fmb_rgb_termal"])
    with pytest.raises(TrainingError, match="no such file"):
        find_config("train", str(tmp_path / "none.yaml"))
    for text, found in (("0x" + "f" * 5000, "found int that"), ("[" * 5000, ""), ("9" * 5000, "")):
        path.write_text(text)
        with pytest.raises(TrainingError, match=rf"mine.yaml: {found}"):
            load_config(["--config", str(path)])
    path.write_text("- dataset")
    with pytest.raises(TrainingError, match=r"mine.yaml: found \['dataset'\], expected keys"):
        load_config(["--config", str(path)])
    for text in ("batch: {effective: 4}\nbatch: {effective: 8}", "loss: {kind: ce, kind: ce}"):
        path.write_text(text)
        with pytest.raises(TrainingError, match=r"mine.yaml: key '(batch|kind)' is given twice"):
            load_config(["--config", str(path)])
    path.write_text("[" * 5000)
    with pytest.raises(TrainingError, match=r"mine.yaml: maximum recursion depth exceeded"):
        load_config(["--config", str(path)])
    path.write_text("dataset: [")
    with pytest.raises(TrainingError, match=r"mine.yaml: while parsing"):
        load_config(["--config", str(path)])
    with pytest.raises(TrainingError, match="key 'sensors' is missing"):
        load_config(["--dataset=deliver"])


def test_commands_of_the_documentation_are_taken(tmp_path: Path) -> None:
    """And those on data of one's own build their network, which needs no download."""
    built = 0
    for page in ("README.md", "docs/training.md", "docs/own_data.md"):
        text = (Path(__file__).parents[2] / page).read_text().replace("\\\n", " ")
        for line in re.findall(r"^.*(?:mmsam|main) train (--config.*)$", text, re.MULTILINE):
            config = load_config(shlex.split(line, comments=True))
            if config.dataset == "folder":
                frames = open_frames("folder", make_folder(tmp_path), "train", SENSORS)
                assert len(build(config, frames)[0].config.auxiliaries) == 2
                built += 1
    assert built == 1


def test_several_sensors_are_combined_by_presence_unless_asked_otherwise() -> None:
    several, one, asked = (
        load_config(arguments).model.combine
        for arguments in (
            ["--dataset=folder", "--sensors=lidar,thermal"],
            ["--dataset=folder", "--sensors=lidar"],
            ["--dataset=folder", "--sensors=[lidar, thermal]", "--model.combine.gate=false"],
        )
    )
    assert (several.absent, several.gate) == ("masked", True)
    assert (one.absent, one.gate) == ("empty", False)
    assert (asked.absent, asked.gate) == ("masked", False)


def test_later_files_win_and_keys_win_over_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("optimiser: {lr: 1e-3, ema: 0.5}\nschedule: {epochs: 7}\n")
    (tmp_path / "b.yaml").write_text("optimiser: {lr: 2e-3}\n")
    files = [f"--config={name}" for name in ("deliver_rgb_lidar", *sorted(tmp_path.glob("*.yaml")))]
    config = load_config([*files, "--schedule.epochs", "9", "--schedule.power=5e-1"])
    assert (config.optimiser.lr, config.optimiser.ema) == (2e-3, 0.5)
    assert (config.schedule.epochs, config.schedule.power) == (9, 0.5)
    assert config.schedule.warmup_epochs == 10


def test_words_of_the_command_line_are_taken_as_they_are() -> None:
    """YAML would take them for a number, nothing and a mapping."""
    words = ["--out", "2024", "--root=null", "--start.weights=a: b.safetensors"]
    config = load_config(["--config=deliver_rgb_lidar", *words, "--start.freeze=encoder,head"])
    assert (config.out, config.data.root) == ("2024", "null")
    assert config.start.weights == "a: b.safetensors"
    assert config.start.freeze == ("encoder", "head")


def test_the_reference_has_every_key() -> None:
    rows = {row.key: row for row in config_rows()}
    config = plain(load_config(["--config=deliver_rgb_lidar"]))

    def keys(values: dict[str, Any], start: str = "") -> Iterator[str]:
        for key, value in values.items():
            nested = isinstance(value, dict) and key != "mix"  # its keys are names of one's own
            yield from keys(value, f"{start}{key}.") if nested else [start + key]

    assert list(rows) == list(keys(config))
    assert all(row.description and row.type for row in rows.values())
    assert [key for key, row in rows.items() if not row.default] == [
        "dataset", "sensors", "data.root", "data.lists", "start.weights", "start.fallback",
        "start.auxiliaries",
    ]  # fmt: skip
    assert rows["augment.crop"].type == "[int, int]"
    assert rows["augment.crop"].default == "[1024, 1024]"
    assert rows["device.precision"].allowed == "fp32, tf32, bf16-mixed"
    assert rows["modality_dropout"].allowed == "at least 0 and below 1"
    assert rows["model.image_size"].type == "[int, int] or null"
    assert rows["model.interaction.block_ranges"].type == "[[int, int], ...]"
    assert rows["optimiser.ema"].description.startswith("decay of the averaged weights")


def test_command_prints_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--config", "deliver_rgb_lidar", "--model.preset", "tiny", "--print-config"]
    assert main(words) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["encoder"]["embed_dim"] == 192
    assert printed["augment"]["distortion"]["hue"] == 18
    assert main(["train", "--config", "deliver_rgb_lidar", "--optimiser.lrr", "1"]) == 2
    assert "did you mean 'lr'" in capsys.readouterr().err
