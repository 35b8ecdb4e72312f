"""Requests of clients that cannot be installed here, byte by byte, as their sources write them."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx
import pytest

from tests.app.test_bad_input import check
from tests.server.pictures import file_of, photo
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio

PICTURE = file_of(photo(700))
"""Larger than the megabyte that the text of a form may have."""

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"


@dataclass(frozen=True)
class Sent:
    """A request.

    Args:
        body: as it is sent; ``<picture>`` stands for the file.
        path: with its query.
        headers: beside the length.
        answer: the field of the answer that the client reads.
        warned: first words of the warnings.
    """

    body: bytes
    path: str = GENERATIONS
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    answer: str = "b64_json"
    warned: tuple[str, ...] = ()

    async def to(self, service: Service) -> httpx.Response:
        content = self.body.replace(b"<picture>", PICTURE)
        return await service.http.post(self.path, content=content, headers=self.headers)


def form(*parts: bytes, boundary: bytes = b"x") -> bytes:
    """Parts with their headers, between boundaries."""
    written = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    return written + b"--" + boundary + b"--\r\n"


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
STAINLESS = {
    "X-Stainless-Arch": "x64",
    "X-Stainless-Lang": "java",
    "X-Stainless-OS": "Linux",
    "X-Stainless-Retry-Count": "0",
    "X-Stainless-Timeout": "600",
    "User-Agent": "OpenAIClientImpl/Java 4.9.0",
}

CLIENTS = {
    # The zero values of a Go structure are written out in forms.
    "go-openai, edit": Sent(
        form(
            b'Content-Disposition: form-data; name="image"; filename="picture.png"\r\n'
            b"Content-Type: application/octet-stream\r\n\r\n<picture>",
            b'Content-Disposition: form-data; name="prompt"\r\n\r\na fox',
            b'Content-Disposition: form-data; name="n"\r\n\r\n0',
            b'Content-Disposition: form-data; name="size"\r\n\r\n',
            b'Content-Disposition: form-data; name="response_format"\r\n\r\n',
        ),
        EDITS,
        {**FORM, "Accept": "application/json", "User-Agent": "Go-http-client/1.1"},
    ),
    "go-openai": Sent(
        b'{"prompt":"a fox","model":"dall-e-3","n":1,"quality":"hd","size":"1024x1024",'
        b'"style":"vivid","response_format":"url","user":"u"}',
        answer="url",
        warned=("quality", "style", "star-fake", "size"),
    ),
    "openai-java": Sent(
        b'{"prompt":"a fox","model":"gpt-image-1","n":1,"size":"1024x1024","quality":"medium"}',
        headers={"Content-Type": "application/json", **STAINLESS},
        warned=("quality", "star-fake", "size"),
    ),
    # A stream or an array of bytes has no filename.
    "openai-java, edit": Sent(
        form(
            b'Content-Disposition: form-data; name="image"\r\n'
            b"Content-Type: application/octet-stream\r\n\r\n<picture>",
            b'Content-Disposition: form-data; name="prompt"\r\nContent-Type: text/plain\r\n\r\na fox',
            b'Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain\r\n\r\ngpt-image-1',
        ),
        EDITS,
        {**FORM, **STAINLESS},
        warned=("star-fake",),
    ),
    "openai-dotnet": Sent(
        b'{"prompt":"a fox","model":"dall-e-3","quality":"hd","response_format":"b64_json",'
        b'"size":"1024x1024","style":"natural"}',
        headers={
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "User-Agent": "OpenAI/2.9.0 (.NET 9.0.4; Debian GNU/Linux 12 (bookworm))",
        },
        warned=("quality", "style", "star-fake", "size"),
    ),
    # .NET quotes the boundary and nothing else, and writes both forms of the filename.
    "openai-dotnet, edit": Sent(
        form(
            b"Content-Disposition: form-data; name=image; filename=picture.png; filename*=utf-8''picture.png"
            b"\r\n\r\n<picture>",
            b"Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=prompt\r\n\r\na fox",
            b"Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=n\r\n\r\n1",
        ),
        EDITS,
        {"Content-Type": 'multipart/form-data; boundary="x"', "Accept": "application/json"},
    ),
    "Azure.AI.OpenAI": Sent(
        b'{"prompt":"a fox","n":1,"size":"1024x1024","quality":"standard"}',
        "/openai/deployments/dall-e-3/images/generations?api-version=2024-10-21",
        {"Content-Type": "application/json", "api-key": "none"},
        answer="url",
        warned=("star-fake", "size"),
    ),
    "Open WebUI": Sent(
        b'{"model": "dall-e-2", "prompt": "a fox", "n": 1, "size": "512x512", "response_format": "b64_json"}',
        f"{GENERATIONS}?api-version=2025-04-01-preview",
        {"Content-Type": "application/json", "Authorization": "Bearer none"},
        warned=("star-fake",),
    ),
    "Open WebUI, edit": Sent(
        form(
            b'Content-Disposition: form-data; name="model"\r\n\r\ngpt-image-1',
            b'Content-Disposition: form-data; name="prompt"\r\n\r\na fox',
            b'Content-Disposition: form-data; name="image[]"; filename="0f8fad5b.png"\r\n'
            b"Content-Type: image/png\r\n\r\n<picture>",
        ),
        EDITS,
        FORM,
        warned=("star-fake",),
    ),
    "LibreChat, DALL-E 3": Sent(
        b'{"model":"dall-e-3","quality":"hd","style":"vivid","size":"1024x1024","prompt":"a fox","n":1}',
        headers={
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "OpenAI/JS 5.10.1",
            "X-Stainless-Lang": "js",
        },
        answer="url",
        warned=("quality", "style", "star-fake", "size"),
    ),
    "LibreChat, image tool": Sent(
        b'{"model":"gpt-image-1","prompt":"a fox","n":1,"background":"auto","output_format":"png",'
        b'"quality":"auto","size":"auto"}',
        warned=("star-fake",),
    ),
    "LibreChat, image tool, edit": Sent(
        form(
            b'Content-Disposition: form-data; name="model"\r\n\r\ngpt-image-1',
            b'Content-Disposition: form-data; name="prompt"\r\n\r\na fox',
            b'Content-Disposition: form-data; name="quality"\r\n\r\nauto',
            b'Content-Disposition: form-data; name="size"\r\n\r\nauto',
            b'Content-Disposition: form-data; name="image[]"; filename="a.png"\r\n'
            b"Content-Type: image/png\r\n\r\n<picture>",
            boundary=b"--------------------------103428350927475918310183",
        ),
        EDITS,
        {
            "Content-Type": "multipart/form-data; "
            "boundary=--------------------------103428350927475918310183"
        },
        warned=("star-fake",),
    ),
    "n8n": Sent(
        b'{"prompt":"a fox","model":"dall-e-3","quality":"standard","size":"1024x1024","style":"vivid",'
        b'"response_format":"b64_json"}',
        headers={"Content-Type": "application/json", "Accept": "application/json,text/html,*/*;q=0.5"},
        warned=("style", "star-fake", "size"),
    ),
    "n8n, edit": Sent(
        form(
            b'Content-Disposition: form-data; name="model"\r\n\r\ngpt-image-1',
            b'Content-Disposition: form-data; name="prompt"\r\n\r\na fox',
            b'Content-Disposition: form-data; name="image[]"; filename="data.png"\r\n'
            b"Content-Type: image/png\r\n\r\n<picture>",
            b'Content-Disposition: form-data; name="n"\r\n\r\n1',
            b'Content-Disposition: form-data; name="size"\r\n\r\n1024x1024',
            b'Content-Disposition: form-data; name="quality"\r\n\r\nauto',
            b'Content-Disposition: form-data; name="output_format"\r\n\r\npng',
            b'Content-Disposition: form-data; name="input_fidelity"\r\n\r\nlow',
        ),
        EDITS,
        FORM,
        warned=("input_fidelity", "star-fake", "size"),
    ),
    "Nextcloud": Sent(
        b'{"prompt":"a fox","size":"1024x1024","n":1,"response_format":"url","model":"dall-e-2"}',
        headers={"Content-Type": "application/json", "User-Agent": "Nextcloud OpenAI/LocalAI integration"},
        answer="url",
        warned=("star-fake", "size"),
    ),
    "Dify": Sent(
        b'{"prompt": "a fox", "model": "dall-e-3", "n": 1, "quality": "standard", '
        b'"response_format": "b64_json", "size": "1792x1024", "style": "natural"}',
        warned=("style", "star-fake", "size"),
    ),
    "a low-code tool": Sent(
        b'{"model": "", "prompt": "a fox", "n": 1.0, "size": "", "quality": "", "style": "", "seed": "7",'
        b' "response_format": ""}',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_is_served(shared: Service, name: str) -> None:
    sent = CLIENTS[name]
    answer = await sent.to(shared)
    assert answer.status_code == 200, answer.text
    (image,) = answer.json()["data"]
    assert image[sent.answer]
    assert tuple(warning.split()[0] for warning in answer.json()["warnings"]) == sent.warned
    if sent.answer == "url":
        assert image["url"].endswith(".png"), "LibreChat takes the extension from the path"
        head = await shared.http.head(image["url"])
        assert (head.status_code, head.headers["content-type"]) == (200, "image/png")


async def test_nextcloud_tells_a_missing_model_from_a_missing_endpoint(shared: Service) -> None:
    """It asks for a model that cannot exist, and takes 404 for a server without images."""
    answer = await Sent(b'{"prompt":"a","model":"invalid-model","n":1}').to(shared)
    check(answer, 400, "model", "invalid-model")
    assert answer.json()["error"]["code"] == "model_not_found"


async def test_a_strict_server_refuses_most_of_them() -> None:
    async with serve_fake(compatibility="strict") as service:
        served = [
            name for name, sent in CLIENTS.items() if (await sent.to(service)).status_code == 200
        ]
    assert served == ["openai-dotnet, edit"]
