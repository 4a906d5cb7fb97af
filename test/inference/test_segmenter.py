# SPDX-License-Identifier: Apache-2.0
"""Frame in, labels out: geometry, sensors, windows, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.networks import random_network, spec_of
from torch import Tensor

from mmsam_ros.inference import InferenceError, Segmenter, TorchEngine
from mmsam_ros.inference.geometry import Plan, resize_maps, slide_windows
from mmsam_ros.inference.prepare import Prepared, prepare
from mmsam_ros.sensors import (
    CameraModel,
    Frame,
    LidarPoints,
    Registration,
    SensorImage,
    rasterise,
)
from mmsam_ros.weights import Geometry, Spec, WeightsError

CPU = torch.device("cpu")
BOTH = "synthetic_rgb_lidar_thermal"


def segmenter_of(name: str, geometry: Geometry | None = None) -> Segmenter:
    spec = spec_of(name)
    return Segmenter(random_network(spec), spec, device="cpu", geometry=geometry)


def prepared(frame: Frame, spec: Spec, geometry: Geometry | None = None) -> Prepared:
    size = (frame.rgb.shape[0], frame.rgb.shape[1])
    return prepare(frame, spec, Plan.of(geometry or spec.geometry, size), CPU)


def camera(width: int, height: int) -> CameraModel:
    k = [width * 0.7, 0, width / 2, 0, width * 0.7, height / 2, 0, 0, 1]
    return CameraModel.from_info(
        width=width,
        height=height,
        k=k,
        d=[],
        distortion_model="plumb_bob",
        r=np.eye(3).ravel(),
        p=[*k[:3], 0, *k[3:6], 0, *k[6:], 0],
        binning_x=0,
        binning_y=0,
        roi=(0, 0, 0, 0),
    )


# x forward, y left, z up -> x right, y down, z forward
T_CAMERA_LIDAR = np.array([[0, -1, 0, 0], [0, 0, -1, 0.2], [1, 0, 0, 0], [0, 0, 0, 1.0]])


def frame(width: int = 320, height: int = 200, seed: int = 0) -> Frame:
    """Random camera image, cloud and 16-bit thermal image."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform((2, -8, -2), (40, 8, 3), (3000, 3)).astype(np.float32)
    cloud = LidarPoints(xyz, rng.uniform(0, 1, 3000).astype(np.float32), T_CAMERA_LIDAR)
    thermal = SensorImage(rng.integers(24000, 33000, (120, 192), np.uint16))
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    return Frame(rgb, {"lidar": cloud, "thermal": thermal}, camera(width, height))


