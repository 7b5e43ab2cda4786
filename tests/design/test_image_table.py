"""Data sets as a CSV file: columns, parts, and lines that are refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.design.image_table import is_table, read_table
from pipeline.design.imagefolder import scan_folder
from pipeline.errors import InputError
from tests.support.data import write_folder

HEAD = "path,label,split\n"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Flat images `0.png` to `9.png`, and one in a folder whose name is no ASCII."""
    root = tmp_path / "pictures"
    source = write_folder(tmp_path / "source", train=6, endings=(".png",))
    root.mkdir()
    for number, path in enumerate(sorted((source / "train").rglob("*.png"))[:10]):
        shutil.copy(path, root / f"{number}.png")
    (root / "wei\u00df e").mkdir()
    shutil.copy(root / "0.png", root / "wei\u00df e" / "a b.png")
    return root


def write(root: Path, text: str | bytes) -> Path:
    file = root / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_parts_and_classes(pictures: Path) -> None:
    file = write(
        pictures,
        "\ufeffid, File_Name ,CLASS,split\r\n1,0.png,dog,train\r\n2,./1.png,cat,Training\r\n3,2.png,dog,valid\r\n"
        '4,3.png,cat,TEST\r\n5,"wei\u00df e/a b.png",cat,\r\n',
    )
    table = read_table(file, "dataset")
    assert table.classes == ("cat", "dog") and is_table(file) and not is_table(pictures)
    assert {part: images.names for part, images in table.parts.items()} == {
        "train": ("0.png", "1.png", "wei\u00df e/a b.png"),
        "val": ("2.png",),
        "test": ("3.png",),
    }
    assert table.parts["train"].labels == (1, 0, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column 'path' \\(but none\\)"),
        ("a,b\n", "no column 'path' \\(but a, b\\)"),
        ("path,b\n", "no column 'label'"),
        (HEAD, "has no lines"),
        (HEAD + "0.png,cat,train\n0.png,dog,test\n", "line 3: '0.png' stands in line 2 already"),
        (HEAD + "0.png,cat\n./0.png,dog\n", "line 3: './0.png' stands in line 2 already"),
        (HEAD + "99.png,cat,train\n", "line 2: '99.png' is no file in"),
        (HEAD + "../source/train/cat/000.png,cat,train\n", "line 2: .* is no file in"),
        (HEAD + "/etc/passwd.png,cat,train\n", "line 2: .* is no file in"),
        (HEAD + "labels.csv,cat,train\n", "line 2: 'labels.csv' has no ending of an image"),
        (HEAD + "0.png,,train\n", "line 2: no label"),
        (HEAD + ",cat,train\n", "line 2: no path"),
        (HEAD + "0.png,cat,holdout\n", "line 2: split 'holdout'"),
        (HEAD + "0.png,cat,train\n1.png,dog,test\n", "label 'dog' is in no training line"),
        (b"path,label\n\xff\xfe.png,cat\n", "is not text in UTF-8"),
        (HEAD + '0.png,"cat,train\n', "is no CSV file"),
        (HEAD + "fifo.png,cat,train\n", "line 2: 'fifo.png' is no regular file"),
        (HEAD + "a\0.png,cat,train\n", "line 2|is no CSV file"),
        (HEAD + "out.png,cat,train\n", "line 2: 'out.png' is no file in"),
        ("path,label\n0.png,cat\n1.png,cat\n2.png,dog\n", "class 'dog' has one image"),
    ],
)
def test_refused_in_one_line(text: str | bytes, said: str, pictures: Path) -> None:
    os.mkfifo(pictures / "fifo.png")
    (pictures / "out.png").symlink_to(pictures.parent / "source" / "train" / "cat" / "000.png")
    file = write(pictures, text)
    with pytest.raises(InputError, match=said) as caught:
        scan_folder(file, "--datasets")
    message = str(caught.value)
    assert message.startswith("--datasets: ") and "allowed: " in message and "\n" not in message


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        scan_folder(tmp_path / "none.csv", "dataset")


def test_labels_and_parts_are_of_the_identity(pictures: Path) -> None:
    def digest(text: str) -> str:
        return scan_folder(write(pictures, text), "dataset").digest

    lines = ["0.png,cat,train", "1.png,dog,train", "2.png,cat,test", "3.png,dog,test"]
    first = digest(HEAD + "\n".join(lines))
    assert digest("split,label,path\ntrain,cat,0.png\ntrain,dog,1.png\ntest,cat,2.png\ntest,dog,3.png\n") == first
    assert digest(HEAD + "\n".join([lines[0], lines[1], lines[2], "3.png,cat,test"])) != first
    assert digest(HEAD + "\n".join([*lines[:3], "3.png,dog,val"])) != first
    assert digest(HEAD + "\n".join([*lines, "4.png,dog,val"])) != first
    assert digest(HEAD + "\n".join(line.replace("cat", "ape") for line in lines)) != first


def test_without_parts_a_test_part_is_set_aside(pictures: Path) -> None:
    file = write(pictures, "path,label\n" + "".join(f"{number}.png,{number % 2}\n" for number in range(10)))
    listing = scan_folder(file, "dataset")
    assert (len(listing.train), len(listing.test)) == (8, 2) and sorted(listing.test.labels) == [0, 1]
    assert listing.parts == "no test part: 2 of the 10 images of the table are set aside as one (20 % of each class)"


def test_val_alone_is_the_test_part(pictures: Path) -> None:
    file = write(pictures, HEAD + "0.png,a,train\n1.png,b,train\n2.png,a,val\n")
    listing = scan_folder(file, "dataset")
    assert listing.test.names == ("2.png",) and listing.held_out == 0
    assert listing.parts == "val is the test part (1 images)"


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.lists(
                st.sampled_from(
                    [
                        "path",
                        "label",
                        "split",
                        "0.png",
                        "1.png",
                        "./0.png",
                        "..",
                        "/",
                        "cat",
                        "val",
                        "",
                        '"',
                        "\0",
                        "\r",
                    ]
                ),
                max_size=4,
            ).map(",".join),
            max_size=6,
        ).map(lambda lines: "\n".join(["path,label,split", *lines]).encode()),
    )
)
def test_any_file_is_a_table_or_refused_in_one_line(text: bytes, pictures: Path) -> None:
    try:
        listing = scan_folder(write(pictures, text), "dataset")
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert len(listing.train) and len(listing.test) and not {*listing.train.names} & {*listing.test.names}
