"""OpenAI's routes as a lenient server serves them: habits of clients, other names of the model, other ways to send."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import httpx
import pytest

from server.api.compatibility import adapt
from server.api.openai_schemas import LenientImageRequest
from server.api.warnings_header import warnings_header
from tests.app.test_bad_input import check
from tests.app.test_streaming import events
from tests.server.pictures import file_of, opened, photo
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio

IMAGE = file_of(photo(512))
DATA_URL = f"data:image/png;base64,{base64.b64encode(IMAGE).decode()}"


async def generate(service: Service, **body: Any) -> httpx.Response:
    return await service.http.post("/v1/images/generations", json={"prompt": "a red apple", **body})


async def edit_json(service: Service, **body: Any) -> httpx.Response:
    return await service.http.post("/v1/images/edits", json={"prompt": "a red apple", **body})


# ---- fields ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "body",
    [
        {"n": 0},
        {"n": 0.0},
        {"n": 1.0},
        {"n": "1"},
        {"n": ""},
        {"seed": "7", "guidance_scale": "2.5", "top_p": "1"},
        {"stream": "false"},
        {"size": "", "quality": "", "style": "", "response_format": "", "user": "", "model": ""},
        {"size": "AUTO", "quality": "Standard", "background": "OPAQUE", "moderation": "Low"},
        {"size": "512x512"},
        {"user": 5, "safety_identifier": ["x"]},
        {"user": "u" * 2000},
        {"output_format": "PNG"},
        {"output_format": "image/png"},
        {"output_format": ".jpg"},
        {"output_format": "image/jpeg", "output_compression": 80.0},
        {"output_compression": 0},
        {"partial_images": 0},
    ],
    ids=str,
)
async def test_habits_that_change_nothing_need_no_warning(
    shared: Service, body: dict[str, Any]
) -> None:
    answer = await generate(shared, **body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["warnings"] == []
    assert "x-warnings" not in answer.headers
    assert len(answer.json()["data"]) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"size": "1024x1024"}, ('size "1024x1024"', "512x512, the nearest")),
        ({"size": "16:9"}, ('size "16:9"', "512x512")),
        ({"size": 1024}, ('size "1024"', "512x512")),
        ({"quality": "hd"}, ('quality "hd"', "one quality")),
        ({"quality": 3}, ("quality 3",)),
        ({"style": "vivid"}, ('style "vivid"', "in the prompt")),
        ({"background": "transparent"}, ('background "transparent"', "opaque")),
        ({"moderation": "none"}, ('moderation "none"', "the operator's choice")),
        ({"output_compression": 50}, ("output_compression 50", "lossless")),
        ({"partial_images": 2}, ("partial_images 2", "only streams")),
        ({"frame_count": 4}, ("unknown field frame_count was ignored",)),
        ({"sed": 4}, ("sed (did you mean seed?)",)),
        ({"cfg": 4, "lora": 20}, ("Unknown fields cfg, lora were ignored",)),
        ({f"x{i}": i for i in range(150)}, ("x0, x1, x2, x3, x4 and 145 more",)),
        ({"input_fidelity": "low"}, ("input_fidelity",)),
        ({"model": "dall-e-3", "response_format": "b64_json"}, ("star-fake generated", "dall-e-3")),
        ({"model": "GPT-Image-1"}, ("star-fake generated", "GPT-Image-1")),
    ],
    ids=range(17),
)
async def test_what_cannot_be_honoured_is_served_and_said(
    shared: Service, body: dict[str, Any], words: tuple[str, ...]
) -> None:
    answer = await generate(shared, **body)
    assert answer.status_code == 200, answer.text
    (warning,) = answer.json()["warnings"]
    for word in words:
        assert word in warning
    assert warning.endswith(".")
    assert json.loads(answer.headers["x-warnings"]) == [warning]
    assert answer.json()["size"] == "512x512"


async def test_a_stream_says_it_too(shared: Service) -> None:
    answer = await generate(
        shared, stream=True, partial_images=9, response_format="url", quality="hd", n=2
    )
    found = events(answer.text)
    partial = [data for name, data in found if name == "image_generation.partial_image"]
    assert partial
    assert max(data["partial_image_index"] for data in partial) <= 2
    completed = [data for name, data in found if name == "image_generation.completed"]
    assert len(completed) == 2
    for data in completed:
        assert len(data["warnings"]) == 3
    assert json.loads(answer.headers["x-warnings"]) == completed[0]["warnings"]
    async with serve_fake(previews=False) as service:
        answer = await generate(service, stream=True, partial_images=1)
        ((name, data),) = events(answer.text)
        assert name == "image_generation.completed"
        assert "sends no previews" in data["warnings"][0]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": ""}, "prompt", "1 to 32,000"),
        ({"prompt": "a" * 32_001}, "prompt", "32,001"),
        ({"n": 11}, "n", "1 to 10"),
        ({"n": -1}, "n", "1 to 10"),
        ({"n": "two"}, "n", "1 to 10"),
        ({"n": True}, "n", "1 to 10"),
        ({"seed": 1.5}, "seed", "an integer"),
        ({"seed": -1}, "seed", "0 to 4294967295"),
        ({"output_format": "gif"}, "output_format", '"gif"'),
        ({"response_format": "file"}, "response_format", '"file"'),
        ({"output_compression": 101, "output_format": "webp"}, "output_compression", "0 to 100"),
        ({"image": "data:image/png;base64,aaaa"}, "image", "/v1/images/edits"),
        ({"images": []}, "images", "/v1/images/edits"),
        ({"mask": "aaaa"}, "mask", "/v1/images/edits"),
        ({"size": ["512x512"]}, "size", "a string"),
        ({"timeout_s": 5000}, "timeout_s", "at most 3600"),
    ],
    ids=range(16),
)
async def test_what_would_make_the_answer_wrong_is_refused(
    shared: Service, body: dict[str, Any], param: str, words: str
) -> None:
    check(await generate(shared, **body), 400, param, words)


async def test_a_long_prompt_is_cut_where_the_encoder_ends(shared: Service) -> None:
    answer = await generate(shared, prompt="apple " * 5333)
    (warning,) = answer.json()["warnings"]
    assert "left out" in warning
    assert len(warning) > 20_000, "the body quotes all of it"
    assert len(answer.headers["x-warnings"]) < 1000
    check(await shared.generate(prompt="apple " * 400), 400, "prompt", "1 to 2,000")


def test_zero_is_a_value_where_it_says_something() -> None:
    given = {"prompt": "a", "seed": 0, "guidance_scale": 0, "top_k": 0.0, "partial_images": 0}
    adapted = adapt(given, LenientImageRequest)
    assert adapted.fields == {**given, "top_k": 0}
    assert not adapted.warnings


# ---- models ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["gpt-image-1", "gpt-image-1-mini", "dall-e-2", "chatgpt-image-latest"]
)
async def test_other_names_of_the_model(shared: Service, name: str) -> None:
    answer = await generate(shared, model=name)
    assert (answer.status_code, answer.json()["model"]) == (200, "star-fake")
    listed = (await shared.http.get("/v1/models")).json()["data"]
    assert listed[0]["id"] == "star-fake"
    assert listed[0]["alias_of"] is None
    assert name in [model["id"] for model in listed if model["alias_of"] == "star-fake"]
    card = (await shared.http.get(f"/v1/models/{name}")).json()
    assert (card["id"], card["alias_of"]) == (name, "star-fake")


async def test_an_unknown_model_is_400_on_the_images_routes(shared: Service) -> None:
    for answer in (
        await generate(shared, model="flux"),
        await edit_json(shared, model="flux", image=DATA_URL),
    ):
        check(answer, 400, "model", '"flux"', "star-fake")
        assert answer.json()["error"]["code"] == "model_not_found"
    check(await shared.http.get("/v1/models/flux"), 404, "model", "star-fake")


async def test_the_names_are_a_setting() -> None:
    async with serve_fake(model_aliases="house-painter, sd-*") as service:
        for name in ("house-painter", "sd-xl"):
            assert (await generate(service, model=name)).status_code == 200
        check(await generate(service, model="gpt-image-1"), 400, "model")
        listed = (await service.http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["star-fake", "house-painter"]


# ---- what an absent response_format means ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "body", "key"),
    [
        ({}, {}, "b64_json"),
        ({}, {"model": "gpt-image-1"}, "b64_json"),
        ({}, {"model": "dall-e-3"}, "url"),
        ({}, {"model": "dall-e-3", "response_format": "b64_json"}, "b64_json"),
        ({"default_response_format": "url"}, {}, "url"),
        ({"default_response_format": "url"}, {"response_format": "b64_json"}, "b64_json"),
        ({"default_response_format": "b64_json"}, {"model": "dall-e-3"}, "b64_json"),
        ({"default_response_format": "url", "compatibility": "strict"}, {}, "url"),
        ({"stored_images": 0}, {"model": "dall-e-3"}, "b64_json"),
    ],
    ids=str,
)
async def test_an_absent_response_format(
    settings: dict[str, Any], body: dict[str, Any], key: str
) -> None:
    async with serve_fake(**settings) as service:
        answer = await generate(service, **body)
        assert answer.status_code == 200, answer.text
        (image,) = answer.json()["data"]
        assert set(image) == {key, "seed"}
        if key == "url":
            assert (await service.http.get(image["url"])).status_code == 200
        said = [w for w in answer.json()["warnings"] if "keeps none for URLs" in w]
        assert len(said) == ("stored_images" in settings)


# ---- edits -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "body",
    [
        {"images": [{"image_url": DATA_URL}]},
        {"images": [{"image_url": {"url": DATA_URL}}]},
        {"images": [DATA_URL]},
        {"image": DATA_URL},
        {"image": DATA_URL.partition(",")[2]},
        {"image": {"image_url": DATA_URL}, "mask": None},
        {"images": [{"image_url": DATA_URL}], "n": 1.0, "input_fidelity": "high", "size": "auto"},
    ],
    ids=range(7),
)
async def test_edits_as_json(shared: Service, body: dict[str, Any]) -> None:
    answer = await edit_json(shared, seed=5, keep_scales=3, **body)
    assert answer.status_code == 200, answer.text
    form = {"prompt": "a red apple", "seed": "5", "keep_scales": "3"}
    same = await shared.http.post("/v1/images/edits", files={"image": IMAGE}, data=form)
    assert answer.json()["data"] == same.json()["data"]
    assert answer.json()["usage"]["input_tokens_details"]["image_tokens"] == 2240
    assert answer.json()["warnings"] == []


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"images": [{"image_url": "https://example.org/cat.png"}]}, "images", "not fetched"),
        ({"image": "http://localhost:1/cat.png"}, "image", "not fetched"),
        ({"images": [{"file_id": "file-1"}]}, "images", "file_id"),
        ({"image": DATA_URL, "mask": {"file_id": "file-1"}}, "mask", "file_id"),
        ({"images": [DATA_URL, DATA_URL]}, "image", "got 2"),
        ({"images": []}, "image", "got 0"),
        ({}, "image", "got 0"),
        ({"images": [{"url": ""}]}, "images", "must be an image as"),
        ({"images": 5}, "images", "must be an image as"),
        ({"images": [[[[5]]]]}, "images", "must be an image as"),
        ({"image": DATA_URL, "prompt": None}, "prompt", "required"),
    ],
    ids=range(11),
)
async def test_json_edits_that_are_refused(
    shared: Service, body: dict[str, Any], param: str, words: str
) -> None:
    check(await edit_json(shared, **body), 400, param, words)


@pytest.fixture(scope="module")
def large() -> bytes:
    """A picture's file of more bytes than a text may have."""
    file = file_of(photo(700))
    assert len(file) > 1 << 20
    return file


