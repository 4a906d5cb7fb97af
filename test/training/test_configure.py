# SPDX-License-Identifier: Apache-2.0
"""Configurations come whole, and what is misspelt is named."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from runs import SOURCES
from support.trees import make_folder

from mmsam_ros.cli.main import main
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.open import open_frames
from mmsam_ros.model import ModelConfig
from mmsam_ros.training.config import BatchConfig
from mmsam_ros.training.configure import config_names, find_config, load_config
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.loader import Draws
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
    assert config.setting == name
    augment = config.augment
    assert (augment.base_size, augment.crop, augment.scale) == (base, crop, (0.5, 2.0))
    assert (augment.blur, augment.flip, augment.max_class_share) == (0.2, 0.5, 0.75)
    assert augment.two_classes == name.startswith("muses")
    photometric = augment.photometric
    assert (photometric.probability, photometric.brightness, photometric.hue) == (0.5, 32, 18)
    assert photometric.contrast == photometric.saturation == (0.5, 1.5)
    assert config.batch == BatchConfig(8, per_device)
    assert (config.loss.kind, config.loss.threshold, config.loss.min_kept) == ("ohem", 0.7, 100_000)
    optimiser = config.optimiser
    assert (optimiser.lr, optimiser.betas, optimiser.weight_decay) == (2e-4, (0.9, 0.999), 0.01)
    assert (optimiser.layer_decay, optimiser.ema) == (0.9, 0)
    schedule = config.schedule
    assert (schedule.epochs, schedule.power, schedule.warmup_epochs) == (epochs, 0.9, 10)
    assert schedule.warmup_ratio == 0.1
    assert (config.device.precision, config.device.checkpointing) == ("32", True)
    assert config.start.sam == "sam_vit_l"
    assert config.start.convnext == "convnext_small.fb_in22k_ft_in1k_384"
    assert config.start.freeze == ()
    assert config.model.preset == "vit_l"
    # the paper's two cards: accumulation 4, 2 and 4
    draws = Draws(100, config, 0, 2)
    assert draws.accumulation == (2 if name.startswith("fmb") else 4)


@pytest.mark.parametrize(
    "name", ["folder_rgb_lidar_thermal", "synthetic_pretrain", "synthetic_tiny"]
)
def test_configurations_of_folders_are_there_too(name: str) -> None:
    config = load_config(["--config", name])
    assert config.setting == "folder_rgb_lidar_thermal"
    assert config.batch.effective == 8
    assert name in set(config_names("train")) - set(PUBLISHED)


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
        (["--optimizer.lr=1"], "unknown key 'optimizer.lr'; did you mean 'optimiser'"),
        (["--optimiser.l=1"], "unknown key 'optimiser.l'; did you mean 'lr'"),
        (["--model.trunk.width=[1]"], "did you mean 'widths'"),
        (["--optimiser.lr=fast"], "optimiser.lr"),
        (["--schedule.epochs=0"], "schedule.epochs: found 0, expected at least 1"),
        (["--batch.effective=0"], "batch.effective"),
        (["--device.precision=16"], "device.precision: found '16'"),
        (["--loss.kind=ohm"], "did you mean 'ohem'"),
        (["--model.inputs=lidar"], "model.inputs"),
        (["--seed=-1"], "seed: found -1, expected 0 to 4294967295"),
        (["--optimiser.betas=[0.9, 1.5]"], "optimiser.betas: found"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        load_config(["--config", "deliver_rgb_lidar", *arguments])


def test_wrong_keys_in_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text, message in (
        ("optimizer: {lr: 1}", "unknown key 'optimizer.lr'; did you mean 'optimiser'"),
        ("optimiser: {learning_rate: 1}", "unknown key 'optimiser.learning_rate'"),
        ("augment: false", "augment: found False, expected keys with values"),
        ("optimiser:", "optimiser: found None, expected keys"),
        ("loss: [1]", r"loss: found \[1\], expected keys"),
        ("model: 5", "model: found 5, expected keys"),
        ("model: {trunk: 3}", r"model\.trunk: found 3, expected keys"),
        ("augment: {photometric: false}", r"augment\.photometric: found False, expected keys"),
    ):
        path.write_text(f"setting: deliver_rgb_lidar\n{text}\n")
        with pytest.raises(TrainingError, match=message):
            load_config(["--config", str(path)])
    with pytest.raises(TrainingError, match="did you mean 'fmb_rgb_thermal'"):
        load_config(["--config", "fmb_rgb_termal"])
    with pytest.raises(TrainingError, match="no such file"):
        find_config("train", str(tmp_path / "none.yaml"))
    with pytest.raises(DataError, match=r"augment\.blur"):
        load_config(["--setting=deliver_rgb_lidar", "--augment.blur=2"])


def test_commands_of_the_documentation_are_taken(tmp_path: Path) -> None:
    """And those on data of one's own build their network, which needs no download."""
    built = 0
    for page in ("README.md", "docs/training.md", "docs/own_data.md"):
        text = (Path(__file__).parents[2] / page).read_text().replace("\\\n", " ")
        for line in re.findall(r"^.*(?:mmsam|main) train (--config.*)$", text, re.MULTILINE):
            config = load_config(shlex.split(line, comments=True))
            if config.setting.startswith("folder"):
                frames = open_frames("folder", make_folder(tmp_path), "train", SOURCES)
                assert len(build(config, frames)[0].config.auxiliaries) == 2
                built += 1
    assert built == 1


def test_several_sensors_are_combined_by_presence_unless_asked_otherwise() -> None:
    several, one, asked = (
        load_config(arguments).model.combine
        for arguments in (
            ["--setting=folder_rgb_lidar_thermal"],
            ["--setting=folder_rgb_lidar"],
            ["--setting=folder_rgb_lidar_thermal", "--model.combine.gate=false"],
        )
    )
    assert (several.absent, several.gate) == ("masked", True)
    assert (one.absent, one.gate) == ("empty", False)
    assert (asked.absent, asked.gate) == ("masked", False)


def test_command_prints_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "--config", "deliver_rgb_lidar", "--model.preset", "tiny", "--print_config"])
    assert left.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["encoder"]["embed_dim"] == 192
    assert printed["augment"]["photometric"]["hue"] == 18
    assert main(["train", "--config", "deliver_rgb_lidar", "--optimiser.lrr", "1"]) == 2
    assert "did you mean 'lr'" in capsys.readouterr().err
