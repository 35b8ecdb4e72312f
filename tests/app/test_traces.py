"""The spans of a request, as an exporter gets them; and what is left of traces when there are none."""

from __future__ import annotations

import asyncio
import base64
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import structlog

from server.errors import EngineDead
from server.messages import Accept
from tests.server.fakes import MODEL, PATCH_NUMS, FakeEngine, Step, make_job
from tests.server.pictures import file_of, photo
from tests.server.service import Service, serve_fake, until

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from server.tracing.tracing import Tracing

pytestmark = pytest.mark.anyio

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SCALES = [f"scale {scale}" for scale in range(10)]


@dataclass
class Traced(Service):
    """A service whose spans are kept."""

    tracing: Tracing
    exporter: InMemorySpanExporter

    def spans(self) -> list[ReadableSpan]:
        """All finished spans so far, the first to start first."""
        self.tracing.flush()
        spans = self.exporter.get_finished_spans()
        return sorted(spans, key=lambda span: span.start_time or 0)


@asynccontextmanager
async def serve_traced(**options: Any) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    tracing = Tracing([exporter])
    async with serve_fake(tracing=tracing, **options) as service:
        yield Traced(service.http, service.app, service.models, service.engines, tracing, exporter)


@pytest.fixture
async def traced() -> AsyncIterator[Traced]:
    async with serve_traced() as service:
        yield service


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def children(spans: list[ReadableSpan], parent: ReadableSpan) -> list[ReadableSpan]:
    return [span for span in spans if span.parent and span.parent.span_id == parent.context.span_id]


def named(spans: list[ReadableSpan], name: str) -> ReadableSpan:
    (span,) = [span for span in spans if span.name == name]
    return span


def is_sampled(traceparent: str) -> bool:
    """Whether the last field, flags in hexadecimal, says so."""
    return bool(int(traceparent.rpartition("-")[2], 16) & 1)


async def test_a_request_is_one_trace_with_all_its_stages(traced: Traced) -> None:
    answer = await traced.generate(seed=7, guidance_scale=2.0, format="webp")
    assert answer.status_code == 200
    spans = traced.spans()
    root = named(spans, "POST /generate")
    assert root.parent is None
    assert root.kind is SpanKind.SERVER
    assert {span.context.trace_id for span in spans} == {root.context.trace_id}
    assert [span.name for span in children(spans, root)] == [
        "read prompt", "generate_content star-fake", "send",
    ]  # fmt: skip
    generation = named(spans, "generate_content star-fake")
    (image,) = children(spans, generation)
    assert [span.name for span in children(spans, image)] == [
        "queue", "encode text", *SCALES, "decode", "encode",
    ]  # fmt: skip
    assert all(span.status.status_code is StatusCode.UNSET for span in spans)


async def test_spans_lie_within_their_parents_and_in_order(traced: Traced) -> None:
    assert (await traced.generate(n=3)).status_code == 200
    spans = traced.spans()
    by_id = {span.context.span_id: span for span in spans}
    for span in spans:
        assert span.start_time <= span.end_time
        if span.parent is not None:
            parent = by_id[span.parent.span_id]
            assert parent.start_time <= span.start_time
            assert span.end_time <= parent.end_time
    images = [span for span in spans if span.name == "image"]
    assert len(images) == 3
    for image in images:
        stages = children(spans, image)
        for earlier, later in pairwise(stages):
            assert earlier.end_time <= later.start_time


async def test_attributes_have_the_conventions_names(traced: Traced) -> None:
    await traced.generate(seed=7, n=2, top_k=30, top_p=0.5)
    spans = traced.spans()
    http = attributes(named(spans, "POST /generate"))
    assert http["http.request.method"] == "POST"
    assert http["http.route"] == http["url.path"] == "/generate"
    assert http["http.response.status_code"] == 200
    generation = attributes(named(spans, "generate_content star-fake"))
    assert generation["gen_ai.operation.name"] == "generate_content"
    assert generation["gen_ai.output.type"] == "image"
    assert generation["gen_ai.request.model"] == "star-fake"
    assert generation["gen_ai.request.choice.count"] == 2
    assert (generation["gen_ai.request.top_k"], generation["gen_ai.request.top_p"]) == (30, 0.5)
    assert generation["gen_ai.usage.input_tokens"] == 3
    per_image = sum(side * side for side in PATCH_NUMS)
    assert generation["gen_ai.usage.output_tokens"] == 2 * per_image
    images = [attributes(span) for span in spans if span.name == "image"]
    assert [image["star.image.index"] for image in images] == [0, 1]
    assert images[0]["star.image.seed"] == 7
    assert {image["star.worker"] for image in images} == {0}