def part(headers: str, content: bytes) -> bytes:
    return b"--x\r\n" + headers.encode() + b"\r\n\r\n" + content + b"\r\n"


@pytest.mark.parametrize(
    "disposition",
    [
        'form-data; name="image"; filename="a.png"',
        'form-data; name="image"',
        "form-data; name=image",
        "form-data; name=\"image\"; filename*=UTF-8''a%20b.png",
        'form-data; name="image"; filename=""',
        'form-data; name="image[]"; filename="a.png"',
        'form-data; name="image[0]"; filename="a.png"',
        'form-data; name="images"; filename="a.png"',
        'form-data; name="images[]"',
        'form-data; filename="a.png"; name="image"',
    ],
)
async def test_a_part_is_a_file_by_its_name(
    shared: Service, large: bytes, disposition: str
) -> None:
    body = (
        part('Content-Disposition: form-data; name="prompt"; filename="blob"', b"a red apple")
        + part('Content-Disposition: form-data; name="seed"', b"5")
        + part(
            f"Content-Disposition: {disposition}\r\nContent-Type: application/octet-stream", large
        )
        + b"--x--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await shared.http.post("/v1/images/edits", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["seed"] == 5


@pytest.mark.parametrize("name", ["mask", "mask[]", "mask[0]"])
async def test_names_of_the_mask(shared: Service, name: str) -> None:
    mask = file_of(photo(512).point(lambda v: 255 if v > 127 else 0).convert("L"))
    files = {"image": IMAGE, name: mask}
    answer = await shared.http.post("/v1/images/edits", files=files, data={"prompt": "a"})
    assert answer.status_code == 200, answer.text
    # A browser's form sends an empty file for an empty field.
    files = {"image": IMAGE, name: b""}
    answer = await shared.http.post("/v1/images/edits", files=files, data={"prompt": "a"})
    assert answer.status_code == 200, answer.text


async def test_an_unknown_file_is_named(shared: Service) -> None:
    files = {"image": IMAGE, "reference": IMAGE}
    answer = await shared.http.post("/v1/images/edits", files=files, data={"prompt": "a"})
    assert "reference was ignored" in answer.json()["warnings"][0]


# ---- bodies ------------------------------------------------------------------------------------------------
ROUTES = ("/generate", "/v1/images/generations", "/v1/images/edits", "/")


@pytest.mark.parametrize("path", ROUTES)
async def test_a_name_twice_is_refused(shared: Service, path: str) -> None:
    for name in ("prompt", "inputs"):
        content = f'{{"seed": 1, "{name}": "a", "{name}": "b"}}'.encode()
        headers = {"content-type": "application/json"}
        answer = await shared.http.post(path, content=content, headers=headers)
        check(answer, 400, name, f"{name} is given more than once")


async def test_a_text_twice_in_a_form_is_refused(shared: Service) -> None:
    form = {"prompt": ["a", "b"]}
    answer = await shared.http.post("/v1/images/edits", files={"image": IMAGE}, data=form)
    check(answer, 400, "prompt", "prompt is given more than once")


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
async def test_a_compressed_body_is_refused_by_the_name_of_its_encoding(
    shared: Service, path: str, encoding: str
) -> None:
    content = gzip.compress(b'{"prompt": "a"}')
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = await shared.http.post(path, content=content, headers=headers)
    check(answer, 415, None, f"content-encoding: {encoding}", "without compression")
    assert answer.headers["accept-encoding"] == "identity"
    assert answer.json()["error"]["code"] == "unsupported_encoding"
    headers = {"content-type": "application/json", "content-encoding": "identity"}
    plain = await shared.http.post("/generate", content=b'{"prompt": "a"}', headers=headers)
    assert plain.status_code == 200


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "content",
    [
        json.dumps({f"field{i}": 1 for i in range(60_000)}).encode(),
        json.dumps({f"field{i}": 1 for i in range(200_000)}).encode(),
        json.dumps({"prompt": [0] * 69_000}).encode(),
        b'{"prompt": "a", "' + b"x" * 900_000 + b'": 1}',
        b"[" * 60_000,
        json.dumps({"prompt": "a", "images": [5] * 60_000}).encode(),
    ],
    ids=["fields", "more fields", "items", "a long name", "depth", "images"],
)
async def test_a_hostile_body_gets_a_short_answer(
    shared: Service, path: str, content: bytes
) -> None:
    if len(content) > 1 << 20 and path not in ("/generate", "/v1/images/edits"):
        content = content[: 1 << 19]
    headers = {"content-type": "application/json"}
    answer = await shared.http.post(path, content=content, headers=headers)
    assert answer.status_code in (200, 400), answer.text
    assert len(answer.content) < 4000 or answer.status_code == 200


