# SPDX-License-Identifier: Apache-2.0
"""`mmsam weights`: convert foreign checkpoints, make start weights, show what a file holds, note
what its sensors look like, export the network; the registry of weights by name.
"""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any, get_args

import torch

from mmsam_ros import weights
from mmsam_ros._util import check_word
from mmsam_ros.cli.arguments import CliError, add_out, add_verb, add_words, image_size
from mmsam_ros.cli.output import print_table, progress
from mmsam_ros.data.folder_writer import Meta
from mmsam_ros.data.open import BENCHMARKS, open_frames
from mmsam_ros.model import build_model
from mmsam_ros.model.config import Preset
from mmsam_ros.sensors import AUXILIARY_SENSORS, CAMERA
from mmsam_ros.weights import registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    convert = add_verb(verbs, "convert", write_weights, "write an mmsam weights file")
    option = convert.add_argument
    option("out", type=Path, metavar="OUT", help="the .safetensors file to write")
    option("--dataset", choices=list(BENCHMARKS), required=True, help="gives classes and geometry")
    option("--root", type=Path, metavar="DIR", help="top folder of the data set (for folder only)")
    add_words(convert, "--sensors", "sensors besides the camera", AUXILIARY_SENSORS, required=True)
    option("--preset", choices=get_args(Preset), default="vit_l", help="size of the network")
    option("--size", type=image_size, metavar="WIDTHxHEIGHT",
           help="input size (default: the data set's, or the preset's own)")  # fmt: skip
    option("--released", type=Path, metavar="FILE", help="released MM SAM-adapter (.pth)")
    option("--sam", type=Path, metavar="FILE", help="official SAM checkpoint (.pth; B, L or H)")
    option("--convnext", metavar="NAME", help="ConvNeXt weights: a file or a timm model name")
    option("--seed", type=int, default=0, metavar="N", help="seed of the parts without weights")
    info = add_verb(verbs, "info", show, "show what a weights file contains")
    info.add_argument("file", type=Path, metavar="FILE", help="weights file or name")
    _add_registry(verbs)
    export = add_verb(verbs, "export", write_export, "export the network for other programs")
    option = export.add_argument
    option("file", type=Path, metavar="FILE", help="weights file")
    option("--format", choices=["onnx"], default="onnx", help="format of the file")
    add_words(export, "--sensors", "sensors besides the camera that are present (default: one file "
              "for each set)", AUXILIARY_SENSORS)  # fmt: skip
    option("--precision", choices=["fp32", "fp16"], default="fp32", help="precision of the network")
    add_out(export, "folder to write", "out/onnx")
    seen = add_verb(verbs, "seen", write_seen, "add statistics of the training data")
    option = seen.add_argument
    option("file", type=Path, metavar="FILE", help="weights file; its tensors are not changed")
    option("--dataset", choices=list(BENCHMARKS), required=True, help="data set of the training")
    option("--root", type=Path, required=True, metavar="DIR", help="top folder of the data set")
    option("--lists", type=Path, metavar="DIR", help="FMB's easy and hard lists")


def _add_registry(verbs: Any) -> None:
    add_verb(verbs, "list", show_registry, "list the weights that have a name")
    fetch = add_verb(verbs, "fetch", fetch_weights, "download named weights")
    fetch.add_argument("name", metavar="NAME", help="name that `mmsam weights list` shows")
    register = add_verb(verbs, "register", register_weights, "give a file a name")
    option = register.add_argument
    option("file", type=Path, metavar="FILE", help="weights file or checkpoint")
    option("--name", required=True, metavar="NAME", help="name to give it")
    option("--source", metavar="URL", help="where to download it: https or file (default: FILE)")
    option("--licence", required=True, metavar="TEXT", help="licence of the weights, or unknown")


def show_registry(args: argparse.Namespace) -> None:
    """List the weights of the package and of `mmsam weights register`, with licence, size and
    whether the file is there.
    """
    rows = []
    for name, (entry, file) in registry.all_entries().items():
        there = file.is_file() and file.stat().st_size == entry.size
        state = str(file) if there else "not fetched" if not file.exists() else "of another size"
        rows.append((name, entry.licence, f"{entry.size / 1e6:.1f} MB", state, entry.source))
    print_table(("name", "licence", "size", "file", "source"), rows)


def fetch_weights(args: argparse.Namespace) -> None:
    """Download weights of the registry into the user's cache, and compare size and SHA-256. An
    interrupted download is continued. Proxies are those of the environment (https_proxy, no_proxy).
    """
    with progress(args.name) as advance:
        print(registry.fetch(args.name, advance))


def register_weights(args: argparse.Namespace) -> None:
    """Add a file to the user's registry, with the size and SHA-256 that it has now."""
    entry = registry.register(args.file, args.name, args.licence, args.source)
    print(f"{args.name}: {entry.size} bytes, sha256 {entry.sha256} ({registry.user_registry()})")


