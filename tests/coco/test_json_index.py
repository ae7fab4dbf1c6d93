"""Splitting JSON files into entries: the same as json.loads, whatever is inside strings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panoptic_cli.coco import json_index
from panoptic_cli.errors import DataError

# Strings with everything that can be confused with brackets, quotes and backslashes.
_TEXT = st.text(alphabet='a"\\[]{},:é😀\n', max_size=8)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


def _entries(path: Path, key: str) -> list[Any]:
    index = json_index.index_lists(path, "test", (key,))
    found, texts = [], b""
    for offset, text, spans in index.regions(key):
        assert all(path.read_bytes()[offset + begin : offset + end] == text[begin:end] for begin, end in spans)
        found += [json.loads(text[begin:end]) for begin, end in spans]
        texts += (b"," if texts.strip() else b"") + text
    assert repr(json.loads(b"[" + texts + b"]")) == repr(json.loads(path.read_text())[key])  # NaN != NaN
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    before=st.dictionaries(_TEXT, _VALUE, max_size=2),
    entries=st.lists(_VALUE, max_size=6),
    behind=st.dictionaries(_TEXT, _VALUE, max_size=2),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
    block=st.integers(1, 40),
)
def test_entries_equal_those_of_json_loads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, Any],
    entries: list[Any],
    behind: dict[str, Any],
    indent: int | None,
    ascii_only: bool,
    block: int,
) -> None:
    path = tmp_path / "a.json"
    value = {**before, "list": entries, **{k: v for k, v in behind.items() if k != "list"}}
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(json_index, "_BLOCK", block)  # entries, strings and escapes cross the edges of blocks
        found = _entries(path, "list")
    assert repr(found) == repr([entry for entry in entries if isinstance(entry, dict | list)])


_WHOLE = '{"info": {"a": [1]}, "list": [{"a": "]}"}, {"b": [1, {"c": 2}]}], "more": [[1], []]}'


@pytest.mark.parametrize("cut", range(1, len(_WHOLE)))
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.json"
    path.write_text(_WHOLE[:cut])
    with pytest.raises(DataError, match="not valid JSON"):
        json_index.index_lists(path, "test", ("list",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[{}]", "not a JSON object"),
        ('{"list": 3}', "no list of list"),
        ('{"list": {}}', "no list of list"),
        ('{"a": {"list": [{}]}}', "no list of list"),
        ('{"list": [}]', "not valid JSON"),
        ('{"list": []} {}', "not valid JSON"),
        ('{"list": [] "b": 1}', "not valid JSON"),
        ('{"a": [{]}, "list": []}}', "not valid JSON"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        json_index.index_lists(path, "test", ("list",))


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"list": [{"a": 1}]}', encoding="utf-8-sig")
    index = json_index.index_lists(path, "test", ("list",))
    assert [text[b:e] for _, text, spans in index.regions("list") for b, e in spans] == [b'{"a": 1}']


def test_a_changed_file_is_detected(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "a.json"
    path.write_text('{"list": [{"a": 1}]}')
    index = json_index.index_lists(path, "test", ("list",))
    sent = pickle.loads(pickle.dumps(index.file))  # as to a worker
    assert sent.read(9, 4) == index.file.read(9, 4)
    path.write_text('{"list": [{"a": 12}]}')
    with pytest.raises(DataError, match="changed while"):
        pickle.loads(pickle.dumps(index.file)).read(0, 4)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(entries=st.lists(st.dictionaries(_TEXT, _VALUE, max_size=4), max_size=6), block=st.integers(1, 40))
def test_only_long_values_are_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: list[dict[str, Any]], block: int
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"list": entries}))
    with monkeypatch.context() as patch:
        patch.setattr(json_index, "_BLOCK", block)
        patch.setattr(json_index, "_LONG", 0)
        index = json_index.index_lists(path, "test", ("list",))
        found = []
        for offset, text, spans in index.regions("list"):
            found += json.loads(b"[" + b"".join(index.without_long_values(offset, text)) + b"]")
            assert len(spans)
    emptied = [{k: type(v)() if isinstance(v, dict | list) else v for k, v in entry.items()} for entry in entries]
    assert repr(found) == repr(emptied)


def test_an_undecodable_part_means_that_the_file_is_not_json_or_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"list": [{"a": 1}]}')
    file = json_index.index_lists(path, "test", ("list",)).file
    assert "not valid JSON: why, in the entry at byte 7" in str(file.broken(7, "why"))
    path.write_text('{"list": [{"a": 12}]}')
    assert "changed while" in str(file.broken(7, "why"))
