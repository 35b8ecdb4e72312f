from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import functools
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_model.checkpoints import pickle_machine
from star_model.checkpoints.pickle_machine import Global, PickleError, Placeholder, unpickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(data: bytes) -> Any:
    return unpickle(io.BytesIO(data), {})


# ---- plain values ------------------------------------------------------------------------------------------

_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**600), 2**600)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.binary().map(bytearray)
)
_keys = st.text() | st.integers(-(2**59), 2**59) | st.booleans() | st.none()
_plain = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=settings().max_examples // 2)
@given(value=_plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_are_those_of_pickle(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    if (
        b"_codecs" in data or b"\nbytes" in data or b"bytearray" in data
    ):  # old protocols call functions to make bytes
        return
    assert read(data) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_circular_values(protocol: int) -> None:
    shared: list[Any] = [1]
    value: dict[str, Any] = {"a": shared, "b": shared}
    value["self"] = value
    found = read(pickle.dumps(value, protocol))
    assert found["a"] == [1]
    assert found["a"] is found["b"]
    assert found["self"] is found


# ---- other objects -----------------------------------------------------------------------------------------


class Stateful:
    """An object that runs code when its state is set, and with each item that it is given."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce_ex__(self, protocol: Any) -> Any:
        items = ((key, 1) for key in "ab")
        return (Stateful, (self.path,), {"path": self.path}, iter([1, 2]), items)

    def __setstate__(self, state: Any) -> None:
        os.mkdir(self.path)

    def append(self, item: Any) -> None:
        os.mkdir(self.path)

    __setitem__ = append


class Caller:
    """An object whose unpickling calls a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "make",
    [
        Stateful,
        lambda path: Caller(os.mkdir, str(path)),
        lambda path: Caller(eval, f"__import__('os').mkdir({str(path)!r})"),
        lambda path: Caller(functools.partial, os.mkdir, Caller(os.mkdir, str(path))),
        lambda path: Caller(getattr, Caller(__import__, "os"), "mkdir"),
        lambda path: {1, "a"},
        lambda path: frozenset({1}),
        lambda path: collections.defaultdict(list, a=[1]),
        lambda path: argparse.Namespace(lr=1, path=path),
        lambda path: datetime.datetime(2024, 1, 1),
        lambda path: path,
        lambda path: os.mkdir,
        lambda path: complex(1, 2),
    ],
)
def test_other_objects_are_names_and_run_nothing(
    tmp_path: Path, protocol: int, make: Callable[[Path], Any]
) -> None:
    mark = tmp_path / "mark"
    data = pickle.dumps({"before": 1, "object": make(mark), "after": [2]}, protocol)
    found = read(data)
    assert isinstance(found.pop("object"), Placeholder | Global)
    assert found == {"before": 1, "after": [2]}
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nmkdir\n(S'%s'\ntR.",  # call
        b"(S'%s'\nios\nmkdir\n.",  # instance of protocol 0
        b"(cos\nmkdir\nS'%s'\no.",  # object
        b"\x80\x02cos\nmkdir\nX\x04\x00\x00\x00%s\x85\x81.",  # new object
        b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x04%s\x85}\x92.",  # with named arguments
        b"cos\nmkdir\n(S'%s'\ntR(S'%s'\ntR.",  # call of a result
        b"cos\nmkdir\n}S'__code__'\nS'%s'\nsb(S'%s'\ntR.",  # attributes of a function
    ],
)
def test_pickles_by_hand_run_nothing(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(read(data.replace(b"%s", b"mark")), Placeholder)
    assert list(tmp_path.iterdir()) == []


def test_what_builders_build() -> None:
    data = pickle.dumps([Caller(os.mkdir, "a"), Caller(os.rmdir, "b")])
    name = Global(os.mkdir.__module__, "mkdir")
    built, placeholder = unpickle(io.BytesIO(data), {name: lambda arguments: arguments})
    assert built == ("a",)
    assert isinstance(placeholder, Placeholder)
    assert placeholder.kind == Global(os.rmdir.__module__, "rmdir")


def test_references_to_the_outside() -> None:
    data = b"\x80\x02K\x07Q."
    assert unpickle(io.BytesIO(data), {}, lambda name: name + 1) == 8
    with pytest.raises(PickleError, match="refers to something outside"):
        read(data)


# ---- attacks -----------------------------------------------------------------------------------------------


def test_no_nesting_is_too_deep() -> None:
    deep = 100_000
    assert read(b"]" * deep + b"a" * (deep - 1) + b".")
    assert read(b")" + b"\x85" * deep + b".")
    assert isinstance(read(b"cos\nmkdir\n" + b")R" * deep + b"."), Placeholder)
    with pytest.raises(PickleError):
        read(b"(" * deep + b".")


def test_keys_that_hash_slowly_are_left_out() -> None:
    doubled = b")" + b"2\x86" * 60  # a tuple of 2 ** 60 empty ones
    assert read(b"}" + doubled + b"K\x01sX\x01\x00\x00\x00aK\x02s.") == {"a": 2}
    colliding = b"".join(
        b"\x8a\x09" + (k * (2**61 - 1)).to_bytes(9, "little") + b"N" for k in range(2, 9)
    )
    assert read(b"}(" + colliding + b"u.") == {}


@pytest.mark.parametrize(
    "data",
    [
        b"\x8d" + (2**62).to_bytes(8, "little") + b"abc.",  # text of so many bytes
        b"\x8e" + (2**40).to_bytes(8, "little") + b"abc.",  # bytes
        b"\x96" + (2**40).to_bytes(8, "little") + b"abc.",
        b"\x8b" + (2**31 - 1).to_bytes(4, "little") + b"abc.",  # a number
        b"\x8b" + (300).to_bytes(4, "little") + b"\x01" * 300 + b".",
        b"L" + b"9" * 5000 + b"L\n.",
        b"I" + b"9" * 4000 + b"\n.",
        b"\x82\x01.",  # a class by its number in the registry of copyreg
        b"Pname\n.",  # an object outside, by text
        b"\x97.",  # a buffer outside
        b"h\x01.",  # what was never memorized
        b"0.", b"2.", b"1.", b"t.", b"u.", b"s.", b"a.", b"R.", b"b.", b"\x87.", b"q\x01.", b".",
        b"K\x01K\x02a.",  # appends to a number
        b"}(K\x01u.",  # a key without a value
        b"K\x01K\x02K\x03s.",
        b"cos\nmkdir\nK\x01R.",  # arguments that are no tuple
        b"K\x01K\x02\x93.",
        b"N",  # no end
        b"",
        b"\xff.",
    ],
)  # fmt: skip
def test_a_bad_pickle_is_an_error(data: bytes) -> None:
    with pytest.raises(PickleError):
        read(data)


def test_operations_and_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MOST_OPERATIONS", 100)
    assert read(b"]" * 98 + b".") == []
    with pytest.raises(PickleError, match="more than 100 operations"):
        read(b"]\x94" * 51 + b".")
    monkeypatch.setattr(pickle_machine, "LARGEST_PICKLE", 1000)
    assert read(b"\x8d" + (900).to_bytes(8, "little") + b"a" * 900 + b".") == "a" * 900
    for data in (
        b"\x8d" + (1000).to_bytes(8, "little") + b"a" * 1000 + b".",
        b"S'" + b"a" * 2000 + b"'\n.",
    ):
        with pytest.raises(PickleError, match="larger than 1000 bytes"):
            read(data)


@settings(max_examples=2 * settings().max_examples)
@given(st.binary(max_size=60))
def test_random_bytes_are_an_error_or_a_value(data: bytes) -> None:
    with contextlib.suppress(PickleError):  # any other error fails
        read(data + b".")


def test_a_pickle_cut_short_is_an_error() -> None:
    data = pickle.dumps({"a": [1, (2.0, "b")], "c": Caller(os.mkdir, "x")}, 4)
    for end in range(len(data)):
        with pytest.raises(PickleError):
            read(data[:end])