def test_an_image_that_gives_its_slot_back_waits_twice() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing([exporter])
    now = time.monotonic()
    trace = tracing.begin("POST", {}).generation(make_job("a", tenant="nightly"), MODEL, now)
    assert trace is not None
    trace.started(0, worker=1, at=now + 1)
    trace.withdrawn(0, at=now + 3)
    trace.started(0, worker=2, at=now + 7)
    trace.end(now + 8)
    tracing.flush()
    spans = exporter.get_finished_spans()
    waits = [span.end_time - span.start_time for span in spans if span.name == "queue"]
    assert [round(wait / 1e9) for wait in waits] == [1, 4]
    assert attributes(named(list(spans), "image"))["star.worker"] == 2
    assert attributes(named(list(spans), "generate_content star-fake"))["star.tenant"] == "nightly"


async def test_a_step_of_several_images_is_in_each_of_their_traces(traced: Traced) -> None:
    await traced.generate(n=4)
    steps = [span for span in traced.spans() if span.name == "scale 0"]
    assert [attributes(step)["star.batch_size"] for step in steps] == [4] * 4
    assert len({(step.start_time, step.end_time) for step in steps}) == 1


async def test_no_prompt_is_in_a_span(traced: Traced) -> None:
    await traced.generate(prompt="a mysterious lighthouse", negative_prompt="clouds of vapour")
    await traced.generate(prompt="a mysterious lighthouse", nonsense=1)
    spans = traced.spans()
    assert len([span for span in spans if span.name == "POST /generate"]) == 2
    text = "".join(span.to_json() for span in spans)
    assert "lighthouse" not in text
    assert "vapour" not in text


async def test_the_callers_trace_goes_on_and_is_returned(traced: Traced) -> None:
    answer = await traced.http.post(
        "/generate", json={"prompt": "a red apple"}, headers={"traceparent": CALLER}
    )
    root = named(traced.spans(), "POST /generate")
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == CALLER.split("-")[2]
    version, trace, span, _ = answer.headers["traceparent"].split("-")
    assert (version, trace) == ("00", CALLER.split("-")[1])
    assert is_sampled(answer.headers["traceparent"])
    assert span == f"{root.context.span_id:016x}"


@pytest.mark.parametrize(
    "header", ["", "nonsense", f"{CALLER[:-3]}-zz", CALLER.replace("0af", "000")[:20]]
)
async def test_a_header_that_is_none_begins_a_trace(traced: Traced, header: str) -> None:
    answer = await traced.http.get("/v1/models", headers={"traceparent": header})
    assert answer.status_code == 200
    assert named(traced.spans(), "GET /v1/models").parent is None


async def test_what_the_sampler_leaves_out_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with serve_traced() as traced:
        with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
            answer = await traced.generate()
        assert not is_sampled(answer.headers["traceparent"])
        assert traced.spans() == []
        (line,) = [line for line in lines if line["event"] == "request"]
        assert line["trace_id"] == answer.headers["traceparent"].split("-")[1]
        page = (await traced.http.get("/metrics", headers=OPEN_METRICS)).text
        assert "trace_id" not in page
        (accepted,) = [m for m in traced.worker().sent if isinstance(m, Accept)]
        assert accepted.job.trace_id == ""


async def test_the_log_lines_of_a_request_have_its_trace(traced: Traced) -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        answer = await traced.generate(prompt="explode")
        await traced.http.get("/v1/models")
    trace_id = answer.headers["traceparent"].split("-")[1]
    first, second = [line for line in lines if line["event"] == "request"]
    assert first["trace_id"] == trace_id != second["trace_id"]
    (failure,) = [line for line in lines if line["event"] == "batch failed"]
    assert failure["trace_ids"] == [trace_id]


OPEN_METRICS = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}


