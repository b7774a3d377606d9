"""The table: client, agent transport, upstream transport and era, each cell with what was exercised."""

from pathlib import Path

from . import cases, processes, tokens, upstreams

COLUMNS = ("client", "era", "transport", "upstream", "upstream_era", "exercised")


def report(work: Path, is_direct: bool) -> tuple[str, list[str]]:
    """Prints the table; answers its counts, and the fault of each cell that has one."""
    rows: list[cases.Row] = []
    for part in [cases.direct] if is_direct else [cases.through_gateway, cases.wrapped, tokens.with_tokens]:
        try:
            rows += part(work)
        except processes.Failed as failed:
            rows.append(cases.Row(part.__name__, "-", "-", "-", "-", "did not start", str(failed)))
    _show(rows)
    theirs = set() if is_direct else _failing_directly(work, [row for row in rows if row.fault])
    for what, reason in upstreams.LEFT_OUT.items():
        print(f"left out  {what}: {reason}")
    failed = [row for row in rows if row.fault]
    is_theirs = lambda row: (row.pair(), row.failed_at()) in theirs
    told = lambda row: f"{row.client}, {row.era}, {row.transport}, {row.upstream}: {row.fault}"
    for row in filter(is_theirs, failed):
        print(f"\ntheirs, it fails directly too: {told(row)}")
    faults = [told(row) for row in failed if not is_theirs(row)]
    not_run = sum(not row.ran for row in rows)
    counts = f"{len(rows) - len(failed) - not_run} passed, {len(faults)} failed, {len(failed) - len(faults)} theirs, {not_run} not run"
    return f"matrix: {counts}", faults


def _failing_directly(work: Path, failed: list[cases.Row]) -> set[tuple[cases.Pair, str | None]]:
    """At which step each of the pairs fails with nothing in between."""
    if not failed:
        return set()
    again = work / "again"
    again.mkdir()
    try:
        return {(row.pair(), row.failed_at()) for row in cases.direct(again, {row.pair() for row in failed}) if row.fault}
    except processes.Failed:
        # Nobody's excuse.
        return set()


def _show(rows: list[cases.Row]) -> None:
    lines = [tuple(str(getattr(row, column)) for column in COLUMNS) for row in rows]
    header = tuple(column.replace("_", " ") for column in COLUMNS)
    widths = [max(len(line[index]) for line in [header, *lines]) for index in range(len(COLUMNS))]
    spread = lambda line: "  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip()
    print(f"      {spread(header)}")
    for row, line in zip(rows, lines):
        mark = "FAIL" if row.fault else "ok" if row.ran else "-"
        print(f"{mark:4}  {spread(line)}")
