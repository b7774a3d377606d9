"""The official conformance suite: straight at a server that has all it asks for, then through the gateway to such a server.

Three legs, each over every revision that the suite knows:
  direct     at a server of the suite's own era: what can be passed at all
  through    at the gateway, before that server
  bridged    at the gateway, before one of the other era
A scenario passes when every check of it does. A check that only warns, or was left out, is not passed: directly there is none.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import places
from .gateway import Folder
from .processes import Failed, Service, finish

LEGS = ("direct", "through", "bridged")
# Each revision that has scenarios, and its era.
SUITES = {"2025-03-26": "legacy", "2025-06-18": "legacy", "2025-11-25": "legacy", "2026-07-28": "modern"}
ERAS = ("legacy", "modern")
EXPECTED = places.HERE / "expected.yaml"
# For a scenario that hangs; `finish` bounds a whole suite.
SCENARIO_MS = 15_000

POLICY = """\
p, R1, role:tester, *, reversible, -, allow
g, agent:local, role:tester
"""
# The suite asks as fast as it can.
LIMITS = """\
loops: []
limits:
  - { id: L1, per: [], of: "*", rate: 100000/s }
requests: { per_agent: 100000/s, failures_per_peer: 1000/s }
"""

# A leg, a revision and a scenario.
Run = tuple[str, str, str]


@dataclass
class Fixture:
    """A server with all that the suite asks for, of one era."""

    name: str
    url: str
    tools: list[str] = field(default_factory=list)

    def manifest(self) -> str:
        """Its manifest: every tool under its own name, and every question allowed."""
        manifest = {
            "upstream": self.name,
            "prefix": "none",
            "transport": {"http": {"url": self.url}},
            "may_ask": ["elicitation", "sampling", "roots"],
            "tools": {tool: {"tier": "read"} for tool in self.tools},
        }
        return json.dumps(manifest, indent=2)


@dataclass
class Results:
    """How each run ended: None, or what was wrong."""

    ended: dict[Run, str | None] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def scenarios(self) -> dict[str, list[str]]:
        """Each scenario, and the revisions that have it."""
        found: dict[str, list[str]] = {}
        for leg, revision, scenario in self.ended:
            if leg == "direct":
                found.setdefault(scenario, []).append(revision)
        return {scenario: sorted(revisions) for scenario, revisions in sorted(found.items())}

    def of(self, leg: str) -> dict[Run, str | None]:
        """The runs of a leg: those that there are directly, also where they did not come about."""
        runs = [(leg, revision, scenario) for scenario, revisions in self.scenarios().items() for revision in revisions]
        return {run: self.ended.get(run, "it did not run") for run in runs}


@dataclass
class Reason:
    """Why some runs do not pass yet."""

    letter: str
    text: str
    runs: set[Run]
    # Whether they may pass all the same.
    sometimes: bool


def run(work: Path, legs: tuple[str, ...]) -> Results:
    """Runs the legs, the fixtures of both eras side by side."""
    results = Results()

    def direct(era: str) -> None:
        fixture, server = _fixture(era, work)
        for revision, of in SUITES.items():
            if of == era:
                _suite(results, "direct", revision, fixture.url, work)
        server.stop()

    def before(era: str) -> None:
        fixture, server = _fixture(era, work)
        url, gateway = _gateway(fixture, work / f"before-{era}")
        for revision, of in SUITES.items():
            _suite(results, "through" if of == era else "bridged", revision, url, work)
        if gateway.is_over():
            results.faults.append(f"the gateway before the {era} server ended:\n{gateway.said()}")
        gateway.stop()
        server.stop()

    for part in [direct, before] if len(legs) > 1 else [direct]:
        with ThreadPoolExecutor(len(ERAS)) as pool:
            for era, ended in [(era, pool.submit(part, era)) for era in ERAS]:
                try:
                    ended.result()
                except Failed as failed:
                    results.faults.append(f"{part.__name__} {era}: {failed}")
    return results


def _fixture(era: str, work: Path) -> tuple[Fixture, Service]:
    script = str(places.HERE / "servers" / "conformance.mjs")
    server = Service([places.NODE, script, "http", "--era", era], work)
    return Fixture("conformance", server.wait_for(r"listening on (http\S+)")[1]), server


def _gateway(fixture: Fixture, at: Path) -> tuple[str, Service]:
    folder = Folder(at, [fixture], POLICY, LIMITS)
    fixture.tools = [tool["tool"] for tool in json.loads(folder.run("tools", "list", "--json"))]
    folder.name(fixture)
    folder.run("tools", "pin", "--again")
    gateway, url = folder.serve()
    return url, gateway


def _suite(results: Results, leg: str, revision: str, url: str, work: Path) -> None:
    """Runs one suite and keeps how each scenario ended."""
    said = work / f"{leg}-{revision}"
    command = [places.NODE_22, places.CONFORMANCE, "server", "--url", url, "--suite", "all", "--spec-version", revision]
    try:
        finish([*command, "--timeout", str(SCENARIO_MS), "--output-dir", str(said)], work)
    except Failed as failed:
        results.faults.append(f"{leg} {revision}: {failed}")
    for checks in sorted(said.glob("*/checks.json")):
        # The folder's name is `server-SCENARIO-TIME`.
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT.*$", "", checks.parent.name)
        results.ended[leg, revision, scenario] = _wrong(json.loads(checks.read_text()))


def _wrong(checks: list[dict[str, Any]]) -> str | None:
    wrong = [check for check in checks if check["status"] not in ("SUCCESS", "INFO")]
    if not checks:
        return "nothing was checked"
    return "; ".join(f"{check['id']} {check['status'].lower()}: {check.get('errorMessage', '-')}"[:300] for check in wrong) or None


def expected(results: Results) -> list[Reason]:
    """Reads `expected.yaml`. Every revision that has the scenario, and both legs, unless an entry names fewer."""
    # In YAML so that reasons can be read and written; the suite brings a parser, Python none.
    parse = "console.log(JSON.stringify(require(process.argv[1]).parse(require('fs').readFileSync(process.argv[2], 'utf8'))))"
    read = finish([places.NODE, "-e", parse, str(places.NODE_MODULES / "yaml"), str(EXPECTED)], places.HERE)
    if read.returncode != 0:
        raise Failed(f"{EXPECTED.name}: {read.stderr}")
    known = results.scenarios()
    reasons = []
    for number, entry in enumerate(json.loads(read.stdout) or []):
        if unknown := set(entry["scenarios"]) - set(known):
            raise Failed(f"{EXPECTED.name}: there is no scenario {', '.join(sorted(unknown))}")
        runs = {
            (leg, revision, scenario)
            for scenario in entry["scenarios"]
            for leg in entry.get("legs", LEGS[1:])
            for revision in entry.get("revisions", known[scenario])
        }
        reasons.append(Reason(chr(ord("a") + number), entry["reason"], runs, entry.get("sometimes", False)))
    return reasons


def judge(results: Results, reasons: list[Reason], legs: tuple[str, ...]) -> list[str]:
    """What is wrong: what does not pass and has no reason, and what has a reason and passes."""
    explained = {run for reason in reasons for run in reason.runs}
    always = {run for reason in reasons if not reason.sometimes for run in reason.runs}
    faults = list(results.faults)
    for leg in legs:
        for run, wrong in results.of(leg).items():
            if wrong and run not in explained:
                faults.append(f"{' '.join(run)}: {wrong}")
            elif run in always and not wrong:
                faults.append(f"{' '.join(run)}: it passes; take it out of {EXPECTED.name}")
    if not results.ended:
        faults.append("no scenario ran")
    return faults


def show(results: Results, reasons: list[Reason], legs: tuple[str, ...]) -> str:
    """Prints the table and its legend; answers one line about it."""
    letters = {run: reason.letter for reason in reasons for run in reason.runs}
    runs = {leg: results.of(leg) for leg in legs}

    def cell(leg: str, revision: str, scenario: str) -> str:
        run = (leg, revision, scenario)
        if run not in runs[leg]:
            return ""
        return ("ok" if not runs[leg][run] else "no") + (f" {letters[run]}" if run in letters else "")

    known = results.scenarios()
    width = max(map(len, known), default=0)
    column = len("  ".join(leg.ljust(7) for leg in legs))
    print("scenario".ljust(width) + "".join(f"  | {revision.ljust(column)}" for revision in SUITES).rstrip())
    print(" " * width + ("  | " + "  ".join(leg.ljust(7) for leg in legs)) * len(SUITES))
    for scenario in known:
        cells = ("  ".join(cell(leg, revision, scenario).ljust(7) for leg in legs) for revision in SUITES)
        print((scenario.ljust(width) + "".join(f"  | {part}" for part in cells)).rstrip())
    for reason in reasons if len(legs) > 1 else []:
        print(f"{reason.letter}  {reason.text}")
    counts = (f"{leg} {sum(not wrong for wrong in runs[leg].values())} of {len(runs[leg])}" for leg in legs)
    return "conformance: " + ", ".join(counts)


def report(work: Path, only_direct: bool) -> tuple[str, list[str]]:
    """Runs, prints and judges; answers the line about it and what is wrong."""
    legs = LEGS[:1] if only_direct else LEGS
    results = run(work, legs)
    try:
        reasons = [] if only_direct else expected(results)
    except Failed as failed:
        reasons = []
        results.faults.append(str(failed))
    summary = show(results, reasons, legs)
    faults = judge(results, reasons, legs)
    return f"{summary}; {len(faults)} faults", faults
