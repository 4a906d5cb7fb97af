# SPDX-License-Identifier: Apache-2.0
"""docs/performance.md out of the benchmarks' results: bars, tables, plots.

    python benchmarks/performance.py

Every benchmark that has been run has a section, with a part for each kind of machine; what a table
shows is in `TABLES`.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from results import KINDS, RESULTS, ROOT, Row, markdown_table

from mmsam_ros._util import write_atomic

PAGE = ROOT / "docs/performance.md"
Contents = Mapping[str, Mapping[str, Row]]  # by kind of machine and benchmark
# benchmark: title, and columns of its rows; a dictionary within a row becomes a column for each key
TABLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "bench_frame": ("A frame, from sensor data to labels", (
        "size", "threads", "engine", "prepare_ms", "network_ms", "labels_ms", "total_ms",
        "times_faster", "network_times_faster")),
    "bench_node": ("The node, from the camera's message to the mask", (
        "what", "size", "sensors", "threads", "engine", "rate_hz", "dropped", "p50_ms", "p95_ms",
        "p99_ms", "jitter_ms", "cpu_cores", "pss_mib", "other_p50_ms", "this_p50_ms",
        "times_faster")),
    "bench_model": ("The network", (
        "preset", "device", "network", "precision", "allocator", "threads", "total_ms", "gmac",
        "matrix_gflops", "share_of_matrix_rate", "peak_gib")),
    "bench_engines": ("Engines", ("preset", "modalities", "threads", "ms", "best_over_plain")),
    "bench_labels": ("Labels at the camera's size", (
        "content", "size", "classes", "confidence", "threads", "plain_ms", "fast_ms",
        "times_faster")),
    "bench_around": ("Around the network", (
        "threads", "cpu_ms", "elapsed_ms", "build_cpu_ms", "inputs_cpu_ms", "mask_cpu_ms",
        "color_cpu_ms", "overlay_cpu_ms", "class_cpu_ms")),
    "bench_outputs": ("What each output costs", (
        "threads", "semantic_cpu_ms", "semantic_compressed_cpu_ms", "confidence_cpu_ms",
        "probabilities_cpu_ms", "color_cpu_ms", "color_compressed_cpu_ms", "overlay_cpu_ms",
        "class_cpu_ms", "points_cpu_ms", "points_labelled_cpu_ms")),
    "bench_cameras": ("Several cameras in one process, and in several", (
        "processes", "cameras", "pss_mib", "cpu_s_per_frame", "elapsed_s_per_frame")),
    "bench_responsive": ("Calls while a frame is inferred", (
        "images", "threads", "get_parameters_p50_ms", "get_parameters_p99_ms",
        "set_parameters_p99_ms", "get_state_p99_ms", "snapshot_p99_ms", "disable_p99_ms",
        "diagnostics_late_p99_ms")),
    "bench_faults": ("The node under faults", (
        "threads", "expected", "published", "published_of_sound", "unexplained")),
    "bench_start": ("From start to first mask", (
        "package", "wall_s", "cpu_s", "preflight_cpu_s", "imports_cpu_s", "weights_cpu_s",
        "first_mask_cpu_s")),
    "bench_scale": ("How it grows", (
        "what", "size", "points", "classes", "modalities", "prepare_ms", "network_ms",
        "labels_ms", "parameters_m", "peak_gib")),
    "bench_soak": ("The node for an hour", (
        "threads", "minutes", "expected", "published", "unexplained", "first_memory_mib",
        "last_memory_mib", "first_p99_ms", "last_p99_ms")),
    "bench_flood": ("A million messages that match nothing", (
        "messages", "waiting_at_most", "queue", "us_per_message")),
    "bench_gpu": ("GPU", (
        "what", "case", "way", "precision", "size", "p50_ms", "p95_ms", "p99_ms", "seconds",
        "peak_gib", "difference")),
    "bench_train": ("A training step", (
        "preset", "size", "batch", "devices", "strategy", "precision", "checkpointing", "seconds",
        "peak_gib")),
}  # fmt: skip
# benchmark: words that name a bar, and its length
PLOTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "bench_frame": (("size", "threads", "engine"), "total_ms"),
    "bench_model": (("preset", "network", "precision", "allocator", "threads"), "total_ms"),
}
UNITS = {"ms": "ms", "s": "s", "mib": "MiB", "gib": "GiB", "hz": "Hz", "gflops": "GFLOP/s",
         "m": "million"}  # fmt: skip
INTRO = """# Performance

