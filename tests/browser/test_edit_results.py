"""What becomes of an edit in the playground: kept, copied, cancelled or refused, with a fake engine behind it all."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import PHONE, FakeServer, OpenPage, halt, let_go, wait_for
from tests.browser.editing import (
    PHOTO,
    SIDE,
    EditEngine,
    choose_file,
    code_of,
    drag,
    go,
    mask_of,
    open_picture,
    saved_file,
)
from tests.browser.playground import (
    NASTY,
    ask,
    copied,
    said,
    seeds,
    wait_until_painted,
    width_of_content,
)
from tests.server.pictures import file_of, photo

Serve = Callable[..., FakeServer]


def test_the_gallery_keeps_how_it_was_edited(page: Page, engine: EditEngine) -> None:
    open_picture(page)
    drag(page, (0.25, 0.5), (0.75, 0.5))
    ask(page, "a fox", seed="3", n="2")
    wait_until_painted(page, 2)
    expect(page.locator("#gallery-list .seed")).to_have_text(["edit, seed 4", "edit, seed 3"])
    page.reload()
    expect(page.get_by_role("button", name="Edit a file")).to_be_visible()
    page.locator("#gallery-list .open").first.click()
    expect(page.locator("#status")).to_contain_text("Edited by star-fake")
    expect(page.get_by_text("Edited from this picture.")).to_be_visible()
    assert "seed=4" in code_of(page)
    page.press("#prompt", "Enter")  # the same again
    wait_for(lambda: len(engine.edits) == 3)
    wait_until_painted(page)
    assert engine.edits[2] == engine.edits[0]
    page.locator("#tiles .edits").click()  # and once more, from what came of it
    expect(page.locator("#editor")).to_be_visible()
    assert mask_of(page).getbbox() is None
    page.get_by_role("button", name="Stop editing").click()
    expect(page.locator("#tiles").get_by_role("img", name="a fox", exact=True)).to_be_visible()
    with page.expect_request("**/generate"):
        page.press("#prompt", "Enter")
    wait_until_painted(page)


def test_the_copied_commands_edit(page: Page, engine: EditEngine, tmp_path: Path) -> None:
    open_picture(page)
    drag(page, (0.25, 0.5), (0.75, 0.5))
    page.get_by_text("Soft edge").click()
    ask(page, NASTY, format="webp")
    wait_until_painted(page)
    (seed,) = seeds(page)
    expect(page.get_by_role("button", name="Copy link")).to_be_hidden()
    assert "?" not in page.url, "a link cannot hold an edit"
    for name in ("picture.png", "mask.png"):
        (tmp_path / name).write_bytes(saved_file(page, name))
    subprocess.run(["sh", "-c", copied(page, "Copy as curl")], cwd=tmp_path, check=True, timeout=60)
    assert f'"seed":{seed}' in (tmp_path / f"star-{seed}.json").read_text()
    subprocess.run(
        [sys.executable, "-c", copied(page, "Copy as Python")], cwd=tmp_path, check=True, timeout=60
    )
    assert (tmp_path / f"star-{seed}.webp").exists()
    first, *others = engine.edits
    assert others == [first, first]
    assert set(engine.encoded) == {NASTY}


def test_dropped_and_pasted(page: Page) -> None:
    expect(page.get_by_role("button", name="Edit a file")).to_be_visible()
    bring = """
        async ([kind, type]) => {
            const canvas = new OffscreenCanvas(64, 64);
            canvas.getContext("2d").fillRect(0, 0, 64, 64);
            const transfer = new DataTransfer();
            transfer.items.add(new File([await canvas.convertToBlob()], "a.png", { type: "image/png" }));
            const options = { bubbles: true, cancelable: true };
            const event = kind === "paste"
                ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
                : new DragEvent(kind, { ...options, dataTransfer: transfer });
            return document.getElementById("prompt").dispatchEvent(event);
        }
    """
    for kind in ("drop", "paste"):
        if kind == "drop":
            assert page.evaluate(bring, ["dragover", ""]) is False
            expect(page.locator("body")).to_have_class(re.compile("dropping"))
        page.evaluate(bring, [kind, ""])
        expect(page.locator("#editor")).to_be_visible()
        expect(page.locator("body")).not_to_have_class(re.compile("dropping"))
        page.get_by_role("button", name="Stop editing").click()
        expect(page.locator("#editor")).to_be_hidden()


def test_on_a_phone(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url, viewport=PHONE, has_touch=True)
    open_picture(page, photo(300, 200))
    for way, verb in (
        ("Around it", "Paint around it"),
        ("All of it", "Paint a variation"),
        ("Part of it", "Paint this part"),
    ):
        go(page, way)
        assert width_of_content(page) == PHONE["width"], way
        expect(page.get_by_role("button", name=verb)).to_have_count(2)
    page.fill("#prompt", "a fox")
    page.get_by_text("Mark a box").click()
    page.get_by_role("button", name="Mark the box").click()
    assert width_of_content(page) == PHONE["width"]
    page.locator("#paint-edit").click()  # beside the picture, so that nobody has to scroll back
    wait_until_painted(page)
    assert width_of_content(page) == PHONE["width"]


# ---- what goes wrong ---------------------------------------------------------------------------------------
def test_cancelling_stops_the_server_and_keeps_the_mask(
    serve: Serve, open_page: OpenPage, engine: EditEngine
) -> None:
    server = serve(make_engine=lambda: engine)
    page = open_page(server.url)
    halt(engine)
    open_picture(page)
    drag(page, (0.25, 0.5), (0.75, 0.5))
    ask(page, "a fox")
    expect(page.locator("#status")).to_have_text("Preview 1 of 3.")
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text("Cancelled.")
    wait_for(lambda: server.outstanding() == 0)
    let_go(engine)
    wait_for(lambda: engine.free_slots == engine.slots)
    assert len(engine.steps) <= 7, "no scale after the one that ran"
    expect(page.locator("#editor")).to_be_visible()
    page.press("#prompt", "Enter")
    wait_until_painted(page)
    assert engine.edits[1] == engine.edits[0]


def test_nothing_is_lost_by_an_error(page: Page, engine: EditEngine) -> None:
    open_picture(page)
    page.press("#prompt", "Enter")
    said(page, "^prompt ")
    expect(page.locator("#prompt")).to_be_focused()
    ask(page, "a fox")
    said(page, r"^mask marks nothing to generate: make .*\.$")
    expect(page.locator("#mask-area")).to_be_focused()
    drag(page, (0.25, 0.5), (0.75, 0.5))
    before = mask_of(page).tobytes()
    ask(page, "explode")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect(page.locator("#editor")).to_be_visible()
    assert mask_of(page).tobytes() == before
    go(page, "Around it")
    page.get_by_label("Size of the picture").fill("100")
    ask(page, "a fox")
    said(page, r"^place leaves nothing to generate; .*\.$")
    expect(page.locator("#placed")).to_be_focused()
    go(page, "Part of it")
    assert mask_of(page).tobytes() == before
    choose_file(page, "notes.txt", b"not a picture", "text/plain")
    said(page, r"^image must be a PNG, JPEG or WebP file; .*\.$")
    choose_file(page, "cut.png", file_of(PHOTO)[:5000], "image/png")
    said(page, r"^image cannot be decoded: the file is damaged or cut off; .*\.$")
    assert mask_of(page).tobytes() == before, "the picture that was open stays"
    ask(page, "a fox")
    wait_until_painted(page)
    assert engine.edits[-1].mask == before


def test_the_servers_limits_are_its_own(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve(max_image_pixels=100_000).url)
    open_picture(page)
    go(page, "All of it")
    ask(page, "a fox")
    said(
        page,
        r"^image has 512 x 512 pixels, more than the 100,000 allowed; make it smaller\.$",
    )
    expect(page.locator("#editor")).to_be_visible()


def test_a_picture_of_a_camera_is_made_smaller(page: Page, engine: EditEngine) -> None:
    open_picture(page, Image.new("RGB", (5000, 4000), "teal"), "JPEG")
    ask(page, "a fox")
    wait_until_painted(page)
    assert Image.open(io.BytesIO(saved_file(page, "picture.png"))).size == (512, 410)
    assert engine.edits[0].image.width == SIDE


def test_it_is_offered_once_the_model_is_known(serve: Serve, open_page: OpenPage) -> None:
    loaded = threading.Event()
    page = open_page(serve(loaded=loaded, wait=False).url)
    button = page.get_by_role("button", name="Edit a file")
    expect(page.locator("#status")).to_have_text("The model is loading.")
    expect(button).to_be_hidden()
    choose_file(page, "photo.png", file_of(PHOTO), "image/png")
    expect(page.locator("#editor")).to_be_hidden()
    loaded.set()
    expect(button).to_be_visible()
