"""CSV files, as people have them: other encodings, other delimiters, and everything that can be wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hansang.core.errors import BadRequest
from hansang.training import tables
from hansang.training.tables import Columns, read_csv


def read(folder: Path, content: str | bytes) -> Columns:
    path = folder / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_csv(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
def test_korean_text_in_the_encodings_that_spreadsheets_write(tmp_path: Path, encoding: str) -> None:
    table = read(tmp_path, "품종,길이\n진돗개,1.5\n삽살개,2\n".encode(encoding))
    assert table.values == {"품종": ["진돗개", "삽살개"], "길이": ["1.5", "2"]}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends(tmp_path: Path, delimiter: str, newline: str) -> None:
    text = newline.join(delimiter.join(row) for row in (("a", "b"), ("1", "2"), ("3", "4"))) + newline
    assert read(tmp_path, text).values == {"a": ["1", "3"], "b": ["2", "4"]}


def test_quotes_hold_delimiters_quotes_and_newlines(tmp_path: Path) -> None:
    table = read(tmp_path, 'a,b\n"x, y","he said ""so"""\n"two\nlines",z\n')
    assert table.values == {"a": ["x, y", "two\nlines"], "b": ['he said "so"', "z"]}


def test_spaces_around_names_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    assert read(tmp_path, " a , b \n1,2\n\n\n3,4\n").values == {"a": ["1", "3"], "b": ["2", "4"]}


def test_numbers_in_any_notation(tmp_path: Path) -> None:
    numbers = read(tmp_path, "a,b\n 1 ,x\n-2e3,x\n+.5,x\n").numbers("a")
    assert numbers is not None
    assert numbers.tolist() == [1, -2000, 0.5]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a,b\n1,2\n3\n", "Line 3 has 1 cells, the heading has 2."),
        ("a,b\n1,2,3\n", "Line 2 has 3 cells, the heading has 2."),
        ('a,b\n"1\n1",2\n\n3\n', "Line 5 has 1 cells"),
        ("a,b\n", "a heading, and no rows"),
        ("a,b", "a heading, and no rows"),
        ("", "first line must name every column"),
        ("\n\n1,2\n", "first line must name every column"),
        ("a,,c\n1,2,3\n", "first line must name every column"),
        ("a,b,a\n1,2,3\n", "Two columns are named 'a'"),
        (",".join(f"c{n}" for n in range(10_000)) + "\n" + ",".join(["1"] * 10_000), "The table has 10000 columns."),
        ("a,b\n" + "x" * 200_000 + ",1\n", "field larger than field limit"),
        (b"\x00\x01\x02\x03" * 100, "not text"),
        (b"PK\x03\x04" + bytes(100), "not text"),
        ("a,b\n1,2\n".encode("utf-16"), "not text"),
        (b"a,b\n\xff\xfe\xff,1\n", "neither UTF-8 nor CP949"),
        (b"a,b\n" + b"1,2\n" * 2000 + b"1,\x002\n", "not text"),
    ],
)
def test_a_table_that_is_none_is_told_by_line(tmp_path: Path, content: str | bytes, told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(tmp_path, content)
    assert told in caught.value.message
    assert len(caught.value.message) < 250
    assert caught.value.hint


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["1", "2", "oops", "4"], "The column a is 'oops', which is no (finite) number in line 4."),
        (["1", "", "3"], "The column a is empty in line 3."),
        (["1", "  ", "3"], "The column a is empty in line 3."),
        (["1", "nan", "3"], "The column a is 'nan', which is no (finite) number in line 3."),
        (["1", "inf", "3"], "is 'inf'"),
        (["1", "1e999", "3"], "is '1e999'"),
        (["x", "", "z"], "The column a is empty in line 3."),
        (["1", "2", "y" * 9999], "no (finite) number"),
    ],
)
def test_a_cell_that_does_not_fit_is_told_by_column_and_line(tmp_path: Path, cells: list[str], told: str) -> None:
    table = read(tmp_path, "a,b\n" + "".join(f"{cell},1\n" for cell in cells))
    with pytest.raises(BadRequest) as caught:
        table.numbers("a")
    assert told in caught.value.message
    assert len(caught.value.message) < 150


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    table = read(tmp_path, 'a,b\n"two\nlines",1\n\nx,2\ny,oops\n')
    with pytest.raises(BadRequest, match=r"in line 6\."):
        table.numbers("b")


def test_a_table_of_too_many_cells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MOST_CELLS", 10)
    assert len(read(tmp_path, "a,b\n" + "1,2\n" * 5).values["a"]) == 5
    with pytest.raises(BadRequest, match="more than 10 cells"):
        read(tmp_path, "a,b\n" + "1,2\n" * 6)


def test_bytes_at_random_are_a_table_or_a_bad_request(tmp_path: Path) -> None:
    chance = random.Random(7)
    pieces = [b"a,b\n", b"1,2\n", b'"', b"\xff", b"\x00", b";", b"\r", "가".encode(), b"\xb0\xa1", b"nan", b""]
    for _ in range(400):
        content = b"".join(chance.choices(pieces, k=chance.randrange(12)))
        try:
            table = read(tmp_path, content)
        except BadRequest:
            continue
        assert len({len(column) for column in table.values.values()}) == 1
