from __future__ import annotations

import io
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from star_model.checkpoints import zip_records
from star_model.checkpoints.pth import read_pth
from star_model.errors import CheckpointError, UnsafeCheckpointError


class Unknown:
    """A class that a checkpoint may have an object of."""

    def __init__(self, value: Any) -> None:
        self.value = value


def tensors() -> dict[str, Tensor]:
    """Views of every kind."""
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "whole": base,
        "transposed": base.t(),
        "part": base[1:3, 2:5],
        "column": base[:, 3],
        "expanded": base[2].expand(3, 6),
        "scalar": torch.tensor(3.5),
        "element": base[1, 1],
        "empty": torch.zeros(0, 5),
        "half": base.half()[1:],
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "long": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "bytes": torch.tensor([1, 2], dtype=torch.uint8),
        "parameter": nn.Parameter(torch.ones(2, 2)),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_those_of_pytorch(tmp_path: Path, zipped: bool) -> None:
    file, saved = tmp_path / "a.pth", tensors()
    torch.save(OrderedDict(saved), file, _use_new_zipfile_serialization=zipped)
    read = read_pth(file)
    assert list(read) == list(saved)
    for name, lazy in read.items():
        tensor = lazy.read()
        assert (lazy.dtype, lazy.shape) == (tensor.dtype, tuple(tensor.shape))
        assert (tensor.dtype, tensor.shape) == (saved[name].dtype, saved[name].shape), name
        assert torch.equal(tensor, saved[name]), name


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_of_any_class_may_stand_beside_the_weights(tmp_path: Path, zipped: bool) -> None:
    module = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(2)).sum().backward()
    optimizer.step()
    content = {
        "trainer": {
            "config": Unknown([Unknown(1)]),
            "var_wo_ddp": module.state_dict(),  # an ordered dictionary with attributes
            "optimizer": optimizer.state_dict(),
        },
        "args": Unknown(
            {"path": Path("/a"), "dtype": torch.float16, "device": torch.device("cpu")}
        ),
        "rng": {1, 2},
        "sparse": torch.eye(2).to_sparse(),
    }
    file = tmp_path / "a.pth"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    read = read_pth(file)
    assert read.keys() == {"weight", "bias"}
    assert torch.equal(read["weight"].read(), module.weight)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_of_another_kind_needs_leave(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "a.pth"
    torch.save({"a": torch.eye(2).to_sparse()}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"'a' is a torch\._utils\._rebuild_sparse_ten"):
        read_pth(file)
    assert read_pth(file, allow_unsafe_pickle=True)["a"].shape == (2, 2)
    torch.save(nn.Linear(1, 1), file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"its weights are in a torch\.nn\.modules"):
        read_pth(file)


# ---- what is wrong -----------------------------------------------------------------------------------------


class _Named:
    """Stands for a class of PyTorch, which pickle writes by its name."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.name, self.arguments = f"{module} {name}", arguments


class _Pickler(pickle._Pickler):
    """Writes :class:`_Named` as a global, or the call of one, and ``("storage", ...)`` as a name of the outside."""

    write: Callable[[bytes], Any]

    def persistent_id(self, value: Any) -> Any:
        is_storage = isinstance(value, tuple) and value[:1] == ("storage",)
        return _Storage(value[1:]) if is_storage else None

    def save(self, value: Any, *options: Any, **more: Any) -> None:
        if isinstance(value, _Named):
            self.write(b"c" + "\n".join(value.name.split()).encode() + b"\n")
            if value.arguments:
                self.save(value.arguments)
                self.write(b"R")
        elif isinstance(value, _Storage):
            self.write(b"(")
            for part in ("storage", *value):
                self.save(part)
            self.write(b"t")
        else:
            super().save(value, *options, **more)  # type: ignore[misc]


class _Storage(tuple[Any, ...]):
    """The rest of a storage's name."""


def storage(kind: Any = "FloatStorage", key: Any = "0", size: Any = 6) -> Any:
    return ("storage", _Named("torch", kind) if isinstance(kind, str) else kind, key, "cpu", size)


def tensor(place: Any = None, offset: Any = 0, shape: Any = (2, 3), stride: Any = (3, 1)) -> _Named:
    return _Named(
        "torch._utils", "_rebuild_tensor_v2", place or storage(), offset, shape, stride, False, {}
    )


def write(file: Path, content: Any, values: bytes = bytes(24), packed: bool = False) -> Path:
    """A file as PyTorch lays it out, with one storage."""
    pickled = io.BytesIO()
    _Pickler(pickled, 2).dump(content)
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as archive:
        archive.writestr("a/data.pkl", pickled.getvalue(), zipfile.ZIP_STORED)
        archive.writestr("a/data/0", values)
    return file


def test_a_file_by_hand_is_read(tmp_path: Path) -> None:
    read = read_pth(write(tmp_path / "a.pth", {"w": tensor()}))
    assert torch.equal(read["w"].read(), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (tensor(shape=(3, 3)), "reaches beyond its storage"),
        (tensor(offset=1), "reaches beyond its storage"),
        (tensor(offset=-1), "no valid offset"),
        (tensor(offset=2**70), "no valid offset"),
        (tensor(stride=(-3, 1)), "no whole number"),
        (tensor(stride=(2**60, 1)), "no whole number"),
        (tensor(stride=(2**40, 1)), "reaches beyond its storage"),
        (tensor(shape=(2**20, 2**20, 2**20), stride=(0, 0, 0)), "no valid offset"),
        (tensor(shape=(1,) * 9, stride=(1,) * 9), "too many dimensions"),
        (tensor(shape=(2.0, 3)), "no whole number"),
        (tensor(shape=(True, 3)), "no whole number"),
        (tensor(shape=[2, 3]), "no tuple"),
        (tensor(shape=(6,)), "no valid offset, shape and stride"),
        (tensor(storage(size=2**40), shape=(2**30, 2), stride=(2, 1)), "not all there"),
        (tensor(storage(size=7)), "not all there"),
        (tensor(storage(key="1")), "no record data/1"),
        (tensor(storage(key="../../etc/passwd")), "no record data/../../etc"),
        (tensor(storage(key=3)), "no type, name or size"),
        (tensor(storage(size=-1)), "no type, name or size"),
        (tensor(storage(kind=7)), "no type, name or size"),
        (tensor(_Named("torch", "FloatStorage")), "has no storage"),
        (_Named("torch._utils", "_rebuild_tensor_v2", storage(), 0), "has no storage"),
    ],
)
def test_a_tensor_that_is_not_in_the_file(tmp_path: Path, wrong: Any, message: str) -> None:
    file = write(tmp_path / "a.pth", {"w": wrong})
    with pytest.raises(CheckpointError, match=message):
        read_pth(file)["w"].read()


