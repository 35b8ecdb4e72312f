"""Resolving the name of a model to its native directory.

A name is one of three things: a model that is part of this distribution (``star-mini``), a directory, or a published
model (``star-512``, ``var-d30`` and so on). The published files of the latter are taken from ``official/`` in the cache
if they are there, else fetched from the hub and compared with the checksums that it states; they are converted once,
and the result stays in ``models/``::

    CACHE/official/star_rope_d30_512-ar-ckpt-ep1-iter30000.pth
    CACHE/official/vae_ch160v4096z32.pth
    CACHE/official/CLIP/tokenizer/       vocab.json, merges.txt and what else is in that folder
    CACHE/official/CLIP/text_encoder/    config.json, model.safetensors
    CACHE/official/Switti/               model.safetensors: files whose names do not say what they are
    CACHE/models/star-512/               the native directory

The files of each model are in :mod:`star_model.families`. Files that are put there by hand are found without a network.
CACHE is ``~/.cache/star-server`` by default.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from star_model.checkpoints.hub_sums import check_sum
from star_model.errors import CheckpointError, ModelNotFoundError
from star_model.families.family import HubFile
from star_model.families.registry import PRESETS, UNPUBLISHED, family_of
from star_model.native_files import CONFIG

Progress = Callable[[str], None]

EMBEDDED = ("star-mini",)
"""Models that are part of this distribution."""


@dataclass(frozen=True)
class _PublishedFiles:
    transformer: Path
    vqvae: Path
    text_encoders: tuple[Path, ...]


def default_cache() -> Path:
    """Default folder of downloads and converted models."""
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
    """Find the native directory of a model, after fetching and converting it if necessary.

    Args:
        name_or_path: a name, or the path of a native directory.
        cache_dir: see the top of this module.
        weights_dir: folder of embedded models, by default beside this package (a checkout) or in it (a wheel).
        offline: do not use the network.
        allow_unsafe_pickle: see :func:`star_model.checkpoints.published.convert_published`.
        progress: callback that gets a sentence at the start of each download and conversion.

    Raises:
        ModelNotFoundError: when there is no such model or directory, or files of a published model cannot be
            fetched; the message then lists them and where to put each.
        CheckpointError: when a fetched file cannot be converted.
    """
    name = str(name_or_path)
    if name in EMBEDDED:
        return _embedded(name, weights_dir)
    if name in PRESETS:
        return _published(
            name, cache_dir, offline, allow_unsafe_pickle, progress or (lambda message: None)
        )
    if name in UNPUBLISHED:
        raise ModelNotFoundError(UNPUBLISHED[name])
    return _directory(name_or_path)


def check_model(name_or_path: str | Path) -> None:
    """Refuse a name that is no model's, or a directory that holds none; fetches and reads nothing.

    Raises:
        ModelNotFoundError: as :func:`resolve_model`.
    """
    name = str(name_or_path)
    if name in UNPUBLISHED:
        raise ModelNotFoundError(UNPUBLISHED[name])
    if name not in EMBEDDED and name not in PRESETS:
        _directory(name_or_path)


def _directory(name_or_path: str | Path) -> Path:
    """Return the directory of a model that has no name of its own.

    Raises:
        ModelNotFoundError: it holds none, or does not exist.
    """
    name = str(name_or_path)
    path = Path(name_or_path).expanduser()
    if (path / CONFIG).is_file():
        return path
    if path.is_dir():
        raise ModelNotFoundError(f"directory {path} holds no model: there is no {CONFIG} in it")
    if isinstance(name_or_path, Path) or path.name != name:
        raise ModelNotFoundError(f"model directory {path} does not exist")
    known = [*EMBEDDED, *PRESETS]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? Known" if near else "known"
    raise ModelNotFoundError(
        f"unknown model {name!r}; {hint} models are {', '.join(known)}. A directory with a model does as well"
    )


def _embedded(name: str, weights_dir: Path | None) -> Path:
    package = Path(__file__).parents[1]
    places = [weights_dir] if weights_dir else [package.parent / "weights", package / "_weights"]
    for place in places:
        if (place / name / CONFIG).is_file():
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
    if (native / CONFIG).is_file():
        return native
    from filelock import FileLock

    from star_model.checkpoints.published import convert_published

    try:
        native.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(native.with_name(f".{name}.lock")).acquire()
    except OSError as error:
        raise ModelNotFoundError(
            f"{name} cannot be stored in {native.parent}: {error.strerror}; choose another folder with --cache-dir"
        ) from error
    with lock:
        if (native / CONFIG).is_file():  # another process has converted it meanwhile
            return native
        downloads = cache / "hub" if cache_dir else None
        files = _published_files(name, cache, downloads, offline, say)
        say(f"converting {name}, once; this takes a few minutes")
        convert_published(
            transformer=files.transformer,
            vqvae=files.vqvae,
            text_encoder=files.text_encoders,
            out=native,
            preset=name,
            allow_unsafe_pickle=allow_unsafe_pickle,
            dtype="float16",  # as precise as the published code, which computes in it
        )
    return native


def _published_files(
    name: str, cache: Path, downloads: Path | None, offline: bool, say: Progress
) -> _PublishedFiles:
    """Get each part from ``official/`` in the cache, else from the hub library's cache, else from the hub.

    ``downloads`` is the hub library's cache; None is its default, shared with other programs.
    """
    fetch = _Fetch(cache / "official", downloads, offline, say)
    parts = family_of(PRESETS[name]).files(name)
    found: list[Path] = []
    try:
        _quiet_hub()
        for part in parts:  # one after the other, so that ``found`` says which of them failed
            get = fetch.folder if part.files else fetch.file
            found += [get(part)]
    except Exception as error:  # the hub library and those it uses have many ways to fail
        wanted = [
            (fetch.official / part.place / file, part.repository, Path(part.path, file))
            for part in parts[len(found) :]
            for file in part.files or ("",)
        ]
        listed = "".join(
            f"\n  {file}  from {repository}, {path.as_posix()}"
            for file, repository, path in wanted
            if not file.is_file()
        )
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        if offline and not isinstance(error, CheckpointError):
            reason = "this is offline"
        raise ModelNotFoundError(
            f"{name} cannot be fetched: {reason or type(error).__name__}. Put these files in place, "
            f"from these repositories of the hub, and try again:{listed}"
        ) from error
    return _PublishedFiles(found[0], found[1], tuple(found[2:]))


def _quiet_hub() -> None:
    """Keep the hub library from logging each request that it tries again; what fails in the end is said by us."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@dataclass(frozen=True)
