"""The store of rendered drawings: one array for each style, and an index from concept to row.

    sprites/index.json     {"size": 384, "styles": {style: {"source": "...", "rows": {label: row}}}}
    sprites/STYLE.npy      uint8 (N, size, size, 4), RGBA, premultiplied alpha; memory-mapped when read

Files are replaced whole, by a rename: a reader that has one mapped keeps what it has, and rows never move.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SPRITE_SIZE = 384

Pixels = npt.NDArray[np.uint8]


def premultiply(straight: Pixels) -> Pixels:
    """RGBA (..., 4) uint8 with straight alpha -> the same with colour multiplied by alpha, rounded."""
    alpha = straight[..., 3:].astype(np.uint16)
    colour = (straight[..., :3].astype(np.uint16) * alpha + 127) // 255
    return np.concatenate([colour.astype(np.uint8), straight[..., 3:]], axis=-1)


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    if not path.exists():
        return {"size": SPRITE_SIZE, "styles": {}}
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return index


def _replace(path: Path, write: Any) -> None:
    scratch = path.with_name(path.name + ".part")
    with scratch.open("wb") as file:
        write(file)
    os.replace(scratch, path)


class SpriteWriter:
    """Adds drawings of one style to a store. `source` tells drawings of another origin or version apart."""

    def __init__(self, folder: Path, style: str, *, source: str, size: int = SPRITE_SIZE) -> None:
        """Raises ValueError if the store holds drawings of another size."""
        index = _read_index(folder)
        if index["size"] != size and index["styles"]:
            raise ValueError(
                f"{folder} holds drawings of {index['size']} px, not {size}: delete it"
            )
        entry = index["styles"].get(style)
        same = entry is not None and entry["source"] == source
        self._folder, self._style, self._source, self._size = folder, style, source, size
        self._rows: dict[str, int] = dict(entry["rows"]) if same else {}
        self._dropped: set[str] = set(entry.get("dropped", ())) if same else set()
        self._stored = len(self._rows)
        self._new: list[Pixels] = []

    def __contains__(self, label: str) -> bool:
        """True if `label` is drawn already, or known to be blank."""
        return label in self._rows or label in self._dropped

    @property
    def dropped(self) -> frozenset[str]:
        """Labels whose drawings were blank."""
        return frozenset(self._dropped)

    def add(self, label: str, drawing: Pixels) -> bool:
        """Add a drawing, uint8 (size, size, 4) premultiplied; False if it is blank and so not stored.

        Raises:
            ValueError: wrong shape or type, or the label is there already.
        """
        if drawing.shape != (self._size, self._size, 4) or drawing.dtype != np.uint8:
            raise ValueError(
                f"{label}: expected uint8 ({self._size}, {self._size}, 4), got {drawing.shape}"
            )
        if label in self:
            raise ValueError(f"{label} is in the store already")
        if not drawing[..., 3].any():
            self._dropped.add(label)
            return False
        self._rows[label] = len(self._rows)
        self._new.append(drawing)
        return True

    def close(self) -> None:
        """Write what was added, the array before the index, so that no row is named before it exists."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._style}.npy"
        if self._new:
            shape = (len(self._rows), self._size, self._size, 4)
            old = np.load(path, mmap_mode="r") if self._stored else None

            def write(file: Any) -> None:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                if old is not None:
                    for row in range(self._stored):
                        file.write(old[row].tobytes())
                for drawing in self._new:
                    file.write(drawing.tobytes())

            _replace(path, write)
        index = _read_index(self._folder)
        index["size"] = self._size
        index["styles"][self._style] = {
            "source": self._source,
            "rows": self._rows,
            "dropped": sorted(self._dropped),
        }
        text = json.dumps(index, indent=1, ensure_ascii=False)
        _replace(self._folder / "index.json", lambda file: file.write(text.encode("utf-8")))
        self._stored, self._new = len(self._rows), []


class Sprites:
    """Read access to the drawings of a data folder (the parent of `sprites/`), memory-mapped."""

    def __init__(self, data: Path) -> None:
        """Raises FileNotFoundError if nothing has been rendered there."""
        folder = data / "sprites"
        if not (folder / "index.json").exists():
            raise FileNotFoundError(
                f"no drawings in {folder}: run `python -m training.prepare --out {data}`"
            )
        index = _read_index(folder)
        self.size: int = index["size"]
        self._rows: dict[str, dict[str, int]] = {s: e["rows"] for s, e in index["styles"].items()}
        self._arrays: Mapping[str, Pixels] = {
            style: np.load(folder / f"{style}.npy", mmap_mode="r")
            for style, rows in self._rows.items()
            if rows
        }

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles that are drawn."""
        return tuple(self._arrays)

    def labels(self, style: str) -> tuple[str, ...]:
        """Labels drawn in `style`, in order of their rows. Raises KeyError for an unknown style."""
        return tuple(sorted(self._rows[style], key=self._rows[style].__getitem__))

    def drawing(self, label: str, style: str) -> Pixels:
        """uint8 (size, size, 4), premultiplied, read-only. Raises KeyError if it is not drawn."""
        drawing: Pixels = self._arrays[style][self._rows[style][label]]
        return drawing
