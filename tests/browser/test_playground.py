"""The playground: everything that a user can do on it, with a fake engine behind the real app."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from playwright.sync_api import Page, Route, expect

from server.api.schemas import GenerateRequest
from server.images.encode import ImageFormat
from server.messages import ImageShape
from tests.browser.conftest import PHONE, FakeServer, OpenPage, halting_engine, let_go, wait_for
from tests.browser.playground import (
    NASTY,
    ask,
    copied,
    saved,
    seeds,
    unfold,
    wait_until_painted,
    width_of_content,
)
from tests.server import fakes

Serve = Callable[..., FakeServer]

NO_INDEXED_DB = (
    "Object.defineProperty(window, 'indexedDB', { get() { throw new Error('switched off'); } });"
)


def thumbnails(page: Page) -> list[str]:
    return page.locator("#gallery-list .seed").all_inner_texts()


def test_the_form_offers_what_the_api_takes(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    names = page.evaluate(
        "[...document.querySelectorAll('#form [name]')].map((field) => field.name)"
    )
    assert set(names) <= set(GenerateRequest.model_fields)
    schema = GenerateRequest.model_json_schema()["properties"]
    assert page.locator("#n option").all_inner_texts() == [
        str(n) for n in range(schema["n"]["minimum"], schema["n"]["maximum"] + 1)
    ]
    formats = page.evaluate(
        "[...document.getElementById('format').options].map((option) => option.value)"
    )
    assert formats == list(get_args(ImageFormat))
    expect(page.locator("#size")).to_be_hidden()


def test_every_field_is_sent(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    page.get_by_text("Advanced").click()
    fields = {
        "seed": "5",
        "guidance_scale": "2.5",
        "top_k": "7",
        "top_p": "0.5",
        "smooth_scales": "3",
        "unguided_scales": "2",
        "draft": "1",
        "negative_prompt": "fog",
    }
    with page.expect_request("**/generate") as sent:
        ask(page, " two\nlines ", n="3", format="webp", **fields)
    assert sent.value.post_data_json == {
        "prompt": "two\nlines",
        "n": 3,
        "seed": 5,
        "guidance_scale": 2.5,
        "top_k": 7,
        "top_p": 0.5,
        "smooth_scales": 3,
        "unguided_scales": 2,
        "draft": 1,
        "negative_prompt": "fog",
        "format": "webp",
        "stream": True,
        "partial_images": 3,
    }
    wait_until_painted(page, 3)
    assert seeds(page) == [5, 6, 7]


def test_defaults_are_left_to_the_server(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    with page.expect_request("**/generate") as sent:
        ask(page, "a fox")
    assert sent.value.post_data_json == {"prompt": "a fox", "stream": True, "partial_images": 3}
    wait_until_painted(page)


def test_a_size_can_be_chosen_where_there_are_several(
    serve: Serve, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = ImageShape(1024, 256, 2000)
    monkeypatch.setattr(fakes, "MODEL", replace(fakes.MODEL, other_shapes=(wide,)))
    page = open_page(f"{serve().url}/?prompt=a+fox&size=1024x256")
    expect(page.locator("#size option")).to_have_text(["512 × 512", "1024 × 256"])
    for size in ("1024x256", None):
        with page.expect_request("**/generate") as sent:
            ask(page, "a fox")
        assert (sent.value.post_data_json or {}).get("size") == size
        wait_until_painted(page)
        page.select_option("#size", "")


def test_shift_enter_starts_a_line(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    page.locator("#prompt").press_sequentially("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#prompt") == "one\ntwo"
    assert page.get_attribute("#picture", "aria-busy") != "true"


def test_a_kept_seed_is_used_again(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    ask(page, "a fox")
    wait_until_painted(page)
    (seed,) = seeds(page)
    page.get_by_role("button", name=f"Keep seed {seed}").click()
    assert page.input_value("#seed") == str(seed)
    ask(page, "an owl")
    expect(page.get_by_role("img", name="an owl", exact=True).first).to_be_visible()
    assert seeds(page) == [seed]


def test_progress_is_said_and_drawn(serve: Serve, open_page: OpenPage) -> None:
    engine = halting_engine(0)
    server = serve(make_engine=lambda: engine)
    page = open_page(server.url)
    expect(page.locator("#about")).to_be_hidden()  # the fake says nothing of itself
    ask(page, "a fox")
    expect(page.locator("#picture")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#status")).to_have_text("Painting.")
    expect(page.locator("#ladder i")).to_have_count(engine.num_scales)
    expect(page.locator("#ladder .painted")).to_have_count(0)
    let_go(engine)
    wait_until_painted(page)
    expect(page.locator("#status")).to_have_text(
        re.compile(r"^Painted in \d+\.\d\d s; the first preview came after \d+\.\d\d s\.$")
    )
    expect(page.locator("#ladder .painted")).to_have_count(engine.num_scales)
    expect(page.locator("#picture")).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_cancelling_stops_the_server(serve: Serve, open_page: OpenPage, way: str) -> None:
    engine = halting_engine()
    server = serve(make_engine=lambda: engine)
    page = open_page(server.url)
    ask(page, "a fox")
    expect(page.locator("#status")).to_have_text("Preview 1 of 3.")
    if way == "button":
        page.get_by_role("button", name="Cancel").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text("Cancelled.")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(
        page.get_by_role("img", name="a fox (preview 1)")
    ).to_be_visible()  # what came so far stays
    wait_for(lambda: server.outstanding() == 0)
    let_go(engine)
    wait_for(lambda: engine.free_slots == engine.slots)
    assert len(engine.steps) <= 7, "no scale after the one that ran"
    ask(page, "an owl")  # and it can go on
    wait_until_painted(page)


def test_a_prompt_that_is_cut_is_said(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    ask(page, " ".join(f"word{i}" for i in range(60)))
    wait_until_painted(page)
    warnings = page.get_by_role("note", name="Not quite as you asked")
    expect(warnings).to_contain_text("word59")
    ask(page, "an owl")
    wait_until_painted(page)
    expect(warnings).to_be_hidden()
    page.locator("#gallery-list .open").last.click()
    expect(warnings).to_contain_text("word59")  # of the picture that is shown again


def test_a_server_without_previews(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve(previews=False).url)
    ask(page, "a fox")
    expect(page.locator("#status")).to_have_text(re.compile(r"^Painted in \d+\.\d\d s\.$"))


def test_the_gallery_remembers(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    ask(page, "a fox", seed="1", guidance_scale="2")
    wait_until_painted(page)
    ask(page, "an owl", seed="2", guidance_scale="", n="2")
    wait_until_painted(page, 2)
    expect(page.locator("#gallery-list li")).to_have_count(3)
    page.reload()
    expect(page.locator("#gallery-list li")).to_have_count(3)
    assert thumbnails(page)[-1] == "seed 1"
    page.get_by_role("button", name="a fox", exact=True).click()
    expect(page.locator("#status")).to_have_text(re.compile("^Painted by star-fake on "))
    assert page.input_value("#prompt") == "a fox"
    assert page.input_value("#seed") == "1"
    assert page.input_value("#guidance_scale") == "2"
    assert page.input_value("#n") == "1"
    assert seeds(page) == [1]
    page.get_by_role("button", name="Delete: a fox, seed 1").click()
    expect(page.locator("#gallery-list li")).to_have_count(2)
    page.reload()
    expect(page.locator("#gallery-list li")).to_have_count(2)
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("button", name="Keep them").click()
    expect(page.locator("#gallery-list li")).to_have_count(2)
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete all").click()
    expect(page.locator("#gallery")).to_be_hidden()
    page.reload()
    expect(page.locator("#prompt")).to_be_focused()
    assert thumbnails(page) == []


def test_a_browser_that_keeps_nothing(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url, script=NO_INDEXED_DB)
    ask(page, "a fox", seed="1")
    wait_until_painted(page)
    assert thumbnails(page) == ["seed 1"]
    page.reload()
    expect(page.locator("#ladder i").first).to_be_attached()
    assert thumbnails(page) == []


def test_a_browser_that_lets_no_page_copy(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url, script="navigator.clipboard.writeText = () => Promise.reject();")
    page.fill("#prompt", "a fox")
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.locator("#status")).to_contain_text("selected instead")
    assert "urllib" in page.evaluate("getSelection().toString()")


def test_what_was_said_of_a_copy_stays_when_the_model_is_known(
    serve: Serve, open_page: OpenPage
) -> None:
    page = open_page(serve().url)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/v1/models", hold)
    page.reload()
    page.fill("#prompt", "a fox")
    copied(page, "Copy as curl")
    (route,) = held
    route.continue_()
    expect(page.locator("#model-facts")).to_contain_text("star-fake")
    expect(page.locator("#status")).to_contain_text("Copy as curl: done")


def test_the_copied_commands_paint_several(
    serve: Serve, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(serve().url)
    ask(page, NASTY, n="2", seed="4294967295", format="jpeg")  # the seeds wrap
    wait_until_painted(page, 2)
    assert seeds(page) == [4294967295, 0]
    expected = {f"star-{seed}.jpg": saved(page, tile) for tile, seed in enumerate(seeds(page))}
    subprocess.run(["sh", "-c", copied(page, "Copy as curl")], cwd=tmp_path, check=True, timeout=60)
    (answer,) = tmp_path.iterdir()
    assert [image["seed"] for image in json.loads(answer.read_text())["data"]] == seeds(page)
    answer.unlink()
    script = copied(page, "Copy as Python")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == expected


def test_a_link_brings_the_picture_back(serve: Serve, open_page: OpenPage) -> None:
    first = open_page(serve().url)
    ask(first, NASTY, guidance_scale="3.5")
    wait_until_painted(first)
    second = open_page(copied(first, "Copy link"))
    expect(second.locator("#prompt")).to_have_value(NASTY)
    assert second.locator("#tiles img").count() == 0, "opening a link paints nothing by itself"
    second.get_by_role("button", name="Paint", exact=True).click()
    wait_until_painted(second)
    assert saved(second) == saved(
        first
    )  # the file holds the prompt, the seed and the parameters too


def test_a_link_fills_the_form(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(f"{serve().url}/?prompt=a+%22fox%22&seed=9&top_k=5&format=webp&n=2&other=1")
    expect(page.locator("#prompt")).to_have_value('a "fox"')
    assert page.input_value("#seed") == "9"
    assert page.input_value("#n") == "2"
    assert page.input_value("#format") == "webp"
    expect(page.locator("#top_k")).to_be_visible()  # the folded part opens for what the link sets
    assert page.locator("#tiles img").count() == 0


def test_markup_in_a_prompt_is_text(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    prompt = "<img src=x onerror=\"document.title='broken in'\">"
    ask(page, prompt)
    wait_until_painted(page)
    expect(page.get_by_role("img", name=prompt).first).to_be_visible()
    assert page.title() == "STAR playground"


def test_keyboard_alone(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("a fox")
    page.keyboard.press("Enter")
    wait_until_painted(page)
    expect(page.locator("#prompt")).to_be_focused()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outlined = page.evaluate(
            """() => {
                const { activeElement: element } = document;
                const style = getComputedStyle(element);
                const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
                return [element.id || element.textContent || element.getAttribute("aria-label"), seen];
            }"""
        )
        if name == "prompt" or page.evaluate("document.activeElement === document.body"):
            break
        assert outlined, f"{name} does not show that it has the focus"
        reached.append(name)
    wanted = [
        "paint",
        "n",
        "seed",
        "guidance_scale",
        "format",
        "Advanced",
        "Keep seed",
        "Save",
        "copy-curl",
    ]
    assert [name for name in reached if name in wanted] == wanted
    page.get_by_role("button", name="Keep seed").focus()
    page.keyboard.press("Enter")
    assert page.input_value("#seed") == str(seeds(page)[0])
    page.locator("#gallery-list .remove").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#gallery")).to_be_hidden()


def test_nothing_is_wider_than_a_phone(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url, viewport=PHONE, has_touch=True)
    expect(page.locator("#ladder i").first).to_be_attached()
    assert width_of_content(page) == PHONE["width"]
    unfold(page)
    page.get_by_text("Advanced").click()
    ask(page, "x" * 300, n="4")
    wait_until_painted(page, 4)
    expect(page.locator("#gallery-list li")).to_have_count(4)
    assert width_of_content(page) == PHONE["width"]
    ask(page, "a fox", seed="9" * 200)
    expect(page.locator("#trouble-text")).to_be_visible()
    assert width_of_content(page) == PHONE["width"]


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_motion_can_be_switched_off(serve: Serve, open_page: OpenPage, motion: str) -> None:
    engine = halting_engine(0)
    page = open_page(serve(make_engine=lambda: engine).url, reduced_motion=motion)
    ask(page, "a fox")
    expect(page.locator(".forming")).to_be_visible()
    moving = page.evaluate("document.getAnimations().length")
    assert (moving == 0) == (motion == "reduce")
    let_go(engine)
    wait_until_painted(page)


READ_EVENTS = """
    async ([bytes, size]) => {
        const { readEvents } = await import("./static/events.js");
        const body = new ReadableStream({
            start(controller) {
                for (let at = 0; at < bytes.length; at += size)
                    controller.enqueue(new Uint8Array(bytes.slice(at, at + size)));
                controller.close();
            },
        });
        const events = [];
        for await (const { event, data } of readEvents(body)) events.push([event, data]);
        return events;
    }
"""


def test_events_are_read_however_they_are_cut(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    stream = (
        ": a comment\n\n"
        'event: one\ndata: {"a": 1}\n\n'
        "data: first\r\ndata:second é 🍎\r\nid: 3\r\n\r\n"
        "event: nothing\n\n"
        "data\r\r"
        "data:  spaced\r\n\n"
    )
    wanted = [
        ["one", '{"a": 1}'],
        ["message", "first\nsecond é 🍎"],
        ["message", ""],
        ["message", " spaced"],
    ]
    for size in (1, 2, 7, 10_000):
        for end, last in (("data: cut o", []), ("data: end\r\r", [["message", "end"]])):
            got = page.evaluate(READ_EVENTS, [list((stream + end).encode()), size])
            assert got == wanted + last, f"in pieces of {size} bytes, with {end!r} in the end"