class _Fetch:
    official: Path
    downloads: Path | None
    offline: bool
    say: Progress

    def file(self, part: HubFile) -> Path:
        """Get a file from ``official/``, or else from its repository."""
        if (local := self.official / part.place).is_file():
            return local
        from huggingface_hub import hf_hub_download

        from star_model.checkpoints.fetch_progress import progress_of

        self._announce(part.path, part.repository)
        file = Path(
            hf_hub_download(
                part.repository,
                part.path,
                cache_dir=self.downloads,
                local_files_only=self.offline,
                tqdm_class=progress_of(part.path, self.say),
            )
        )
        check_sum(file, part.repository, part.path, offline=self.offline, say=self.say)
        return file

    def folder(self, part: HubFile) -> Path:
        """Get a folder from ``official/``, or else from its repository."""
        if (local := self.official / part.place).is_dir():
            return local
        self._announce(part.path or "text encoder", part.repository)
        folder = self._snapshot(part, "*.bin")
        if any(
            name.endswith(".safetensors") and not (folder / name).is_file() for name in part.files
        ):
            folder = self._snapshot(part)  # then it is published in the older format only
        configs = [name for name in part.files if Path(name).name == "config.json"]
        if not all((folder / name).is_file() for name in configs):
            raise FileNotFoundError(f"{part.path or configs[0]} is not in {part.repository}")
        return folder

    def _announce(self, what: str, repository: str) -> None:
        """Say what comes from where; offline, that is the hub library's cache alone."""
        if self.offline:
            self.say(f"looking for {what} of {repository} in the cache; nothing is fetched")
        else:
            self.say(f"fetching {what} from {repository}")

    def _snapshot(self, part: HubFile, *ignored: str) -> Path:
        from huggingface_hub import snapshot_download

        from star_model.checkpoints.fetch_progress import progress_of

        # Of a whole repository only what is needed: it may hold the same weights in several formats.
        weights = ["model*.safetensors", "pytorch_model*.bin"]
        wanted = [f"{part.path}/*"] if part.path else [*part.files, *weights, "*.json"]
        unwanted = ["*.fp16.*", *ignored]
        root = Path(
            snapshot_download(
                part.repository,
                allow_patterns=wanted,
                ignore_patterns=unwanted,
                cache_dir=self.downloads,
                local_files_only=self.offline,
                tqdm_class=progress_of(part.path or part.repository, self.say),
            )
        )
        # Other programs may have fetched more of the repository into the same cache.
        names = (f.relative_to(root).as_posix() for f in sorted(root.rglob("*")) if f.is_file())
        for name in names:
            if _matches(name, wanted) and not _matches(name, unwanted):
                check_sum(root / name, part.repository, name, offline=self.offline, say=self.say)
        return root / part.path


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether the path of a file matches one of the patterns, as the hub library compares them."""
    return any(fnmatch(name, pattern) for pattern in patterns)
