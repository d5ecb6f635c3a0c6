"""The command line in this process, and what a refused call must leave as it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eoflow.cli import main


@dataclass
class Done:
    """What a call returned and printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


class CommandLine:
    """`eoflow ARGUMENTS` on one workspace, in this process."""

    def __init__(self, workspace: Any, capsys: Any) -> None:
        self.workspace, self.capsys = workspace, capsys

    def __call__(self, *arguments: Any) -> Done:
        self.capsys.readouterr()
        code = main(["--workspace", self.workspace.root, *map(str, arguments)])
        out, err = self.capsys.readouterr()
        assert "Traceback" not in out + err, err
        return Done(code, out, err)

    def ok(self, *arguments: Any) -> Done:
        """The call succeeds and says nothing of an error."""
        done = self(*arguments)
        assert done.code == 0, done.err
        assert "error" not in done.err
        return done

    def refused(self, *arguments: Any, words: tuple[str, ...] = (), todo: bool = True) -> str:
        """The call ends with exit code 2, a message that has the words and what to do, and a workspace as before."""
        before = contents(self.workspace)
        done = self(*arguments)
        assert done.code == 2, f"exit {done.code}\n{done.out}\n{done.err}"
        assert done.out == ""
        assert done.err.startswith("error: ")
        assert "run again with --debug" not in done.err
        for word in words:
            assert word in done.err, done.err
        if todo:
            assert "to do: " in done.err, done.err
        assert contents(self.workspace) == before
        return done.err


def contents(workspace: Any) -> dict[str, Any]:
    """Every file but those of cache and locks; of the small ones also the text; the newest snapshot of each archive."""
    from eoflow.archive import Archive

    root = Path(workspace.root)
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.split("/")[0] in ("cache", "locks"):
            continue
        if path.is_file():
            found[name] = path.read_bytes() if path.suffix in (".yaml", ".json", ".md") else path.stat().st_size
        else:
            found[name] = None
    for name in workspace.names("archives"):
        archive = Archive(workspace, name)
        found[f"snapshot of {name}"] = archive.snapshot if archive.exists() else "none"
    return found
