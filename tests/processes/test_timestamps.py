"""Time stamps in Content Credentials, from an authority that OpenSSL plays."""

from __future__ import annotations

import io
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

c2pa = pytest.importorskip("c2pa", reason="the extra c2pa is not installed")

from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: E402

from server.images.credentials import CredentialSigner  # noqa: E402
from server.images.metadata import ImageMetadata  # noqa: E402
from tests.server.certificates import make_certificates  # noqa: E402
from tests.server.pictures import file_of, photo  # noqa: E402

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="OpenSSL is not installed")

_CONFIGURATION = """
[tsa]
dir = {folder}
serial = $dir/serial
signer_cert = $dir/chain.pem
certs = $dir/root.pem
signer_key = $dir/key.pem
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
accuracy = secs:1
"""


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[str]:
    """The address of an authority, which answers by ``openssl ts``."""
    folder = tmp_path / "authority"
    make_certificates(folder, usage=ExtendedKeyUsageOID.TIME_STAMPING)
    (folder / "serial").write_text("01")
    (folder / "tsa.cnf").write_text(_CONFIGURATION.format(folder=folder))

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = folder / "query"
            query.write_bytes(self.rfile.read(int(self.headers["content-length"])))
            command = ("openssl", "ts", "-reply", "-section", "tsa", "-queryfile", str(query))
            run = subprocess.run(
                [*command, "-config", str(folder / "tsa.cnf")], capture_output=True, check=True
            )
            self.send_response(200)
            self.send_header("content-type", "application/timestamp-reply")
            self.send_header("content-length", str(len(run.stdout)))
            self.end_headers()
            self.wfile.write(run.stdout)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_signature_says_when_it_was_made(authority: str, tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "signer")
    metadata = ImageMetadata("star-fake", composite=False, generation=None)
    stamped, plain = (
        CredentialSigner(made.chain, made.key, url).sign(file_of(photo(32)), "image/png", metadata)
        for url in (authority, None)
    )
    with c2pa.Reader("image/png", io.BytesIO(stamped)) as reader:
        assert reader.get_active_manifest()["signature_info"]["time"]
        codes = {
            each["code"] for each in reader.get_validation_results()["activeManifest"]["success"]
        }
        assert "timeStamp.validated" in codes
    with c2pa.Reader("image/png", io.BytesIO(plain)) as reader:
        assert "time" not in reader.get_active_manifest()["signature_info"]
