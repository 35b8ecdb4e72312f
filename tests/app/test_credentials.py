"""Content Credentials: the server signs, and the library's reader verifies."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from server.errors import SigningFailed
from server.images.credentials import CredentialSigner, open_signer
from server.images.encode import ImageFormat
from server.images.metadata import ImageMetadata
from server.settings import FileSettings, Settings
from server.settings_file import SettingsFileError
from tests.app.test_streaming import events
from tests.server.image_metadata import IPTC, SOURCE_TYPE, generation_of, opened, xmp_of
from tests.server.pictures import file_of, mask, photo
from tests.server.service import Service, serve_fake

c2pa = pytest.importorskip("c2pa", reason="the extra c2pa is not installed")

from tests.server.certificates import Certificates, make_certificates  # noqa: E402

pytestmark = pytest.mark.anyio
METADATA = ImageMetadata("star-fake", composite=False, generation=None)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def settings_of(certificates: Certificates) -> dict[str, Any]:
    return {"c2pa_certificate": str(certificates.chain), "c2pa_key": str(certificates.key)}


def read(data: bytes, root: Path) -> tuple[str, dict[str, Any]]:
    """What the library's reader says of a file, to whom the root is trusted: the state, and the manifest."""
    settings = {
        "trust": {"trust_anchors": root.read_text()},
        "verify": {"verify_trust": True},
    }
    context = c2pa.Context(c2pa.Settings.from_dict(settings))
    kind = f"image/{opened(data).format}".lower()
    with c2pa.Reader(kind, io.BytesIO(data), context=context) as reader:
        return reader.get_validation_state(), reader.get_active_manifest()


def has_credentials(data: bytes) -> bool:
    return b"c2pa" in data


def created(manifest: dict[str, Any]) -> dict[str, Any]:
    """The one action of a manifest."""
    (actions,) = [a for a in manifest["assertions"] if a["label"].startswith("c2pa.actions")]
    (action,) = actions["data"]["actions"]
    assert isinstance(action, dict)
    return action


def decoded(answer: dict[str, Any]) -> bytes:
    return base64.b64decode(answer["b64_json"])


@pytest.mark.parametrize("image_format", get_args(ImageFormat))
async def test_every_finished_image_is_signed(
    certificates: Certificates, image_format: ImageFormat
) -> None:
    async with serve_fake(**settings_of(certificates)) as service:
        answer = await service.generate(format=image_format, seed=5, n=2)
        for each in answer.json()["data"]:
            data = decoded(each)
            state, manifest = read(data, certificates.root)
            assert state == "Trusted"
            assert manifest["claim_generator_info"][0]["name"] == "star-server"
            action = created(manifest)
            assert action["action"] == "c2pa.created"
            assert action["digitalSourceType"] == f"{SOURCE_TYPE}trainedAlgorithmicMedia"
            assert action["softwareAgent"]["name"] == "star-fake"
            assert manifest["signature_info"]["common_name"] == "Signer of a test"
            # It is beside the other metadata, not in place of them.
            assert generation_of(data)["seed"] == each["seed"]
            assert opened(data).size == (8, 8)


async def test_finished_images_of_streams_and_of_addresses_are_signed(
    certificates: Certificates,
) -> None:
    async with serve_fake(**settings_of(certificates)) as service:
        stream = await service.generate(stream=True, partial_images=1, format="webp")
        found = [(name, decoded(data)) for name, data in events(stream.text)]
        assert [name for name, _ in found] == [
            "image_generation.partial_image",
            "image_generation.completed",
        ]
        preview, image = (data for _, data in found)
        assert not has_credentials(preview)
        assert xmp_of(preview)[f"{IPTC}DigitalSourceType"].endswith("trainedAlgorithmicMedia")
        assert read(image, certificates.root)[0] == "Trusted"
        body = {"prompt": "a red apple", "response_format": "url"}
        answer = await service.http.post("/v1/images/generations", json=body)
        file = await service.http.get(answer.json()["data"][0]["url"])
        assert read(file.content, certificates.root)[0] == "Trusted"
        bytes_alone = await service.http.post(
            "/generate", json={"prompt": "a"}, headers={"accept": "image/jpeg"}
        )
        assert read(bytes_alone.content, certificates.root)[0] == "Trusted"


async def test_a_changed_pixel_is_noticed(certificates: Certificates) -> None:
    signer = CredentialSigner(certificates.chain, certificates.key)
    data = signer.sign(file_of(photo(64)), "image/png", METADATA)
    assert read(data, certificates.root)[0] == "Trusted"
    at = data.index(b"IDAT") + 100
    changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with c2pa.Reader("image/png", io.BytesIO(changed)) as reader:
        assert reader.get_validation_state() == "Invalid"


async def test_an_edit_with_a_mask_is_a_composite(certificates: Certificates) -> None:
    side = 512
    picture = base64.b64encode(file_of(photo(side))).decode()
    marked = base64.b64encode(file_of(mask(side, (0, 0, 64, 64)))).decode()
    async with serve_fake(**settings_of(certificates)) as service:
        answer = await service.generate(image=picture, mask=marked)
        data = decoded(answer.json()["data"][0])
    kind = f"{SOURCE_TYPE}compositeWithTrainedAlgorithmicMedia"
    assert created(read(data, certificates.root)[1])["digitalSourceType"] == kind
    assert xmp_of(data)[f"{IPTC}DigitalSourceType"] == kind