def write_weights(args: argparse.Namespace) -> None:
    """Write an mmsam weights file: the released MM SAM-adapter, or start weights from SAM and
    ConvNeXt. What is not given starts from scratch.
    """
    from mmsam_ros.training.start import benchmark_geometry, network_config

    if args.released and (args.sam or args.convnext):
        raise CliError("--released is a whole network: leave out --sam and --convnext")
    benchmark = BENCHMARKS[args.dataset]
    known, classes = dict(benchmark.modalities), benchmark.classes
    if not known:
        if args.root is None:
            raise CliError(f"--dataset {args.dataset}: expected its top folder with --root")
        meta = Meta.read(args.root)
        known, classes = {s: meta.modality(s) for s in meta.encodings}, meta.classes
    modalities = {
        sensor: known[check_word(f"sensors of {args.dataset}", sensor, known, CliError)]
        for sensor in args.sensors
    }
    size = args.size and args.size[::-1]
    config = network_config(benchmark, classes, modalities, args.preset, size)
    sources = [str(s) for s in (args.released, args.sam, args.convnext) if s]
    torch.manual_seed(args.seed)
    with torch.device("meta" if args.released else "cpu"):
        model = build_model(config)
    recipe = "start weights, untrained" if sources else "from scratch, untrained"
    if args.released:
        state = weights.convert_released(weights.read_checkpoint(args.released), config)
        model.load_state_dict(state, assign=True)
        recipe = "released MM SAM-adapter, converted"
    if args.sam:
        weights.load_sam_encoder(model, args.sam)
    if args.convnext:
        weights.load_convnext(model, args.convnext)
    data = "; ".join(filter(None, [args.dataset, benchmark.rasters])) if args.released else "none"
    spec = weights.make_spec(
        config, modalities, classes,
        benchmark_geometry(benchmark.mode, benchmark, config.image_size), recipe=recipe,
        trained=bool(args.released), data=data,
        seed=None if args.released else args.seed,
        source=", ".join(Path(s).name for s in sources),
        source_sha256=", ".join(weights.file_sha256(s) for s in sources if Path(s).is_file()),
    )  # fmt: skip
    weights.save_model(args.out, model, spec)
    sensors = " + ".join(("camera", *args.sensors))
    print(f"{args.out}: {recipe}, {args.preset} for {args.dataset}, {sensors}")


def write_seen(args: argparse.Namespace) -> None:
    """Add statistics of the training data (the split `train`) to a weights file. Training does this
    by itself; converted or older weights need it so that the node can recognise a sensor that does
    not fit.
    """
    from mmsam_ros.training.start import check_fit, look_at

    if weights.weights_file(args.file) != Path(os.path.expanduser(args.file)):
        raise CliError(
            f"{args.file}: is a name of the registry, whose bytes must stay; copy "
            f"{weights.weights_file(args.file)} and give the copy"
        )
    spec = weights.read_spec(args.file)
    frames = open_frames(args.dataset, args.root, "train", spec.sensors, args.lists or "")
    check_fit(spec, frames)
    spec = dataclasses.replace(spec, seen=look_at(frames, spec))
    weights.save_spec(args.file, spec)
    for name, fact in _seen_facts(spec).items():
        print(f"{name}: {fact}")


def write_export(args: argparse.Namespace) -> None:
    """Write one ONNX file for each set of present sensors, or for the one of --sensors (empty: the
    camera alone). Each is compared with PyTorch, and is not written where it differs.
    """
    from mmsam_ros.inference.export import export_file, subsets

    model, spec = weights.load_model(args.file)
    wanted = args.sensors
    for sensor in wanted or ():
        check_word(f"sensors of {args.file}", sensor, spec.sensors, CliError)
    for _, *sensors in subsets(spec.config) if wanted is None else [(CAMERA, *wanted)]:
        name = "_".join((args.file.stem, CAMERA, *sensors, args.precision))
        path = args.out / f"{name}.onnx"
        agreement = export_file(model, spec, sensors, path, args.precision)
        print(f"{path}: {agreement}")


def show(args: argparse.Namespace) -> None:
    path = weights.weights_file(args.file)
    spec = weights.read_spec(path)
    config, geometry, provenance = spec.config, spec.geometry, spec.provenance
    with torch.device("meta"):
        sizes = [value.numel() for value in build_model(config).state_dict().values()]
    facts = {
        "encoder": f"{config.encoder.depth} blocks of width {config.encoder.embed_dim}",
        "trunks": f"depths {config.trunk.depths}, widths {config.trunk.widths}",
        "geometry": f"{geometry.mode} to {_size(geometry.size)}",
        "stride": _size(geometry.stride) if geometry.stride else "",
        **{f"input {n}": f"{', '.join(m.fields)} ({m.encoding})" for n, m in spec.inputs.items()},
        **_seen_facts(spec),
        "classes": ", ".join(f"{info.id} {info.name}" for info in spec.classes),
        "trained with": "; ".join(map(" + ".join, spec.presence.trained_subsets)) or "nothing",
        **{f"mIoU {n}": f"{s.miou:.2f} on {s.dataset}" for n, s in spec.presence.scores.items()},
        "recipe": f"{provenance.recipe} (data: {provenance.data})",
        "source": f"{provenance.source} {provenance.source_sha256}".strip(),
        "parameters": f"{sum(sizes) / 1e6:.1f} M in {len(sizes)} tensors",
        "file": f"{path.stat().st_size / 1e6:.1f} MB, sha256 {weights.file_sha256(path)}",
    }
    for name, value in facts.items():
        if value:
            print(f"{name}: {value}")


def _seen_facts(spec: weights.Spec) -> dict[str, str]:
    return {
        f"seen {sensor} {name}": f"{s.low:.4g} to {s.high:.4g}, mean {s.mean:.4g}, slope "
        f"{s.slope:+.2f}, {s.empty:.0%} empty"
        for sensor, fields in spec.seen.items()
        for name, s in fields.items()
    }


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
