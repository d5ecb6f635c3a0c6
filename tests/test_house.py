"""The house keeps its shape: floors, no cycles, short files, light start, nothing unsafe, a README that is true."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGE = REPO / "eoflow"

# From the ground up. A room imports from floors below it, and from itself.
FLOORS = [
    {"errors", "times", "_callable", "config", "registry", "schema", "bands", "quality", "workspace", "catalog"},
    {"models"},
    {"layout", "chunks", "tiling"},
    {"archive"},
    {"sources"},
    {"ingest"},
    {"products", "why", "export"},
    {"prepare"},
    {"checkpoint"},
    {"tasks"},
    {"fitting", "validation", "runtime", "windows", "composite"},
    {"train", "predict"},
    {"verify", "synthesis"},
    {"view"},
    {"demo", "doctor", "flowkit", "console", "contract", "listing"},
    {"up"},
    {"cli"},
    {"__main__"},
]
ONE_ROOM = {
    "catalog_scenes": "catalog", "catalog_patches": "catalog", "catalog_images": "catalog", "cube": "archive",
    "cube_layout": "archive", "holdings": "archive", "transaction": "archive", "commits": "archive",
    "cube_writer": "products", "checkpoint_images": "checkpoint", "fitting_images": "fitting",
    "train_images": "train", "predict_images": "predict", "contract_images": "contract", "cli_archive": "cli",
    "cli_scenes": "cli", "cli_tasks": "cli", "demo_scenes": "demo", "demo_tasks": "demo", "listing_scenes": "listing",
    "runtime_graph": "runtime", "runtime_int8": "runtime", "runtime_phases": "runtime",
    "runtime_joins": "runtime", "runtime_onnx": "runtime",
    "checkpoint_bands": "checkpoint", "validation_images": "validation",
    "cli_models": "cli",
}  # fmt: skip
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}

TOP_LEVEL = {
    "pyproject.toml", "README.md", "Makefile", "constraints.txt", "LICENSE", "CHANGELOG.md",
    "catalogs", "eoflow", "flows", "deploy", "tests", "benchmarks", "notebooks",
}  # fmt: skip
HEAVY = ("torch", "lightning", "xarray", "pandas", "prefect", "dask", "distributed", "matplotlib", "zarr", "icechunk",
         "scipy", "netCDF4", "cfgrib", "fsspec")  # fmt: skip
PICKLES = {"pickle", "dill", "joblib", "shelve", "cloudpickle"}


def modules() -> dict[str, Path]:
    """Module name -> file, of everything in the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPO).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path, *, top_only: bool = False) -> list[tuple[int, str]]:
    """(line, module) of the eoflow modules a file imports; inside functions too unless `top_only`."""
    found = []
    for node in _top_level(tree(path)) if top_only else ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, a.name) for a in node.names if a.name.split(".")[0] == "eoflow"]
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, path)
            if module.split(".")[0] == "eoflow":
                for a in node.names:
                    full = f"{module}.{a.name}"
                    found.append((node.lineno, full if full in MODULES else module))
    return found


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module of `from X import ...`, dots resolved."""
    if not node.level:
        return node.module or ""
    folder = path.relative_to(REPO).parent.parts
    return ".".join([*folder[: len(folder) - node.level + 1], *([node.module] if node.module else [])])


def _top_level(module: ast.Module):
    """Statements that run at import: not those of functions, nor of `if TYPE_CHECKING`."""
    stack = list(module.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += node.orelse
            continue
        yield node
        stack += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt | ast.ExceptHandler)]


def room(module: str) -> str:
    parts = module.split(".")
    return ONE_ROOM.get(parts[1], parts[1]) if len(parts) > 1 else ""


def test_every_module_stands_on_a_floor():
    homeless = sorted({m for m in MODULES if room(m) and room(m) not in FLOOR})
    assert not homeless, f"say in FLOORS where these stand: {homeless}"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if room(m)))
def test_arrows_point_down(module: str):
    mine = room(module)
    wrong = []
    for line, target in imports(MODULES[module]):
        other = room(target)
        if not other or other == mine:
            continue
        ground = FLOOR[mine] == FLOOR[other] == 0
        if FLOOR[other] >= FLOOR[mine] and not ground:
            wrong.append(f"{MODULES[module].relative_to(REPO)}:{line} imports {target}")
    assert not wrong, "a room imports only from floors below it:\n" + "\n".join(wrong)


def test_no_import_cycles():
    graph = {m: {t for _, t in imports(p, top_only=True) if t in MODULES and t != m} for m, p in MODULES.items()}
    graph["eoflow"] = set()  # the front door opens rooms lazily
    done: set[str] = set()
    path: list[str] = []

    def visit(m: str) -> None:
        if m in path:
            pytest.fail("import cycle: " + " -> ".join([*path[path.index(m) :], m]))
        if m in done:
            return
        path.append(m)
        for t in sorted(graph[m]):
            visit(t)
        path.pop()
        done.add(m)

    for m in graph:
        visit(m)


@pytest.mark.parametrize(
    "path", [*MODULES.values(), *sorted((REPO / "flows").glob("*.py"))], ids=lambda p: str(p.relative_to(REPO))
)
def test_files_stay_short_and_safe(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, "one kind of idea a file: split it"
    wrong = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            wrong += [f"line {node.lineno}: imports {n}" for n in names if n.split(".")[0] in PICKLES]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"}:
                wrong.append(f"line {node.lineno}: calls {called}")
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called == "torch.load" and keywords.get("weights_only") != "True":
                wrong.append(f"line {node.lineno}: torch.load without weights_only=True")
            if keywords.get("allow_pickle") == "True" or keywords.get("shell") == "True":
                wrong.append(f"line {node.lineno}: {called} with allow_pickle or shell")
    assert not wrong, "\n".join(wrong)


def test_top_level_holds_nothing_else():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {t for t in top if not t.startswith(".")} <= TOP_LEVEL


def test_sources_mention_no_place_of_one_machine():
    forbidden = re.compile(r"(?<![\w.])/(work|tmp|home|root)/")
    files = [*MODULES.values(), *(REPO / "flows").glob("*.py"), *REPO.glob("catalogs/**/*.yaml"), REPO / "README.md"]
    wrong = [f"{p.relative_to(REPO)}:{i}" for p in files for i, line in enumerate(p.read_text("utf-8").splitlines(), 1)
             if forbidden.search(line)]  # fmt: skip
    assert not wrong


def run(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, env=env, timeout=120)


LIST_HEAVY = f"import sys; print(sorted({{m.split('.')[0] for m in sys.modules}} & set({HEAVY!r})))"


def test_import_is_light():
    done = run(f"import eoflow; {LIST_HEAVY}")
    assert done.stdout.strip() == "[]", done.stderr


def test_help_is_light():
    code = f"""
