"""Kubernetes manifests: valid by the schemas, every selector finds a workload, every named port is there, every role
is probed, has memory as measured, is spread, and is evicted one at a time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]

from deploy.run import launcher
from deploy.run.endpoint import application
from deploy.settings.config import Settings, load
from store.base.metrics import registry
from stream.topics import Topics
from tests.project.test_manifests import assert_is_setting

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
DATA_DIR = "/var/lib/anchorstream/data"
WORKLOADS = {"ingest": "Deployment", "processor": "StatefulSet", "worker": "StatefulSet", "serve": "Deployment",
             "monitor": "Deployment"}  # fmt: skip
VERSIONS = ("1.31", "1.37")
"""Of Kubernetes: the oldest that we mean, and the newest of the schemas."""
COMPONENTS = ("keda", "prometheus-operator")
COMPONENT, NAME = "app.kubernetes.io/component", "app.kubernetes.io/name"
MB, UNITS = 1_000_000, {"Mi": 1 << 20, "Gi": 1 << 30}

Objects = list[dict[str, Any]]


def build(folder: Path) -> Objects:
    if shutil.which("kubectl") is None:
        pytest.skip("KUBERNETES MANIFESTS NOT BUILT: this test needs kubectl on PATH")
    command = ["kubectl", "kustomize", str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return list(yaml.safe_load_all(answer.stdout))


@pytest.fixture(scope="module", params=["cpu", "gpu", "everything"])
def overlay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Objects]:
    """The overlays that are there, and one of a user's own with every component."""
    if request.param != "everything":
        return request.param, build(KUBERNETES / "overlays" / request.param)
    own = tmp_path_factory.mktemp("overlay").resolve()
    here = os.path.relpath(KUBERNETES, own)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "anchorstream",
        "resources": [f"{here}/overlays/cpu"],
        "components": [f"{here}/components/{name}" for name in COMPONENTS],
    }
    (own / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return request.param, build(own)


def workloads(objects: Objects) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for thing in objects:
        if thing["kind"] in ("Deployment", "StatefulSet"):
            yield thing["metadata"]["name"], thing, thing["spec"]["template"]["spec"]


def of_kind(objects: Objects, kind: str) -> dict[str, dict[str, Any]]:
    return {thing["metadata"]["name"]: thing["spec"] for thing in objects if thing["kind"] == kind}


def pod_labels(objects: Objects) -> dict[str, dict[str, str]]:
    return {name: thing["spec"]["template"]["metadata"]["labels"] for name, thing, _ in workloads(objects)}


def selected(objects: Objects, selector: dict[str, Any]) -> set[str]:
    """Roles whose pods a selector means."""
    assert selector.keys() <= {"matchLabels"}
    wanted = selector["matchLabels"].items()
    return {role for role, labels in pod_labels(objects).items() if wanted <= labels.items()}


def size(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_what_its_schema_asks_for(overlay: tuple[str, Objects], version: str) -> None:
    judged = set()
    for thing in overlay[1]:
        if thing["apiVersion"].partition("/")[0] in ("keda.sh", "monitoring.coreos.com"):
            continue  # of operators
        kubernetes_validate.validate(thing, version, strict=True)
        judged.add(thing["kind"])
    assert judged == {"Namespace", "ConfigMap", "Service", "Deployment", "StatefulSet", "PodDisruptionBudget",
                      "HorizontalPodAutoscaler", "NetworkPolicy"}  # fmt: skip


def test_the_schemas_know_a_misspelt_key(overlay: tuple[str, Objects]) -> None:
    _, thing, _ = next(workloads(overlay[1]))
    thing = {**thing, "spec": {**thing["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(thing, VERSIONS[-1], strict=True)


def test_every_role_is_the_right_kind_of_workload(overlay: tuple[str, Objects]) -> None:
    assert {name: thing["kind"] for name, thing, _ in workloads(overlay[1])} == WORKLOADS
    for name, thing, pod in workloads(overlay[1]):
        assert pod["containers"][0]["args"] == ["run", name]
        assert selected(overlay[1], thing["spec"]["selector"]) == {name}


def test_pods_are_locked_down_and_stop_in_peace(overlay: tuple[str, Objects]) -> None:
    for _, _, pod in workloads(overlay[1]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is False
        assert pod["terminationGracePeriodSeconds"] > launcher.DRAIN_SECONDS
        for container in (*pod["containers"], *pod["initContainers"]):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]


def test_mounts_and_settings_exist(overlay: tuple[str, Objects]) -> None:
    for _, thing, pod in workloads(overlay[1]):
        container = pod["containers"][0]
        claims = {claim["metadata"]["name"] for claim in thing["spec"].get("volumeClaimTemplates", ())}
        volumes = {volume["name"] for volume in pod["volumes"]} | claims
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == volumes
        assert mounts["data"] == DATA_DIR
        for variable in container["env"]:
            assert_is_setting(variable["name"])


def test_every_role_is_asked_over_http_whether_it_lives_and_works(overlay: tuple[str, Objects]) -> None:
    """E14: no file that a process left behind passes; a long restore does not end the pod."""
    for name, thing, pod in workloads(overlay[1]):
        container = pod["containers"][0]
        env = {variable["name"]: variable["value"] for variable in container["env"]}
        port, *api = container["ports"]
        listens = int(env["ANCHORSTREAM_METRICS__PORT"])
        assert port == {"name": "metrics", "containerPort": listens}
        assert api == ([{"name": "http", "containerPort": Settings().serve.port}] if name == "serve" else [])
        assert env["ANCHORSTREAM_METRICS__HOST"] == "0.0.0.0"
        assert (env.get("ANCHORSTREAM_SERVE__HOST") == "0.0.0.0") is (name == "serve")
        for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
            assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
            assert container[probe]["timeoutSeconds"] >= 5, "the default of 1 s fails a process that computes"
        startup, alive = container["startupProbe"], container["livenessProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 3600, "time to restore"
        assert alive["periodSeconds"] * alive["failureThreshold"] >= 60, "a pause is no death"
        assert thing["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(listens)


def test_the_paths_of_the_probes_are_answered_by_the_roles() -> None:
    answers = {}

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        answers[path] = (status[:3], dict(headers)["Content-Type"].partition(";")[0])

    for path in ("/readyz", "/livez", "/metrics"):
        app = application(registry("ingest"), lambda: False, lambda: 1e9)
        list(app({"PATH_INFO": path, "REQUEST_METHOD": "GET", "QUERY_STRING": ""}, start_response))  # type: ignore[arg-type]
    assert {path: status for path, (status, _) in answers.items()} == {
        "/readyz": "503", "/livez": "503", "/metrics": "200"}  # fmt: skip


def measured() -> dict[str, int]:
    """Bytes of each role at its start: the table of docs/operations.md."""
    text = (ROOT / "docs" / "operations.md").read_text().partition("\n## Memory by role")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (\w+) \| (\d+) \|", text, re.MULTILINE)
    return {role: int(mb) * MB for role, mb in found}


def test_memory_is_what_was_measured_and_what_is_configured_to_grow(overlay: tuple[str, Objects]) -> None:
    settings = load(KUBERNETES / "base" / "config.toml")
    store = settings.store.block_cache_bytes + settings.store.write_buffer_bytes
    grows = {
        "ingest": 64 << 20,
        "processor": store + settings.processor.text_cache_entries * 1000,
        "worker": store + settings.model.kv_pool_bytes,
        "serve": 500_000 * 1000,  # users
        "monitor": 0,
    }
    assert measured().keys() == grows.keys()
    for name, _, pod in workloads(overlay[1]):
        resources = pod["containers"][0]["resources"]
        requested, limit = size(resources["requests"]["memory"]), size(resources["limits"]["memory"])
        assert requested >= measured()[name] + grows[name], name
        assert limit >= 1.5 * requested, name
        assert resources["requests"]["cpu"], name
        for container in pod["initContainers"]:
            assert size(container["resources"]["requests"]["memory"]) <= requested


def test_the_gpu_goes_to_the_worker_alone(overlay: tuple[str, Objects]) -> None:
    kind, objects = overlay
    for name, _, pod in workloads(objects):
        gpu = kind == "gpu" and name == "worker"
        assert {c["image"] for c in (*pod["containers"], *pod["initContainers"])} == {
            "anchorstream:gpu" if gpu else "anchorstream:cpu"
        }
        assert ("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]) is gpu


def test_services_point_at_pods_and_ports(overlay: tuple[str, Objects]) -> None:
    pods = {name: pod for name, _, pod in workloads(overlay[1])}
    services = of_kind(overlay[1], "Service")
    assert services.keys() == {"serve", "processor", "worker"}
    for name, service in services.items():
        assert selected(overlay[1], {"matchLabels": service["selector"]}) == {name}
        ports = {port["name"] for port in pods[name]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["ports"]} <= ports
    for _, thing, _ in workloads(overlay[1]):
        if thing["kind"] == "StatefulSet":
            assert thing["spec"]["serviceName"] in services


def test_each_role_is_spread_over_nodes_and_zones(overlay: tuple[str, Objects]) -> None:
    for name, _, pod in workloads(overlay[1]):
        found = {constraint["topologyKey"]: constraint for constraint in pod["topologySpreadConstraints"]}
        assert found.keys() == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        for constraint in found.values():
            # with matchLabelKeys: of the pods selected, those with this pod's own value
            (key,) = constraint["matchLabelKeys"]
            alike = {r for r in selected(overlay[1], constraint["labelSelector"])
                     if pod_labels(overlay[1])[r][key] == pod_labels(overlay[1])[name][key]}  # fmt: skip
            assert alike == {name}


def replicas(objects: Objects) -> dict[str, int]:
    """The least of each role that runs."""
    found = {name: thing["spec"].get("replicas") for name, thing, _ in workloads(objects)}
    for spec in of_kind(objects, "HorizontalPodAutoscaler").values():
        assert found[spec["scaleTargetRef"]["name"]] is None, "each apply would set the number back"
        found[spec["scaleTargetRef"]["name"]] = spec["minReplicas"]
    assert None not in found.values()
    return {name: int(count or 0) for name, count in found.items()}


def test_an_eviction_takes_one_pod_of_a_role_and_leaves_one(overlay: tuple[str, Objects]) -> None:
    budgets = of_kind(overlay[1], "PodDisruptionBudget")
    assert budgets.keys() == WORKLOADS.keys() - {"monitor"}
    for name, budget in budgets.items():
        assert selected(overlay[1], budget["selector"]) == {name}
        assert replicas(overlay[1])[name] > budget["maxUnavailable"] == 1
    assert replicas(overlay[1])["monitor"] == 1


def test_no_more_pods_than_partitions_share_the_work(overlay: tuple[str, Objects]) -> None:
    partitions = load(KUBERNETES / "base" / "config.toml").kafka.partitions
    kinds = {name: thing["kind"] for name, thing, _ in workloads(overlay[1])}
    autoscalers = of_kind(overlay[1], "HorizontalPodAutoscaler")
    scaled = of_kind(overlay[1], "ScaledObject")
    assert autoscalers.keys() == {"ingest", "serve"}
    assert scaled.keys() == ({"processor", "worker"} if overlay[0] == "everything" else set())
    for name, spec in {**autoscalers, **scaled}.items():
        target = spec["scaleTargetRef"]
        assert (target["kind"], target["name"]) == (kinds[name], name)
        most = spec.get("maxReplicas") or spec["maxReplicaCount"]
        assert 2 <= (spec.get("minReplicas") or spec["minReplicaCount"]) < most
        assert name == "serve" or most <= partitions
    assert all(count <= partitions for count in replicas(overlay[1]).values())


def test_what_scales_by_lag_asks_our_broker_for_our_groups(overlay: tuple[str, Objects]) -> None:
    settings = load(KUBERNETES / "base" / "config.toml")
    topics = Topics(settings.kafka)
    reads = {"processor": (topics.group_processor, topics.events), "worker": (topics.group_worker, topics.tokens)}
    for name, spec in of_kind(overlay[1], "ScaledObject").items():
        (trigger,) = spec["triggers"]
        asked = trigger["metadata"]
        assert trigger["type"] == "kafka"
        assert (asked["consumerGroup"], asked["topic"]) == reads[name]
        assert asked["bootstrapServers"] == settings.kafka.bootstrap_servers
        assert asked["offsetResetPolicy"] == "earliest"  # where our groups begin
        assert int(asked["lagThreshold"]) > 0
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= 600, "each change moves partitions"


def test_nothing_comes_in_or_goes_out_but_what_is_named(overlay: tuple[str, Objects]) -> None:
    policies = of_kind(overlay[1], "NetworkPolicy")
    assert selected(overlay[1], policies["anchorstream"]["podSelector"]) == set(WORKLOADS)
    assert set(policies["anchorstream"]["policyTypes"]) == {"Ingress", "Egress"}
    assert selected(overlay[1], policies["serve"]["podSelector"]) == {"serve"}
    pods = {name: pod for name, _, pod in workloads(overlay[1])}
    for policy in policies.values():
        roles = selected(overlay[1], policy["podSelector"])
        for rule in policy.get("ingress", ()):
            assert rule["from"], "an empty list lets everybody in"
            for port in rule["ports"]:
                assert all(port["port"] in {p["name"] for p in pods[r]["containers"][0]["ports"]} for r in roles)
    out = [(p["port"], p.get("endPort", p["port"])) for r in policies["anchorstream"]["egress"] for p in r["ports"]]
    broker = load(KUBERNETES / "base" / "config.toml").kafka.bootstrap_servers
    for needed in (53, int(broker.rpartition(":")[2])):
        assert any(first <= needed <= last for first, last in out)


def test_prometheus_gets_every_role_under_the_names_that_alerts_use(overlay: tuple[str, Objects]) -> None:
    monitors = of_kind(overlay[1], "PodMonitor")
    assert monitors.keys() == ({"anchorstream"} if overlay[0] == "everything" else set())
    for monitor in monitors.values():
        assert selected(overlay[1], monitor["selector"]) == set(WORKLOADS)
        (endpoint,) = monitor["podMetricsEndpoints"]
        for _, _, pod in workloads(overlay[1]):
            assert endpoint["port"] in {port["name"] for port in pod["containers"][0]["ports"]}
        assert endpoint["path"] == "/metrics"
        names = {rule["targetLabel"]: rule["sourceLabels"] for rule in endpoint["relabelings"]}
        assert names["role"] == ["__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", COMPONENT)]
        jobs = {labels[monitor["jobLabel"]] for labels in pod_labels(overlay[1]).values()}
        (pattern,) = set(re.findall(r'job=~"([^"]+)"', (ROOT / "deploy" / "dashboards" / "alerts.yml").read_text()))
        assert all(re.fullmatch(pattern, job) for job in jobs)


def test_the_config_map_is_a_configuration() -> None:
    settings = load(KUBERNETES / "base" / "config.toml")
    assert not settings.kafka.managed, "the broker is somebody else's"
    assert settings.modalities
    assert settings.scenarios
