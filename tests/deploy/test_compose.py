"""The Compose file: of the specification, of a piece with the image, and nothing open that need not be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings
from tests.deploy.test_dockerfile import FINAL
from tests.live_server import ROOT

FILE = ROOT / "deploy" / "compose" / "compose.yaml"
TEXT = FILE.read_text("utf-8")


def resolved(text: str) -> dict[str, Any]:
    """The document with its anchors merged and every variable at its default."""
    document: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return document


COMPOSE = resolved(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = {name: service for name, service in SERVICES.items() if name.startswith("star-")}


def parse(text: str) -> None:
    spec = pytest.importorskip(
        "compose_spec", reason="compose-spec is not installed: TOOLS=test,deploy"
    )
    spec.PyCompose.from_json(json.dumps(resolved(text)))


def test_it_is_a_compose_file() -> None:
    parse(TEXT)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("profiles: [gpu]", "profile: [gpu]", "profile"),
        ("stop_grace_period: 45s", "stop_grace_period: 45 seconds", "duration"),
        ("count: all", "count: some", "some"),
        ("restart: unless-stopped", "restart: sometimes", "sometimes"),
    ],
)
def test_another_file_is_refused(old: str, new: str, said: str) -> None:
    assert old in TEXT
    with pytest.raises(ValueError, match=said):
        parse(TEXT.replace(old, new))


def test_each_profile_has_one_server_and_all_that_watches_it() -> None:
    for profile in ("gpu", "cpu"):
        chosen = {name for name, service in SERVICES.items() if profile in service["profiles"]}
        assert chosen == {f"star-{profile}", "prometheus", "grafana"}
    devices = SERVERS["star-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert SERVERS["star-cpu"]["build"]["args"]["VARIANT"] == "cpu"
    assert "deploy" not in SERVERS["star-cpu"]


def test_traces_are_kept_where_the_server_sends_them_and_the_dashboard_looks() -> None:
    (name,) = [name for name, service in SERVICES.items() if service["profiles"] == ["traces"]]
    command = f"OTEL_EXPORTER_OTLP_ENDPOINT=http://{name}:4318 docker compose"
    assert command in TEXT, "the head of the file says how"
    for service in SERVERS.values():
        assert "OTEL_EXPORTER_OTLP_ENDPOINT: ${OTEL_EXPORTER_OTLP_ENDPOINT:-}" in TEXT
        assert not service["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"], "off unless asked for"
        assert service["build"]["args"]["EXTRAS"] == "otel"
    (port,) = SERVICES[name]["ports"]
    page = f"http://localhost:{port.split(':')[1]}"
    folder = ROOT / "deploy" / "grafana"
    dashboard = json.loads((folder / "dashboards" / "star.json").read_text("utf-8"))
    assert [link["url"] for link in dashboard["links"]] == [page]
    provisioning = folder / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(provisioning.read_text("utf-8"))["datasources"]
    (destination,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == "trace_id"
    assert destination["url"].startswith(f"{page}/trace/")
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]


def test_what_is_pulled_is_pinned() -> None:
    for name in ("prometheus", "grafana", "jaeger"):
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_what_is_mounted_exists() -> None:
    mounts = [
        volume.split(":")[:2]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
    ]
    for source, _ in mounts:
        assert (
            (FILE.parent / source).is_dir()
            if source.startswith(".")
            else source in COMPOSE["volumes"]
        )
    for service in SERVERS.values():
        assert (FILE.parent / service["build"]["context"] / "Dockerfile").is_file()
        assert "models:/models" in service["volumes"]
    assert json.loads(FINAL.last("VOLUME")) == ["/models"]


def test_the_folders_are_where_the_programs_look() -> None:
    command = SERVICES["prometheus"]["command"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in command
    assert "../prometheus:/etc/prometheus:ro" in SERVICES["prometheus"]["volumes"]
    provider = ROOT / "deploy" / "grafana" / "provisioning" / "dashboards" / "star.yml"
    (path,) = [
        entry["options"]["path"]
        for entry in yaml.safe_load(provider.read_text("utf-8"))["providers"]
    ]
    assert f"../grafana/dashboards:{path}:ro" in SERVICES["grafana"]["volumes"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "deploy" / "grafana" / "dashboards" / Path(home).name).is_file()


def test_prometheus_and_grafana_find_what_they_ask() -> None:
    jobs = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text("utf-8"))[
        "scrape_configs"
    ]
    (target,) = next(job for job in jobs if job["job_name"] == "star")["static_configs"][0][
        "targets"
    ]
    host, port = target.split(":")
    assert port == FINAL.last("EXPOSE")
    assert all(host in service["networks"]["default"]["aliases"] for service in SERVERS.values())


def test_it_is_closed_by_default() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(service["read_only"] for service in SERVERS.values())


def test_a_stop_waits_for_what_runs() -> None:
    for service in SERVERS.values():
        assert int(service["stop_grace_period"].rstrip("s")) >= Settings().drain_timeout_s + 15


def test_every_container_has_bounds_and_writes_nowhere_but_to_volumes() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["mem_limit"], name
        assert service["pids_limit"] > 0, name
        assert all("size=" in space for space in service.get("tmpfs", ())), name


def test_grafana_has_no_administrator_whose_password_could_be_guessed() -> None:
    grafana = SERVICES["grafana"]["environment"]
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert grafana["GF_AUTH_BASIC_ENABLED"] == "false"
