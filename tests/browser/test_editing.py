"""Editing in the playground: what a user draws is what the server gets, with a fake engine behind the real app."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import PHONE, FakeServer, OpenPage, halt, let_go, wait_for
from tests.browser.editing import (
    PHOTO,
    SIDE,
    EditEngine,
    code_of,
    drag,
    go,
    mask_of,
    on_board,
    open_picture,
    saved_file,
    white_box,
)
from tests.browser.playground import ask, wait_until_painted
from tests.server.pictures import mask, photo, see_through

Serve = Callable[..., FakeServer]


# ---- a part of it ------------------------------------------------------------------------------------------
def test_a_mask_is_drawn_and_the_picture_forms(page: Page, engine: EditEngine) -> None:
    halt(engine)
    open_picture(page)
    expect(page.get_by_role("button", name="Paint this part")).to_be_visible()
    drag(page, (0.25, 0.5), (0.75, 0.5))
    ask(page, "a yellow banana", seed="7")
    expect(page.locator("#status")).to_have_text("Preview 1 of 3.")
    expect(page.get_by_role("img", name="a yellow banana (preview 1)")).to_be_visible()
    expect(page.locator("#editor")).to_be_hidden()
    let_go(engine)
    wait_until_painted(page)
    (given,) = engine.edits
    assert given.image.data == PHOTO.tobytes(), "the file itself is sent"
    assert (given.keep_scales, given.erase, given.feather) == (1, True, True)
    assert given.mask is not None
    drawn = Image.frombytes("L", (SIDE, SIDE), given.mask)
    left, top, right, bottom = white_box(drawn)
    size = 0.12 * SIDE
    assert abs(left - (SIDE / 4 - size / 2)) <= 3
    assert abs(right - (SIDE * 3 / 4 + size / 2)) <= 3
    assert abs((bottom - top) - size) <= 3
    assert drawn.crop((SIDE // 4, SIDE // 2 - 8, SIDE * 3 // 4, SIDE // 2 + 8)).getextrema() == (
        255,
        255,
    )
    expect(page.locator("#gallery-list .seed")).to_have_text(["edit, seed 7"])
    page.get_by_role("button", name="Back to the edit").click()
    assert mask_of(page).tobytes() == given.mask, "the mask is still there"


def test_the_tools(page: Page) -> None:
    open_picture(page)
    page.fill("#prompt", "a fox")
    page.get_by_text("Mark a box").click()
    for edge, value in {"left": "0", "top": "25", "right": "50", "bottom": "100"}.items():
        page.fill(f"#box-{edge}", value)
    page.get_by_role("button", name="Mark the box").click()
    box = (0, SIDE // 4, SIDE // 2, SIDE)
    assert mask_of(page).tobytes() == mask(SIDE, box).tobytes()
    page.get_by_role("button", name="Invert").click()
    assert mask_of(page).tobytes() == mask(SIDE, box, inside=0).tobytes()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("Eraser").click()
    drag(page, (0.25, 0.5), (0.25, 0.5))
    erased = mask_of(page)
    assert erased.getpixel((SIDE // 4, SIDE // 2)) == 0
    assert erased.getpixel((SIDE // 4 + 40, SIDE // 2)) == 255
    page.get_by_role("button", name="Clear").click()
    assert mask_of(page).getbbox() is None
    page.get_by_role("button", name="Undo").click()
    assert mask_of(page).tobytes() == erased.tobytes()
    for _ in range(2):
        page.get_by_role("button", name="Undo").click()
    assert mask_of(page).getbbox() is None
    expect(page.locator("#undo")).to_have_attribute("aria-disabled", "true")
    page.get_by_text("Brush", exact=True).click()
    page.locator("#brush-size").fill("30")
    drag(page, (0.5, 0.5), (0.5, 0.5))
    left, _, right, _ = white_box(mask_of(page))
    assert abs((right - left) - 0.3 * SIDE) <= 3


def test_by_keyboard_alone(page: Page, engine: EditEngine) -> None:
    expect(page.locator("#ladder i").first).to_be_attached()
    page.keyboard.type("a fox")
    page.keyboard.press("Enter")
    wait_until_painted(page)
    expect(page.locator("#tiles img")).to_have_count(1)
    page.locator("#tiles .edits").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", name="Part of it")).to_be_focused()
    for _ in range(2):  # past the button that closes
        page.keyboard.press("Tab")
    area = page.get_by_role("application", name="Mask")
    expect(area).to_be_focused()
    expect(page.locator("#ring")).to_be_visible()
    for key in (
        "]",
        "Space",
        "ArrowRight",
        "ArrowRight",
        "Space",
        "ArrowDown",
        "ArrowDown",
        "ArrowDown",
    ):
        page.keyboard.press(key)
    expect(page.locator("#status")).to_be_empty()
    drawn = mask_of(page)  # of the fake's picture, 8 x 8
    assert drawn.getpixel((4, 4)) == 255
    assert drawn.getpixel((4, 6)) == 0
    assert page.input_value("#brush-size") == "13"
    area.focus()
    page.keyboard.press("Control+z")
    assert mask_of(page).getbbox() is None
    area.focus()
    page.keyboard.press("Space")
    expect(page.locator("#status")).to_have_text("The brush is down: arrows draw, Space lifts it.")
    page.keyboard.press("Tab")  # leaving lifts it
    expect(page.locator("#status")).to_be_empty()
    page.locator("#prompt").focus()
    page.keyboard.press("Enter")
    wait_for(lambda: len(engine.edits) == 1)
    wait_until_painted(page)


def test_a_finger_and_a_pen(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url, viewport=PHONE, has_touch=True)
    open_picture(page)
    page.fill("#prompt", "a fox")
    devtools = page.context.new_cdp_session(page)
    points = [on_board(page, (0.25 + step / 8, 0.25)) for step in range(5)]
    for number, (x, y) in enumerate(points):
        kind = "touchMove" if number else "touchStart"
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    drawn = mask_of(page)
    assert drawn.crop((SIDE // 4, SIDE // 4 - 8, SIDE * 3 // 4, SIDE // 4 + 8)).getextrema() == (
        255,
        255,
    )
    x, y = on_board(page, (0.5, 0.25))
    pen = {"x": x, "y": y, "pointerType": "pen", "button": "left", "clickCount": 1}
    devtools.send("Input.dispatchMouseEvent", {**pen, "type": "mousePressed", "buttons": 1})
    devtools.send(
        "Input.dispatchMouseEvent", {**pen, "type": "mouseMoved", "y": y + 100, "buttons": 1}
    )
    devtools.send("Input.dispatchMouseEvent", {**pen, "type": "mouseReleased", "y": y + 100})
    assert white_box(mask_of(page))[3] > white_box(drawn)[3] + 50


def test_transparent_pixels_are_the_mask_to_begin_with(page: Page, engine: EditEngine) -> None:
    box = (100, 50, 200, 150)
    open_picture(page, see_through(PHOTO, box))
    ask(page, "a fox")
    wait_until_painted(page)
    assert engine.edits[0].mask == mask(SIDE, box).tobytes()


# ---- around it ---------------------------------------------------------------------------------------------
def test_the_picture_is_dragged_and_sized(page: Page, engine: EditEngine) -> None:
    open_picture(page)
    page.fill("#prompt", "a wide field")
    go(page, "Around it")
    assert "place=0.25,0.25,0.75,0.75" in code_of(page)
    drag(page, (0.5, 0.5), (0.0, 0.9))  # further than it can go
    assert "place=0,0.5,0.5,1" in code_of(page)
    drag(page, (0.5, 0.5), (0.25, 0.75))  # a corner: the one across stays
    assert "place=0,0.75,0.25,1" in code_of(page)
    page.get_by_role("button", name="Centre").click()
    assert "place=0.375,0.375,0.625,0.625" in code_of(page)
    page.get_by_label("Size of the picture").fill("75")
    assert "place=0.125,0.125,0.875,0.875" in code_of(page)
    expect(page.locator("#place-text")).to_contain_text("75 % of the canvas")
    page.get_by_text("Soft edge").click()
    page.press("#prompt", "Enter")
    wait_until_painted(page)
    (given,) = engine.edits
    assert given.mask == mask(SIDE, (64, 64, 448, 448), inside=0).tobytes()
    assert not given.feather


def test_the_picture_is_placed_by_keyboard(page: Page, engine: EditEngine) -> None:
    open_picture(page)
    page.get_by_role("radio", name="Part of it").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Around it")).to_be_checked()
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_role("application", name="Picture on the canvas")).to_be_focused()
    for key in ("ArrowLeft", "ArrowUp", "ArrowUp", "Shift+ArrowLeft", "-", "-"):
        page.keyboard.press(key)
    ask(page, "a wide field")
    wait_until_painted(page)
    left, top, side = 128 - 16 - 1 + 16, 128 - 32 + 16, 256 - 32
    assert (
        engine.edits[0].mask == mask(SIDE, (left, top, left + side, top + side), inside=0).tobytes()
    )


def test_a_picture_that_is_no_square(page: Page, engine: EditEngine) -> None:
    wide = photo(400, 200)
    open_picture(page, wide)
    expect(page.get_by_role("radio", name="Around it")).to_be_checked()
    ask(page, "a fox")
    wait_until_painted(page)
    assert engine.edits[0].mask == mask(SIDE, (0, 128, 512, 384), inside=0).tobytes()
    page.get_by_role("button", name="Back to the edit").click()
    go(page, "Part of it")
    page.get_by_label("Square of the picture").fill("100")
    drag(page, (0.5, 0.5), (0.5, 0.5))
    expected = wide.crop((200, 0, 400, 200))
    sent = Image.open(io.BytesIO(saved_file(page, "picture.png"))).convert("RGB")
    assert sent.tobytes() == expected.tobytes()
    page.press("#prompt", "Enter")
    wait_for(lambda: len(engine.edits) == 2)
    wait_until_painted(page)


# ---- all of it ---------------------------------------------------------------------------------------------
def test_scales_are_kept(page: Page, engine: EditEngine) -> None:
    open_picture(page, kind="JPEG")
    page.fill("#prompt", "a fox")
    go(page, "All of it")
    slider = page.get_by_label("Keep scales")
    assert slider.input_value() == "5", "half of them, as the server has it"
    assert slider.get_attribute("max") == str(engine.num_scales)
    expect(page.locator(".ends")).to_have_text("0: a new picture10: the same picture")
    slider.focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    expect(slider).to_have_attribute(
        "aria-valuetext", "The 3 coarsest of 10 scales are kept; the finer ones are repainted."
    )
    expect(page.locator("#kept .painted")).to_have_count(3)
    assert "-F image=@picture.jpg \\" in code_of(page)
    assert "--form-string keep_scales=3 \\" in code_of(page)
    page.press("#prompt", "Enter")
    wait_until_painted(page)
    assert (engine.edits[0].keep_scales, engine.edits[0].mask) == (3, None)
    page.get_by_role("button", name="Back to the edit").click()
    go(page, "Part of it")
    assert slider.input_value() == "0", "each way has a number of its own"
    assert "keep_scales" not in code_of(page)
    slider.fill("2")
    page.get_by_text("The prompt describes only the marked part").click()
    expect(page.locator("#prompt")).to_have_attribute("placeholder", "Describe the whole picture")
    drag(page, (0.5, 0.5), (0.6, 0.5))
    page.press("#prompt", "Enter")
    wait_for(lambda: len(engine.edits) == 2)
    wait_until_painted(page)
    given = engine.edits[1]
    assert (given.keep_scales, given.erase, given.focus) == (2, False, False)
