# SPDX-License-Identifier: Apache-2.0
"""Foreign checkpoints: safe reading, conversion by the command, start weights."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from support.networks import network_of, spec_of
from support.randomise import randomise
from support.released import config_from_released
from torch import nn

from mmsam_ros.cli.main import main
from mmsam_ros.model import (
    CombineConfig,
    EncoderConfig,
    ModelConfig,
    PriorConfig,
    TrunkConfig,
    build_model,
)
from mmsam_ros.weights import (
    WeightsError,
    convert_released,
    load_convnext,
    load_model,
    load_sam_encoder,
    read_checkpoint,
    save_model,
)
from mmsam_ros.weights.foreign import released_name


class NotInert:
    """A class that an unpickler would have to import."""


class OddType:
    """A dtype whose state is none."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (np.dtype, ("f8", False, True), 3)


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_mmcv_like_metadata_is_read(tmp_path: Path) -> None:
    content = {
        "meta": {
            "epoch": 3,
            "best": np.float64(57.1),
            "palette": np.arange(6, dtype=np.int64).reshape(2, 3),
            "classes": ("a", "b"),
            "order": collections.OrderedDict(a=1),
        },
        "state_dict": collections.OrderedDict(w=torch.ones(2)),
    }
    state = read_checkpoint(write(tmp_path / "mmcv.pth", content))
    assert list(state) == ["w"]


def test_other_classes_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.pth", {"meta": NotInert(), "state_dict": {"w": torch.ones(1)}})
    with pytest.raises(WeightsError, match=r"bad\.pth: refused.*test_convert\.NotInert"):
        read_checkpoint(path)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    path = write(tmp_path / "evil.pth", {"state_dict": Payload()})
    with pytest.raises(WeightsError, match="refused"):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [({}, "holds no state dict"), ([1, 2], "holds no state dict"), ({"a": 1}, "not tensors: a")],
)
def test_files_without_a_state_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(write(tmp_path / "x.pth", content))


@pytest.mark.parametrize("strange", [torch.empty(2, device="meta"), torch.eye(2).to_sparse()])
def test_tensors_without_values_are_refused(tmp_path: Path, strange: torch.Tensor) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {"a": torch.ones(1), "b": strange}}, path)
    with pytest.raises(WeightsError, match=r"on no device\): b; expected dense ones"):
        read_checkpoint(path)


