"""The chart, rendered by Helm's own code: valid for Kubernetes, of a piece with the server, and safe by default."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.app import PARTS, create_app, make_models
from server.http.request_log import endpoint_names
from server.metrics import Metrics
from server.settings import Settings
from star_model.families.registry import PRESETS
from tests.deploy.test_dockerfile import FINAL, PROJECT
from tests.live_server import ROOT

helm = pytest.importorskip(
    "helm_python", reason="Helm is not installed: make install TOOLS=test,deploy"
)
kubernetes = pytest.importorskip(
    "kubernetes_validate", reason="kubernetes-validate is not installed"
)

CHART = ROOT / "deploy" / "helm" / "star"
VERSIONS = ("1.27.0", kubernetes.latest_version())
"""Of Kubernetes: the oldest that Chart.yaml allows, and the newest that the validator knows."""
VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "cpu": {"gpus": 0, "replicas": 3},
    "everything": {
        "image": {"repository": "registry.example.org/star", "tag": "1.2.3"},
        "imagePullSecrets": [{"name": "registry"}],
        "gpus": 2,
        "runtimeClassName": "nvidia",
        "settings": {
            "max_body_bytes": 1048576,
            "max_step": 0.5,
            "offline": True,
            "cors_origins": ["https://a.org"],
        },
        "env": [
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
        ],
        "apiKeys": {"secret": "star-keys"},
        "models": {"size": "50Gi", "storageClass": "fast", "accessMode": "ReadWriteMany"},
        "convert": {"preset": "star-512", "claim": "checkpoints", "dtype": "bfloat16"},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "images.example.org",
            "tlsSecret": "tls",
        },
        "autoscaling": {"kind": "keda"},
        "networkPolicy": {"from": [{"podSelector": {"matchLabels": {"app": "gateway"}}}]},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "priorityClassName": "high",
    },
    "hpa": {"autoscaling": {"kind": "hpa", "max": 8}, "models": {"claim": "models"}},
    "bare": {
        "disruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
    },
}
CUSTOM = {"ScaledObject", "PodMonitor"}
"""Kinds that are not Kubernetes' own."""


@cache
def render(name: str) -> list[dict[str, Any]]:
    """The objects of a release with one of the sets of values."""
    with helm.Chart.load(str(CHART)) as chart:
        files: dict[str, str] = chart.render(VALUES[name], name="demo", namespace="images")
    texts = (text for path, text in sorted(files.items()) if path.endswith(".yaml"))
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def only(name: str, kind: str) -> dict[str, Any]:
    (found,) = (document for document in render(name) if document["kind"] == kind)
    return found


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = only(name, "Deployment")["spec"]["template"]["spec"]
    return spec


def server(name: str) -> dict[str, Any]:
    (container,) = pod(name)["containers"]
    return dict(container)


def environment(name: str) -> dict[str, str]:
    """What the chart sets of the server's variables."""
    return {e["name"]: e["value"] for e in server(name)["env"] if e["name"].startswith("STAR_")}


