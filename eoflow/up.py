"""`eoflow up`: a local Prefect server, and the flows of each dataset served on their schedules, until Ctrl-C.

Everything the server writes lies in the workspace (`prefect/`: database, settings, log). Only this machine can
reach it unless `host` says otherwise, and it sends nothing anywhere.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eoflow.errors import BadInput, Failure, MissingExtra
from eoflow.holdings import kind_of
from eoflow.times import parse_duration
from eoflow.workspace import Workspace

FIELDS = {
    "ingest": "5 */6 * * *",
    "forecast": "25 */6 * * *",
    "verify": "45 */6 * * *",
    "backfill": "35 1 * * *",
    "train": "15 3 1 * *",
}
SCENES = {
    "ingest": "10 */6 * * *",
    "backfill": "40 2 * * *",
    "composite": "50 4 * * *",
    "prepare": "20 5 * * 1",
}
IMAGES = {
    "flood": "22 */6 * * *",
    "clouds": "30 */6 * * *",
    "change": "17 5 * * *",
    "train": "32 3 * * 0",
    "verify": "52 5 * * 0",
}
"""Of scenes, besides SCENES: the tasks for which a model fits the bands; training and scores where there are labels."""
SCHEDULES: dict[str, dict[str, str]] = {"fields": FIELDS, "scenes": SCENES}
"""Cron (UTC) of each flow, by kind of dataset. The minutes are apart, so that one step finds what the step before it
wrote; deploy/prefect.yaml holds the same."""

STAGGER_MIN = 2
"""Minutes between the same flow of two datasets: many runs at one minute overload a small server."""
HEALTHY_WITHIN_S = 120.0
"""The first start migrates the database, which may take a minute on a slow disk."""
GOODBYE_S = 15.0

SAMPLE = "sample-atmosphere"
"""Served when the workspace has no archive yet: needs no network."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Served:
    """One deployment: flow, its name, parameters of the flow, and its schedule (cron in UTC, or a duration).

    name: the dataset, and the recipe where a dataset has several deployments of a flow.
    """

    flow: str
    name: str
    parameters: dict[str, Any]
    schedule: str

    @property
    def interval_s(self) -> float | None:
        """Seconds between runs if the schedule is a duration such as `6h`; None if it is a cron."""
        if " " in self.schedule.strip():
            return None
        return float(parse_duration(self.schedule).astype(int)) / 1e9


def flow_file(name: str) -> Path:
    """The file of a flow: inside the package in a wheel, in `flows/` beside it in a checkout."""
    here = Path(__file__).parent
    for folder in (here / "flows", here.parent / "flows"):
        if (folder / f"{name}.py").is_file():
            return folder / f"{name}.py"
    raise Failure(f"the flow '{name}' is not part of this installation", where=str(here), todo="reinstall eoflow")


def load_flow(name: str) -> Any:
    """The Prefect flow called `name`, from its file (the same in a checkout and in a wheel)."""
    _need_prefect()
    from prefect.flows import load_flow_from_entrypoint

    return load_flow_from_entrypoint(f"{flow_file(name)}:{name}", use_placeholder_flow=False)


def plan(
    workspace: Workspace, *, datasets: Sequence[str] = (), lead: str = "10d", model: str | None = None,
    recipe: str = "puyun", schedules: Mapping[str, str] | None = None,
) -> list[Served]:  # fmt: skip
    """The deployments of `up`: the flows of its kind for each dataset (default: every archive, else the planet)."""
    known = dict.fromkeys([*FIELDS, *SCENES, *IMAGES])
    unknown = set(schedules or {}) - set(known)
    if unknown:
        raise BadInput(f"no flow called '{min(unknown)}'", todo=f"choose from {', '.join(known)}")
    for flow, text in (schedules or {}).items():
        _check_schedule(flow, text)
    served = []
    held = workspace.names("archives")
    for i, dataset in enumerate(datasets or held or [SAMPLE]):
        kind = kind_of(workspace, dataset) or ("fields" if dataset in held else _catalog_kind(dataset, workspace))
        common = {"dataset": dataset, "workspace": workspace.root}
        shift = i * STAGGER_MIN
        when = {flow: (schedules or {}).get(flow, text) for flow, text in SCHEDULES[kind].items()}
        extra: dict[str, dict[str, Any]] = {
            "forecast": {"lead": lead, "model": model},
            "verify": {},
            "train": {"recipe": recipe},
        }
        for flow, text in when.items():
            parameters = {**common, **extra.get(flow, {})}
            served.append(Served(flow, dataset, parameters, _shifted(text, shift)))
        if kind == "scenes":
            served += _of_images(workspace, common, schedules or {}, shift)
    return served


