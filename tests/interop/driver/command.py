"""What `matrix`, `conformance` and `run` have in common: each is one or more reports in a folder of its own."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Callable

from . import places, processes

# Prints a part, straight at the servers or through the gateway; answers its counts in one line, and its faults.
Report = Callable[[Path, bool], tuple[str, list[str]]]


def main(doc: str | None, *reports: Report) -> int:
    """Prints the reports, then each fault, then the counts; 1 where there is a fault."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--direct", action="store_true", help="without the gateway")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder, with what each check said")
    options = parser.parse_args()
    if not (places.INSTALLED / "node" / ".pins").exists():
        print("run tests/interop/install first", file=sys.stderr)
        return 2
    processes.end_when_told()
    places.TMP.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=places.TMP))
    summaries: list[str] = []
    faults: list[str] = []
    try:
        for report in reports:
            try:
                summary, found = report(work, options.direct)
            except processes.Failed as failed:
                summary, found = "a part did not run", [str(failed)]
            summaries.append(summary)
            faults += found
    finally:
        processes.stop_all()
        if options.keep:
            print(f"kept {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    for fault in faults:
        print(f"\nFAIL {fault}")
    print("", *summaries, sep="\n")
    return 1 if faults else 0
