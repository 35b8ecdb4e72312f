"""Every image that came: its size is the model's, and the same request always gives the same pixels."""

from __future__ import annotations

import base64
import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

from PIL import Image

from benchmarks.tenants.allowed import Allowed


class Pictures:
    """The images of a soak.

    Args:
        model: that paints the first of them.

    Attributes:
        painters: names of the models that may paint, and when.
        sizes: of each model's images, as ``/v1/models`` has them.
        epoch: number of the model, counted from 0 up by each swap.
        compared: images that were compared with an earlier one.
        compared_across: those of them whose earlier one is from before a swap.
        wrong: what is not as it should be, and how often.
    """

    def __init__(self, model: str) -> None:
        self.painters = Allowed([model])
        self.sizes: dict[str, list[str]] = {}
        self.epoch = self.compared = self.compared_across = 0
        self.wrong = Counter[str]()
        self._seen: dict[tuple[str, str, int], tuple[str, int]] = {}
        self._shapes: set[tuple[str, str]] = set()

    def take(self, model: str, prompt: str, seed: int, size: str, file: bytes) -> None:
        """Check an image file against what its answer says, and against earlier images of the same request."""
        try:
            with Image.open(io.BytesIO(file)) as image:
                pixels = image.convert("RGB").tobytes()
                shape = f"{image.width}x{image.height}"
        except OSError as error:
            self.wrong[f"an image that cannot be decoded: {error}"] += 1
            return
        if shape != size:
            self.wrong[f"an image of {shape} where the answer says {size}"] += 1
        self._shapes.add((model, shape))
        self._compare((model, prompt, seed), hashlib.sha256(pixels).hexdigest())

    def _compare(self, request: tuple[str, str, int], digest: str) -> None:
        if request not in self._seen:
            self._seen[request] = digest, self.epoch
            return
        first, epoch = self._seen[request]
        self.compared += 1
        self.compared_across += epoch < self.epoch
        if first != digest:
            self.wrong[f"{request[0]}: another image of the same prompt and seed"] += 1

    def take_all(
        self, answer: Mapping[str, Any], prompt: str, seeds: range, files: Mapping[str, bytes]
    ) -> None:
        """Check all images of an answer.

        Args:
            answer: JSON, of ``/generate`` or of OpenAI's route.
            prompt: that was asked for.
            seeds: that were.
            files: behind the URLs of the answer, if it has any.
        """
        if [image["seed"] for image in answer["data"]] != list(seeds):
            self.wrong["an answer with other seeds than were asked for"] += 1
        for image in answer["data"]:
            data = files[image["url"]] if "url" in image else base64.b64decode(image["b64_json"])
            self.take(answer["model"], prompt, image["seed"], answer["size"], data)

    def verdict(self) -> list[str]:
        """Return what is wrong with the images, a sentence each."""
        found = [f"{count} times: {what}" for what, count in self.wrong.items()]
        found += [
            f"{model} painted {shape}, and its sizes are {self.sizes.get(model)}"
            for model, shape in sorted(self._shapes)
            if shape not in self.sizes.get(model, ())
        ]
        if not self.compared_across:
            found.append("no image was compared with one from before a swap")
        return found
