# SPDX-License-Identifier: Apache-2.0
"""Degraded input: each case does what it says to its own image, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from mmsam_ros.data.corrupt import CORRUPTIONS, corrupt
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import Sample


def make_sample(name: str = "frame", height: int = 90, width: int = 120) -> Sample:
    draw = torch.Generator().manual_seed(0)
    lidar = torch.zeros(3, height, width)
    lidar[:, 20:70, 20:100] = 100 * torch.rand((3, 50, 80), generator=draw) - 5
    counts = torch.randint(0, 30, (3, height, width), generator=draw).float()
    return {
        "name": name,
        "rgb": tv_tensors.Image(
            torch.randint(0, 256, (3, height, width), generator=draw, dtype=torch.uint8)
        ),
        "sources": {
            "lidar": tv_tensors.Image(lidar),
            "event": tv_tensors.Image(counts),
            "thermal": tv_tensors.Image(60000 * torch.rand((1, height, width), generator=draw)),
        },
        "label": tv_tensors.Mask(torch.zeros((height, width), dtype=torch.uint8)),
    }


def images(sample: Sample) -> dict[str, torch.Tensor]:
    return {"rgb": sample["rgb"], **sample["sources"]}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_the_named_image_changes(name: str) -> None:
    sample, untouched = make_sample(), make_sample()
    out = corrupt(sample, name)
    for source, before in images(sample).items():
        after = images(out)[source]
        assert isinstance(after, tv_tensors.Image)
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        assert torch.equal(after, before) == (source != CORRUPTIONS[name].source)
        assert torch.equal(before, images(untouched)[source]), "the input was changed"
    assert out["label"] is sample["label"]
    assert out["name"] == "frame"


@pytest.mark.parametrize("name", ["motionblur", "noise", "lidarjitter"])
def test_the_draw_hangs_on_frame_and_seed_alone(name: str) -> None:
    def worse(frame: str, seed: int) -> torch.Tensor:
        sample = make_sample(frame, 400, 400)
        return images(corrupt(sample, name, seed))[CORRUPTIONS[name].source]

    first = worse("frame", 1)
    torch.manual_seed(99)
    assert torch.equal(worse("frame", 1), first)
    assert not torch.equal(worse("frame", 2), first)
    assert not torch.equal(worse("other", 1), first)


def test_exposure() -> None:
    sample = make_sample()
    grey = sample["rgb"].float()
    dark, bright = (corrupt(sample, f"{w}exposure")["rgb"].float() for w in ("under", "over"))
    assert (dark - grey * 2 ** (-6 / 2.2)).abs().max() <= 0.5
    assert dark.max() < 40
    assert (bright - (grey * 2 ** (3 / 2.2)).clamp(max=255)).abs().max() <= 0.5
    assert (bright == 255).float().mean() > 0.5


def test_motion_blur_keeps_the_light_and_smears_along_a_line() -> None:
    sample = make_sample(height=400, width=400)
    sample["rgb"] = tv_tensors.Image(torch.zeros((3, 400, 400), dtype=torch.uint8))
    sample["rgb"][:, 200, 200] = 255
    smeared = corrupt(sample, "motionblur")["rgb"][0].double()
    assert smeared.sum() == pytest.approx(255, rel=0.06)
    rows, columns = np.nonzero(smeared.numpy())
    assert 9 <= np.hypot(np.ptp(rows), np.ptp(columns)) <= 12
    spread = np.linalg.svd(np.stack([rows - 200, columns - 200]))[1]
    assert spread[1] < 0.2 * spread[0]


def test_noise_has_25_grey_levels() -> None:
    sample = make_sample()
    sample["rgb"] = tv_tensors.Image(torch.full((3, 90, 120), 128, dtype=torch.uint8))
    noise = corrupt(sample, "noise")["rgb"].float() - 128
    assert noise.std() == pytest.approx(25, rel=0.05)
    assert abs(float(noise.mean())) < 1


def test_lidar_jitter_moves_points_and_mixes_none() -> None:
    before = make_sample()["sources"]["lidar"]
    known = {tuple(pixel) for pixel in before.flatten(1).T.tolist()}
    shifts = []
    for seed in range(10):
        after = corrupt(make_sample(), "lidarjitter", seed)["sources"]["lidar"]
        assert {tuple(pixel) for pixel in after.flatten(1).T.tolist()} <= known
        rows, columns = torch.nonzero(after.any(dim=0), as_tuple=True)
        shifts.append((float(rows.float().mean()) - 44.5, float(columns.float().mean()) - 59.5))
    reach = np.abs(shifts).max(axis=0)
    assert (reach > 0.3).all()
    assert (reach < (2.0, 2.5)).all()


@pytest.mark.parametrize(("source", "factor"), [("event", 2), ("thermal", 4)])
@pytest.mark.parametrize("size", [(80, 120), (81, 119)])
def test_low_resolution_leaves_blocks(source: str, factor: int, size: tuple[int, int]) -> None:
    sample = make_sample("frame", *size)
    before, after = sample["sources"][source], corrupt(sample, f"{source}lowres")["sources"][source]
    assert len(np.unique(after[0].numpy(), axis=0)) <= size[0] // factor
    assert len(np.unique(after[0].numpy(), axis=1)[0]) <= size[1] // factor
    if size == (80, 120):
        blocks = before.unfold(1, factor, factor).unfold(2, factor, factor)
        value = blocks[..., 0, 0] if source == "event" else blocks.mean(dim=(-2, -1))
        assert torch.allclose(after[:, ::factor, ::factor], value, rtol=1e-4)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(DataError, match=r"'overexposed'; did you mean 'overexposure'\?"):
        corrupt(make_sample(), "overexposed")
    with pytest.raises(DataError, match=r"'xyz'; expected one of motionblur, .*thermallowres"):
        corrupt(make_sample(), "xyz")


def test_a_missing_source_is_refused() -> None:
    sample = make_sample()
    del sample["sources"]["event"]
    with pytest.raises(DataError, match=r"frame frame: eventlowres needs event, .* rgb, lidar, th"):
        corrupt(sample, "eventlowres")
