"""The manifests, rendered by the real kubectl, checked by Kubernetes' own schemas, and held against the server."""

import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from sam_config import SETTINGS, SamConfig
from sam_server.web.application import make_app
from sam_server.web.state import WebSettings, make_server

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUBECTL = Path(sys.prefix) / "bin" / "kubectl"
ADAPTER = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def resources(request) -> dict[tuple[str, str], dict]:
    """Everything that `kubectl apply --kustomize` would send, by kind and name."""
    done = subprocess.run(
        [str(KUBECTL), "kustomize", str(FOLDER / request.param)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = list(yaml.safe_load_all(done.stdout))
    return {(resource["kind"], resource["metadata"]["name"]): resource for resource in found}


@pytest.fixture(scope="module")
def pod(resources) -> dict:
    """What a pod of the server is."""
    return resources["Deployment", "mask-grouping-server"]["spec"]["template"]


@pytest.fixture(scope="module")
def pods(resources) -> list[dict]:
    """All pods."""
    return [resource["spec"]["template"] for (kind, _), resource in resources.items() if kind == "Deployment"]


@pytest.fixture(scope="module")
def container(pod) -> dict:
    """The server's container."""
    return pod["spec"]["containers"][0]


def test_schemas_hold(resources):
    for resource in resources.values():
        kubernetes_validate.validate(resource, "1.37", strict=True)


def test_selectors_find_their_pods(resources, pods):
    labels = [pod["metadata"]["labels"] for pod in pods]
    selectors = [
        (kind, spec["selector"].get("matchLabels", spec["selector"]))
        for (kind, _), resource in resources.items()
        if "selector" in (spec := resource.get("spec", {}))
    ]
    assert len(selectors) >= 6
    for kind, selector in selectors:
        found = [label for label in labels if selector.items() <= label.items()]
        assert len(found) == 1, (kind, selector)


def test_probes_ask_paths_that_exist(container):
    state = make_server(WebSettings())
    try:
        client = make_app(state).test_client()
        asked = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
        answers = {name: client.get(path).status_code for name, path in asked.items()}
    finally:
        state.jobs.close()
    # Without a model it gets no requests, and is not killed for that.
    assert answers == {"startup": 503, "readiness": 503, "liveness": 200}


def test_a_busy_server_is_not_killed(container):
    probe = container["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > SamConfig.queue_timeout


def test_it_has_time_to_stop(pod, container, stop_seconds):
    waited = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > waited + stop_seconds


def test_no_pod_has_privileges(pods):
    for pod in pods:
        general, own = pod["spec"]["securityContext"], pod["spec"]["containers"][0]["securityContext"]
        assert general["runAsNonRoot"]
        assert general["runAsUser"] > 0
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not pod["spec"]["automountServiceAccountToken"]


def test_user_port_and_volume_are_those_of_the_image(pod, container, stages):
    image = stages["cpu"]
    context = pod["spec"]["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == image.values("USER")[-1]
    assert str(container["ports"][0]["containerPort"]) == image.environment["SAM_PORT"]
    assert image.values("VOLUME")[-1] in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_settings_are_settings(resources, container):
    name = container["envFrom"][0]["configMapRef"]["name"]
    known = {setting.variable: setting for setting in SETTINGS}
    for variable, text in resources["ConfigMap", name]["data"].items():
        known[variable].parse(text)


def test_redis_is_where_the_settings_say(resources, container):
    name = container["envFrom"][0]["configMapRef"]["name"]
    host = resources["ConfigMap", name]["data"]["SAM_REDIS_URL"].removeprefix("redis://").split(":")[0]
    assert ("Service", host) in resources


def test_claims_are_there(resources, pods):
    for pod in pods:
        for volume in pod["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in resources


def test_conversion_fills_the_volume_of_the_servers(resources, container, stages):
    job = yaml.safe_load((FOLDER / "convert.yaml").read_text())
    kubernetes_validate.validate(job, "1.37", strict=True)
    pod = job["spec"]["template"]["spec"]
    assert ("PersistentVolumeClaim", pod["volumes"][0]["persistentVolumeClaim"]["claimName"]) in resources
    own = pod["containers"][0]
    assert own["volumeMounts"][0]["mountPath"] in stages["cuda"].values("VOLUME")
    # The other image has no torch, which a conversion needs.
    assert own["image"].endswith(":cuda")
    assert own["image"].split(":")[0] == container["image"].split(":")[0]
    assert (ROOT / own["command"][1]).is_file()


def test_server_and_worker_have_a_gpu_each_or_none(resources):
    for name in ("mask-grouping-server", "mask-grouping-worker"):
        container = resources["Deployment", name]["spec"]["template"]["spec"]["containers"][0]
        on_gpu = container["image"].endswith(":cuda")
        assert container["resources"]["limits"].get("nvidia.com/gpu") == (1 if on_gpu else None)


def test_autoscaler_reads_a_metric_that_is_there(resources):
    scaler = resources["HorizontalPodAutoscaler", "mask-grouping-server"]["spec"]
    name = scaler["metrics"][0]["pods"]["metric"]["name"]
    rule = ADAPTER["rules"]["custom"][0]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(f"{name}{{")
    state = make_server(WebSettings())
    try:
        told = make_app(state).test_client().get("/metrics").text
    finally:
        state.jobs.close()
    assert f"\n{name} " in told
    assert ("Deployment", scaler["scaleTargetRef"]["name"]) in resources
    # Else every apply would set back what the autoscaler has decided.
    assert "replicas" not in resources["Deployment", "mask-grouping-server"]["spec"]