def refusal(values: dict[str, Any]) -> str:
    """What Helm says of values that it refuses."""
    with helm.Chart.load(str(CHART)) as chart, pytest.raises(helm.HelmError) as raised:
        chart.render(values, name="demo")
    return str(raised.value)


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_nothing_wrong(name: str) -> None:
    report = helm.lint(str(CHART), VALUES[name], strict=True)
    assert not report["errors"]
    assert {message["error"] for message in report["messages"]} <= {"icon is recommended"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", VALUES)
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    for document in render(name):
        if document["kind"] not in CUSTOM:
            kubernetes.validate(document, version, strict=True)


def test_a_field_that_does_not_exist_is_found() -> None:
    document = json.loads(json.dumps(only("defaults", "Deployment")))
    document["spec"]["template"]["spec"]["containers"][0]["readyProbe"] = {}
    with pytest.raises(kubernetes.ValidationError, match="readyProbe"):
        kubernetes.validate(document, VERSIONS[-1], strict=True)


def test_keda_knows_every_field() -> None:
    models = pytest.importorskip(
        "cloudcoil.models.keda.v1alpha1", reason="KEDA's types are not installed"
    )
    document = only("everything", "ScaledObject")
    parsed = models.ScaledObject.model_validate(document)
    assert parsed.spec.triggers[0].type == "prometheus"
    document = json.loads(json.dumps(document))
    document["spec"]["triggers"] = None
    with pytest.raises(ValueError, match="triggers"):
        models.ScaledObject.model_validate(document)


def test_scalers_ask_for_a_metric_that_exists() -> None:
    metrics = {family.name for family in Metrics().registry.collect()}
    hpa = only("hpa", "HorizontalPodAutoscaler")["spec"]
    assert hpa["metrics"][0]["pods"]["metric"]["name"] in metrics
    assert hpa["scaleTargetRef"]["name"] == only("hpa", "Deployment")["metadata"]["name"]
    assert "replicas" not in only("hpa", "Deployment")["spec"]
    keda = only("everything", "ScaledObject")["spec"]["triggers"][0]["metadata"]
    assert keda["query"] == 'sum(star_requests_waiting{namespace="images"})'
    assert only("defaults", "Deployment")["spec"]["replicas"] == 1


@pytest.mark.parametrize("name", VALUES)
def test_probes_ask_what_the_server_answers(name: str) -> None:
    settings = Settings()
    paths = create_app(settings, make_models(settings)).openapi()["paths"]
    container = server(name)
    probes = {
        kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")
    }
    asked = {kind: probe["path"] for kind, probe in probes.items()}
    assert asked == {"startup": "/startupz", "readiness": "/readyz", "liveness": "/livez"}
    assert set(asked.values()) <= set(paths)
    (port,) = container["ports"]
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert str(port["containerPort"]) == FINAL.last("EXPOSE")


@pytest.mark.parametrize("name", VALUES)
def test_the_settings_are_the_servers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = FINAL.environment | environment(name)
    for variable, value in variables.items():
        if variable.startswith("STAR_"):
            monkeypatch.setenv(variable, value)
    settings = Settings()  # refuses what it does not know
    wanted = VALUES[name].get("settings", {})
    assert {key: getattr(settings, key) for key in wanted} == wanted
    assert (settings.device, settings.log_format) == ("cpu" if name == "cpu" else "auto", "json")
    # Kubernetes' own variables for a service named "star" would be STAR_PORT and others.
    assert pod(name)["enableServiceLinks"] is False


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("drain", [30, 12.5])
def test_the_pod_has_time_to_finish_what_runs(name: str, drain: float) -> None:
    values = VALUES[name] | {
        "settings": VALUES[name].get("settings", {}) | {"drain_timeout_s": drain}
    }
    with helm.Chart.load(str(CHART)) as chart:
        text = chart.render(values, name="demo")["star/templates/deployment.yaml"]
    spec = yaml.safe_load(text)["spec"]["template"]["spec"]
    (before,) = [
        int(word) for word in spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1:]
    ]
    assert spec["terminationGracePeriodSeconds"] >= before + drain + 10


@pytest.mark.parametrize("name", VALUES)
def test_nothing_has_rights_that_it_does_not_need(name: str) -> None:
    spec = pod(name)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    user = f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"
    assert user == FINAL.last("USER")
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = {
            mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")
        }
        assert writable == {"/models", "/tmp"}
    if name != "bare":
        policy = only(name, "NetworkPolicy")["spec"]
        assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])