# ---- Azure's shape -----------------------------------------------------------------------------------------
async def test_azures_paths_and_key() -> None:
    key = "sk-test-0123456789"
    async with serve_fake(api_keys=[key]) as service:
        headers, query = {"api-key": key}, "?api-version=2026-04-01"
        body = {"prompt": "a", "n": 1}
        for path, status in (
            ("/openai/deployments/dall-e-3/images/generations", 200),
            ("/openai/deployments/star-fake/images/generations", 200),
            ("/openai/deployments/other/images/generations", 400),
            ("/openai/v1/images/generations", 200),
        ):
            answer = await service.http.post(path + query, json=body, headers=headers)
            assert answer.status_code == status, answer.text
            assert (await service.http.post(path + query, json=body)).status_code == 401
        large = file_of(photo(700))  # more than a body without images may have
        for path in ("/openai/deployments/gpt-image-1/images/edits", "/openai/v1/images/edits"):
            answer = await service.http.post(
                path + query, files={"image[]": large}, data={"prompt": "a"}, headers=headers
            )
            assert answer.status_code == 200, answer.text
        for path in ("/openai/v1/models", "/openai/models"):
            listed = await service.http.get(path + query, headers=headers)
            assert listed.json()["data"][0]["id"] == "star-fake"
        wrong = await service.http.get("/v1/models", headers={"api-key": "sk-wrong-0123456789"})
        check(wrong, 401, None, "not one of this server's")