def test_a_view_of_any_size_is_not_copied() -> None:
    config = ModelConfig.preset("nano", num_classes=3, modalities=("rgb", "lidar"))
    huge = torch.zeros(1, dtype=torch.half).expand(10**7, 10**7)
    with pytest.raises(WeightsError, match="does not fit the configuration"):
        convert_released({"backbone.pos_embed": huge}, config)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(WeightsError, match=r"broken\.pth"):
        read_checkpoint(broken)
    for content in (b"hello", b"\x80\x02\x85", b""):
        broken.write_bytes(content)
        with pytest.raises(WeightsError, match=r"broken\.pth"):
            read_checkpoint(broken)
    torch.save({"w": torch.ones(2)}, broken, _use_new_zipfile_serialization=False)
    start, key, end = broken.read_bytes().rpartition(
        re.findall(rb"\d{6,}", broken.read_bytes())[-1]
    )
    broken.write_bytes(start + b"9" * len(key) + end)  # of the storage that holds it
    with pytest.raises(WeightsError, match=r"broken\.pth: not a PyTorch checkpoint"):
        read_checkpoint(broken)
    with pytest.raises(WeightsError, match=r"broken\.pth: not a PyTorch checkpoint"):
        read_checkpoint(write(broken, {"meta": OddType()}))
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match=r"corrupt\.safetensors"):
        read_checkpoint(corrupt)
    with pytest.raises(WeightsError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pth")


def test_golden_state_round_trip(shared: Path, tmp_path: Path) -> None:
    """golden_tiny in the released layout -> .pth -> ours -> file -> the same logits."""
    facts = json.loads((shared / "reference/golden_tiny.json").read_text())
    tensors = load_file(shared / "reference/golden_tiny.safetensors")
    state = {
        "module." + k.removeprefix("state."): v
        for k, v in tensors.items()
        if k.startswith("state.")
    }
    checkpoint = write(tmp_path / "r.pth", {"meta": {"epoch": np.int64(9)}, "state_dict": state})
    config = config_from_released(facts)
    model = build_model(config)
    model.load_state_dict(convert_released(read_checkpoint(checkpoint), config), strict=True)
    spec = spec_of("deliver_rgb_lidar")
    values = spec.to_dict()
    values["config"] = {k: v for k, v in config.to_dict().items() if k != "empty"}
    values["classes"] = values["classes"][: config.num_classes]
    values["geometry"]["size"] = [96, 96]
    save_model(tmp_path / "ours.safetensors", model, type(spec).from_dict(values))
    loaded, _ = load_model(tmp_path / "ours.safetensors")
    rgb, aux = tensors["input"].split(3, dim=1)
    with torch.no_grad():
        logits = loaded({"rgb": rgb, "lidar": aux})
    assert (logits - tensors["logits_quarter"]).abs().max() < 1e-4


def released_names(shared: Path) -> list[str]:
    """All keys of the released network; `nano` has the same structure with fewer blocks."""
    groups = json.loads((shared / "reference/param_groups.json").read_text())["groups"]
    stems = {n.removesuffix(".weight") for n in groups if n.endswith("weight")}
    leaves = ("running_mean", "running_var", "num_batches_tracked")
    return [*groups, *(f"{stem}.{leaf}" for stem in stems for leaf in leaves)]


def test_command_converts_a_released_checkpoint(shared: Path, tmp_path: Path) -> None:
    released = tmp_path / "released.pth"
    model = network_of("deliver_rgb_event")
    ours = randomise(model, seed=8).state_dict()
    state = {
        n: ours[released_name(n, "event")]
        for n in released_names(shared)
        if released_name(n, "event") in ours
    }
    assert len(state) == len(ours)
    write(released, {"meta": {"epoch": np.int64(99)}, "state_dict": state})
    out = tmp_path / "ours.safetensors"
    argv = ["weights", "convert", str(out), "--dataset", "deliver", "--sensors", "event"]
    argv += ["--preset", "nano"]
    assert main([*argv, "--released", str(released)]) == 0
    loaded, spec = load_model(out)
    assert all(torch.equal(value, ours[name]) for name, value in loaded.state_dict().items())
    assert spec.provenance.source == "released.pth"
    assert len(spec.provenance.source_sha256) == 64
    assert spec.presence.trained_subsets == (("camera", "event"),)


def test_command_makes_start_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "start.safetensors"
    trunk = network_of("fmb_rgb_thermal").prior.trunks["rgb"]
    state = {n: v for n, v in randomise(trunk, seed=2).state_dict().items() if "norms" not in n}
    convnext = write(tmp_path / "convnext.pth", state)
    argv = ["weights", "convert", str(out), "--dataset", "fmb", "--sensors", "thermal"]
    argv += ["--preset", "nano", "--size", "192x128"]
    assert main([*argv, "--convnext", str(convnext)]) == 0
    model, spec = load_model(out)
    for name, value in state.items():
        assert torch.equal(model.prior.trunks["thermal"].state_dict()[name], value)
    assert spec.sensors == ("thermal",)
    assert spec.presence.trained_subsets == ()
    assert main(["weights", "info", str(out)]) == 0
    shown = capsys.readouterr().out
    for word in (
        "Traffic Light",
        "value, value, value (mono8)",
        "pad to 192x128",
        "untrained",
        "sha256",
    ):
        assert word in shown


def test_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["weights", "convert", str(tmp_path / "o"), "--dataset", "deliver"]
    with pytest.raises(SystemExit):
        main([*argv, "--sensors", "lidr"])
    assert "--sensors: unknown 'lidr'; did you mean 'lidar'" in capsys.readouterr().err
    assert main([*argv, "--sensors", "thermal"]) == 2
    assert (
        "sensors of deliver: unknown 'thermal'; known: depth, event, lidar"
        in capsys.readouterr().err
    )
    assert main(["weights", "info", str(tmp_path / "absent")]) == 2
    assert "no such file" in capsys.readouterr().err


def small_config() -> ModelConfig:
    return ModelConfig.preset(
        "nano",
        num_classes=3,
        encoder=EncoderConfig(
            embed_dim=96,
            depth=4,
            num_heads=3,
            window_size=4,
            global_attn_indexes=(1, 3),
            pretrained_size=(128, 128),
        ),
        trunk=TrunkConfig(depths=(2, 2, 6, 2), widths=(48, 96, 192, 384)),
    )


def test_sam_checkpoint_fills_the_encoder(tmp_path: Path) -> None:
    pytest.importorskip("segment_anything")
    from segment_anything.modeling.image_encoder import ImageEncoderViT

    sam = ImageEncoderViT(
        img_size=128,
        embed_dim=96,
        depth=4,
        num_heads=3,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=4,
        global_attn_indexes=(1, 3),
    )
    randomise(sam, seed=9)
    state = {f"image_encoder.{k}": v for k, v in sam.state_dict().items()}
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 4)
    model = build_model(small_config())
    load_sam_encoder(model, write(tmp_path / "sam.pth", state))
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, sam.state_dict()[name]), name
    del state["image_encoder.blocks.0.norm1.weight"]
    with pytest.raises(WeightsError, match=r"SAM image encoder .*1 missing: blocks\.0\.norm1"):
        load_sam_encoder(model, write(tmp_path / "sam.pth", state))