Made by `python benchmarks/performance.py` from `benchmarks/results/`. The commands are in
[Testing](testing.md#benchmarks). Machine, versions and load of each benchmark are above its table.
Values that miss their bar are bold. Times on a shared machine scatter; ratios are between processes
or functions that took turns.
"""


def main() -> None:
    """Write the page and its plots."""
    contents = load()
    write_atomic(PAGE, page(contents))
    for name, plot in plots(contents).items():
        write_atomic(PAGE.with_name(name), plot)


def load() -> Contents:
    """The results that are there, in the order of `KINDS` and `TABLES`."""
    return {
        kind: {
            name: json.loads(file.read_text())
            for name in TABLES
            if (file := RESULTS / kind / f"{name}.json").is_file()
        }
        for kind in KINDS
        if (RESULTS / kind).is_dir()
    }


def page(contents: Contents) -> str:
    """Markdown."""
    run = {name for found in contents.values() for name in found}
    parts = [INTRO, "## Bars\n", bars_table(contents)]
    if missing := [f"`{name}`" for name in TABLES if name not in run]:
        parts.append(f"\nNot run yet: {', '.join(missing)}.")
    drawn = plots(contents)
    for name, (title, columns) in TABLES.items():
        own = {kind: found[name] for kind, found in contents.items() if name in found}
        parts += [f"\n## {title}"] if own else []
        for kind, content in own.items():
            rows = content["rows"]
            parts += [f"\n### {title}: {KINDS[kind]}"] if len(own) > 1 else []
            parts.append(f"\n{origin(content)}\n")
            if any(not row.get("reason") for row in rows):
                parts.append(rows_table(rows, columns))
            if (plot := plot_name(kind, name)) in drawn:
                parts.append(f"\n![{title}]({plot})")
            reasons = {r["reason"].splitlines()[-1] for r in rows if r.get("reason")}
            parts += [f"\nNot measured: {escape(reason)}." for reason in sorted(reasons)]
            parts += components(rows)
    return "\n".join(parts) + "\n"


def origin(content: Row) -> str:
    """What was run, where and when."""
    machine = content["machine"]
    facts = [machine["cpu"], *machine.get("flags", ()), f"{machine['cores']} cores"]
    facts += [machine["gpu"] or "no GPU", f"torch {content['versions']['torch']}", content["date"]]
    load = content.get("load")
    facts += [f"load {load[1]}"] if load else []
    return f"`{content['command']}`: {', '.join(facts)}."


def bars_table(contents: Contents) -> str:
    """All bars, with a column for each kind of machine; values that miss theirs are bold."""
    kinds = [kind for kind, found in contents.items() if found]
    entries: dict[str, dict[str, Row]] = {}  # by name and kind
    for name in TABLES:
        for kind in kinds:
            for entry in contents[kind].get(name, {}).get("bars", ()):
                entries.setdefault(entry["name"], {})[kind] = entry
    rows: list[Sequence[object]] = [["bar", "limit", *(KINDS[kind] for kind in kinds)]]
    for name, found in entries.items():
        limit, *_ = (f"{e['bar']:g} {e['unit']}".rstrip() for e in found.values())
        rows.append([name, limit, *(verdict(found.get(kind)) for kind in kinds)])
    return markdown_table(rows)


def verdict(entry: Row | None) -> str:
    """A bar's value; bold where it is missed, else the reason why there is none."""
    if entry is None:
        return ""
    if entry["value"] is None:
        return f"not measured: {escape((entry['reason'].splitlines() or ['no value'])[-1])}"
    value = f"{entry['value']:g} {entry['unit']}".rstrip()
    return value if entry["holds"] else f"**{value}**"


def rows_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """The rows that have numbers; columns that none has are left out."""
    flat = [flattened(row) for row in rows if not row.get("reason")]
    names = [
        n for c in columns for n in dict.fromkeys(k for r in flat for k in r if in_column(k, c))
    ]
    heads = [heading(name) for name in names]
    return markdown_table([heads, *([cell(row.get(name)) for name in names] for row in flat)])


def heading(key: str) -> str:
    """A key as the head of a column: `total_ms` -> `total, ms`."""
    words = key.replace(".", " ").split("_")
    unit = UNITS.get(words[-1]) if len(words) > 1 else None
    return f"{' '.join(words[:-1])}, {unit}" if unit else " ".join(words)


def in_column(key: str, column: str) -> bool:
    """Whether a key of a flat row belongs to a column."""
    return key == column or key.startswith(f"{column}.")


def flattened(row: Row) -> Row:
    """Dictionaries within a row as keys with dots."""
    pairs = ((k, v if isinstance(v, dict) else {"": v}) for k, v in row.items())
    return {f"{k}.{inner}".rstrip("."): value for k, v in pairs for inner, value in v.items()}


def cell(value: Any) -> str:
    """A value as text; a size is width x height."""
    if isinstance(value, list):
        numbers = all(isinstance(item, int) for item in value)
        return "x".join(map(str, reversed(value))) if numbers else "+".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def components(rows: Sequence[Row]) -> list[str]:
    """A table of the network's components, if the rows have them."""
    found = [row for row in rows if "components_ms" in row]
    if not found:
        return []
    names = list(dict.fromkeys(name for row in found for name in row["components_ms"]))
    words = ("preset", "network", "precision", "allocator", "threads")
    labels = [" ".join(str(row[word]) for word in words) for row in found]
    table: list[Sequence[object]] = [["component", *labels]]
    table.append(["total", *(cell(row["total_ms"]) for row in found)])
    table += [[name, *(cell(row["components_ms"].get(name)) for row in found)] for name in names]
    return ["\nMilliseconds by component:\n", markdown_table(table)]


def plots(contents: Contents) -> dict[str, str]:
    """SVG by file name."""
    drawn = {}
    for kind, found in contents.items():
        for name, (words, key) in PLOTS.items():
            rows = [r for r in found.get(name, {}).get("rows", ()) if r.get(key)]
            pairs = [(", ".join(cell(r[word]) for word in words), r[key]) for r in rows]
            if pairs:
                drawn[plot_name(kind, name)] = svg(pairs)
    return drawn


def plot_name(kind: str, name: str) -> str:
    """File of a benchmark's plot, beside the page."""
    return f"performance_{kind}_{name.removeprefix('bench_')}.svg"


def svg(pairs: Sequence[tuple[str, float]]) -> str:
    """Horizontal bars with their names and milliseconds."""
    step, left, width = 22, 300, 400
    longest = max(value for _, value in pairs)
    size = f'width="{left + width + 80}" height="{step * len(pairs) + 8}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    ]
    for index, (name, value) in enumerate(pairs):
        y, length = 4 + step * index, round(width * value / longest, 1)
        text = f'y="{y + 14}" fill="#555"'
        lines += [
            f'<text x="{left - 8}" {text} text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{length}" height="{step - 5}" fill="#4c78a8"/>',
            f'<text x="{left + length + 6}" {text}>{value:.0f} ms</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
