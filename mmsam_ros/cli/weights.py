# SPDX-License-Identifier: Apache-2.0
"""`mmsam weights`: convert foreign checkpoints, make start weights, show what a file holds."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from mmsam_ros.cli.arguments import add_words, auxiliary_sensors, image_size
from mmsam_ros.cli.output import print_table

if TYPE_CHECKING:
    from mmsam_ros.data.benchmark import Benchmark
    from mmsam_ros.sensors import ClassInfo, Modality
    from mmsam_ros.weights import Spec

NAME = "weights"
HELP = "convert weights, make start weights, show a weights file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the sub-verbs `convert` and `info`."""
    from mmsam_ros.data.open import BENCHMARKS
    from mmsam_ros.model.config import Preset

    verbs = parser.add_subparsers(dest="weights_verb", required=True, metavar="VERB")
    convert = verbs.add_parser(
        "convert",
        help="write an mmsam weights file",
        description="Write an mmsam weights file: the released MM SAM-adapter, or start weights "
        "from SAM and ConvNeXt. What is not given starts from scratch.",
    )
    convert.add_argument("out", type=Path, metavar="OUT", help="the .safetensors file to write")
    convert.add_argument(
        "--dataset", choices=list(BENCHMARKS), required=True, help="gives classes and geometry"
    )
    convert.add_argument(
        "--root", type=Path, metavar="DIR", help="top folder of the data set, needed for folder"
    )
    sensors = auxiliary_sensors()
    add_words(convert, "--sensors", "sensors besides the camera", sensors, required=True)
    presets = get_args(Preset)
    convert.add_argument("--preset", choices=presets, default="vit_l", help="network")
    convert.add_argument(
        "--size", type=image_size, metavar="WIDTHxHEIGHT",
        help="network input (default: the data set's, or the preset's own)",
    )  # fmt: skip
    convert.add_argument(
        "--released", type=Path, metavar="FILE", help="released MM SAM-adapter checkpoint (.pth)"
    )
    convert.add_argument(
        "--sam", type=Path, metavar="FILE", help="official SAM checkpoint (.pth; B, L or H)"
    )
    convert.add_argument(
        "--convnext", metavar="NAME", help="ConvNeXt weights: a file or a timm model name"
    )
    convert.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of what starts from scratch"
    )
    info = verbs.add_parser("info", help="show what a weights file holds")
    info.add_argument("file", type=Path, metavar="FILE", help="weights file")


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-verb."""
    return _info(args.file) if args.weights_verb == "info" else _convert(args)


def _convert(args: argparse.Namespace) -> int:
    import torch

    from mmsam_ros.cli.errors import CliError
    from mmsam_ros.model import build_model
    from mmsam_ros.training.start import benchmark_geometry, network_config
    from mmsam_ros.weights import (
        convert_released,
        file_sha256,
        load_convnext,
        load_sam_encoder,
        make_spec,
        read_checkpoint,
        save_model,
    )

    if args.released and (args.sam or args.convnext):
        raise CliError("--released is a whole network: leave out --sam and --convnext")
    benchmark, classes, modalities = _inputs(args)
    size = args.size and args.size[::-1]
    config = network_config(benchmark, classes, modalities, args.preset, size)
    sources = [str(s) for s in (args.released, args.sam, args.convnext) if s]
    if args.released:
        with torch.device("meta"):
            model = build_model(config)
        model.load_state_dict(convert_released(read_checkpoint(args.released), config), assign=True)
        recipe = "released MM SAM-adapter, converted"
    else:
        torch.manual_seed(args.seed)
        model = build_model(config)
        if args.sam:
            load_sam_encoder(model, args.sam)
        if args.convnext:
            load_convnext(model, args.convnext)
        recipe = "start weights, untrained" if sources else "from scratch, untrained"
    spec = make_spec(
        config,
        modalities,
        classes,
        benchmark_geometry(benchmark.mode, benchmark, config.image_size),
        trained=bool(args.released),
        data=args.dataset if args.released else "none",
        recipe=recipe,
        seed=None if args.released else args.seed,
        source=", ".join(Path(s).name for s in sources),
        source_sha256=", ".join(file_sha256(s) for s in sources if Path(s).is_file()),
    )
    save_model(args.out, model, spec)
    sensors = " + ".join(("camera", *args.sensors))
    print(f"{args.out}: {recipe}, {args.preset} for {args.dataset}, {sensors}")
    return 0


def _inputs(
    args: argparse.Namespace,
) -> tuple[Benchmark, tuple[ClassInfo, ...], dict[str, Modality]]:
    """The data set, its classes, and the modalities of the chosen sensors."""
    from mmsam_ros._util import check_word
    from mmsam_ros.cli.errors import CliError
    from mmsam_ros.data.folder import Meta
    from mmsam_ros.data.open import find_benchmark

    benchmark = find_benchmark(args.dataset)
    known, classes = dict(benchmark.modalities), benchmark.classes
    if not known:
        if args.root is None:
            raise CliError(f"--dataset {args.dataset}: expected its top folder with --root")
        meta = Meta.read(args.root)
        known, classes = {s: meta.modality(s) for s in meta.encodings}, meta.classes
    for sensor in args.sensors:
        check_word(f"sensors of {args.dataset}", sensor, known, CliError)
    return benchmark, classes, {sensor: known[sensor] for sensor in args.sensors}


def _info(path: Path) -> int:
    from mmsam_ros.weights import file_sha256, read_spec
    from mmsam_ros.weights.released import expected_shapes

    spec = read_spec(path)
    shapes = expected_shapes(spec.config).values()
    millions = sum(map(math.prod, shapes)) / 1e6
    facts = _facts(spec)
    facts.append(("parameters", f"{millions:.1f} M in {len(shapes)} tensors"))
    facts.append(("file", f"{path.stat().st_size / 1e6:.1f} MB, sha256 {file_sha256(path)}"))
    print_table([], facts)
    return 0


def _facts(spec: Spec) -> list[tuple[str, str]]:
    config, geometry, provenance = spec.config, spec.geometry, spec.provenance
    rows = [
        ("encoder", f"{config.encoder.depth} blocks of width {config.encoder.embed_dim}"),
        ("trunks", f"depths {config.trunk.depths}, widths {config.trunk.widths}"),
        ("geometry", f"{geometry.mode} to {geometry.size[1]}x{geometry.size[0]}"),
    ]
    if geometry.stride is not None:
        rows.append(("stride", f"{geometry.stride[1]}x{geometry.stride[0]}"))
    for name, given in spec.inputs.items():
        rows.append((f"input {name}", f"{', '.join(given.fields)} ({given.encoding})"))
    rows.append(("classes", ", ".join(f"{c.id} {c.name}" for c in spec.classes)))
    trained = "; ".join(" + ".join(s) for s in spec.presence.trained_subsets)
    rows.append(("trained with", trained or "nothing"))
    for subset, score in spec.presence.scores.items():
        rows.append((f"mIoU {subset}", f"{score.miou:.2f} on {score.dataset}"))
    rows.append(("recipe", f"{provenance.recipe} (data: {provenance.data})"))
    if provenance.source:
        rows.append(("source", f"{provenance.source} {provenance.source_sha256}"))
    return rows
