# SPDX-License-Identifier: Apache-2.0
"""`mmsam weights`: convert foreign checkpoints, make start weights, show what a file holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmsam_ros.weights import Spec

NAME = "weights"
HELP = "convert foreign checkpoints, make start weights, show what a file holds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the sub-verbs `convert` and `info`."""
    verbs = parser.add_subparsers(dest="weights_verb", required=True, metavar="VERB")
    convert = verbs.add_parser(
        "convert",
        help="write an mmsam weights file",
        description="Write an mmsam weights file: from the released MM SAM-adapter, or start "
        "weights from SAM and ConvNeXt (what is not given starts from scratch).",
    )
    convert.add_argument("output", type=Path, help="the .safetensors file to write")
    convert.add_argument(
        "--setting", required=True, help="classes, inputs and geometry, e.g. deliver_rgb_lidar"
    )
    convert.add_argument("--preset", default="vit_l", help="network (default: %(default)s)")
    convert.add_argument(
        "--size", type=_size, metavar="HxW", help="network input (default: the setting's)"
    )
    convert.add_argument("--released", type=Path, help="released MM SAM-adapter checkpoint (.pth)")
    convert.add_argument("--sam", type=Path, help="official SAM checkpoint (.pth; B, L or H)")
    convert.add_argument("--convnext", help="ConvNeXt weights: a file or a timm model name")
    convert.add_argument("--seed", type=int, default=0, help="of what starts from scratch")
    info = verbs.add_parser("info", help="show what a weights file holds")
    info.add_argument("file", type=Path)


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-verb."""
    return _info(args.file) if args.weights_verb == "info" else _convert(args)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected HEIGHTxWIDTH such as 288x384")
    return int(height), int(width)


def _convert(args: argparse.Namespace) -> int:
    import torch

    from mmsam_ros.cli.errors import CliError
    from mmsam_ros.data.open import find_benchmark
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
        raise CliError("--released is a whole network: --sam and --convnext do not go with it")
    benchmark = find_benchmark(args.setting.split("_")[0])
    modalities = {s: benchmark.modalities[s] for s in args.setting.split("_")[2:]}
    config = network_config(benchmark, benchmark.classes, modalities, args.preset, args.size)
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
        benchmark.classes,
        benchmark_geometry(benchmark.mode, benchmark, config.image_size),
        trained=bool(args.released),
        data=args.setting if args.released else "none",
        recipe=recipe,
        seed=None if args.released else args.seed,
        source=", ".join(Path(s).name for s in sources),
        source_sha256=", ".join(file_sha256(s) for s in sources if Path(s).is_file()),
    )
    save_model(args.output, model, spec)
    print(f"{args.output}: {recipe}, {args.preset} for {args.setting}")
    return 0


def _info(path: Path) -> int:
    from rich.console import Console
    from rich.table import Table

    from mmsam_ros.weights import file_sha256, read_spec
    from mmsam_ros.weights.released import expected_shapes

    spec = read_spec(path)
    shapes = expected_shapes(spec.config).values()
    elements = sum(_product(shape) for shape in shapes)
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in _facts(spec):
        table.add_row(key, value)
    table.add_row("parameters", f"{elements / 1e6:.1f} M in {len(shapes)} tensors")
    table.add_row("file", f"{path.stat().st_size / 1e6:.1f} MB, sha256 {file_sha256(path)}")
    Console(soft_wrap=True).print(table)
    return 0


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for n in shape:
        result *= n
    return result


def _facts(spec: Spec) -> list[tuple[str, str]]:
    config, geometry, provenance = spec.config, spec.geometry, spec.provenance
    rows = [
        ("encoder", f"{config.encoder.depth} blocks of width {config.encoder.embed_dim}"),
        ("trunks", f"depths {config.trunk.depths}, widths {config.trunk.widths}"),
        ("geometry", f"{geometry.mode} to {geometry.size[0]}x{geometry.size[1]} (height x width)"),
    ]
    if geometry.stride is not None:
        rows.append(("stride", f"{geometry.stride[0]}x{geometry.stride[1]}"))
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
