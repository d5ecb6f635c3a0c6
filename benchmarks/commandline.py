"""The command line of a benchmark that times each contestant in a process of its own, and of a crash drill."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def benchmark(
    about: str | None, run: Callable[[bool, int], Result], show: Callable[[Result], None],
    child: Callable[..., None] | None = None, folders: Sequence[str] = (), repeat: int = 1, quick: str = "a tenth",
) -> None:  # fmt: skip
    """--quick, --repeat, --json, and --child CONTESTANT FOLDER...: what the benchmark starts for itself.

    run(quick, repeat) -> what is printed as JSON, or by `show`. child(contestant, *folders).
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{quick} of the work")
    parser.add_argument("--repeat", type=int, default=repeat)
    parser.add_argument("--json", action="store_true")
    if child is not None:
        names = ("CONTESTANT", *folders)
        parser.add_argument("--child", nargs=len(names), metavar=names, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if child is not None and args.child:
        child(args.child[0], *map(Path, args.child[1:]))
        return
    out = run(args.quick, args.repeat)
    if args.json:
        print(json.dumps(out))
    else:
        show(out)


def drill(about: str | None, run: Callable[[int, int, Path], str], kills: int) -> None:
    """--kills, --seed: a crash drill in a temporary folder. run(kills, seed, folder) -> what to say in the end."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        print(run(args.kills, args.seed, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
