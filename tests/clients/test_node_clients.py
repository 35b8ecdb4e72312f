"""OpenAI's client for Node, and Vercel's AI SDK with both of its providers."""

from __future__ import annotations

from pathlib import Path

from tests.clients.conftest import Scripts

OPENAI = """
import fs from "node:fs";
import OpenAI, { toFile } from "openai";

const { URL: url, FOLDER: folder } = process.env;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const save = (name, data) => fs.writeFileSync(`${folder}/${name}`, Buffer.from(data, "base64"));

const made = await client.images.generate({
  model: "gpt-image-1", prompt: "a fox", size: "1024x1024", quality: "low", background: "transparent",
});
save("made.png", made.data[0].b64_json);
const url3 = await client.images.generate({ model: "dall-e-3", prompt: "a fox", style: "vivid" });
save("dalle.png", Buffer.from(await (await fetch(url3.data[0].url)).arrayBuffer()).toString("base64"));
const image = await toFile(fs.createReadStream(`${folder}/picture.png`), null, { type: "image/png" });
const edited = await client.images.edit({ model: "gpt-image-1", image: [image], prompt: "a fox", n: 1 });
save("edited.png", edited.data[0].b64_json);
const kinds = [];
const stream = await client.images.generate({
  model: "gpt-image-1", prompt: "a fox", stream: true, partial_images: 2,
});
for await (const event of stream) kinds.push(event.type);
console.log(kinds.join(" "));
try {
  await client.images.generate({ model: "flux", prompt: "a fox" });
} catch (error) {
  console.log(error.constructor.name, error.code, error.param);
}
"""

AI_SDK = """
import fs from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";

const { URL: url, FOLDER: folder } = process.env;
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const star = createOpenAICompatible({ name: "star", baseURL: `${url}/v1`, apiKey: "none" });
const save = (name, image) => fs.writeFileSync(`${folder}/${name}`, image.uint8Array);

for (const [name, model] of [
  ["gpt.png", openai.image("gpt-image-1")],
  ["dalle.png", openai.image("dall-e-3")],
  ["compatible.png", star.imageModel("star-mini")],
]) {
  const { image } = await generateImage({
    model, prompt: "a fox", size: "1024x1024", maxRetries: 0,
    providerOptions: { openai: { quality: "high", style: "vivid" }, star: { seed: 7, quality: "hd" } },
  });
  save(name, image);
}
const picture = fs.readFileSync(`${folder}/picture.png`);
for (const [name, model] of [
  ["edited.png", openai.image("gpt-image-1")],
  ["compatible-edited.png", star.imageModel("star-mini")],
]) {
  const mask = fs.readFileSync(`${folder}/mask.png`);
  const { image } = await generateImage({
    model, prompt: { text: "a fox", images: [picture], mask }, maxRetries: 0,
  });
  save(name, image);
}
"""


def test_openai(scripts: Scripts, picture: Path) -> None:
    kinds, refused = scripts.node(OPENAI).splitlines()
    partial = "image_generation.partial_image"
    assert kinds.split() == [partial, partial, "image_generation.completed"]
    assert refused == "BadRequestError model_not_found model"
    for name in ("made.png", "dalle.png", "edited.png"):
        scripts.image(name)


def test_ai_sdk(scripts: Scripts, picture: Path) -> None:
    scripts.node(AI_SDK)
    for name in ("gpt.png", "dalle.png", "compatible.png"):
        scripts.image(name)
    for name in ("edited.png", "compatible-edited.png"):
        assert scripts.image(name).getpixel((0, 0)) == (128, 128, 128)
