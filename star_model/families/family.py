"""A published family of models, as data: its presets, its files, and the names of the tensors in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from star_model.config import ModelConfig

Shape = tuple[int, ...]
Names = Mapping[str, str | tuple[str | None, ...]]
"""Native name of a tensor -> its published name, or several that are joined along the first dimension, in which None
stands for zeros."""


def _as_it_is(names: Collection[str]) -> Mapping[str, str]:
    return {name: name for name in names}


@dataclass(frozen=True)
class PublishedNetwork:
    """The contents of a published file: one network.

    Attributes:
        title: for sentences, such as "a VQVAE".
        names: configuration -> names of all its tensors.
        markers: published names by which such a file is recognised: one of them is in it.
        buffers: pattern of published names that are not weights and are dropped.
        zeros: pattern of those buffers that must hold nothing but zeros.
        shapes: last part of a published name -> native shape to published shape, where they differ.
        other_shapes: likewise, a shape of as many values that files of another version have.
        canonical: all names in a file -> each in the form that :attr:`names` and the patterns above use.
        unsupported: published names of variants that cannot be converted -> their titles.
    """

    title: str
    names: Callable[[ModelConfig], Names]
    markers: frozenset[str]
    buffers: re.Pattern[str]
    zeros: re.Pattern[str] = re.compile(r"(?!)")  # matches nothing
    shapes: Mapping[str, Callable[[Shape], Shape]] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    other_shapes: Mapping[str, Callable[[Shape], Shape]] = field(default_factory=dict)
    canonical: Callable[[Collection[str]], Mapping[str, str]] = _as_it_is


@dataclass(frozen=True)
class HubFile:
    """A file, or a folder of files, in a repository of the Hugging Face hub.

    Attributes:
        repository: owner and name.
        path: of the file or the folder in it; "" for the whole repository.
        files: of a folder: the files in it that are needed.
        folder: where the repository's files are put by hand, below ``official/`` in the cache; "" for ``official/``
            itself, if their names say what they are.
    """

    repository: str
    path: str
    files: tuple[str, ...] = ()
    folder: str = ""

    @property
    def place(self) -> str:
        """Path of the file or the folder below ``official/`` in the cache."""
        return "/".join(part for part in (self.folder, self.path) if part)


@dataclass(frozen=True)
class Family:
    """A published family of models.

    Attributes:
        describes: configuration -> whether it is of this family.
        presets: configurations of the published models.
        transformer: the transformer's tensors.
        vqvae: the image tokenizer's tensors.
        transformer_files: name of a preset -> the file of its transformer.
        vqvae_file: one for all presets but those in ``other_vqvae_files``.
        text_encoders: folder of each text encoder; none for a class-conditional family.
        other_vqvae_files: name of a preset -> the file of its VQVAE, if it is another one.
        license: of the weights, as an SPDX identifier; None if none is known to be stated.
        other_licenses: name of a preset -> the same, if it has another one or none.
        unpublished: names of models that the authors describe but have not uploaded -> a sentence that says so.
    """

    describes: Callable[[ModelConfig], bool]
    presets: tuple[ModelConfig, ...]
    transformer: PublishedNetwork
    vqvae: PublishedNetwork
    transformer_files: Mapping[str, HubFile]
    vqvae_file: HubFile
    text_encoders: tuple[HubFile, ...]
    other_vqvae_files: Mapping[str, HubFile] = field(default_factory=dict)
    license: str | None = None
    other_licenses: Mapping[str, str | None] = field(default_factory=dict)
    unpublished: Mapping[str, str] = field(default_factory=dict)

    def license_of(self, name: str) -> str | None:
        """Licence of the weights of the preset called ``name``."""
        return self.other_licenses.get(name, self.license)

    def files(self, name: str) -> tuple[HubFile, ...]:
        """Everything that the preset called ``name`` is made of: transformer, VQVAE, then its text encoders, if any."""
        vqvae = self.other_vqvae_files.get(name, self.vqvae_file)
        return (self.transformer_files[name], vqvae, *self.text_encoders)


def names_in_blocks(block: Names, depth: int) -> dict[str, str | tuple[str | None, ...]]:
    """The names of all ``depth`` blocks of a transformer, both sides prefixed with ``blocks.N.``."""
    names: dict[str, str | tuple[str | None, ...]] = {}
    for i in range(depth):
        for native, published in block.items():
            if isinstance(published, str):
                names[f"blocks.{i}.{native}"] = f"blocks.{i}.{published}"
            else:
                names[f"blocks.{i}.{native}"] = tuple(p and f"blocks.{i}.{p}" for p in published)
    return names
