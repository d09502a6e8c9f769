import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamlit.assets import fetch
from spamlit.data.sms import group_key, parse, parse_quoted, read_csv_messages, read_labelled, with_groups


def write(folder, content, name="file.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_lines_are_split_at_newlines_only(tmp_path):
    text = 'a "quoted\u2028 part, \x85 and \x1c a\ttab \r inside'
    frame = parse(write(tmp_path, f"ham\t{text}\nspam\tWin\r\n"))
    assert frame.to_dict("list") == {"id": [1, 2], "label": ["ham", "spam"], "text": [text, "Win"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ham\tyes\nspam no tab\n", "line 2: no tab"),
        ("ham\tyes\n\nspam\tx\n", "line 2: blank line"),
        ("ham\tyes\nHam\tx\n", "line 2: unknown label 'Ham'; choose from ham, spam"),
        ("spam\t \n", "line 1: no text"),
        (b"ham\tyes\nham\t\xff\n", "line 2: byte 5 is not UTF-8"),
        ("", "is empty"),
    ],
)
def test_malformed_lines_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        parse(write(tmp_path, content))


@given(st.text())
def test_group_key_is_idempotent_and_folds_case_digits_and_spacing(text):
    assert group_key(group_key(text)) == group_key(text)
    assert group_key(f"  call 0{text}9!") == group_key(f"CALL\n5{text}3 ...")


def test_group_key_keeps_apart_what_differs():
    assert len({group_key(text) for text in ("one two", "onetwo", "1 2", "12", "😀", "💰", "...", "été", "ete")}) == 9


@pytest.mark.assets
def test_the_collection_has_the_known_counts():
    frame = with_groups(parse(fetch("SMSSpamCollection")))
    spam = frame[frame["label"] == "spam"]
    assert (len(frame), len(spam), frame.duplicated("text").sum()) == (5574, 747, 403)
    assert (frame["group"].nunique(), spam["group"].nunique()) == (5108, 607)
    assert frame.groupby("group")["label"].nunique().max() == 1


@pytest.mark.assets
def test_pandas_quoting_loses_two_messages_and_ids_still_name_lines():
    lines, quoted = (read(fetch("SMSSpamCollection")).set_index("id") for read in (parse, parse_quoted))
    assert len(quoted) == 5572
    assert (lines.loc[quoted.index, "label"] == quoted["label"]).all()
    same = lines.loc[quoted.index, "text"].str.replace('"', "") == quoted["text"].str.replace('"', "")
    assert (~same).sum() == 1


OPTIONS = {"text_column": "body", "label_column": "kind", "positive": "junk"}


def test_a_table_of_ones_own(tmp_path):
    path = write(tmp_path, '\ufeffkind,body,n\njunk,"win, ""now""\nhere",1\nok,NA,2\n junk ,null,3\n')
    frame = read_csv_messages(path, **OPTIONS)
    assert frame["id"].tolist() == [1, 2, 3]
    assert frame["label"].tolist() == ["spam", "ham", "spam"]
    assert frame["text"].tolist() == ['win, "now"\nhere', "NA", "null"]
    tsv = write(tmp_path, "kind\tbody\n1\tx\n0\ty\n", "file.tsv")
    assert read_csv_messages(tsv, **OPTIONS | {"positive": 1})["label"].tolist() == ["spam", "ham"]
    booleans = write(tmp_path, "kind,body\nTRUE,x\nFALSE,y\n")
    assert read_csv_messages(booleans, **OPTIONS | {"positive": True})["label"].tolist() == ["spam", "ham"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", r"no column 'body' \(data.text_column, --text-column\); its columns are: a, b"),
        ("kind,body\njunk,x\nok,\n,z\n", r"'body' is empty in 1 of 3 records \(record 2\)"),
        ("kind,body\njunk,x\n,z\n", r"'kind' is empty in 1 of 2 records \(record 2\)"),
        ("kind,body\njunk,x\nok,y\nmaybe,z\n", "must hold two labels, and holds 3: junk, maybe, ok"),
        ("kind,body\nspam,x\nham,y\n", r"has no label 'junk' \(data.positive, --positive\); .* holds: ham, spam"),
        ("kind,body\njunk,a,b\nok,c,d\n", "not a table"),
        ("kind,body\njunk,a\nok,c,d,e\n", "not a table"),
        (b"kind,body\njunk,\xa3100\nok,x\n", "not UTF-8 .* iconv"),
        ("", "not a table"),
    ],
)
def test_bad_tables_say_what_is_wrong(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_csv_messages(write(tmp_path, content), **OPTIONS)


def test_a_labelled_table_may_hold_one_label(tmp_path):
    path = write(tmp_path, b'text,label,category\nWin,spam,prize\n"a, b", spam ,x\n')
    assert read_labelled(path).values.tolist() == [[1, "spam", "Win"], [2, "spam", "a, b"]]
    with pytest.raises(ValueError, match="'label' must hold ham and spam, and holds: Spam, junk"):
        read_labelled(write(tmp_path, b"text,label\na,junk\nb,Spam\nc,ham\n"))
    with pytest.raises(ValueError, match=r"no column 'text' \(data.extra\)"):
        read_labelled(write(tmp_path, b"body,label\na,ham\n"))
