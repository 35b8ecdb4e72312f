"""Write the trained model as a native directory: ``python -m training.export --out weights/star-mini``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from star_model.checkpoints.saving import save_model
from star_model.model import StarModel
from star_model.networks.text_encoder import load_text_encoder
from star_model.networks.transformer import StarTransformer
from star_model.prompt_reader import PromptReader
from star_model.vocabulary import Vocabulary, words_of
from training.backdrops import BACKDROPS
from training.captions import COLOUR_WORDS
from training.concepts import Concept, held_out_keywords, load_concepts, with_article
from training.scenes import FOR_TRANSFORMER, SceneGenerator
from training.sources import STYLES
from training.tokenize import config_of, load_tokenizer, trained_weights

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
            n for n in (with_article(c.label), *c.synonyms) if n != held_out.get(c.label)
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
    )


def kinds_of(concepts: Sequence[Concept]) -> dict[str, tuple[str, ...]]:
    """Kind -> phrases of the concepts of that kind, in their order."""
    kinds: dict[str, list[str]] = {}
    for concept in concepts:
        if concept.kind is not None:
            kinds.setdefault(concept.kind, []).append(concept.phrase)
    return {kind: tuple(phrases) for kind, phrases in kinds.items()}


def export(
    data: Path,
    tokenizer: Path,
    transformer: Path,
    out: Path,
    *,
    vocabulary: str = "full",
    max_things: int = 1,
    dtype: str = "int8",
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

    Raises:
        FileNotFoundError: when a run has saved nothing yet.
    """
    cpu, config = torch.device("cpu"), config_of(transformer)
    network = StarTransformer(config).eval()
    network.load_state_dict(trained_weights(transformer, "transformer.safetensors", "average"))
    encoder = load_text_encoder(
        data / "text_encoder", config.text_encoder, device=cpu, dtype=torch.float32
    )
    known = vocabulary_of(data, vocabulary, max_things=max_things)
    reader = PromptReader(known, encoder.pooled, encoder.is_word)
    images = load_tokenizer(tokenizer, cpu)
    model = StarModel(config, network, images, encoder, cpu, torch.float32, reader=reader)
    save_model(model, out, dtype=dtype, overwrite=True)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(
        f"{out}: {model.num_parameters / 1e6:.1f} M parameters and the text encoder, {size / 1e6:.1f} MB"
    )


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
    arguments = parser.parse_args()
    export(
        arguments.data,
        arguments.tokenizer,
        arguments.transformer,
        arguments.out,
        vocabulary=arguments.vocabulary,
        max_things=arguments.max_things,
        dtype=arguments.dtype,
    )


if __name__ == "__main__":
    main()
