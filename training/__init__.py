"""Training of the default model: data, captions, scenes, tokenizer, transformer, evaluation."""

from __future__ import annotations

from star_model.threads import limit_spinning

limit_spinning()  # before a module of this package loads torch