@pytest.mark.parametrize("names", ["timm", "original", "mmpretrain"])
def test_convnext_file_fills_both_trunks(tmp_path: Path, names: str) -> None:
    source = timm.create_model(
        "convnext_pico",
        depths=(2, 2, 6, 2),
        dims=(48, 96, 192, 384),
        conv_mlp=False,
        ls_init_value=1.0,
    )
    randomise(source, seed=4)
    state = dict(source.state_dict())
    if names != "timm":
        state = {original_name(k): v for k, v in state.items()}
    if names == "mmpretrain":
        long = {"dwconv": "depthwise_conv", "pwconv": "pointwise_conv"}
        for short, name in long.items():
            state = {
                f"backbone.{k.removeprefix('backbone.')}".replace(short, name): v
                for k, v in state.items()
            }
    model = build_model(small_config())
    randomise(model, seed=1)
    load_convnext(model, str(write(tmp_path / "c.pth", {"model": state})))
    for trunk in model.prior.trunks.values():
        ours = trunk.state_dict()
        for name, value in source.state_dict().items():
            if name.startswith(("stem.", "stages.")):
                assert torch.equal(ours[name], value), name
    with pytest.raises(WeightsError, match="neither a file nor a timm model name"):
        load_convnext(model, "convnext_of_nobody")


def original_name(name: str) -> str:
    """A timm ConvNeXt key under the original authors' name."""
    if name.startswith("stem."):
        return name.replace("stem.", "downsample_layers.0.")
    name = name.replace("head.norm.", "norm.").replace("head.fc.", "head.")
    parts = name.split(".")
    if parts[0] == "stages" and parts[2] == "downsample":
        return ".".join(["downsample_layers", parts[1], *parts[3:]])
    name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv")
    return name.replace("mlp.fc", "pwconv")


@pytest.mark.parametrize("absent", ["empty", "fallback"])
def test_parts_of_our_own_files_start_others(tmp_path: Path, absent: Any) -> None:
    """The encoder and trunk of an RGB network, which may be a fallback, start one with two
    auxiliaries.
    """
    name = "synthetic_rgb_lidar_thermal"
    spec = spec_of(name, rgb_only=absent == "empty")
    spec = dataclasses.replace(
        spec, config=dataclasses.replace(spec.config, combine=CombineConfig(absent))
    )
    first = randomise(build_model(spec.config), seed=4)
    path = tmp_path / "rgb.safetensors"
    save_model(path, first, spec)
    model = network_of(name)
    load_sam_encoder(model, path)
    load_convnext(model, str(path))
    state = model.state_dict()
    for name, value in (first.fallback or first).state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(state[name], value)
        if name.startswith("prior.trunks.rgb.st"):
            for modality in ("rgb", "lidar", "thermal"):
                assert torch.equal(state[name.replace("rgb", modality)], value)


def test_an_encoder_starts_that_of_a_fallback(tmp_path: Path) -> None:
    config = spec_of("synthetic_rgb_lidar_thermal").config
    model = build_model(dataclasses.replace(config, combine=CombineConfig("fallback")))
    assert model.fallback is not None
    state = randomise(build_model(config.of_rgb).encoder, seed=4).state_dict()
    load_sam_encoder(model, write(tmp_path / "sam.pth", state))
    assert all(torch.equal(v, state[n]) for n, v in model.fallback.encoder.state_dict().items())


def test_a_shared_trunk_starts_trunks_of_their_own(tmp_path: Path) -> None:
    config = spec_of("fmb_rgb_thermal").config
    shared = build_model(dataclasses.replace(config, prior=PriorConfig(shared=True)))
    path = write(tmp_path / "shared.pth", randomise(shared, seed=6).state_dict())
    model = build_model(config)
    load_convnext(model, str(path))
    for name, value in shared.prior.trunks["shared"].state_dict().items():
        if name.startswith(("stem.", "stages.")):
            for trunk in model.prior.trunks.values():
                assert torch.equal(trunk.state_dict()[name], value)


@pytest.mark.parametrize(
    ("convert", "text"),
    [
        (lambda x: x * torch.nan, "pos_embed has values that are not finite"),
        (lambda x: x.to(torch.int8), "pos_embed is torch.int8, expected a floating type"),
    ],
)
def test_start_weights_that_no_training_ends_with(
    tmp_path: Path, convert: Callable[[torch.Tensor], torch.Tensor], text: str
) -> None:
    """Training would blame its frames for a loss that is NaN."""
    model = build_model(spec_of("muses_rgb_lidar").config)
    state = dict(model.encoder.state_dict())
    state["pos_embed"] = convert(state["pos_embed"])
    torch.save({f"image_encoder.{name}": x for name, x in state.items()}, tmp_path / "sam.pth")
    with pytest.raises(WeightsError, match=rf"sam.pth: SAM image encoder: {text}"):
        load_sam_encoder(model, tmp_path / "sam.pth")
