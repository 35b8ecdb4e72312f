"""The library's images are the server's, bit for bit: a real server process beside this one."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from server.worker.processors import available_processors
from star_model import StarModel, generate, load_model, make_edit, resolve_model
from tests.live_server import LiveServer


@pytest.fixture(scope="module")
def model() -> Iterator[StarModel]:
    """The default model, loaded as docs/library.md says, with the server's number of threads."""
    threads = torch.get_num_threads()  # other tests may have changed it
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or available_processors()))
    yield load_model(resolve_model("star-mini"))
    torch.set_num_threads(threads)


def served(server: LiveServer, **body: Any) -> Image.Image:
    """The server's image."""
    answer = httpx.post(
        f"{server.url}/generate", json=body, headers={"accept": "image/png"}, timeout=300
    )
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content)).convert("RGB")


def as_base64(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def same(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(
    ("prompt", "parameters"),
    [
        ("a red apple on a blue background", {}),
        ("a rocket, 3d style", {"guidance_scale": 3.0, "top_p": 0.9, "smooth_scales": 0}),
    ],
)
def test_generate(
    live_server: LiveServer, model: StarModel, prompt: str, parameters: dict[str, Any]
) -> None:
    image = served(live_server, prompt=prompt, seed=1, **parameters)
    own = generate(model, prompt, seed=1, sampling=model.sampling_defaults.changed(parameters))
    assert same(own, image)


def test_an_edit(live_server: LiveServer, model: StarModel) -> None:
    apple = generate(model, "a red apple on a blue background", seed=1)
    mask = torch.zeros(512, 512, dtype=torch.bool)
    mask[96:352, 160:416] = True
    drawn = Image.fromarray(mask.numpy().astype(np.uint8) * 255)
    image = served(
        live_server,
        prompt="a banana on a blue background",
        seed=7,
        image=as_base64(apple),
        mask=as_base64(drawn),
        mask_kind="luminance",
    )
    edit = make_edit(model, torch.from_numpy(np.array(apple)), mask)
    assert same(generate(model, "a banana on a blue background", seed=7, edit=edit), image)
