"""Every benchmark, one after the other: `python -m benchmarks [--quick] [NAME...]`.

Each prints ours and a peer's figures of the same run, their ratio, peak memory, and the machine's limit.
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

NAMES = ("help", "ingest", "loading", "rollout", "scoring", "scenes", "patches", "windows", "networks")


def startup(repeat: int = 7) -> None:
    """Wall time of `eoflow --help` as a process of its own, beside a bare interpreter."""
    seconds: dict[str, list[float]] = {"eoflow --help": [], "python -c pass": []}
    commands = {
        "eoflow --help": [sys.executable, "-m", "eoflow.cli", "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    for _ in range(repeat):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    print("start-up")
    for name, all_ in seconds.items():
        print(f"  {name:16s} {median(all_):.2f} s" + ("  (goal 0.3 s)" if "help" in name else "  (the limit)"))


def main() -> int:
    """Run the named benchmarks, all by default; 1 if one failed."""
    flags = [a for a in sys.argv[1:] if a.startswith("-")]
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(NAMES)
    unknown = set(names) - set(NAMES)
    if unknown:
        print(f"no benchmark called {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}", file=sys.stderr)
        return 2
    failed = 0
    for name in names:
        if name == "help":
            startup()
        else:
            failed += subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *flags]).returncode != 0
        print(flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