async def test_a_deployment_is_the_model(shared: Service) -> None:
    path = "/openai/deployments/dall-e-3/images/generations"
    answer = await shared.http.post(path, json={"prompt": "a"})
    assert "url" in answer.json()["data"][0], "as OpenAI answers for this model"
    assert opened((await shared.http.get(answer.json()["data"][0]["url"])).content).size == (8, 8)


# ---- the header --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "warnings",
    [
        ["short."],
        ["é" * 100, "汉" * 800, "😀" * 800],
        ['"' * 5000],
        ["\n\r\0" * 2000],
        ["a" * 5000] * 50,
        [f"warning {i}." for i in range(1000)],
        ["\ud800" * 300],
    ],
    ids=range(7),
)
def test_the_header_is_short_and_a_list_whatever_is_in_it(warnings: list[str]) -> None:
    ((name, value),) = warnings_header(warnings).items()
    assert name == "x-warnings"
    assert len(value) <= 900
    assert value.isascii()
    assert value.isprintable()
    shown = json.loads(value)
    assert shown[0].removesuffix("...") == warnings[0][: len(shown[0].removesuffix("..."))]
    if len(shown) < len(warnings) or shown[-1].endswith("more."):
        assert shown[-1] == f"{len(warnings) - len(shown) + 1} more."


async def test_the_header_of_every_route_is_short(shared: Service) -> None:
    prompt = "汉 " * 900
    for path, body in (
        ("/generate", {"prompt": prompt, "negative_prompt": prompt}),
        ("/v1/images/generations", {"prompt": prompt, "negative_prompt": prompt}),
        ("/", {"inputs": prompt, "parameters": {"negative_prompt": prompt}}),
    ):
        answer = await shared.http.post(path, json=body, headers={"accept": "*/*"})
        assert answer.status_code == 200, answer.text
        assert len(answer.headers["x-warnings"]) <= 900
        if path != "/":
            said = answer.json()["warnings"]
            assert all(len(warning) > 800 for warning in said), "whole in the body"