import sys, contextlib, io
from eoflow.cli import main
sys.argv = ["eoflow", "--help"]
text = io.StringIO()
with contextlib.redirect_stdout(text):
    try:
        main()
    except SystemExit as e:
        assert not e.code, e.code
assert "forecast" in text.getvalue(), text.getvalue()
{LIST_HEAVY}
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("prefect", "prefect_dask"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
sys.modules["prefect"] = None
"""


def test_everything_imports_without_prefect():
    names = sorted(m for m in MODULES if not m.endswith("__main__"))
    done = run(f"{BLOCKED}\nimport importlib\nfor m in {names!r}: importlib.import_module(m)\nprint('ok')")
    assert done.stdout.strip().endswith("ok"), done.stderr


def test_up_without_prefect_says_what_to_install(tmp_path: Path):
    code = f"""{BLOCKED}
from eoflow.errors import MissingExtra
from eoflow.up import up
from eoflow.workspace import Workspace
try:
    up(Workspace({str(tmp_path)!r}), port=0)
except MissingExtra as e:
    print(e.exit_code, e)
"""
    done = run(code)
    assert done.stdout.startswith("1 prefect is not installed"), done.stderr
    assert 'pip install "eoflow[flows]"' in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["make demo", "make test", "eoflow forecast", "eoflow ingest", "eoflow verify",
                                     "eoflow up", "xr.open_zarr", "eoflow.models"])  # fmt: skip
def test_readme_shows(command: str):
    assert command in (REPO / "README.md").read_text(encoding="utf-8")


def test_readme_commands_exist():
    """Every `eoflow VERB` and `make TARGET` of the README is one that exists."""
    text = (REPO / "README.md").read_text(encoding="utf-8")
    fenced = "\n".join(re.findall(r"```\w*\n(.*?)```", text, flags=re.S))
    targets = set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    assert set(re.findall(r"^\s*make ([a-z]+)", fenced, flags=re.M)) <= targets
    verbs = set(re.findall(r"^\s*(?:\.venv/bin/)?eoflow ([a-z]+)", fenced, flags=re.M))
    assert verbs
    for verb in sorted(verbs):
        done = run("import sys; from eoflow.cli import main; sys.exit(main())", verb, "--help")
        assert done.returncode == 0, f"eoflow {verb} --help: {done.stderr}"
