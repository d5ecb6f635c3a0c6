"""deploy/: what Prefect, Compose and Kubernetes would read is well-formed and fits the flows."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from eoflow import catalog, up

pytest.importorskip("prefect")
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
REPO = DEPLOY.parent


def load(name: str) -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


DEPLOYMENTS = load("prefect.yaml")[0]["deployments"]


@pytest.mark.parametrize("d", DEPLOYMENTS, ids=lambda d: d["name"])
def test_deployment_fits_its_flow(d: dict):
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.client.schemas.schedules import CronSchedule

    path, _, function = d["entrypoint"].partition(":")
    assert (REPO / path).is_file()
    flow = up.load_flow(Path(path).stem)
    assert flow.fn.__name__ == function
    inspect.signature(flow.fn).bind(**d["parameters"])
    flow.validate_parameters(d["parameters"])
    kind = "scenes" if hasattr(catalog.entry(d["parameters"]["dataset"]), "kind") else "fields"
    if "recipe" in d["parameters"]:
        assert catalog.recipe(d["parameters"]["recipe"])
    for s in d["schedules"]:
        assert CronSchedule(cron=s["cron"], timezone=s["timezone"])
        assert s["slug"]
        known = up.FIELDS if kind == "fields" else {**up.IMAGES, **up.SCENES}
        assert shifted(s["cron"], known[flow.name]), "deploy/prefect.yaml and `eoflow up` hold the same schedules"
    assert ConcurrencyLimitConfig(**d["concurrency_limit"]).limit == 1
    assert d["work_pool"]["name"] == "eoflow"


def shifted(cron: str, base: str) -> bool:
    """Whether a cron is `base`, or some staggers of a second dataset later within the hour."""
    (minute, rest), (first, same) = cron.split(" ", 1), base.split(" ", 1)
    return rest == same and int(minute) - int(first) in range(0, 10 * up.STAGGER_MIN, up.STAGGER_MIN)


def test_every_flow_is_deployed_once_a_dataset():
    deployed = [(d["entrypoint"].split(":")[1], d["parameters"]["dataset"]) for d in DEPLOYMENTS]
    assert len(deployed) == len(set(deployed))
    assert {flow for flow, _ in deployed} == {*up.FIELDS, *up.SCENES, *up.IMAGES}
    slugs = [s["slug"] for d in DEPLOYMENTS for s in d["schedules"]]
    assert len(slugs) == len(set(slugs))
    assert len({d["name"] for d in DEPLOYMENTS}) == len(DEPLOYMENTS)


def test_no_two_schedules_share_a_minute():
    minutes = [s["cron"].split()[0] for d in DEPLOYMENTS for s in d["schedules"]]
    assert len(minutes) == len(set(minutes))


def test_compose_services_fit_together():
    (compose,) = load("compose.yaml")
    services, volumes = compose["services"], compose["volumes"]
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            assert other in services, f"{name} waits for {other}"
        for mount in service.get("volumes", []):
            assert mount.split(":")[0] in volumes
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), "bound to this machine unless told otherwise"
    build = services["worker"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert "${POSTGRES_PASSWORD:?" in (DEPLOY / "compose.yaml").read_text(), "no default password"


def test_dockerfile_copies_what_exists():
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("COPY "):
            *sources, _ = line.split()[1:]
            assert all((REPO / s).exists() for s in sources), line
    assert any(line.startswith("USER ") and "root" not in line for line in lines)


def test_kubernetes_objects_refer_to_each_other():
    objects = [o for f in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for o in load(f"kubernetes/{f.name}")]
    known = {(o["kind"], o["metadata"]["name"]) for o in objects}
    assert len(known) == len(objects)
    pods = []
    for o in objects:
        assert o["apiVersion"] in {"v1", "apps/v1", "batch/v1"}
        if o["kind"] == "CronJob":
            assert o["spec"]["concurrencyPolicy"] == "Forbid"
            pods.append(o["spec"]["jobTemplate"]["spec"]["template"])
        elif o["kind"] == "Deployment":
            pods.append(o["spec"]["template"])
            labels = o["spec"]["template"]["metadata"]["labels"]
            assert o["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert pods
    for pod in pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"]}
        for claim in claims.values():
            assert ("PersistentVolumeClaim", claim) in known
        for c in spec["containers"]:
            assert {m["name"] for m in c["volumeMounts"]} <= set(claims)
            assert all(("ConfigMap", e["configMapRef"]["name"]) in known for e in c["envFrom"])
            if "args" in c:
                from eoflow.cli import main

                assert main([*c["args"][:1], "--help"]) == 0
