"""From the name of a model to its native directory.

A name is one of three things: a model that is part of this distribution (``star-mini``), a directory, or a
published model (``star-512``, ``var-d30`` and their siblings). The official files of the latter are taken from
``official/`` in the cache if they are there, else fetched from the hub; they are converted once, and the
result stays in ``models/``::

    CACHE/official/star_rope_d30_512-ar-ckpt-ep1-iter30000.pth
    CACHE/official/vae_ch160v4096z32.pth
    CACHE/official/CLIP/tokenizer/       vocab.json, merges.txt and what else is in that folder
    CACHE/official/CLIP/text_encoder/    config.json, model.safetensors
    CACHE/models/star-512/               the native directory

A VAR has no CLIP. Files that are put there by hand are found without a network. CACHE is
``~/.cache/star-server`` by default.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from star_model.config import PRESETS
from star_model.errors import ModelNotFoundError

Progress = Callable[[str], None]

EMBEDDED = ("star-mini",)
"""Models that are part of this distribution."""

STAR_REPOSITORY = "taocrayon/STAR"
VAR_REPOSITORY = "FoundationVision/var"

OFFICIAL_TRANSFORMERS = {
    "star-256": "star_rope_d30_256-ar-ckpt-ep3-iter20000.pth",
    "star-512": "star_rope_d30_512-ar-ckpt-ep1-iter30000.pth",
    "star-1024": "star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth",
    "star-256-d16": "star_rope_d16_256.pth",
    "var-d16": "var_d16.pth",
    "var-d20": "var_d20.pth",
    "var-d24": "var_d24.pth",
    "var-d30": "var_d30.pth",
    "var-d36": "var_d36.pth",
}
_UNPUBLISHED = (
    "star_rope_d16_256.pth"  # described by its authors, not in their repository; the name is ours
)
OFFICIAL_VQVAE = "vae_ch160v4096z32.pth"
OFFICIAL_CLIP = "CLIP"

_CLIP_FILES = (
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
)


@dataclass(frozen=True)
class _OfficialFiles:
    transformer: Path
    vqvae: Path
    clip: Path | None


def default_cache() -> Path:
    """Where downloads and converted models are kept unless a user says otherwise."""
    return Path.home() / ".cache" / "star-server"


def resolve_model(
    name_or_path: str | Path,
    *,
    cache_dir: Path | None = None,
    weights_dir: Path | None = None,
    offline: bool = False,
    allow_unsafe_pickle: bool = False,
    progress: Progress | None = None,
) -> Path:
    """The native directory of a model, after fetching and converting it if need be.

    Args:
        name_or_path: a name, or the path of a native directory.
        cache_dir: see the top of this module.
        weights_dir: where embedded models are, by default beside this package (a checkout) or in it (a
            wheel).
        offline: never touch the network.
        allow_unsafe_pickle: see :func:`star_model.checkpoints.published.convert_published`.
        progress: told what is being done, in a sentence.

    Raises:
        ModelNotFoundError: when there is no such model or directory, or files of a published model cannot be
            fetched; it then names each and says where to put it.
        CheckpointError: when a fetched file cannot be converted.
    """
    name = str(name_or_path)
    if name in EMBEDDED:
        return _embedded(name, weights_dir)
    if name in PRESETS:
        return _published(
            name, cache_dir, offline, allow_unsafe_pickle, progress or (lambda message: None)
        )
    path = Path(name_or_path).expanduser()
    if (path / "config.json").is_file():
        return path
    if path.is_dir():
        raise ModelNotFoundError(f"directory {path} holds no model: there is no config.json in it")
    if isinstance(name_or_path, Path) or path.name != name:
        raise ModelNotFoundError(f"model directory {path} does not exist")
    known = [*EMBEDDED, *PRESETS]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ModelNotFoundError(
        f"unknown model {name!r}; {hint}Known are {', '.join(known)}, or give the path of a model directory"
    )


def _embedded(name: str, weights_dir: Path | None) -> Path:
    package = Path(__file__).parents[1]
    places = [weights_dir] if weights_dir else [package.parent / "weights", package / "_weights"]
    for place in places:
        if (place / name / "config.json").is_file():
            return place / name
    raise ModelNotFoundError(
        f"the model {name} is not in {' or '.join(str(place) for place in places)}; install the package with "
        "its weights, or give the path of another model directory"
    )


def _published(
    name: str, cache_dir: Path | None, offline: bool, allow_unsafe_pickle: bool, say: Progress
) -> Path:
    cache = cache_dir or default_cache()
    native = cache / "models" / name
    if (native / "config.json").is_file():
        return native
    from filelock import FileLock

    from star_model.checkpoints.published import convert_published

    try:
        native.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(native.with_name(f".{name}.lock")).acquire()
    except OSError as error:
        raise ModelNotFoundError(
            f"{name} is to be kept in {native.parent}, where nothing can be written ({error.strerror}); choose another "
            "folder with --cache-dir"
        ) from error
    with lock:
        if (native / "config.json").is_file():  # another process has converted it meanwhile
            return native
        downloads = cache / "hub" if cache_dir else None
        files = _official_files(name, cache, downloads, offline, say)
        say(f"converting {name}, once; this takes a few minutes")
        convert_published(
            transformer=files.transformer,
            vqvae=files.vqvae,
            text_encoder=files.clip,
            out=native,
            preset=name,
            allow_unsafe_pickle=allow_unsafe_pickle,
            dtype="float16",  # as precise as the published code, which computes in it
        )
    return native


def _official_files(
    name: str, cache: Path, downloads: Path | None, offline: bool, say: Progress
) -> _OfficialFiles:
    """Each part from ``official/`` in the cache, else from the hub library's cache, else from the hub.

    ``downloads`` is the hub library's cache; None is its default, shared with other programs.
    """
    fetch = _Fetch(cache / "official", downloads, offline, say)
    class_conditional = PRESETS[name].transformer.num_classes > 0
    repository = VAR_REPOSITORY if class_conditional else STAR_REPOSITORY
    steps: list[tuple[str, Callable[[], Path]]] = [
        (OFFICIAL_TRANSFORMERS[name], lambda: fetch.file(repository, OFFICIAL_TRANSFORMERS[name])),
        (OFFICIAL_VQVAE, lambda: fetch.file(VAR_REPOSITORY, OFFICIAL_VQVAE)),
    ]
    if not class_conditional:
        steps.append((OFFICIAL_CLIP, fetch.clip))
    found: list[Path] = []
    try:
        for _, get in steps:
            found.append(get())
    except Exception as error:  # the hub library and what it stands on have many ways to fail
        wanted = [fetch.official / part for part, _ in steps[len(found) :]]
        files = [file for part in wanted for file in _files_of(part) if not file.is_file()]
        listed = "".join(f"\n  {file}" for file in files)
        reason = "this is offline" if offline else str(error).strip().partition("\n")[0]
        places = " and ".join(dict.fromkeys((repository, VAR_REPOSITORY)))
        raise ModelNotFoundError(
            f"{name} cannot be fetched: {reason or type(error).__name__}. Put these files of {places} on the hub "
            f"in place and try again:{listed}"
        ) from error
    transformer, vqvae, *clip = found
    return _OfficialFiles(transformer, vqvae, clip[0] if clip else None)


def _files_of(part: Path) -> list[Path]:
    if part.name != OFFICIAL_CLIP:
        return [part]
    return [part / file for file in _CLIP_FILES]


@dataclass(frozen=True)
class _Fetch:
    official: Path
    downloads: Path | None
    offline: bool
    say: Progress

    def file(self, repository: str, filename: str) -> Path:
        """A file that was put in place, or else of ``repository``."""
        if (local := self.official / filename).is_file():
            return local
        if filename == _UNPUBLISHED:
            raise FileNotFoundError("its authors have not published these weights")
        from huggingface_hub import hf_hub_download

        self.say(f"fetching {filename} from {repository}")
        return Path(
            hf_hub_download(
                repository, filename, cache_dir=self.downloads, local_files_only=self.offline
            )
        )

    def clip(self) -> Path:
        """The folder of the text encoder, likewise."""
        if (local := self.official / OFFICIAL_CLIP).is_dir():
            return local
        self.say(f"fetching {OFFICIAL_CLIP} from {STAR_REPOSITORY}")
        folder = self._snapshot("*.bin")
        if not (folder / "text_encoder" / "model.safetensors").is_file():
            folder = self._snapshot()  # then it is published in the older format only
        if not (folder / "text_encoder" / "config.json").is_file():
            raise FileNotFoundError(f"{OFFICIAL_CLIP} is not in {STAR_REPOSITORY}")
        return folder

    def _snapshot(self, *ignored: str) -> Path:
        from huggingface_hub import snapshot_download

        root = snapshot_download(
            STAR_REPOSITORY,
            allow_patterns=[f"{OFFICIAL_CLIP}/*"],
            ignore_patterns=["*.fp16.*", *ignored],
            cache_dir=self.downloads,
            local_files_only=self.offline,
        )
        return Path(root) / OFFICIAL_CLIP
