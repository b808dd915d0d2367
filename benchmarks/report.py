"""Markdown of a folder of results.

python -m benchmarks.report benchmarks/results/cpu                       # writes report.md into it
python -m benchmarks.report benchmarks/results/cpu --into benchmarks/README.md     # also renews its table
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Dict

Content = Dict[str, Any]
BEGIN, END = "<!-- results -->", "<!-- end of results -->"  # of what --into replaces


def step_table(content: Content) -> str:
    """The table of one work, from what side_by_side writes."""
    clock = content["settings"]["clock"]
    head = f"| | img/s | ms ({clock}) | time / ours (quartiles) | GFLOP | GFLOP/s | of peak | first step, s |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for name, row in content["results"].items():
        images = f"{row['images_per_second']:.2f}" if "ratio" in row else "–"
        speed = f"{row['gflop']:.0f} | {row['gflop_per_second']:.0f} | {_share(row)} | {row['first_step_seconds']:.1f}"
        lines.append(f"| {name} | {images} | {row[f'{clock}_ms']:.1f} | {_ratio(row)} | {speed} |")
    return "\n".join(lines)


def overhead_table(content: Content) -> str:
    """The table of executor_overhead."""
    lines = ["| precision | clock | executor, ms | loop, ms | executor / loop (quartiles) |", "|---|---|---|---|---|"]
    for precision, clocks in content["results"].items():
        for clock, row in clocks.items():
            times = f"{row['executor_ms']:.1f} | {row['loop_ms']:.1f}"
            lines.append(f"| {precision} | {clock} | {times} | {_ratio(row, 3)} |")
    return "\n".join(lines)


def plain_table(content: Content) -> str:
    """Results of other programs: a row for each name, a column for each number."""
    rows = content["results"]
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        lines.append("| " + " | ".join([name, *(_cell(row.get(column)) for column in columns)]) + " |")
    return "\n".join(lines)


TABLES = {"step": step_table, "overhead": overhead_table}


def overview(contents: Dict[str, Content]) -> str:
    """One row for each work and peer."""
    head = "| work | ours, img/s (share of peak) | peer | its time / ours (quartiles) |"
    lines = [head, "|---|---|---|---|"]
    for name, content in contents.items():
        if content.get("kind") != "step":
            continue
        ours = content["results"]["ours"]
        first = f"{name} | {ours['images_per_second']:.2f} ({_share(ours)})"
        for peer, row in content["results"].items():
            if peer != "ours" and "ratio" in row:
                lines.append(f"| {first} | {peer} | {_ratio(row)} |")
                first = " | "
    return "\n".join(lines)


def report(contents: Dict[str, Content]) -> str:
    """The whole report: overview, then each result with what it was measured with."""
    parts = ["# Results", overview(contents)]
    for name, content in contents.items():
        table = TABLES.get(content.get("kind", ""), plain_table)(content)
        parts += [f"## {name}", table, _described(content)]
    return "\n\n".join(parts) + "\n"


def read(folder: Path) -> Dict[str, Content]:
    """The folder's results by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def write_report(folder: Path) -> None:
    """Write report.md beside the results."""
    (folder / "report.md").write_text(report(read(folder)))


def renewed(page: str, contents: Dict[str, Content]) -> str:
    """`page` with the overview, and the machine that it was measured on, between its marks."""
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"the page has no {BEGIN} … {END}")
    machines = dict.fromkeys(_machine(content) for content in contents.values() if "machine" in content)
    return f"{before}{BEGIN}\n{overview(contents)}\n\n{'; '.join(machines)}\n{END}{after}"


def _described(content: Content) -> str:
    facts = {**content.get("settings", {}), **content.get("versions", {})}
    listed = ", ".join(f"{name} {_cell(value)}" for name, value in facts.items())
    return f"{_machine(content)}. {listed}" if "machine" in content else listed


def _machine(content: Content) -> str:
    machine = content["machine"]
    extensions, gpus = " ".join(machine["extensions"]), ", ".join(machine["gpus"])
    return f"{machine['processor']}, {machine['cores']} cores, {extensions or 'no vector extensions'}" + (
        f"; {gpus}" if gpus else ""
    )


def _share(row: Dict[str, Any]) -> str:
    return f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else "–"


def _ratio(row: Dict[str, Any], digits: int = 2) -> str:
    if "ratio" not in row:
        return "–"
    ratio, low, high = (f"{value:.{digits}f}" for value in (row["ratio"], *row["ratio_quartiles"]))
    return f"{ratio} ({low}–{high})"


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "–".join(_cell(each) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else str("–" if value is None else value)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of results")
    parser.add_argument("--into", type=Path, help="page whose table is renewed too")
    args = parser.parse_args()
    write_report(args.folder)
    if args.into:
        args.into.write_text(renewed(args.into.read_text(), read(args.folder)))


if __name__ == "__main__":
    main()