@pytest.mark.parametrize("name", VALUES)
def test_everything_selects_the_pods(name: str) -> None:
    labels = only(name, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for document in render(name):
        spec = document.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector", {}))
        assert selector.get("matchLabels", selector).items() <= labels.items()


@pytest.mark.parametrize("name", VALUES)
def test_memory_and_temporary_space_are_bounded(name: str) -> None:
    """A body is kept in the temporary folder while it arrives; without a bound it fills the node's disk."""
    spaces = {volume["name"]: volume for volume in pod(name)["volumes"]}
    mounted = {mount["mountPath"]: mount["name"] for mount in server(name)["volumeMounts"]}
    assert spaces[mounted["/tmp"]]["emptyDir"]["sizeLimit"]
    assert server(name)["securityContext"]["readOnlyRootFilesystem"] is True
    for container in (*pod(name)["containers"], *pod(name).get("initContainers", ())):
        assert container["resources"]["limits"]["memory"]


def test_a_gpu_is_asked_for_by_its_resource() -> None:
    assert server("everything")["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert "nvidia.com/gpu" not in server("cpu")["resources"]["limits"]
    (convert,) = pod("everything")["initContainers"]
    assert "nvidia.com/gpu" not in convert["resources"]["limits"]


def test_the_init_container_converts_once(tmp_path: Path) -> None:
    """Its command is run here, with a star-server that writes down what it was asked and makes the model."""
    (convert,) = pod("everything")["initContainers"]
    assert environment("everything")["STAR_MODEL"] == "/models/star-512"
    script = convert["command"][2].replace("/models/", f"{tmp_path}/")
    program = tmp_path / "star-server"
    made = tmp_path / "star-512"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nmkdir {made}\n: > {made}/config.json\n'
    )
    program.chmod(0o755)
    command = [*convert["command"][:2], script, *convert["command"][3:], *convert["args"]]
    for _ in range(2):
        subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert (tmp_path / "asked").read_text().splitlines() == ["convert " + " ".join(convert["args"])]


def test_the_real_command_understands_the_init_container() -> None:
    (convert,) = pod("everything")["initContainers"]
    star_server = [sys.executable, "-m", "server", "convert", *convert["args"]]
    run = subprocess.run(star_server, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "/checkpoints/" in run.stderr  # the files are not there; no flag is wrong
    assert "nknown" not in run.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replica": 2}, "'replica' not allowed"),
        ({"models": {"clam": "x"}}, "'clam' not allowed"),
        ({"autoscaling": {"kind": "vpa"}}, "'none', 'hpa', 'keda'"),
        ({"autoscaling": {"kind": "keda", "min": 0}}, "/autoscaling/min"),
        ({"temporarySpace": "2"}, "/temporarySpace"),
        ({"gpus": -1}, "/gpus"),
        ({"settings": {"Model": "x"}}, "Model"),
        ({"settings": {"port": 9000}}, "port"),
        ({"settings": {"host": "127.0.0.1"}}, "host"),
        ({"convert": {"preset": "star-512"}}, "convert.claim must name"),
        ({"ingress": {"enabled": True}}, "ingress.host must name"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(values: dict[str, Any], said: str) -> None:
    assert said in refusal(values)


def test_every_setting_can_be_set() -> None:
    """Save those that the chart has to decide itself, because probes and ports go by them."""
    names = [name for name in Settings.model_fields if name not in ("host", "port")]
    with helm.Chart.load(str(CHART)) as chart:
        text = chart.render({"settings": dict.fromkeys(names, "x")}, name="demo")
    assert [
        n for n in names if f"STAR_{n.upper()}" not in text["star/templates/deployment.yaml"]
    ] == []


NOT_PUBLISHED = {"/metrics", "/livez", "/readyz", "/startupz", "/health"}


def test_the_ingress_publishes_what_is_for_callers() -> None:
    (rule,) = only("everything", "Ingress")["spec"]["rules"]
    names = endpoint_names(part.router for part in PARTS)
    endpoints = {"/openapi.json", *(name.removeprefix("POST ") for name in names)} - {"other"}

    def published(path: str) -> bool:
        return any(
            path == entry["path"]
            or (entry["pathType"] == "Prefix" and path.startswith(f"{entry['path']}/"))
            for entry in rule["http"]["paths"]
        )

    assert {path for path in endpoints if not published(path)} == NOT_PUBLISHED


def test_the_schema_names_the_values_that_there_are() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))

    def agree(schema: dict[str, Any], values: Any, place: str) -> None:
        if "properties" in schema:
            assert set(schema["properties"]) - {"global"} == set(values), place
            assert schema["additionalProperties"] is False
            for name, value in values.items():
                agree(schema["properties"][name], value, f"{place}.{name}")

    agree(schema, values, "values")
    presets = schema["properties"]["convert"]["properties"]["preset"]["enum"]
    assert set(presets) - {""} <= set(PRESETS)


def test_every_value_is_explained() -> None:
    """Above each value, or above the first of a group without an empty line in it, stands a comment."""
    explained, silent = False, []
    for line in (CHART / "values.yaml").read_text("utf-8").splitlines():
        if not line.strip():
            explained = False
        elif line.lstrip().startswith("#"):
            explained = True
        elif re.match(r"^\w+:", line) and not explained:
            silent.append(line)
    assert set(silent) <= SELF_EVIDENT


SELF_EVIDENT = {
    *(
        "image:",
        "service:",
        "ingress:",
        "autoscaling:",
        "disruptionBudget:",
        "networkPolicy:",
        "probes:",
    ),
    *("podLabels: {}", "podAnnotations: {}", "nodeSelector: {}", "tolerations: []", "affinity: {}"),
    *("topologySpreadConstraints: []", 'priorityClassName: ""'),
}
"""Named as in Kubernetes, or a heading whose parts are explained."""


def test_the_chart_has_the_projects_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == PROJECT["version"]
    page = (ROOT / "docs" / "deployment.md").read_text("utf-8")
    assert set(re.findall(r"star-server:([0-9][0-9.]*)", page)) == {PROJECT["version"]}
