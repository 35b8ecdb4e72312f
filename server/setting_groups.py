"""The settings in groups, as ``--help`` and the example file show them, and that file itself."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from server.settings import Settings

SAMPLING = "sampling, by default as the model has it"
"""Title of the group of settings that are parameters of requests too."""

GROUPS: dict[str, tuple[str, ...]] = {
    "model and device": (
        *("model", "device", "dtype", "mode", "threads", "attention"),
        *("cache_dir", "offline", "allow_unsafe_pickle"),
    ),
    "workers and batches": (
        *("workers", "slots", "max_batch", "max_step", "cuda_graphs", "compile", "text_cache"),
    ),
    "address and proxies": (
        *("host", "port", "root_path", "public_url", "trusted_proxies"),
        *("allowed_hosts", "cors_origins"),
    ),
    "keys and rate limits": (
        *("api_keys", "api_key_file", "requests_per_minute", "images_per_minute"),
    ),
    "administration": (*("admin_port", "admin_host", "admin_key", "admin_key_file"),),
    SAMPLING: ("unguided_scales", "draft"),
    "queue and deadlines": (
        *("queue_capacity", "default_timeout_s", "max_timeout_s", "drain_timeout_s"),
    ),
    "connections and bodies": (
        *("max_connections", "max_header_bytes", "max_body_bytes", "max_upload_bytes"),
        *("max_bodies_bytes", "header_timeout_s", "body_timeout_s", "write_timeout_s"),
        *("keep_alive_s", "stream_comment_s"),
    ),
    "uploaded images": (
        *("max_image_pixels", "decode_processes", "decode_timeout_s", "decode_memory_bytes"),
    ),
    "answers": (
        *("on_unknown", "compatibility", "model_aliases", "default_response_format"),
        *("previews", "preview_buffer", "encode_threads"),
    ),
    "images behind URLs": (
        *("image_store", "s3_endpoint", "stored_images", "stored_bytes", "stored_s"),
    ),
    "safety hook": (
        *("safety_hook", "safety_stages", "safety_uploads", "safety_previews"),
        *("safety_on_failure", "safety_timeout_s", "safety_concurrency", "safety_token"),
    ),
    "batches": (
        *("batch_store", "batch_requests", "batch_file_bytes", "batch_concurrency"),
        *("batches_per_caller", "batch_files_per_caller", "batch_stored_bytes", "batch_stored_s"),
        *("batch_longest_window_s", "batch_takeover_s"),
    ),
    "image files": (*("metadata", "c2pa_certificate", "c2pa_key", "c2pa_timestamp_url"),),
    "supervision of workers": (
        *("load_timeout_s", "heartbeat_timeout_s", "stall_timeout_s", "restart_backoff_s"),
    ),
    "log": (*("log_level", "log_format", "log_prompts", "log_client_address"),),
}
"""Title of a group -> its settings, each in one group."""

OTHERS = "others"
"""Title of the group of settings that no other group has."""

_WIDTH = 100
_HEAD = """\
# Settings of star-server, all of them with their defaults: `star-server serve --config FILE`.
#
# Remove the # before a setting that you change. Flags (--slots 4) and variables (STAR_SLOTS=4) override the file. A
# name that does not exist, or a value out of range, ends the start with a sentence.
"""


def group_of(name: str) -> str:
    """Return the title of a setting's group; names may be written with hyphens, as flags are."""
    asked = name.replace("-", "_")
    return next((title for title, names in GROUPS.items() if asked in names), OTHERS)


def example_file() -> str:
    """Return a YAML file with all settings as comments: group, description, default."""
    return _HEAD + "".join(_lines())


def _lines() -> Iterator[str]:
    fields = {name: field for name, field in Settings.model_fields.items() if name != "config"}
    titles = dict.fromkeys(map(group_of, fields))
    for title in sorted(titles, key=[*GROUPS, OTHERS].index):
        yield f"\n\n# ---- {title}\n"
        names = GROUPS.get(title) or [name for name in fields if group_of(name) == title]
        for name in names:
            yield from _setting(name, fields[name])


def _setting(name: str, field: FieldInfo) -> Iterator[str]:
    """Yield the lines of one setting: its description, and its default as a line that can be put into force."""
    for line in textwrap.wrap(field.description or "", _WIDTH):
        yield f"\n# {line}"
    yield f"\n#{name}: {_yaml(field.default)}\n"


def _yaml(value: object) -> str:
    """Return a default as YAML: a plain word as it is, all else as JSON, which YAML includes."""
    plain = isinstance(value, str) and value.replace("-", "").replace(".", "").isalpha()
    return str(value) if plain else json.dumps(value)
