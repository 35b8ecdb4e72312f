"""A real Ray cluster of one node on loopback, which serves the repository's Serve config with a tiny model on CPUs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.live_server import ROOT, free_port
from tests.server.processes import alive, wait_until

CONFIG = ROOT / "deploy" / "ray" / "star.yaml"
REPLICAS = 2


@dataclass(frozen=True)
class Cluster:
    """A service that has answered.

    Attributes:
        url: of Ray's HTTP proxy.
        folder: which every process of the cluster names in its command line or its environment.
    """

    url: str
    folder: Path

    def processes(self) -> dict[int, str]:
        """What runs, by process id, with its command line."""
        found = {}
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    path.name.isdecimal()
                    and str(self.folder).encode() in (path / "environ").read_bytes()
                ):
                    found[int(path.name)] = (
                        (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    )
        return {pid: command for pid, command in found.items() if alive(pid)}

    def kill(self) -> None:
        """End what is left, which is nothing unless something went wrong."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def replicas(self) -> list[int]:
        """The process ids of the replicas."""
        return sorted(pid for pid, command in self.processes().items() if "ServeReplica" in command)

    def samples(self, name: str) -> dict[str, float]:
        """A metric by replica, its other labels summed."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(
            httpx.get(f"{self.url}/metrics", timeout=60).text
        ):
            for sample in family.samples:
                if sample.name == name:
                    replica = sample.labels["replica"]
                    found[replica] = found.get(replica, 0) + sample.value
        return found


def config(model: Path, port: int) -> dict[str, object]:
    """The repository's Serve config with a given model, on CPUs, with two replicas."""
    given = yaml.safe_load(CONFIG.read_text("utf-8"))
    given["http_options"] |= {"host": "127.0.0.1", "port": port}
    (application,) = given["applications"]
    application["args"] |= {"model": str(model), "device": "cpu", "threads": 1}
    (deployment,) = application["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": REPLICAS, "max_replicas": REPLICAS}
    deployment |= {"ray_actor_options": {"num_cpus": 0.5}, "health_check_period_s": 2}
    return dict(given)


@contextlib.contextmanager
def running_cluster(model: Path, log: Path) -> Iterator[Cluster]:
    """Start Ray as its documentation says, run the application, and end both.

    Args:
        model: directory of the model that is served.
        log: takes what both write.
    """
    # The paths of Ray's sockets must be short. Everything of Ray's lies in this folder, its token included.
    with tempfile.TemporaryDirectory(prefix="ray") as name, log.open("wb") as output:
        folder, port = Path(name), free_port()
        (folder / "star.yaml").write_text(yaml.safe_dump(config(model, port)), "utf-8")
        cluster = Cluster(f"http://127.0.0.1:{port}", folder)
        environment = {
            **{
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("RAY_", "STAR_"))
            },
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            # Ray's switch for systems whose clusters are one machine: all of it stays on loopback.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_register_timeout_seconds": "240",
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "server.ray.proxy:middleware",
        }

        def start(*command: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def start_head() -> subprocess.Popen[bytes]:
            gcs_port = free_port()
            environment["RAY_ADDRESS"] = f"127.0.0.1:{gcs_port}"
            options = (
                "--num-cpus=2",
                "--include-dashboard=false",
                "--object-store-memory=100000000",
            )
            head = start(
                "ray",
                "start",
                "--head",
                "--block",
                f"--port={gcs_port}",
                f"--temp-dir={folder}",
                *options,
            )
            wait_until(
                lambda: b"Ray runtime started" in log.read_bytes() or head.poll() is not None, 240
            )
            return head

        commands: list[subprocess.Popen[bytes]] = []

        def runs() -> bool:
            return all(process.poll() is None for process in commands)

        try:
            # Ray gives its agents 15 s to say where they listen; on a machine that is busy that can be too few.
            for _ in range(3):
                commands = [start_head()]
                if runs():
                    break
                cluster.kill()
            commands.append(start("serve", "run", "star.yaml"))
            wait_until(lambda: _serves(cluster) or not runs(), 400)
            assert runs(), log.read_text("utf-8", "replace")[-5000:]
            yield cluster
        finally:
            for process in reversed(commands):
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60)
            cluster.kill()
            for process in commands:
                process.wait(10)


def _serves(cluster: Cluster) -> bool:
    with contextlib.suppress(httpx.TransportError, KeyError):
        if httpx.get(f"{cluster.url}/readyz", timeout=20).status_code == 200:
            return len(cluster.samples("star_engine_up")) == REPLICAS
    return False
