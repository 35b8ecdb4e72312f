"""Write the trained model as a native directory: ``python -m training.export --out weights/star-mini``.

The directory has all that serving needs: weights, configuration and name, text encoder, vocabulary if there is one,
checksums, and ``about.json``, which an existing one of the same directory is kept for.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from star_model.about import ABOUT, About, read_about, write_about
from star_model.checkpoints.saving import save_model
from star_model.model import StarModel
from star_model.networks.text_encoder import load_text_encoder
from star_model.networks.transformer import StarTransformer
from star_model.prompt_reader import PromptReader
from star_model.vocabulary import LEAST_LIKENESS, Vocabulary, words_of
from training.backdrops import BACKDROPS
from training.captions import COLOUR_WORDS
from training.concepts import Concept, held_out_keywords, load_concepts, with_article
from training.machine import command
from training.pictures import FolderPictures, ScenePictures, has_own_pictures
from training.scenes import FOR_TRANSFORMER, SceneGenerator
from training.sources import STYLES
from training.tokenize import config_of, load_tokenizer, trained_weights

EXAMPLES = 6
"""Prompts to try in ``about.json``."""

LIKENESS = {"starter": 0.65, "full": 0.75}
"""Least likeness by vocabulary, as ``python -m training.likeness`` measured it: among more things, more are alike."""

CAPTIONS = 20_000
"""Captions of training whose words a model is taken to know: all that it met often enough to learn."""


def vocabulary_of(data: Path, vocabulary: str, *, max_things: int = 1) -> Vocabulary:
    """What a model knows that was trained on captions of the concepts in ``vocabulary``; no name that is held out.

    Args:
        data: what training.prepare wrote.
        vocabulary: which things.
        max_things: that it draws in one picture, whatever the captions had.
    """
    concepts = load_concepts(data, vocabulary)
    held_out = held_out_keywords(concepts)
    names = {
        c.phrase: tuple(
            name
            for name in dict.fromkeys((with_article(c.label), *c.synonyms))
            if name not in (c.phrase, held_out.get(c.label))
        )
        for c in concepts
    }
    generator = SceneGenerator(
        data, seed=0, vocabulary=vocabulary, max_objects=2, variety=FOR_TRANSFORMER
    )
    words = {word for i in range(CAPTIONS) for word in words_of(generator.scene(i).caption)}
    colours = [word for words in COLOUR_WORDS.values() for word in words]
    return Vocabulary(
        names,
        tuple(sorted(words)),
        STYLES,
        tuple(colours),
        backdrops=dict(BACKDROPS) if FOR_TRANSFORMER.backdrops else {},
        kinds=kinds_of(concepts),
        max_things=max_things,
        least_likeness=LIKENESS.get(vocabulary, LEAST_LIKENESS),
    )


def kinds_of(concepts: Sequence[Concept]) -> dict[str, tuple[str, ...]]:
    """Kind -> phrases of the concepts of that kind, in their order."""
    kinds: dict[str, list[str]] = {}
    for concept in concepts:
        if concept.kind is not None:
            kinds.setdefault(concept.kind, []).append(concept.phrase)
    return {kind: tuple(phrases) for kind, phrases in kinds.items()}


def about(data: Path, vocabulary: str) -> About:
    """Return the words about a model that was trained on ``data``: what it draws, and prompts to try."""
    if has_own_pictures(data):
        pictures = FolderPictures(data)
        count = f"{pictures.count:,} pictures"
        return About(f"Trained on {count} with captions.", pictures.prompts(EXAMPLES))
    concepts = load_concepts(data, vocabulary)
    labels = sorted(concept.label for concept in concepts)
    things = f"{len(labels)} things, from {labels[0]} to {labels[-1]}" if labels else "nothing"
    scenes = ScenePictures(data, seed=1, vocabulary=vocabulary, max_objects=1)
    return About(
        f"Draws {things}, in the styles {', '.join(STYLES)}, on backgrounds of {len(COLOUR_WORDS)} colours.",
        tuple(scenes.plain_caption(i) for i in range(EXAMPLES)),
    )


def describe(out: Path, words: About, description: str | None, license: str | None) -> None:
    """Write ``about.json`` of a model directory, unless there is one and nothing else is given.

    A new description comes with new examples; a licence that is stated stays until another is given.
    """
    kept = read_about(out) if (out / ABOUT).exists() else None
    if kept is not None and description is None and license is None:
        return
    if kept is not None and description is None:
        words = kept
    if description is not None:
        words = dataclasses.replace(words, description=description)
    stated = license or (kept.license if kept is not None else None)
    write_about(out, dataclasses.replace(words, license=stated))


def export(
    data: Path,
    tokenizer: Path,
    transformer: Path,
    out: Path,
    *,
    vocabulary: str = "full",
    max_things: int = 1,
    dtype: str = "int8",
    name: str | None = None,
    description: str | None = None,
    license: str | None = None,
) -> None:
    """Join what the two runs in ``tokenizer`` and ``transformer`` last saved; the averaged weights of both.

    Args:
        data: what training.prepare wrote.
        tokenizer: run of the image tokenizer or of its decoder, or a model directory.
        transformer: run of the transformer, or a model directory.
        out: the model directory to write; other files in it are kept.
        vocabulary: which things it was trained on.
        max_things: that it draws in one picture.
        dtype: of the weights in the files: ``float16``, or ``int8`` with half the bytes.
        name: of the model, by default that of the directory.
        description: of the model in ``about.json``; by default an existing one is kept, or what the data say.
        license: of the weights, as an SPDX identifier; by default that of an existing ``about.json``, or none.

    Raises:
        FileNotFoundError: when a run has saved nothing yet.
    """
    cpu = torch.device("cpu")
    config = dataclasses.replace(config_of(transformer), name=name or out.resolve().name)
    network = StarTransformer(config).eval()
    network.load_state_dict(trained_weights(transformer, "transformer.safetensors", "average"))
    encoder = load_text_encoder(
        data / "text_encoder", config.text_encoder, device=cpu, dtype=torch.float32
    )
    reader = None
    if not has_own_pictures(data):
        known = vocabulary_of(data, vocabulary, max_things=max_things)
        reader = PromptReader(known, encoder.pooled, encoder.is_word)
    images = load_tokenizer(tokenizer, cpu)
    model = StarModel(config, network, images, encoder, cpu, torch.float32, reader=reader)
    save_model(model, out, dtype=dtype, overwrite=True)
    describe(out, about(data, vocabulary), description, license)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(
        f"{out}: {config.name}, {model.num_parameters / 1e6:.1f} M parameters and the text encoder, {size / 1e6:.1f} MB"
    )


@command
def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(
        description="Join the two training runs into a model directory."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote"
    )
    parser.add_argument(
        "--tokenizer", type=Path, default=Path("runs/tokenizer"), help="the tokenizer's run"
    )
    parser.add_argument(
        "--transformer", type=Path, default=Path("runs/transformer"), help="the transformer's run"
    )
    parser.add_argument("--out", type=Path, default=Path("weights/star-mini"))
    parser.add_argument("--vocabulary", default="full", help="which things it was trained on")
    parser.add_argument(
        "--max-things", type=int, default=1, choices=(1, 2, 3), help="it draws in one picture"
    )
    parser.add_argument(
        "--dtype", choices=("int8", "float16"), default="int8", help="of the weights in the files"
    )
    parser.add_argument("--name", help="of the model; by default that of the directory")
    parser.add_argument(
        "--description", help="of the model, for people; by default what the data say"
    )
    parser.add_argument(
        "--license",
        help="of the weights, as an SPDX identifier such as Apache-2.0; by default none",
    )
    arguments = parser.parse_args()
    export(
        arguments.data,
        arguments.tokenizer,
        arguments.transformer,
        arguments.out,
        vocabulary=arguments.vocabulary,
        max_things=arguments.max_things,
        dtype=arguments.dtype,
        name=arguments.name,
        description=arguments.description,
        license=arguments.license,
    )


if __name__ == "__main__":
    main()
