"""Shards joined: equal to one run, and everything that is missing, doubled or strange is named."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import read_jsonl, write_jsonl
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.io.speeds import with_speeds
from speechdlm_ext.units.merging import merge

MADE_BY = {"frame_rate": 50.0, "codebook": "0123456789ab"}


def manifest(path: Path, count: int) -> list[dict[str, Any]]:
    rows = [
        {"id": f"é {n}", "audio_filepath": f"/data/{n}.wav", "duration": n / 3, "speaker": {"name": n}}
        for n in range(count)
    ]
    random.Random(count).shuffle(rows)
    write_jsonl(path, rows)
    return rows


def units(row: dict[str, Any]) -> dict[str, Any]:
    copied = {key: row[key] for key in ("copy_of", "speed") if key in row}
    return {"audio": row["id"], "unitA": "1 2 3", "unitB": "3 2 1", **MADE_BY, **copied}


def failed(row: dict[str, Any]) -> bool:
    return int(row.get("copy_of", row["id"]).split()[1]) % 7 == 3


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """As encode_units.py leaves it."""
    write_jsonl(path, [units(row) for row in rows if not failed(row)])
    bad = [{**{k: v for k, v in row.items() if k != "speaker"}, "error": "no sound"} for row in rows if failed(row)]
    if bad:
        write_jsonl(f"{path}.errors", bad)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 30), shards=st.integers(1, 9), speeds=st.lists(st.sampled_from([0.9, 1.1, 1.3]), max_size=2)
)
def test_any_shards_merged_are_one_run(tmp_path_factory, count: int, shards: int, speeds: list[float]) -> None:
    folder = tmp_path_factory.mktemp("merged")
    rows = manifest(folder / "m.jsonl", count)
    work = with_speeds(rows, speeds)
    write(folder / "whole.jsonl", work)
    for index in range(shards):
        write(Shard(index, shards).path(folder / "u.jsonl"), Shard(index, shards).take(work))
    if all(map(failed, rows)):
        return
    merge(folder / "m.jsonl", [folder / "u.jsonl"], folder / "joined.jsonl", say=lambda line: None)
    for ending in ("", ".errors"):
        one, joined = (folder / f"{name}.jsonl{ending}" for name in ("whole", "joined"))
        assert one.exists() == joined.exists() and (not one.exists() or one.read_bytes() == joined.read_bytes())


def test_into_the_manifest_no_field_is_dropped(tmp_path: Path) -> None:
    rows = manifest(tmp_path / "m.jsonl", 12)
    write(tmp_path / "a", rows[5:])
    write(tmp_path / "b", rows[:5])
    (tmp_path / "m.jsonl.errors").write_text("of making the manifest")
    merge(tmp_path / "m.jsonl", [tmp_path / "a", tmp_path / "b"], tmp_path / "m.jsonl", say=lambda line: None)
    for row, joined in zip(rows, read_jsonl(tmp_path / "m.jsonl"), strict=True):
        assert joined == ({**row} if failed(row) else {**row, **units(row)})
        assert list(joined)[: len(row)] == list(row)
    assert (tmp_path / "m.jsonl.errors").read_text() == "of making the manifest"


def test_rows_named_by_their_audio(tmp_path: Path) -> None:
    """Transcripts of another pipeline: a manifest without ids, relative paths in one of the two, any order."""
    rows = [{"audio_filepath": str(tmp_path / f"{n % 2}" / f"{n // 2}.wav"), "duration": 1.0} for n in range(8)]
    write_jsonl(tmp_path / "m.json", rows)
    done = [{**row, "text": f"words {number}"} for number, row in enumerate(rows)]
    done[3]["audio_filepath"] = "1/1.wav"
    write_jsonl(tmp_path / "task_0000.json", done[::-2])
    write_jsonl(tmp_path / "task_0001.json", done[::2])
    tasks = [tmp_path / "task_0001.json", tmp_path / "task_0000.json"]
    assert merge(tmp_path / "m.json", tasks, tmp_path / "m.json") == 8
    assert [row["text"] for row in read_jsonl(tmp_path / "m.json")] == [f"words {n}" for n in range(8)]
    assert [row["audio_filepath"] for row in read_jsonl(tmp_path / "m.json")] == [row["audio_filepath"] for row in rows]
    write_jsonl(tmp_path / "task_0001.json", [{**row, "text": "other"} for row in done[::2]])
    before = (tmp_path / "m.json").read_bytes()
    with pytest.raises(InputError, match="the manifest has another text already: pass --overwrite"):
        merge(tmp_path / "m.json", tasks, tmp_path / "m.json")
    assert (tmp_path / "m.json").read_bytes() == before
    merge(tmp_path / "m.json", tasks, tmp_path / "m.json", overwrite=True)
    assert [row["text"] for row in read_jsonl(tmp_path / "m.json")][::2] == ["other"] * 4


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    rows = [row for row in manifest(tmp_path / "m.jsonl", 12) if not failed(row)]
    write_jsonl(tmp_path / "m.jsonl", rows)
    good, said = [units(row) for row in rows], []

    def refused(message: str, *shards: list[dict[str, Any]], **options: Any) -> None:
        paths = [tmp_path / f"shard {number}" for number in range(len(shards))]
        for path, content in zip(paths, shards, strict=True):
            write_jsonl(path, content)
        with pytest.raises(InputError, match=message):
            merge(tmp_path / "m.jsonl", paths, tmp_path / "out", say=said.append, **options)
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))

    missing = f"2 of {len(rows)} items have no result: {rows[3]['id']}, {rows[7]['id']}; .*--allow-missing"
    refused(missing, good[:3], good[4:7] + good[8:])
    refused(
        f"{rows[1]['id']} is in .*shard 0 and, with another result, in .*shard 1", good, [{**good[1], "unitA": "9"}]
    )
    refused("shard 1, row 1: x is not in the manifest", good, [{**good[1], "audio": "x"}])
    refused("the shards differ in codebook", good[:3], [{**row, "codebook": "other"} for row in good[3:]])
    refused("the shards differ in duration_penalty", good[:3], [{**row, "duration_penalty": 1.0} for row in good[3:]])
    refused('shard 0, row 1: expected "id" or "audio_filepath"', [{"text": "hello"}])
    (tmp_path / "broken").write_text(json.dumps(good[0]) + "\n{broken\n")
    with pytest.raises(InputError, match="broken, line 2: not JSON"):
        merge(tmp_path / "m.jsonl", [tmp_path / "broken"], tmp_path / "out")
    with pytest.raises(InputError, match=r"none: no such file, nor .*none.shard-0-of-"):
        merge(tmp_path / "m.jsonl", [tmp_path / "none"], tmp_path / "out")

    assert said == []
    for number, part in enumerate((good[:6], good[4:])):
        write_jsonl(tmp_path / f"shard {number}", part)
    merge(tmp_path / "m.jsonl", [tmp_path / "shard 0", tmp_path / "shard 1"], tmp_path / "out", say=said.append)
    assert read_jsonl(tmp_path / "out") == good
    assert said == [f"2 items are there more than once, with the same result: {rows[4]['id']}, {rows[5]['id']}"]
    with pytest.raises(InputError, match="is there already and says something else"):
        merge(tmp_path / "m.jsonl", [tmp_path / "shard 0"], tmp_path / "out", allow_missing=True, say=said.append)
    merge(tmp_path / "m.jsonl", [tmp_path / "shard 0"], tmp_path / "some", allow_missing=True, say=said.append)
    assert read_jsonl(tmp_path / "some") == good[:6] and "items have no result" in said[-1]


MEMORY = """
import json, resource, sys
from speechdlm_ext.units.merging import merge
for count in (2_000, 60_000):
    path = f"{sys.argv[1]}/{count}"
    files = [open(f"{path}.units.shard-{number}-of-2", "w") for number in range(2)]
    with open(path, "w") as manifest:
        for number in range(count):
            name = f"recording number {number}"
            manifest.write(json.dumps({"id": name, "audio_filepath": f"/data/{number}.wav", "text": "x" * 100}) + "\\n")
            files[number % 2].write(json.dumps({"audio": name, "unitA": f"{number} 2 3 4 " * 9}) + "\\n")
    for file in files:
        file.close()
    for output in (f"{path}.joined", path):
        assert merge(path, [f"{path}.units"], output, say=str) == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_manifest(tmp_path: Path, run_command: Any) -> None:
    small, large = map(int, run_command(["python", "-c", MEMORY, tmp_path]).stdout.split())
    assert large - small < 12_000  # kB; the rows are 20,000 in the files
