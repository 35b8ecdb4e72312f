"""Write the trained model as a native directory: ``python -m training.export --out weights/star-mini``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from star_model.checkpoint import save_model
from star_model.model import StarModel
from star_model.text_encoder import load_text_encoder
from star_model.transformer import StarTransformer
from training.recipe import MODEL
from training.tokenize import load_tokenizer, trained_weights


def export(data: Path, tokenizer: Path, transformer: Path, out: Path) -> None:
    """Join what the two runs in ``tokenizer`` and ``transformer`` last saved; the transformer's averaged weights.

    Raises:
        FileNotFoundError: when a run has saved nothing yet.
    """
    cpu = torch.device("cpu")
    network = StarTransformer(MODEL).eval()
    network.load_state_dict(trained_weights(transformer, "transformer.safetensors", "average"))
    encoder = load_text_encoder(data / "text_encoder", MODEL.text_encoder, device=cpu, dtype=torch.float32)
    model = StarModel(MODEL, network, load_tokenizer(tokenizer, cpu), encoder, cpu, torch.float32)
    save_model(model, out, dtype="float16", overwrite=True)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {model.num_parameters / 1e6:.1f} M parameters and the text encoder, {size / 1e6:.1f} MB")


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description="Join the two training runs into a model directory.")
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote")
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/tokenizer"), help="the tokenizer's run")
    parser.add_argument(
        "--transformer", type=Path, default=Path("runs/transformer"), help="the transformer's run"
    )
    parser.add_argument("--out", type=Path, default=Path("weights/star-mini"))
    arguments = parser.parse_args()
    export(arguments.data, arguments.tokenizer, arguments.transformer, arguments.out)


if __name__ == "__main__":
    main()
