"""Write the trained model as a native directory: ``python -m training.export --out weights/star-mini``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from star_model.checkpoints.saving import save_model
from star_model.model import StarModel
from star_model.networks.text_encoder import load_text_encoder
from star_model.networks.transformer import StarTransformer
from star_model.vocabulary import PromptReader, Vocabulary, words_of
from training.captions import COLOUR_WORDS
from training.concepts import held_out_keywords, load_concepts, with_article
from training.recipe import MODEL
from training.scenes import SceneGenerator
from training.sources import STYLES
from training.tokenize import load_tokenizer, trained_weights

CAPTIONS = 20_000
"""Captions of training whose words a model is taken to know: all that it met often enough to learn."""


def vocabulary_of(data: Path, vocabulary: str) -> Vocabulary:
    """What a model knows that was trained on captions of the concepts in ``vocabulary``; no name that is held out."""
    concepts = load_concepts(data, vocabulary)
    held_out = held_out_keywords(concepts)
    names = {
        c.phrase: tuple(
            n for n in (with_article(c.label), *c.synonyms) if n != held_out.get(c.label)
        )
        for c in concepts
    }
    generator = SceneGenerator(data, seed=0, vocabulary=vocabulary, max_objects=3)
    words = {word for i in range(CAPTIONS) for word in words_of(generator.scene(i).caption)}
    colours = [word for words in COLOUR_WORDS.values() for word in words]
    return Vocabulary(names, tuple(sorted(words)), STYLES, tuple(colours))


def export(
    data: Path, tokenizer: Path, transformer: Path, out: Path, vocabulary: str = "starter"
) -> None:
    """Join what the two runs in ``tokenizer`` and ``transformer`` last saved; the transformer's averaged weights.

    Raises:
        FileNotFoundError: when a run has saved nothing yet.
    """
    cpu = torch.device("cpu")
    network = StarTransformer(MODEL).eval()
    network.load_state_dict(trained_weights(transformer, "transformer.safetensors", "average"))
    encoder = load_text_encoder(
        data / "text_encoder", MODEL.text_encoder, device=cpu, dtype=torch.float32
    )
    reader = PromptReader(vocabulary_of(data, vocabulary), encoder.pooled)
    vqvae = load_tokenizer(tokenizer, cpu)
    model = StarModel(MODEL, network, vqvae, encoder, cpu, torch.float32, reader=reader)
    save_model(model, out, dtype="float16", overwrite=True)
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
    parser.add_argument("--vocabulary", default="starter", help="which concepts it was trained on")
    arguments = parser.parse_args()
    export(
        arguments.data,
        arguments.tokenizer,
        arguments.transformer,
        arguments.out,
        arguments.vocabulary,
    )


if __name__ == "__main__":
    main()