@pytest.mark.parametrize(
    ("mode", "native", "canvas", "padded"),
    [
        ("pad", (600, 800), (600, 800), (800, 800)),
        ("pad", (375, 1242), (242, 800), (800, 800)),
        ("pad", (1920, 1080), (800, 450), (800, 800)),
        ("resize", (375, 1242), (800, 800), (800, 800)),
        ("slide", (1080, 1920), (1080, 1920), (1080, 1920)),
        ("slide", (375, 1242), (375, 1242), (800, 1242)),
    ],
)
def test_plans(
    mode: str, native: tuple[int, int], canvas: tuple[int, int], padded: tuple[int, int]
) -> None:
    stride = (500, 500) if mode == "slide" else None
    plan = Plan.of(Geometry(mode, (800, 800), stride), native)  # type: ignore[arg-type]
    assert (plan.canvas, plan.padded, plan.output) == (canvas, padded, native)
    assert plan.pad(torch.zeros(1, 3, *canvas)).shape == (1, 3, *padded)
    logits = plan.logits(lambda w: torch.randn(1, 3, (w[1] - w[0]) // 4, (w[3] - w[2]) // 4))
    assert logits.shape == (1, 3, *canvas)


def test_padding_does_not_shift_the_picture() -> None:
    """A left-right ramp in the logits of the canvas is the same ramp at the camera's size."""
    plan = Plan.of(Geometry("pad", (128, 192)), (100, 400))
    ramp = torch.arange(192.0).repeat(128, 1)[None, None]
    restored = resize_maps(plan.logits(lambda _: F.avg_pool2d(ramp, 4)), plan.output)[0, 0]
    expected = (torch.arange(400) + 0.5) * 192 / 400 - 0.5
    assert (restored[:, 8:-8] - expected[8:-8]).abs().max() < 1e-3
    ramp = torch.arange(128.0).repeat(192, 1).T[None, None]
    restored = resize_maps(plan.logits(lambda _: F.avg_pool2d(ramp, 4)), plan.output)[0, 0]
    expected = (torch.arange(100) + 0.5) * 48 / 100 - 0.5
    assert (restored[8:-8, 200] - expected[8:-8]).abs().max() < 1e-3


def test_muses_windows() -> None:
    windows = slide_windows((1080, 1920), (1024, 1024), (640, 640))
    assert sorted({w[0] for w in windows}) == [0, 56]
    assert sorted({w[2] for w in windows}) == [0, 640, 896]
    seen = torch.zeros(1080, 1920)
    for top, bottom, left, right in windows:
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1


def test_padding_holds_what_is_asked_for() -> None:
    plan = Plan.of(Geometry("pad", (8, 8)), (4, 8))
    image = torch.randn(1, 3, 4, 8)
    padded = plan.pad(image, (0.5, -1.0, 2.0))
    assert torch.equal(padded[:, :, :4], image)
    assert torch.equal(padded[0, :, 4:].flatten(1).unique(dim=1)[:, 0], torch.tensor([0.5, -1, 2]))


def test_every_sensor_is_an_input_of_its_own() -> None:
    spec, f = spec_of(BOTH), frame()
    found = prepared(f, spec)
    assert (found.used, dict(found.refused)) == (("lidar", "thermal"), {})
    assert set(found.inputs) == {"rgb", "lidar", "thermal"}
    h, w = found.plan.canvas
    assert (h, w) == (120, 192)
    lidar, thermal = found.inputs["lidar"][0], found.inputs["thermal"][0]
    assert lidar.shape == thermal.shape == (3, 128, 192)
    cloud = f.sensors["lidar"]
    assert isinstance(cloud, LidarPoints)
    assert f.camera is not None
    camera = f.camera.scaled(w, h)
    raster = rasterise(cloud.xyz, cloud.intensity, camera, T_CAMERA_LIDAR, point_size=2)
    assert (raster[..., 0] > 0).mean() > 0.05
    for channel, spread in enumerate((20, 50, 1)):
        expected = torch.from_numpy(raster[..., channel] / spread)
        torch.testing.assert_close(lidar[channel, :h], expected)
    assert 0 <= thermal[0].min() < thermal[0].max() <= 1
    assert torch.equal(thermal[0], thermal[1])
    assert torch.equal(thermal[0], thermal[2])
    for image in (lidar, thermal):
        assert bool((image[:, h:] == 0).all())
    rgb = found.inputs["rgb"][0]
    mean = torch.from_numpy(f.rgb).float().mean((0, 1)) / 255
    expected = (mean - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(rgb[:, :h].mean((1, 2)), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("native", [(60, 80), (300, 500)])
@pytest.mark.parametrize("mode", ["pad", "resize"])
def test_an_image_resized_on_the_device_is_the_same(
    native: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller and larger than the network's; as on a GPU, with the CPU's own resize."""
    spec = spec_of("muses_rgb_lidar", rgb_only=True)
    plan = Plan.of(dataclasses.replace(spec.geometry, mode=mode, stride=None), native)
    frame = Frame(np.random.default_rng(3).integers(0, 255, (*native, 3), np.uint8), {})
    plain = prepare(frame, spec, plan, CPU).inputs["rgb"]
    monkeypatch.setattr("mmsam_ros.inference.prepare.resizes", lambda _: True)
    there = prepare(frame, spec, plan, CPU).inputs["rgb"]
    assert there.shape == plain.shape
    assert plain.std() > 0.1
    torch.testing.assert_close(there, plain, rtol=0, atol=2e-3)  # a twentieth of a grey level


def test_missing_sensors_are_left_out() -> None:
    spec, f = spec_of(BOTH), frame()
    both = prepared(f, spec)
    only = prepared(dataclasses.replace(f, sensors={"thermal": f.sensors["thermal"]}), spec)
    assert only.used == ("thermal",)
    assert torch.equal(only.inputs["thermal"], both.inputs["thermal"])
    bare = prepared(dataclasses.replace(f, sensors={}), spec)
    assert (bare.used, set(bare.inputs), dict(bare.refused)) == ((), {"rgb"}, {})


def test_a_sensor_that_cannot_be_used_is_refused_and_the_others_go_on() -> None:
    segmenter, f = segmenter_of(BOTH), frame()
    wrong = SensorImage(np.zeros((4, 4), np.uint8))  # these weights read 16 bit
    found = segmenter.prepare(dataclasses.replace(f, sensors={**f.sensors, "thermal": wrong}))
    assert found.used == ("lidar",)
    refusal = found.refused["thermal"]
    assert (refusal.sensor, refusal.reason) == ("thermal", "weights")
    assert "uint16" in refusal.text
    alone = segmenter(dataclasses.replace(f, sensors={"lidar": f.sensors["lidar"]}))
    assert np.array_equal(segmenter.infer(found).labels, alone.labels)


def test_blank_sensors_are_refused_unless_that_is_normal() -> None:
    spec, f = spec_of(BOTH), frame()
    behind = LidarPoints(
        np.array([[-5.0, 0, 0]], np.float32), np.ones(1, np.float32), T_CAMERA_LIDAR
    )
    grey = SensorImage(np.full((200, 320), 29000, np.uint16))
    found = prepared(dataclasses.replace(f, sensors={"lidar": behind, "thermal": grey}), spec)
    assert found.used == ()
    assert {name: r.reason for name, r in found.refused.items()} == {
        "lidar": "blank", "thermal": "blank",
    }  # fmt: skip
    assert "none of 1 points" in found.refused["lidar"].text
    empty = LidarPoints(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), T_CAMERA_LIDAR)
    found = prepared(dataclasses.replace(f, sensors={"lidar": empty}), spec)
    assert (found.used, dict(found.refused)) == ((), {})


def test_a_blank_frame_is_absent_where_the_network_can_do_without() -> None:
    """Else norms would amplify it; the published network takes it for what it shows."""
    segmenter, f = segmenter_of(BOTH), frame()
    without = segmenter(dataclasses.replace(f, sensors={"lidar": f.sensors["lidar"]}))
    blank = SensorImage(np.full((200, 320), 29000, np.uint16))
    shown = segmenter(dataclasses.replace(f, sensors={**f.sensors, "thermal": blank}))
    assert shown.present == without.present == ("lidar",)
    assert np.array_equal(shown.labels, without.labels)
    seen_from_beside = Registration.from_homography([[0.5, 0, 60], [0, 0.5, 40], [0, 0, 1]])
    blank = SensorImage(blank.data, seen_from_beside)
    shown = segmenter(dataclasses.replace(f, sensors={**f.sensors, "thermal": blank}))
    assert shown.present == ("lidar",), "the edge of its view is no contrast"
    hot = blank.data.copy()
    hot[90:110, 150:170] += 500
    shown = segmenter(
        dataclasses.replace(f, sensors={"thermal": SensorImage(hot, seen_from_beside)})
    )
    assert shown.present == ("thermal",)
    published = segmenter_of("fmb_rgb_thermal")
    grey = SensorImage(np.full((200, 320), 90, np.uint8))
    assert published(Frame(f.rgb, {"thermal": grey})).present == ("thermal",)


def test_labels_have_the_camera_size_and_depend_on_every_sensor() -> None:
    segmenter, f = segmenter_of(BOTH), frame()
    full = segmenter(f)
    assert full.labels.shape == (200, 320)
    assert full.labels.dtype == np.uint8
    assert full.labels.max() < segmenter.spec.config.num_classes
    assert full.confidence is not None
    assert full.confidence.shape == (200, 320)
    assert set(full.timings) == {"prepare", "network", "labels"}
    for name in ("lidar", "thermal"):
        others = {k: v for k, v in f.sensors.items() if k != name}
        less = segmenter(dataclasses.replace(f, sensors=others))
        assert less.present == tuple(others)
        assert (less.labels != full.labels).mean() > 0.001, name


def test_labels_are_the_upsampled_argmax() -> None:
    """Against the plain way: network, bilinear to the input's size, crop, bilinear, argmax."""
    segmenter, f = segmenter_of(BOTH), frame()
    plan = Plan.of(segmenter.geometry, (200, 320))
    inputs = prepare(f, segmenter.spec, plan, CPU).inputs
    logits = F.interpolate(segmenter.engine(inputs), size=(128, 192), mode="bilinear")
    logits = F.interpolate(logits[:, :, :120], size=(200, 320), mode="bilinear")
    assert np.array_equal(segmenter(f).labels, logits.argmax(1)[0].numpy())
    confidence = segmenter(f).confidence
    assert confidence is not None
    expected = (logits.softmax(1).amax(1)[0] * 255).round().numpy()
    assert np.abs(confidence.astype(int) - expected).max() <= 1


def test_slide_equals_windows_by_hand() -> None:
    geometry = Geometry("slide", (128, 192), (100, 128))
    segmenter, f = segmenter_of(BOTH, geometry), frame()
    plan = Plan.of(geometry, (200, 320))
    inputs = prepare(f, segmenter.spec, plan, CPU).inputs
    total, count = torch.zeros(1, 14, 200, 320), torch.zeros(200, 320)
    for top in (0, 72):
        for left in (0, 128):
            window: dict[str, Tensor] = {
                m: x[..., top : top + 128, left : left + 192] for m, x in inputs.items()
            }
            logits = F.interpolate(segmenter.engine(window), size=(128, 192), mode="bilinear")
            total[..., top : top + 128, left : left + 192] += logits
            count[top : top + 128, left : left + 192] += 1
    assert np.array_equal(segmenter(f).labels, (total / count).argmax(1)[0].numpy())


def test_bf16_stays_close() -> None:
    spec = spec_of(BOTH)
    model = random_network(spec)
    plain = Segmenter(model, spec, "cpu", "fp32")(frame()).labels
    half = Segmenter(model, spec, "cpu", "bf16")(frame()).labels
    assert (plain == half).mean() > 0.9


def test_png8_weights_refuse_points_and_take_rasters() -> None:
    segmenter, f = segmenter_of("deliver_rgb_lidar"), frame()
    with pytest.raises(InferenceError, match=r"lidar: .*png8.*lidar/image"):
        segmenter(f)
    raster = SensorImage(np.zeros((200, 320, 3), np.uint8))
    assert segmenter(Frame(f.rgb, {"lidar": raster})).present == ("lidar",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((4, 4), np.uint8), "thermal: .*uint8.*uint16"),
        (np.zeros((4, 4, 3), np.uint16), r"thermal: .*\(4, 4, 3\)"),
    ],
)
def test_data_that_does_not_fit_is_named(data: np.ndarray, message: str) -> None:
    segmenter, f = segmenter_of(BOTH), frame()
    with pytest.raises(InferenceError, match=message):
        segmenter(Frame(f.rgb, {"thermal": SensorImage(data)}, f.camera))


def test_nan_in_a_raster_is_refused_not_spread() -> None:
    segmenter, f = segmenter_of("muses_rgb_lidar"), frame(192, 128)
    raster = np.zeros((128, 192, 3), np.float32)
    segmenter(Frame(f.rgb, {"lidar": SensorImage(raster)}))
    raster[3, 4, 1] = np.nan
    with pytest.raises(InferenceError, match=r"^lidar: .*NaN"):
        segmenter(Frame(f.rgb, {"lidar": SensorImage(raster)}))


def test_one_absurd_value_costs_its_point_not_the_mask() -> None:
    """1e30 would overflow within the network, and NaN everywhere is the first class everywhere."""
    segmenter, f = segmenter_of(BOTH), frame()
    cloud = f.sensors["lidar"]
    assert isinstance(cloud, LidarPoints)
    expected = segmenter(f)
    xyz = np.concatenate([cloud.xyz, cloud.xyz[:1] / 2]).astype(np.float32)
    for absurd in (1e30, 3e38, np.inf, np.nan):
        intensity = np.append(cloud.intensity, np.float32(absurd)).astype(np.float32)
        spoilt = LidarPoints(xyz, intensity, cloud.T_camera_lidar)
        found = segmenter(Frame(f.rgb, {**f.sensors, "lidar": spoilt}, f.camera))
        assert np.array_equal(found.labels, expected.labels)
    segmenter = segmenter_of("muses_rgb_lidar")
    raster = np.zeros((200, 320, 3), np.float32)
    raster[3, 4, 1] = 3e38
    with pytest.raises(InferenceError, match=r"lidar: .*beyond 1e\+09"):
        segmenter(Frame(f.rgb, {"lidar": SensorImage(raster)}))


def test_an_output_that_is_not_finite_is_no_mask() -> None:
    spec, f = spec_of(BOTH), frame()
    model = random_network(spec)
    with torch.no_grad():
        model.level_embed.fill_(torch.nan)
    segmenter = Segmenter(model, spec, "cpu")
    with pytest.raises(InferenceError, match="output is not finite"):
        segmenter(f)


def test_rasters_must_lie_in_the_camera_view() -> None:
    segmenter, f = segmenter_of("deliver_rgb_lidar"), frame()
    half = SensorImage(np.zeros((100, 160, 3), np.uint8))
    assert segmenter(Frame(f.rgb, {"lidar": half})).present == ("lidar",)
    square = SensorImage(np.zeros((100, 100, 3), np.uint8))
    moved = SensorImage(np.zeros((200, 320, 3), np.uint8), Registration.from_homography(np.eye(3)))
    for data in (square, moved):
        with pytest.raises(InferenceError, match="expected one in the camera's view"):
            segmenter(Frame(f.rgb, {"lidar": data}))


def test_views_and_read_only_images_are_taken() -> None:
    segmenter, f = segmenter_of("fmb_rgb_thermal"), frame()
    expected = segmenter(Frame(f.rgb[..., ::-1].copy(), {})).labels
    frozen = f.rgb[..., ::-1].copy()
    frozen.flags.writeable = False
    for rgb in (f.rgb[..., ::-1], frozen):
        assert np.array_equal(segmenter(Frame(rgb, {})).labels, expected)


def test_logits_are_float32_under_bf16() -> None:
    spec = spec_of("fmb_rgb_thermal")
    engine = TorchEngine(random_network(spec), "cpu", "bf16")
    assert engine({"rgb": torch.randn(1, 3, 128, 192)}).dtype == torch.float32


def test_bad_settings_are_refused() -> None:
    spec = spec_of("fmb_rgb_thermal")
    model = random_network(spec)
    with pytest.raises(InferenceError, match="precision: found 'fp16'"):
        Segmenter(model, spec, "cpu", "fp16")
    with pytest.raises(InferenceError, match="device: found 'tpu'"):
        Segmenter(model, spec, "tpu")
    with pytest.raises(InferenceError, match="cuda:77"):
        Segmenter(model, spec, "cuda:77")
    with pytest.raises(WeightsError, match=r"geometry\.size"):
        Segmenter(model, spec, "cpu", geometry=Geometry("pad", (64, 64)))
