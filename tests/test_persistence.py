"""Model files: what is written comes back, and a file that is not whole is refused."""

import json
import os
import stat
import struct

import numpy as np
import pytest

from ideareg import persistence
from ideareg.persistence import ModelFileError

HEADER = {
    "nu": float("inf"),
    "candidates": [1.0, float("-inf"), None, True],
    "nested": {"name": "ünïcode", "count": 3},
}
ARRAYS = {
    "momentum": np.arange(12.0).reshape(3, 4),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 3)),
    "flags": np.array([True, False]),
    "codes": np.arange(3, dtype=np.uint8),
    "single": np.arange(3, dtype=np.float32),
    "counts": np.arange(3),
}


@pytest.fixture
def path(tmp_path):
    place = tmp_path / "model.ideareg"
    persistence.write(place, "WarpingRegressor", HEADER, ARRAYS)
    return place


def split(path):
    """The JSON that opens a safetensors file, and the bytes after it."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(path, head, body):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def rewrite(path, **changes):
    """Change the document inside a file, leaving its digest as it was."""
    head, body = split(path)
    document = json.loads(head["__metadata__"]["ideareg"]) | changes
    head["__metadata__"]["ideareg"] = json.dumps(document)
    join(path, head, body)


def test_what_is_written_comes_back(path):
    kind, header, arrays = persistence.read(path)
    assert kind == "WarpingRegressor"
    assert header == HEADER
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_any_memory_layout_is_kept(tmp_path):
    arrays = {"fortran": np.asfortranarray(ARRAYS["momentum"]), "view": np.arange(10.0)[::-2]}
    persistence.write(tmp_path / "m", "WarpingRegressor", {"x": np.float64(0.1)}, arrays)
    _, header, back = persistence.read(tmp_path / "m")
    assert header == {"x": 0.1}
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def test_the_same_model_gives_the_same_file(path, tmp_path):
    persistence.write(tmp_path / "again", "WarpingRegressor", HEADER, ARRAYS)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_nothing_else_is_left_in_the_folder(path):
    assert os.listdir(path.parent) == [path.name]


def test_a_file_is_not_more_private_than_others(path, tmp_path):
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize(
    ("header", "arrays", "match"),
    [
        ({}, {"a": np.zeros(2, np.float16)}, "'a' has dtype float16: a model file holds float64"),
        ({}, {"a": np.array([object()])}, "dtype object"),
        ({"f": len}, {}, "cannot hold a builtin_function_or_method"),
        ({1: "one"}, {}, "needs text keys"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(tmp_path, header, arrays, match):
    with pytest.raises(TypeError, match=match):
        persistence.write(tmp_path / "m", "WarpingRegressor", header, arrays)
    assert not os.listdir(tmp_path)


# ---------------------------------------------------------------- files that are not whole


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelFileError, match="is truncated: copy it again"):
        persistence.load(path)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty, so it is not a model file"),
        (b"a,b,c\n1,2,3\n" * 9, "is not a model file"),
        (b"\x80\x04\x95cposix\nsystem\n", "is not a model file"),
        (b"PK\x03\x04" + bytes(100), "is not a model file"),
        (struct.pack("<Q", 2**60) + b"{}" * 9, "is not a model file"),
        (struct.pack("<Q", 4) + b"{{{{", "its header is not JSON"),
        (struct.pack("<Q", 2) + b"{}", "is a safetensors file, but not one that ideareg wrote"),
    ],
)
def test_other_files(tmp_path, data, match):
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(ModelFileError, match=match):
        persistence.load(tmp_path / "m")


def test_deeply_nested_header(tmp_path):
    join(tmp_path / "m", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"")
    with pytest.raises(ModelFileError, match="is damaged"):
        persistence.read(tmp_path / "m")


def test_changed_bytes(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="was changed after it was written"):
        persistence.load(path)


def test_trailing_bytes(path):
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ModelFileError, match="is damaged"):
        persistence.load(path)


@pytest.mark.parametrize(
    "changes", [{"header": {"nu": 1.0}}, {"kind": "TablePipeline"}, {"library_version": "9"}]
)
def test_changed_description(path, changes):
    rewrite(path, **changes)
    with pytest.raises(ModelFileError, match="was changed after it was written"):
        persistence.load(path)


def test_newer_version_is_said_first(path):
    rewrite(path, format_version=3, arrays="another scheme")
    message = r"was written by a newer ideareg \(format 3; this one reads up to 1\): upgrade"
    with pytest.raises(ModelFileError, match=message):
        persistence.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"header": {"nu": float("inf")}},
        {"format_version": 0},
        {"format_version": "1"},
        {"header": []},
    ],
)
def test_wrong_description(path, changes):
    rewrite(path, **changes)
    with pytest.raises(ModelFileError, match="its description of the model"):
        persistence.load(path)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"dtype": "F16"}, "array 'momentum' of unexpected type 'F16'"),
        ({"shape": [3, 5]}, "declaration of array 'momentum'"),
        ({"shape": [2**40, 2**40]}, "declaration of array 'momentum'"),
        ({"shape": [3, -4]}, "declaration of array 'momentum'"),
        ({"shape": [4, 3]}, "its arrays are not those it lists"),
        ({"shape": "3"}, "declaration of array 'momentum'"),
        ({"data_offsets": [0]}, "declaration of array 'momentum'"),
    ],
)
def test_wrong_declaration(path, entry, match):
    head, body = split(path)
    head["momentum"] |= entry
    join(path, head, body)
    with pytest.raises(ModelFileError, match=match):
        persistence.load(path)


def test_missing_array(path):
    head, body = split(path)
    del head["momentum"]
    join(path, head, body)
    with pytest.raises(ModelFileError, match="its arrays are not those it lists"):
        persistence.load(path)


def test_kind_outside_the_registry(tmp_path):
    persistence.write(tmp_path / "m", "os.system", {}, {})
    with pytest.raises(ModelFileError, match=r"holds a 'os.system', which this ideareg"):
        persistence.load(tmp_path / "m")


@pytest.mark.parametrize("kind", persistence.LOADERS)
def test_whole_file_with_nonsense_inside(tmp_path, kind):
    persistence.write(tmp_path / "m", kind, {"unknown": 1}, {})
    with pytest.raises(ModelFileError, match=f"holds an inconsistent {kind}"):
        persistence.load(tmp_path / "m")


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        persistence.load(tmp_path / "absent")
    with pytest.raises(ModelFileError, match="is a folder"):
        persistence.load(tmp_path)


# ---------------------------------------------------------------- whole or not at all


def test_a_failure_leaves_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(RuntimeError), persistence.replacing(path) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_link_stays_a_link(path):
    link = path.with_name("latest")
    link.symlink_to(path)
    with persistence.replacing(link) as stream:
        stream.write(b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    "use", [persistence.check_writable, lambda p: persistence.write(p, "", {}, {})]
)
def test_unwritable(path, use):
    folder = path.parent
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        use(folder / "absent" / "m")
    with pytest.raises(IsADirectoryError, match="it is a folder; name a file in it"):
        use(folder)
    with pytest.raises(OSError, match="there is no folder"):
        use(path / "m")
    with pytest.raises(OSError, match="is not a regular file"):
        use("/dev/null")
    assert os.listdir(folder) == [path.name]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_protected(path):
    path.chmod(0o444)
    with pytest.raises(PermissionError, match="the file is read-only"):
        persistence.check_writable(path)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match="cannot write to"):
            persistence.check_writable(path.parent / "other")
    finally:
        path.parent.chmod(0o755)
