"""``POST /v1/images/edits`` and the images of ``/generate`` over the fake engine: what goes in, and what is refused."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from server.errors import QueueFull
from server.messages import ImageEdit, Job
from tests.app.test_bad_input import check
from tests.app.test_streaming import events
from tests.server.fakes import FakeEngine, FakeSequence, FakeText
from tests.server.pictures import file_of, mask, photo, see_through
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio

SIDE, BOX = 512, (128, 0, 256, 512)
IMAGE, MASK = file_of(photo(SIDE)), file_of(mask(SIDE, BOX))


class EditEngine(FakeEngine):
    """Remembers what it is given to edit."""

    def prepare(
        self, text: FakeText, negative: FakeText | None, job: Job, seed: int
    ) -> FakeSequence:
        edits.append(job.edit)
        return super().prepare(text, negative, job, seed)


edits: list[ImageEdit | None] = []


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Service]:
    async with serve_fake(make_engine=EditEngine) as service:
        yield service


async def edit(service: Service, files: Any = None, **fields: Any) -> httpx.Response:
    edits.clear()
    return await service.http.post(
        "/v1/images/edits",
        files=files or {"image": IMAGE},
        data={"prompt": "a red apple", **fields},
    )


def text(file: bytes) -> str:
    return base64.b64encode(file).decode()


# ---- what is painted ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["image", "image[]"])
async def test_a_form_becomes_a_job(shared: Service, name: str) -> None:
    answer = await edit(
        shared, {name: IMAGE, "mask": MASK}, n="2", seed="5", focus="false", feather="false"
    )
    assert answer.status_code == 200, answer.text
    assert [image["seed"] for image in answer.json()["data"]] == [5, 6]
    one, other = edits
    assert one is not None
    assert one == other
    assert one.image.data == photo(SIDE).tobytes()
    assert one.mask == mask(SIDE, BOX).tobytes()
    assert (one.keep_scales, one.erase, one.focus, one.feather) == (1, True, False, False)
    assert answer.json()["parameters"]["keep_scales"] == 1
    assert answer.json()["usage"]["input_tokens_details"] == {
        "text_tokens": 3,
        "image_tokens": 2240,
    }


async def test_json_is_the_same_edit(shared: Service) -> None:
    answer = await edit(shared, {"image": IMAGE, "mask": MASK}, seed="5", keep_scales="3")
    (form,) = edits
    edits.clear()
    native = await shared.generate(image=text(IMAGE), mask=text(MASK), seed=5, keep_scales=3)
    assert native.status_code == 200, native.text
    assert edits == [form]
    assert native.json()["data"] == answer.json()["data"]
    assert native.json()["parameters"] == answer.json()["parameters"]


@pytest.mark.parametrize("kind", ["alpha", "luminance"])
async def test_the_kind_of_a_mask(shared: Service, kind: str) -> None:
    strokes = Image.new("RGBA", (SIDE, SIDE))
    strokes.paste("white", BOX)
    layer = file_of(strokes)
    check(await edit(shared, {"image": IMAGE, "mask": layer}), 400, "mask", "mask_kind")
    answer = await edit(shared, {"image": IMAGE, "mask": layer}, mask_kind=kind)
    assert answer.status_code == 200, answer.text
    (given,) = edits
    assert given is not None
    assert given.mask == mask(SIDE, BOX, inside=255 if kind == "luminance" else 0).tobytes()
    native = await shared.generate(image=text(IMAGE), mask=text(layer), mask_kind=kind)
    assert native.status_code == 200, native.text


async def test_a_place_and_no_mask(shared: Service) -> None:
    answer = await edit(shared, {"image": file_of(photo(64, 48))}, place="0.25,0.25,0.75,0.75")
    assert answer.status_code == 200, answer.text
    (given,) = edits
    assert given is not None
    assert given.mask == mask(SIDE, (128, 160, 384, 352), inside=0).tobytes()


async def test_the_bytes_of_one_image(shared: Service) -> None:
    answer = await shared.http.post(
        "/generate",
        json={"prompt": "a", "image": text(IMAGE), "seed": 4},
        headers={"accept": "image/png"},
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


@pytest.mark.parametrize("fields", [{"size": "auto", "quality": "high", "background": "opaque", "user": "u"},
                                    {"output_format": "webp", "output_compression": "80"},
                                    {"input_fidelity": "high", "model": "star-fake"},
                                    {"n": "", "seed": "", "negative_prompt": "blue", "top_k": "5"}])  # fmt: skip
async def test_openais_fields(shared: Service, fields: dict[str, str]) -> None:
    answer = await edit(shared, **fields)
    assert answer.status_code == 200, answer.text


async def test_images_can_be_kept_under_an_address(shared: Service) -> None:
    answer = await edit(shared, response_format="url")
    assert (await shared.http.get(answer.json()["data"][0]["url"])).headers[
        "content-type"
    ] == "image/png"


async def test_events_are_named_after_openais_endpoint(shared: Service) -> None:
    answer = await edit(shared, stream="true", partial_images="1")
    found = events(answer.text)
    assert [name for name, _ in found] == ["image_edit.partial_image", "image_edit.completed"]
    assert all(name == data["type"] for name, data in found)
    assert found[-1][1]["usage"]["input_tokens_details"]["image_tokens"] == 2240
    native = await shared.generate(image=text(IMAGE), stream=True)
    assert [name for name, _ in events(native.text)] == ["image_generation.completed"]


async def test_edits_are_counted(shared: Service) -> None:
    await edit(shared)
    page = (await shared.http.get("/metrics")).text
    assert 'star_requests_total{endpoint="/v1/images/edits",outcome="ok"}' in page


# ---- what is refused ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("files", "fields", "param", "words"),
    [
        ({"mask": MASK}, {}, "image", "one file; got 0"),
        ([("image[]", IMAGE), ("image[]", IMAGE)], {}, "image", "one file; got 2"),
        ({"image": IMAGE, "image[]": IMAGE}, {}, "image", "one file; got 2"),
        ({"image": (None, "text")}, {}, "image", "must be a PNG, JPEG or WebP file"),
        ({"image": (None, "https://example.org/cat.png")}, {}, "image", "URLs are not fetched"),
        ({"image": IMAGE, "mask": (None, "text")}, {}, "mask", "must be a PNG, JPEG or WebP file"),
        ([("image", IMAGE), ("mask", MASK), ("mask[]", MASK)], {}, "mask", "one file; got 2"),
        ({"image": b"x"}, {}, "image", "must be a PNG, JPEG or WebP file"),
        ({"image": IMAGE, "mask": b"x"}, {}, "mask", "must be a PNG, JPEG or WebP file"),
        ({"image": IMAGE[:500]}, {}, "image", "damaged or cut off"),
        ({"image": IMAGE, "mask": file_of(mask(8, (0, 0, 4, 4)))}, {}, "mask", "512 x 512 pixels"),
        ({"image": IMAGE, "mask": file_of(Image.new("L", (SIDE, SIDE)))}, {}, "mask", "nothing to generate"),
        ({"image": file_of(see_through(photo(8), (0, 0, 8, 8)))}, {}, "image", "marks everything"),
        ({"image": file_of(photo(40, 30))}, {}, "image", 'place="0,0,1,1"'),
        (None, {"prompt": " "}, "prompt", "1 to 32,000"),
        (None, {"n": "11"}, "n", "an integer from 1 to 10"),
        (None, {"n": "two"}, "n", "an integer from 1 to 10"),
        (None, {"stream": "perhaps"}, "stream", "true or false"),
        (None, {"top_p": "nan"}, "top_p", "a finite number"),
        (None, {"keep_scales": "11"}, "keep_scales", "0 to 10, the scales of star-fake; got 11"),
        (None, {"keep_scales": "2", "place": "0,0,0.5,0.5"}, "keep_scales", "leave it out with place"),
        (None, {"place": "left"}, "place", "fractions"),
        (None, {"seed": ["1", "2"]}, "seed", "more than once"),
    ],
    ids=range(23),
)  # fmt: skip
async def test_what_cannot_be_edited(
    shared: Service, files: Any, fields: dict[str, str], param: str, words: str
) -> None:
    answer = await edit(shared, files, **fields)
    check(answer, 400, param, words)
    assert shared.client.idle
    assert edits == []


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"size": "256x256"}, "size", '"512x512"'),
        ({"background": "transparent"}, "background", '"auto", "opaque"'),
        ({"input_fidelity": "low"}, "input_fidelity", '"high"'),
        ({"strength": "0.5"}, "strength", "Unknown field strength"),
        ({"response_format": "url", "stream": "true"}, "response_format", "b64_json"),
    ],
    ids=range(5),
)
async def test_a_strict_server_refuses_what_it_cannot_honour(
    fields: dict[str, str], param: str, words: str
) -> None:
    async with serve_fake(compatibility="strict") as service:
        check(await edit(service, **fields), 400, param, words)
        sent = {"prompt": "a", "images": [{"image_url": f"data:image/png;base64,{text(IMAGE)}"}]}
        as_json = await service.http.post("/v1/images/edits", json=sent)
        check(as_json, 415, None, "multipart/form-data, not application/json")


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"image": "cat.png"}, "image", "not base64"),
        ({"image": "https://example.org/cat.png"}, "image", "URLs are not fetched"),
        ({"image": 5}, "image", "a string"),
        ({"image": text(IMAGE), "mask": "aa"}, "mask", "PNG, JPEG or WebP"),
        ({"mask": text(MASK)}, "mask", "needs an image to edit"),
        ({"image": text(IMAGE), "mask_kind": "alpha"}, "mask_kind", "needs a mask"),
        ({"image": text(IMAGE), "mask_kind": "ink"}, "mask_kind", '"alpha"'),
        ({"keep_scales": 3}, "keep_scales", "needs an image to edit"),
        ({"place": "0,0,0.5,0.5"}, "place", "needs an image to edit"),
        ({"feather": False}, "feather", "needs an image to edit"),
        ({"image": text(IMAGE), "feather": "no"}, "feather", "true or false"),
        ({"focus": True}, "focus", "needs an image to edit"),
        ({"image": text(IMAGE), "focus": 1}, "focus", "true or false"),
    ],
    ids=range(13),
)
async def test_what_cannot_be_edited_in_json(
    shared: Service, body: dict[str, Any], param: str, words: str
) -> None:
    check(await shared.generate(**body), 400, param, words)


async def test_an_image_with_more_pixels_than_are_read() -> None:
    async with serve_fake(max_image_pixels=10_000) as service:
        check(await edit(service), 400, "image", "512 x 512", "10,000")


@pytest.mark.parametrize(
    ("content", "content_type", "status", "words"),
    [
        (b"{}", "text/plain", 415, "multipart/form-data or application/json, not text/plain"),
        (b"prompt=a", "application/x-www-form-urlencoded", 415, "multipart/form-data"),
        (b"", None, 415, "the request names none"),
        (b"abc", "multipart/form-data", 400, "boundary"),
        (b"abc", "multipart/form-data; boundary=x", 400, "cannot be read as a form"),
        (
            b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n',
            "multipart/form-data; boundary=x",
            400,
            "before its last boundary",
        ),
    ],
)
async def test_a_body_that_is_no_form(
    shared: Service, content: bytes, content_type: str | None, status: int, words: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    check(
        await shared.http.post("/v1/images/edits", content=content, headers=headers),
        status,
        None,
        words,
    )


async def test_a_full_temporary_disk_is_not_the_callers_fault(
    shared: Service,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    answer = await edit(shared, {"image": bytes(2 << 20)})
    check(answer, 503, None, "no room on its temporary disk")
    assert answer.json()["error"]["code"] == "overloaded"
    assert answer.headers["retry-after"] == "30"
    assert "body_not_stored" in capsys.readouterr().out


async def test_a_form_over_the_limit_is_refused_by_its_declared_length(shared: Service) -> None:
    limit = shared.app.state.context.settings.max_upload_bytes
    answer = await edit(shared, {"image": bytes(limit)})
    check(answer, 413, None, f"{limit:,}")


async def test_a_form_over_the_limit_is_refused_while_it_is_read() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\ncontent-disposition: form-data; name="image"; filename="i"\r\n\r\n'
        for _ in range(1000):
            sent += 65_536
            yield bytes(65_536)

    async with serve_fake(max_upload_bytes=1 << 20) as service:
        answer = await service.http.post(
            "/v1/images/edits",
            content=endless(),
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
    check(answer, 413, None, "1,048,576")
    assert sent < 2 << 20, "the body was read whole"


async def test_who_is_over_the_limit_is_refused_before_the_image_is_read() -> None:
    async with serve_fake(images_per_minute=1) as service:
        assert (await edit(service)).status_code == 200
        refused = await edit(service, {"image": b"no image"})
    check(refused, 429, None, "images per minute")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


async def test_bad_files_cost_nothing() -> None:
    async with serve_fake(images_per_minute=1) as service:
        assert (await edit(service, {"image": b"no image"})).status_code == 400
        assert (await edit(service)).status_code == 200


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        ({"image": IMAGE, "mask": b"no image"}, {}),
        ({"image": IMAGE[:500]}, {}),
        ({"image": file_of(photo(40, 30))}, {}),
        ({"image": IMAGE}, {"place": "0,0,1,1"}),
    ],
    ids=["mask", "damaged", "shape", "place"],
)
async def test_what_was_decoded_is_charged(files: dict[str, bytes], fields: dict[str, str]) -> None:
    async with serve_fake(images_per_minute=1) as service:
        assert (await edit(service, files, **fields)).status_code == 400
        assert (await edit(service)).status_code == 429


async def test_an_edit_that_finds_the_queue_full_is_charged_for_its_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serve_fake(images_per_minute=1) as service:

        def full(*args: object) -> None:
            raise QueueFull("full", retry_after=1)

        monkeypatch.setattr(service.client, "submit", full)
        assert (await service.generate()).json()["error"]["code"] == "queue_full"
        assert (await edit(service)).json()["error"]["code"] == "queue_full"
        monkeypatch.undo()
        assert (await edit(service)).json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_key_is_asked_for() -> None:
    async with serve_fake(api_keys=["sk-test-0123456789"]) as service:
        check(await edit(service), 401, None)