async def test_the_manifest_holds_no_prompt(certificates: Certificates) -> None:
    async with serve_fake(metadata="provenance", **settings_of(certificates)) as service:
        answer = await service.generate(prompt="zebra")
    data = decoded(answer.json()["data"][0])
    assert read(data, certificates.root)[0] == "Trusted"
    assert b"zebra" not in data


async def test_no_metadata_is_no_credentials(certificates: Certificates) -> None:
    async with serve_fake(metadata="none", **settings_of(certificates)) as service:
        plain = decoded((await service.generate()).json()["data"][0])
        asked = decoded((await service.generate(metadata="provenance")).json()["data"][0])
    assert not has_credentials(plain)
    assert read(asked, certificates.root)[0] == "Trusted"


async def test_no_image_leaves_unsigned_when_signing_fails(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve_fake(**settings_of(certificates)) as service:

        def fail(*_: object) -> None:
            raise c2pa.C2paError("no signature today")

        monkeypatch.setattr(c2pa.Builder, "sign", fail)
        answer = await service.generate()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "signing_failed")
        assert "no signature today" in capsys.readouterr().out
        stream = events((await service.generate(stream=True)).text)
        assert stream[-1][1]["error"]["code"] == "signing_failed"


# ---- the level -----------------------------------------------------------------------------------------------
async def level_of(service: Service, **fields: object) -> str:
    data = decoded((await service.generate(**fields)).json()["data"][0])
    xmp = xmp_of(data)
    if not xmp:
        return "none"
    return "full" if "{urn:star-server:1.0:}generation" in xmp else "provenance"


@pytest.mark.parametrize("setting", ["full", "provenance", "none"])
@pytest.mark.parametrize("asked", ["full", "provenance", "none", None])
async def test_the_setting_is_the_default_and_only_it_can_leave_out_the_mark(
    setting: str, asked: str | None
) -> None:
    async with serve_fake(metadata=setting) as service:
        if asked == "none" and setting != "none":
            answer = await service.generate(metadata=asked)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "metadata")
        else:
            fields = {} if asked is None else {"metadata": asked}
            assert await level_of(service, **fields) == (asked or setting)


async def test_every_route_takes_the_level(service: Service) -> None:
    openai = await service.http.post(
        "/v1/images/generations", json={"prompt": "a", "metadata": "provenance"}
    )
    assert "{urn:star-server:1.0:}generation" not in xmp_of(decoded(openai.json()["data"][0]))
    hugging_face = await service.http.post(
        "/", json={"inputs": "a", "parameters": {"metadata": "provenance"}}
    )
    assert set(xmp_of(hugging_face.content)) & {f"{IPTC}AIPromptInformation"} == set()
    form = {"image": ("a.png", file_of(photo(512)))}
    edit = await service.http.post(
        "/v1/images/edits", data={"prompt": "a", "metadata": "provenance"}, files=form
    )
    assert f"{IPTC}AIPromptInformation" not in xmp_of(decoded(edit.json()["data"][0]))


# ---- the settings --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["secp256r1", "secp384r1", "secp521r1", "ed25519", "rsa"])
async def test_every_kind_of_key_signs(kind: str, tmp_path: Path) -> None:
    made = make_certificates(tmp_path, kind)
    data = CredentialSigner(made.chain, made.key).sign(file_of(photo(8)), "image/png", METADATA)
    assert read(data, made.root)[0] == "Trusted"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, f: Certificates(f / "no.pem", c.key, c.root), "no.pem cannot be read"),
        (lambda c, f: Certificates(c.key, c.key, c.root), "no certificate in PEM form"),
        (lambda c, f: Certificates(c.chain, c.chain, c.root), "no private key in PEM form"),
        (
            lambda c, f: Certificates(c.chain, make_certificates(f).key, c.root),
            "is not the key of the first certificate",
        ),
        (lambda c, f: make_certificates(f, "secp256k1"), "must be an EC key on P-256"),
        (lambda c, f: make_certificates(f, expired=True), "has expired on"),
    ],
)
def test_files_that_cannot_sign_are_told_at_the_start(
    certificates: Certificates,
    tmp_path: Path,
    change: Callable[[Certificates, Path], Certificates],
    words: str,
) -> None:
    given = change(certificates, tmp_path)
    with pytest.raises(SettingsFileError, match=words):
        open_signer(FileSettings(c2pa_certificate=given.chain, c2pa_key=given.key))


def test_a_missing_extra_is_named(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(SettingsFileError, match=r"star-server\[c2pa\]"):
        CredentialSigner(certificates.chain, certificates.key)


def test_a_certificate_needs_its_key(certificates: Certificates) -> None:
    with pytest.raises(ValueError, match="must be set together"):
        Settings(c2pa_certificate=certificates.chain)
    with pytest.raises(ValueError, match="c2pa_timestamp_url needs"):
        Settings(c2pa_timestamp_url="http://timestamp.example.org")
    assert open_signer(Settings()) is None


def test_a_silent_authority_is_a_failure(certificates: Certificates) -> None:
    signer = CredentialSigner(certificates.chain, certificates.key, "http://127.0.0.1:9")
    with pytest.raises(SigningFailed):
        signer.sign(file_of(photo(8)), "image/png", METADATA)