def test_many_views_of_few_values_are_not_made_before_they_are_read(tmp_path: Path) -> None:
    """A shape that no configuration has is known without the terabyte that its values would take."""
    wide = tensor(storage(size=1), shape=(2**20, 2**20), stride=(0, 0))
    read = read_pth(write(tmp_path / "a.pth", {f"w{i}": wide for i in range(100)}))
    assert read["w99"].shape == (2**20, 2**20)


def test_a_packed_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.pth", {"w": tensor()}, bytes(24), packed=True)
    with pytest.raises(CheckpointError, match="data/0 is packed"):
        read_pth(file)


def test_records_of_one_name_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.pth", {"w": tensor()})
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data/0", bytes(24))
    with pytest.raises(CheckpointError, match="names repeat"):
        read_pth(file)
    file = write(tmp_path / "b.pth", {"w": tensor()})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("b/data/1", bytes(24))
    with pytest.raises(CheckpointError, match="names repeat"):
        read_pth(file)


def test_the_directory_of_the_zip_file_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.pth", {"w": tensor()})
    monkeypatch.setattr(zip_records, "LARGEST_DIRECTORY", 60)
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        read_pth(file)


def test_only_records_that_are_read_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    marks = {"used": 7.25, "state": 9.25}
    used, state = (torch.full((100,), mark) for mark in marks.values())
    torch.save({"trainer": {"var_wo_ddp": {"w": used}, "optimizer": {"exp_avg": state}}}, file)
    data = file.read_bytes()
    places = {
        name: data.index(torch.full((100,), mark).numpy().tobytes()) for name, mark in marks.items()
    }

    def flipped(name: str) -> Path:
        changed = bytearray(data)
        changed[places[name]] ^= 1
        (tmp_path / f"{name}.pth").write_bytes(changed)
        return tmp_path / f"{name}.pth"

    assert torch.equal(read_pth(flipped("state"))["w"].read(), used)
    damaged = read_pth(flipped("used"))["w"]
    with pytest.raises(CheckpointError, match=r"the checksum of data/\d is wrong"):
        damaged.read()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(1000)}, file, _use_new_zipfile_serialization=zipped)
    lazy = read_pth(file)["w"]
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"beyond its end|become shorter"):
        lazy.read()


