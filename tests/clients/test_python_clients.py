"""LiteLLM, LangChain's wrapper of DALL-E and Hugging Face's client, each as its documentation shows it."""

from __future__ import annotations

from pathlib import Path

from tests.clients.conftest import Scripts

LITELLM = """
import base64, os
import litellm

folder, base = os.environ["FOLDER"], os.environ["URL"] + "/v1"
made = litellm.image_generation(
    model="openai/gpt-image-1", prompt="a fox", n=1, size="1024x1024", quality="medium",
    api_base=base, api_key="none", user="user-1",
)
open(f"{folder}/made.png", "wb").write(base64.b64decode(made.data[0].b64_json))
edited = litellm.image_edit(
    model="openai/gpt-image-1", image=[open(f"{folder}/picture.png", "rb")], prompt="a fox",
    mask=open(f"{folder}/mask.png", "rb"), size="1024x1024", api_base=base, api_key="none",
)
open(f"{folder}/edited.png", "wb").write(base64.b64decode(edited.data[0].b64_json))
try:
    litellm.image_generation(model="openai/flux", prompt="a fox", api_base=base, api_key="none")
except litellm.BadRequestError as error:
    assert "flux" in str(error), error
    print("refused")
"""

LANGCHAIN = """
import os
from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

base = os.environ["URL"] + "/v1"
print(DallEAPIWrapper(base_url=base, api_key="none").run("a fox"))
print(DallEAPIWrapper(model="dall-e-3", quality="hd", base_url=base, api_key="none").run("a fox"))
"""

HUGGING_FACE = """
import os
from huggingface_hub import InferenceClient

image = InferenceClient(base_url=os.environ["URL"], token="none").text_to_image("a fox", seed=7)
image.save(os.environ["FOLDER"] + "/fox.png")
"""


def test_litellm(scripts: Scripts, picture: Path) -> None:
    assert scripts.python(LITELLM).splitlines()[-1] == "refused"
    scripts.image("made.png")
    assert scripts.image("edited.png").getpixel((0, 0)) == (128, 128, 128)


def test_langchain(scripts: Scripts) -> None:
    urls = scripts.python(LANGCHAIN).split()
    assert len(urls) == 2
    for url in urls:
        assert url.startswith(f"{scripts.url}/v1/images/"), url
        assert url.endswith(".png")


def test_hugging_face(scripts: Scripts) -> None:
    scripts.python(HUGGING_FACE)
    scripts.image("fox.png")