async def test_histograms_have_exemplars_in_openmetrics(traced: Traced) -> None:
    answer = await traced.generate(partial_images=1, stream=True)
    assert answer.status_code == 200
    spans = traced.spans()
    page = await traced.http.get("/metrics", headers=OPEN_METRICS)
    assert page.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert page.text.endswith("# EOF\n")
    found = dict(
        re.findall(r'^(star_\w+)_bucket\{.*# \{span_id="(\w+)",trace_id="\w+"\}', page.text, re.M)
    )
    assert found.keys() == {
        "star_request_duration_seconds",
        "star_queue_duration_seconds",
        "star_time_to_first_preview_seconds",
        "star_scale_step_duration_seconds",
        "star_text_encode_duration_seconds",
        "star_vae_decode_duration_seconds",
        "star_image_encode_duration_seconds",
        "star_batch_size",
    }
    ids = {f"{span.context.span_id:016x}": span.name for span in spans}
    assert ids[found["star_request_duration_seconds"]] == "POST /generate"
    assert ids[found["star_scale_step_duration_seconds"]] in SCALES
    plain = await traced.http.get("/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "trace_id" not in plain.text


async def test_a_stream_shows_its_previews_and_its_first_chunk(traced: Traced) -> None:
    await traced.generate(partial_images=2, stream=True)
    spans = traced.spans()
    generation = attributes(named(spans, "generate_content star-fake"))
    assert generation["gen_ai.request.stream"] is True
    assert generation["gen_ai.response.time_to_first_chunk"] > 0
    files = [attributes(span)["star.partial"] for span in spans if span.name == "encode"]
    assert sorted(files) == [False, True, True]
    assert len([span for span in spans if span.name == "preview decode"]) == 2
    assert attributes(named(spans, "send"))["http.response.body.size"] > 0


async def test_an_edit_shows_its_upload_and_its_encoding(traced: Traced) -> None:
    await traced.generate(image=base64.b64encode(file_of(photo(64))).decode(), keep_scales=2)
    names = [span.name for span in traced.spans()]
    assert "decode upload" in names
    assert "encode edit" in names


async def test_the_checks_of_a_safety_hook_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("hook_of_traces")
    module.check = lambda check: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    async with serve_traced(safety_hook="hook_of_traces:check") as traced:
        assert (await traced.generate()).status_code == 200
        spans = traced.spans()
        page = (await traced.http.get("/metrics", headers=OPEN_METRICS)).text
    places = {
        parent.name
        for parent in spans
        for span in children(spans, parent)
        if span.name == "safety check"
    }
    assert places == {"POST /generate", "image"}, "of the prompt, and of the image"
    assert re.search(r"^star_safety_check_duration_seconds_bucket.*trace_id", page, re.M)


@pytest.mark.parametrize(
    ("prompt", "code"), [("explode", "internal_error"), ("oom", "out_of_memory")]
)
async def test_a_failure_is_in_the_trace(traced: Traced, prompt: str, code: str) -> None:
    await traced.generate(prompt=prompt)
    spans = traced.spans()
    for name in ("POST /generate", "generate_content star-fake", "image"):
        span = named(spans, name)
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == code


async def test_a_refusal_is_no_failure_of_the_server(traced: Traced) -> None:
    await traced.generate(top_p=7)
    root = named(traced.spans(), "POST /generate")
    assert root.status.status_code is StatusCode.UNSET
    assert attributes(root)["error.type"] == "invalid_request_error"
    assert attributes(root)["http.response.status_code"] == 400


async def test_the_death_of_a_worker_ends_the_spans(traced: Traced) -> None:
    def kill(step: Step) -> None:
        if step.scale == 3:
            traced.worker().kill()

    traced.engine.on_step = kill
    answer = await traced.generate()
    assert answer.json()["error"]["code"] == EngineDead.code
    spans = traced.spans()
    names = [span.name for span in spans]
    assert "scale 2" in names
    assert "scale 3" not in names
    assert attributes(named(spans, "image"))["error.type"] == EngineDead.code


async def test_a_deadline_in_the_queue_is_a_span_of_waiting() -> None:
    async with serve_traced(make_engine=lambda: FakeEngine(slots=1)) as traced:
        traced.engine.gate.clear()
        first = asyncio.create_task(traced.generate())
        await until(lambda: bool(traced.engine.steps))
        late = await traced.generate(timeout_s=0.05)
        assert late.status_code == 504
        trace_id = int(late.headers["traceparent"].split("-")[1], 16)
        traced.engine.gate.set()
        await first
        spans = [span for span in traced.spans() if span.context.trace_id == trace_id]
        (image,) = [span for span in spans if span.name == "image"]
        assert [span.name for span in children(spans, image)] == ["queue"]
        assert image.status.status_code is StatusCode.ERROR


async def test_names_of_spans_cannot_be_made_up(traced: Traced) -> None:
    await traced.http.request("BREW", "/generate")
    await traced.http.get("/one-of-a-million")
    spans = [span for span in traced.spans() if span.kind is SpanKind.SERVER]
    assert [attributes(span)["http.request.method"] for span in spans] == ["_OTHER", "GET"]
    assert not any("BREW" in span.name or "million" in span.name for span in spans)


async def test_probes_and_parts_of_pages_are_not_traced(traced: Traced) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/static/app.js"):
        answer = await traced.http.get(path)
        assert answer.status_code == 200, path
        assert "traceparent" not in answer.headers
    assert traced.spans() == []


async def test_the_secret_of_an_address_is_in_no_span(traced: Traced) -> None:
    body = {"prompt": "a red apple", "response_format": "url"}
    answer = await traced.http.post("/v1/images/generations", json=body)
    url = answer.json()["data"][0]["url"]
    assert (await traced.http.get(url)).status_code == 200
    spans = traced.spans()
    assert named(spans, "GET /v1/images/files/{name}")
    assert "store" in [span.name for span in spans]
    assert url.rpartition("/")[2] not in "".join(span.to_json() for span in spans)


async def test_without_tracing_nothing_is_left_of_it(service: Service) -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        answer = await service.http.post(
            "/generate", json={"prompt": "a red apple"}, headers={"traceparent": CALLER}
        )
    assert "traceparent" not in answer.headers
    assert [line["event"] for line in lines if "trace_id" in line] == []
    assert "request" in [line["event"] for line in lines]
    page = (await service.http.get("/metrics", headers=OPEN_METRICS)).text
    assert "star_requests_total" in page
    assert "trace_id" not in page
    (accepted,) = [m for m in service.worker().sent if isinstance(m, Accept)]
    assert accepted.job.trace_id == ""