def test_every_end_of_a_file(tmp_path: Path) -> None:
    """Of both formats: cut anywhere, it is an error that names the file."""
    for zipped in (True, False):
        file = tmp_path / "whole.pth"
        torch.save({"w": torch.zeros(3)}, file, _use_new_zipfile_serialization=zipped)
        data = file.read_bytes()
        bad = tmp_path / "bad.pth"
        for end in range(0, len(data), 7):
            bad.write_bytes(data[:end])
            with pytest.raises(CheckpointError, match=r"bad\.pth is damaged or incomplete"):
                read_pth(bad)


def changed(data: bytes, chance: random.Random) -> bytes:
    """A few bytes replaced, and in a third of the cases some put in."""
    result = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        result[chance.randrange(len(result))] = chance.randrange(256)
    if chance.random() < 1 / 3:
        at = chance.randrange(len(result))
        result[at:at] = chance.randbytes(chance.randint(1, 6))
    return bytes(result)


@pytest.mark.parametrize("part", ["zip", "legacy", "pickle"])
def test_a_file_with_other_bytes_is_read_or_refused(tmp_path: Path, part: str) -> None:
    """Whatever is wrong: no other error, and no code."""
    file, bad, chance = tmp_path / "a.pth", tmp_path / "bad.pth", random.Random(7)
    content = {"trainer": {"var_wo_ddp": tensors(), "rng": {1}}, "args": Unknown(Path("/a"))}
    torch.save(content, file, _use_new_zipfile_serialization=part != "legacy")
    records: dict[str, bytes] = {}
    if part != "legacy":
        with zipfile.ZipFile(file) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
    refused = 0
    for _ in range(300):
        if part == "pickle":  # with a checksum that fits
            with zipfile.ZipFile(bad, "w") as archive:
                for name, record in records.items():
                    is_pickle = name.endswith("data.pkl")
                    archive.writestr(name, changed(record, chance) if is_pickle else record)
        else:
            bad.write_bytes(changed(file.read_bytes(), chance))
        try:
            for lazy in read_pth(bad).values():
                lazy.read()
        except CheckpointError:
            refused += 1
    assert refused > 30


def test_a_directory_on_several_disks(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.pth", {"w": tensor()}).read_bytes())
    at = data.rindex(b"PK\5\6")
    locator = b"PK\6\7" + (7).to_bytes(4, "little") + bytes(8) + (9).to_bytes(4, "little")
    (tmp_path / "bad.pth").write_bytes(data[:at] + locator + data[at:])
    with pytest.raises(CheckpointError, match=r"bad\.pth is damaged or incomplete"):
        read_pth(tmp_path / "bad.pth")


def test_files_of_other_machines_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.pth", {"w": tensor()})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("a/byteorder", "big")
    with pytest.raises(CheckpointError, match="big-endian"):
        read_pth(file)