def _of_images(
    workspace: Workspace, common: dict[str, Any], schedules: Mapping[str, str], shift: int
) -> list[Served]:  # fmt: skip
    """The tasks of a scene dataset for which there is a model; training and scores of those that it has labels for."""
    from eoflow.predict_images.scheduled import recipes_of, verbs_of

    dataset = common["dataset"]
    served = []
    wanted: list[tuple[str, str, dict[str, Any]]] = [(v, dataset, {}) for v in verbs_of(dataset, workspace)]
    for recipe in recipes_of(dataset, workspace):
        wanted.append(("train", f"{dataset}-{recipe}", {"recipe": recipe}))
        wanted.append(("verify", f"{dataset}-{recipe}", {"models": [recipe]}))
    for k, (flow, name, extra) in enumerate(wanted):
        text = _shifted(schedules.get(flow, IMAGES[flow]), shift + k // 4)
        served.append(Served(flow, name, {**common, **extra}, text))
    return served


def _catalog_kind(name: str, workspace: Workspace) -> str:
    from eoflow import catalog

    return "scenes" if hasattr(catalog.entry(name, workspace), "kind") else "fields"


def _shifted(cron: str, minutes: int) -> str:
    """A cron with a plain minute field, `minutes` later within its hour; anything else unchanged."""
    first, _, rest = cron.strip().partition(" ")
    return f"{(int(first) + minutes) % 60} {rest}" if rest and first.isdigit() else cron


def _check_schedule(flow: str, text: str) -> None:
    if " " not in text.strip():
        parse_duration(text)
        return
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        CronSchedule(cron=text, timezone="UTC")
    except (ValidationError, ValueError):
        raise BadInput(
            f"'{text}' is neither a cron nor a duration", where=f"schedule of {flow}",
            todo='write it as "5 6 * * *" (UTC) or 6h',
        ) from None  # fmt: skip


def up(
    workspace: Workspace | None = None, *, datasets: Sequence[str] = (), host: str = "127.0.0.1", port: int = 4200,
    lead: str = "10d", model: str | None = None, recipe: str = "puyun",
    schedules: Mapping[str, str] | None = None, say: Say | None = None,
) -> None:  # fmt: skip
    """Start a local Prefect server and serve the flows of each dataset on their schedules, until Ctrl-C.

    schedules: flow name -> cron (UTC) or duration (`6h`), over the defaults of `SCHEDULES`. port 0: a free one.
    Raises MissingExtra without the `flows` extra, Failure if the port is taken or the server does not start.
    """
    _need_prefect()
    workspace = workspace or Workspace()
    say = say or print_line
    served = plan(workspace, datasets=datasets, lead=lead, model=model, recipe=recipe, schedules=schedules)
    home = workspace.path("prefect") if workspace.is_local else workspace.cache / "prefect"
    _end_cleanly_on_sigterm()
    with local_server(home, host, port) as api, client_settings(home, api):
        say(f"Prefect UI  {api.removesuffix('/api')}    (everything it keeps: {home})")
        deployments = []
        for s in served:
            deployments.append(_deployment(s))
            say(f"  {s.flow + '/' + s.name:<28} {s.schedule:<14} next {_next_run(s)}")
        say("Ctrl-C stops the schedules and the server.")
        from prefect import serve

        serve(*deployments, print_starting_message=False, limit=2)


def print_line(text: str) -> None:
    """Write one line to standard output at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _need_prefect() -> None:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    try:
        import prefect  # noqa: F401
    except ImportError:
        raise MissingExtra("prefect", "flows") from None


def _end_cleanly_on_sigterm() -> None:
    """SIGTERM as Ctrl-C: leave through the `finally` that stops the server."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def environment(home: Path, api: str) -> dict[str, str]:
    """Prefect's settings for server, runner and flow runs: all state under `home`, no telemetry."""
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api,
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
        "DO_NOT_TRACK": "1",
    }


@contextmanager
def local_server(home: Path, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """A Prefect server as a child process; yields its API URL once it is healthy, stops it at the end."""
    _need_prefect()
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port(host, port)
    shown = f"[{host}]" if ":" in host else host
    api = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else shown}:{port}/api"
    log = home / "server.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)],
            env={**os.environ, **environment(home, api)}, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            start_new_session=True,  # Ctrl-C reaches us first: the runner goes before its server does
        )  # fmt: skip
    try:
        _await_health(child, api, log)
        yield api
    finally:
        _stop(child)


def _free_port(host: str, port: int) -> int:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((host, port))
            return int(s.getsockname()[1])
    except OSError as e:
        raise Failure(
            f"cannot listen on {host}:{port}: {e.strerror}",
            todo="another `eoflow up` or Prefect server may be running there; stop it or give another --port",
        ) from None


def _await_health(child: subprocess.Popen[bytes], api: str, log: Path) -> None:
    deadline = time.monotonic() + HEALTHY_WITHIN_S
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
    raise Failure("the Prefect server did not start", where=str(log), todo=f"its last lines were:\n{tail}")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask the server and its children (their own process group) to end; insist after GOODBYE_S."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@contextmanager
def client_settings(home: Path, api: str) -> Iterator[None]:
    """The same settings in this process; runs started by the runner inherit them."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    with temporary_settings(updates={PREFECT_API_URL: api, PREFECT_HOME: str(home)}):
        yield


def _deployment(s: Served) -> Any:
    from datetime import timedelta

    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.schedules import Cron, Interval

    every = s.interval_s
    schedule = Cron(s.schedule, timezone="UTC") if every is None else Interval(timedelta(seconds=every), timezone="UTC")
    return load_flow(s.flow).to_deployment(
        s.name, parameters=s.parameters, schedule=schedule, tags=["eoflow", s.parameters["dataset"]],
        # one run at a time of each flow and dataset; a run that finds the last one busy adds nothing by waiting
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
    )  # fmt: skip


def _next_run(s: Served) -> str:
    if s.interval_s is not None:
        return f"in {s.schedule}"
    import asyncio

    from prefect.server.schemas.schedules import CronSchedule

    (first,) = asyncio.run(CronSchedule(cron=s.schedule, timezone="UTC").get_dates(1))
    return f"{first:%Y-%m-%d %H:%M} UTC"
