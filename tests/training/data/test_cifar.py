"""CIFAR archives: the real format, and all the ways in which one can be wrong."""

from __future__ import annotations

import errno
import http.server
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from pipeline.errors import InputError, OutsideError
from pipeline.training.data.store import ImageStore, prepare_dataset, verify_dataset
from tests.support.data import cifar_files, trust, write_archive

KINDS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def make(
    monkeypatch: pytest.MonkeyPatch,
    data_dir: Path,
    name: str = "cifar10",
    changes: Any = None,
    **options: Any,
) -> Path:
    kind = KINDS[name]
    files = {**cifar_files(kind, **options), **(changes or {})}
    archive = data_dir / kind.filename
    write_archive(archive, kind, files)
    trust(monkeypatch, kind, files, archive)
    return archive


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", list(KINDS))
def test_archive_becomes_what_torchvision_reads(
    name: str, protocol: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive = make(monkeypatch, tmp_path, name, protocol=protocol)
    store = prepare_dataset(name, tmp_path, image_size=32, download=False)
    assert isinstance(store, ImageStore)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    for split in ("train", "test"):
        reference = KINDS[name](tmp_path / "unpacked", train=split == "train")
        assert np.array_equal(getattr(store, f"{split}_images"), reference.data)
        assert getattr(store, f"{split}_labels").tolist() == reference.targets
    assert store.class_names == tuple(reference.classes)
    assert store.train_images.dtype == np.uint8 and store.train_labels.dtype == np.int64
    assert not store.train_images.flags.writeable
    assert verify_dataset(name, tmp_path) == []


def test_python_2_pickle_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # the originals were written by Python 2: text opcodes, and numpy's functions under their old module
    content = cifar_files(CIFAR10)["data_batch_1"]
    old = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    make(monkeypatch, tmp_path, changes={"data_batch_1": old})
    store = prepare_dataset("cifar10", tmp_path, image_size=32, download=False)
    assert len(store.train_labels) == 100


def test_second_open_reads_no_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archive = make(monkeypatch, tmp_path)
    first = prepare_dataset("cifar10", tmp_path, image_size=32)
    archive.unlink()
    again = prepare_dataset("cifar10", tmp_path, image_size=32, download=False)
    assert again.digest == first.digest


def test_wrong_archive_names_file_and_both_sums(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archive = make(monkeypatch, tmp_path)
    good = CIFAR10.tgz_md5
    with archive.open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError) as caught:
        prepare_dataset("cifar10", tmp_path, image_size=32)
    message = str(caught.value)
    assert str(archive) in message and good in message and message.count("\n") == 0
    assert archive.exists(), "the user's file is left alone"
    assert len(verify_dataset("cifar10", tmp_path)) == 2  # the archive, and no store


class _Attack:
    """A pickle of it makes a folder where it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_file_of_another_sum_is_never_unpickled(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Even in an archive whose own sum is right."""
    monkeypatch.chdir(tmp_path)
    data_dir = tmp_path / "data"
    files = cifar_files(CIFAR10)
    archive = data_dir / CIFAR10.filename
    write_archive(archive, CIFAR10, {**files, name: pickle.dumps(_Attack())})
    trust(monkeypatch, CIFAR10, files, archive)
    with pytest.raises(InputError, match=rf"{name} is not the file of MD5 \w{{32}}") as caught:
        prepare_dataset("cifar10", data_dir, image_size=32)
    assert str(archive) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def _labelled(data: object, labels: object) -> bytes:
    return pickle.dumps({"data": data, "labels": labels})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2]),
        _labelled(1, []),
        _labelled(np.zeros((2, 3072), np.uint8), [0, 10]),
        _labelled(np.zeros((2, 3072), np.uint8), [0, -1]),
        _labelled(np.zeros((2, 3072), np.uint8), [0]),
        _labelled(np.zeros((2, 3072), np.uint8), [0, 0.5]),
        _labelled(np.zeros((2, 3072), np.uint8), ["cat", "dog"]),
        _labelled(np.zeros((2, 3072), np.float32), [0, 1]),
        _labelled(np.zeros((2, 100), np.uint8), [0, 1]),
    ],
)
@pytest.mark.parametrize("name", ["data_batch_1", "test_batch"])
def test_damaged_batch_is_one_line(name: str, content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archive = make(monkeypatch, tmp_path, changes={name: content})
    with pytest.raises(InputError) as caught:
        prepare_dataset("cifar10", tmp_path, image_size=32)
    assert str(archive) in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [archive.name, "cifar10-v1.lock"]


def test_a_full_disk_while_unpacking_is_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archive = make(monkeypatch, tmp_path)

    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(OutsideError, match="No space left"):
        prepare_dataset("cifar10", tmp_path, image_size=32)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [archive.name, "cifar10-v1.lock"]


def test_nothing_unpacked_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make(monkeypatch, tmp_path)
    prepare_dataset("cifar10", tmp_path, image_size=32)
    stored = sorted(path.name for path in (tmp_path / "stores" / "cifar10-v1").rglob("*"))
    assert stored == ["meta.json", "test_images.npy", "test_labels.npy", "train_images.npy", "train_labels.npy"]
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == ["cifar10-v1", "cifar10-v1.lock"]


def test_wrong_class_names_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make(monkeypatch, tmp_path, changes={"batches.meta": pickle.dumps({"label_names": ["only one"]})})
    with pytest.raises(InputError, match=r"10 named classes"):
        prepare_dataset("cifar10", tmp_path, image_size=32)


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


@pytest.mark.parametrize(
    "member",
    [
        _member("../escaped"),
        _member("cifar-10-batches-py/../../escaped"),
        _member("cifar-10-batches-py/link", tarfile.SYMTYPE, "../../escaped"),
        _member("cifar-10-batches-py/hard", tarfile.LNKTYPE, "data_batch_1"),
        _member("cifar-10-batches-py/pipe", tarfile.FIFOTYPE),
        _member("cifar-10-batches-py/disk", tarfile.BLKTYPE),
        _member("cifar-10-batches-py/bomb", size=1 << 40),
    ],
    ids=lambda member: member.name,
)
def test_hostile_member_is_refused(member: tarfile.TarInfo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    files = cifar_files(CIFAR10)
    archive = data_dir / CIFAR10.filename
    write_archive(archive, CIFAR10, files, [member])
    trust(monkeypatch, CIFAR10, files, archive)
    with pytest.raises(InputError, match=r"link or a device|outside|larger"):
        prepare_dataset("cifar10", data_dir, image_size=32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert not list(data_dir.rglob("escaped"))


def test_an_absolute_path_is_taken_for_one_of_the_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = cifar_files(CIFAR10)
    archive = tmp_path / "data" / CIFAR10.filename
    write_archive(archive, CIFAR10, files, [_member(str(tmp_path / "escaped"))])
    trust(monkeypatch, CIFAR10, files, archive)
    prepare_dataset("cifar10", tmp_path / "data", image_size=32)
    assert not list(tmp_path.rglob("escaped"))


def test_missing_member_and_broken_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = cifar_files(CIFAR10)
    archive = tmp_path / CIFAR10.filename
    write_archive(archive, CIFAR10, {name: body for name, body in files.items() if name != "data_batch_3"})
    trust(monkeypatch, CIFAR10, files, archive)
    with pytest.raises(InputError, match=r"lacks .*data_batch_3"):
        prepare_dataset("cifar10", tmp_path, image_size=32)
    archive.write_bytes(archive.read_bytes()[:2000])
    trust(monkeypatch, CIFAR10, files, archive)
    with pytest.raises(InputError, match=r"no readable archive"):
        prepare_dataset("cifar10", tmp_path, image_size=32)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which a real HTTP server serves it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_arguments: Any) -> None:
            """Stays silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_download_reports_progress_and_checks(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, address = served
    archive = make(monkeypatch, folder)
    monkeypatch.setattr(CIFAR10, "url", f"{address}/{CIFAR10.filename}")
    seen: list[tuple[str, int, int]] = []
    data_dir = tmp_path / "data"
    store = prepare_dataset("cifar10", data_dir, image_size=32, report=lambda *line: seen.append(line))
    assert len(store.test_labels) == 20
    size = archive.stat().st_size
    downloads = [line[1:] for line in seen if line[0].startswith("downloading")]
    assert downloads[0] == (0, size) and downloads[-1] == (size, size)
    assert (data_dir / CIFAR10.filename).read_bytes() == archive.read_bytes()


def test_corrupt_download_leaves_nothing(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, address = served
    archive = make(monkeypatch, folder)
    archive.write_bytes(b"<html>please log in</html>")
    monkeypatch.setattr(CIFAR10, "url", f"{address}/{CIFAR10.filename}")
    data_dir = tmp_path / "data"
    with pytest.raises(OutsideError, match=r"MD5"):
        prepare_dataset("cifar10", data_dir, image_size=32)
    assert [path.name for path in data_dir.rglob("*") if path.is_file()] == ["cifar10-v1.lock"]


def test_offline_says_cause_and_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(OutsideError) as caught:
        prepare_dataset("cifar10", tmp_path, image_size=32)
    message = str(caught.value)
    assert "refused" in message and str(tmp_path / "cifar-10-python.tar.gz") in message
    assert "\n" not in message and caught.value.exit_code == 3


def test_download_off_needs_the_archive(tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match=r"downloading is off.*cifar-100-python.tar.gz"):
        prepare_dataset("cifar100", tmp_path, image_size=32, download=False)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_an_archive_that_is_no_file_is_one_line_at_once(make: Any, tmp_path: Path) -> None:
    make(tmp_path / CIFAR10.filename)
    with pytest.raises(InputError, match=rf"^dataset: .*{CIFAR10.filename}' cannot be read \(") as caught:
        prepare_dataset("cifar10", tmp_path, image_size=32)
    assert "\n" not in str(caught.value)
    assert any("cannot be read" in line for line in verify_dataset("cifar10", tmp_path))
