"""The playground on the real server with the default model, in a real browser."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.editing import drag, saved_file
from tests.browser.playground import NASTY, ask, copied, saved, seeds, wait_until_painted
from tests.live_server import LiveServer
from tests.server.pictures import opened

RECORD = """
    window.shown = [];
    addEventListener("DOMContentLoaded", () => {
        new MutationObserver((changes) => {
            for (const image of changes.flatMap((change) => [...change.addedNodes])) {
                if (image.tagName !== "IMG") continue;
                const canvas = document.createElement("canvas");
                canvas.width = canvas.height = 32;
                canvas.getContext("2d").drawImage(image, 0, 0, 32, 32);
                window.shown.push([image.alt, canvas.toDataURL()]);
            }
        }).observe(document.getElementById("tiles"), { childList: true, subtree: true });
    });
"""
"""Notes each picture that comes to be shown, as its words and its pixels."""


def painted_alone(server: LiveServer, **body: object) -> bytes:
    answer = httpx.post(
        f"{server.url}/generate", json=body, headers={"accept": "image/png"}, timeout=120
    )
    return answer.raise_for_status().content


def test_a_picture_forms(live_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(live_server.url, script=RECORD)
    ask(page, "a red apple on a blue background")
    wait_until_painted(page)
    expect(page.locator("#tiles img")).to_have_count(1)  # the last has faded in
    words, pixels = zip(*page.evaluate("window.shown"), strict=True)
    assert len(words) >= 3
    assert words[-1] == "a red apple on a blue background"
    assert all(re.fullmatch(r".*\(preview \d\)", text) for text in words[:-1])
    assert len(set(pixels)) == len(pixels), "each preview is another picture"
    (seed,) = seeds(page)
    expected = painted_alone(live_server, prompt="a red apple on a blue background", seed=seed)
    assert saved(page) == expected
    assert f"seed={seed}" in page.url


def test_it_says_what_the_model_knows(live_server: LiveServer, open_page: OpenPage) -> None:
    model, *_ = httpx.get(f"{live_server.url}/v1/models").json()["data"]  # then its aliases
    assert model["description"]
    assert model["examples"]
    page = open_page(live_server.url)
    expect(page.locator("#about-text")).to_have_text(model["description"])
    guidance = page.locator("#guidance_scale")
    expect(guidance).to_have_attribute("placeholder", f"{model['guidance_scale']:g}")
    expect(page.locator("#known-counts")).to_contain_text(f"{model['num_things']} things")


def test_it_opens_on_pictures_that_it_paints_again(
    live_server: LiveServer, open_page: OpenPage
) -> None:
    listed = httpx.get(f"{live_server.url}/v1/models/star-mini/gallery").json()["data"]
    page = open_page(live_server.url)
    shown = page.locator("#showcase-list button")
    expect(shown).to_have_count(len(listed))
    assert [text.strip() for text in shown.all_text_contents()] == [p["prompt"] for p in listed]
    shown.first.click()
    wait_until_painted(page)
    assert seeds(page) == [listed[0]["seed"]]
    small = opened(base64.b64decode(listed[0]["b64_json"])).convert("RGB")
    again = opened(saved(page)).convert("RGB").resize(small.size, Image.Resampling.LANCZOS)
    apart = ImageStat.Stat(ImageChops.difference(small, again)).mean
    assert max(apart) < 8, "the picture that was chosen, of 256 levels"


def test_the_copied_commands_paint_the_picture(
    live_server: LiveServer, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(live_server.url)
    ask(page, f"a fox, {NASTY}")  # that names what the model knows
    wait_until_painted(page)
    (seed,) = seeds(page)
    expected = saved(page)
    subprocess.run(
        ["sh", "-c", copied(page, "Copy as curl")], cwd=tmp_path, check=True, timeout=120
    )
    (by_curl,) = tmp_path.iterdir()
    assert by_curl.name == f"star-{seed}.png"
    assert by_curl.read_bytes() == expected
    by_curl.unlink()
    script = copied(page, "Copy as Python")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)
    (by_python,) = tmp_path.iterdir()
    assert by_python.read_bytes() == expected


def test_a_part_is_painted_and_the_rest_is_kept(
    live_server: LiveServer, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(live_server.url)
    ask(page, "a red apple on a blue background", seed="1")
    wait_until_painted(page)
    before = opened(saved(page)).convert("RGB")
    page.get_by_role("button", name="Edit the picture of seed 1").click()
    drag(page, (0.3, 0.3), (0.6, 0.4))
    ask(page, "a yellow banana on a blue background", seed="2")
    wait_until_painted(page)
    after = opened(saved(page)).convert("RGB")
    (tmp_path / "picture.png").write_bytes(saved_file(page, "picture.png"))
    (tmp_path / "mask.png").write_bytes(saved_file(page, "mask.png"))
    mask = Image.open(tmp_path / "mask.png").convert("L")
    changed = ImageChops.difference(before, after)
    outside = Image.composite(Image.new("RGB", mask.size), changed, mask)
    assert outside.getbbox() is None, "pixels outside the mask are the picture's"
    assert Image.composite(changed, Image.new("RGB", mask.size), mask).getbbox() is not None
    assert (
        opened((tmp_path / "picture.png").read_bytes()).convert("RGB").tobytes() == before.tobytes()
    )
    subprocess.run(
        ["sh", "-c", copied(page, "Copy as curl")], cwd=tmp_path, check=True, timeout=120
    )
    (image,) = json.loads((tmp_path / "star-2.json").read_text())["data"]
    assert base64.b64decode(image["b64_json"]) == saved(page)
