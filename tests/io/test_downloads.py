"""Fetching files from a real server on this machine, which breaks off, refuses, or has another file."""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.downloads import cache_folder, fetch
from speechdlm_ext.io.published import HUBERT, WAVLM, Published, locate

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under every path; ``requests`` is how often it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = 0
        self.break_after: int | None = None  # bytes of each answer
        self.status = 200
        self.url = f"http://127.0.0.1:{self.server_address[1]}/models/some%20model.pt"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.server.status != 200:
            return self.send_error(self.server.status)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: self.server.break_after])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_comes_once_and_whole(server: Server, tmp_path: Path) -> None:
    path = fetch(server.url, DIGEST, tmp_path / "cache")
    assert path == tmp_path / "cache" / "some model.pt" and path.read_bytes() == CONTENT
    assert fetch(server.url, DIGEST[:8].upper(), tmp_path / "cache") == path
    assert server.requests == 1 and [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_broken_connection_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.break_after = 500_000
    with pytest.raises(InputError, match="some%20model.pt: .*changed or cut off"):
        fetch(server.url, DIGEST, tmp_path)
    assert not list(tmp_path.iterdir())
    server.break_after = None
    assert fetch(server.url, DIGEST, tmp_path).read_bytes() == CONTENT


def test_another_file_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f'expected "01234567", got "{DIGEST}"'):
        fetch(server.url, "01234567", tmp_path)
    assert not (tmp_path / "some model.pt").exists()
    assert fetch(server.url, DIGEST, tmp_path).read_bytes() == CONTENT  # nothing of the refused one is in the way


def test_what_cannot_be_fetched(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.status = 404
    with pytest.raises(InputError, match="HTTP status 404.*some model.pt"):
        fetch(server.url, DIGEST, tmp_path)
    with pytest.raises(InputError, match="No such file"):
        fetch((tmp_path / "missing.pt").as_uri(), DIGEST, tmp_path / "cache")
    with pytest.raises(InputError, match="refused"):
        fetch("http://127.0.0.1:9/file.pt", DIGEST, tmp_path)
    monkeypatch.setenv("SPEECHDLM_OFFLINE", "1")
    server.status, server.requests = 200, 0
    with pytest.raises(InputError, match="SPEECHDLM_OFFLINE"):
        fetch(server.url, DIGEST, tmp_path)
    assert server.requests == 0


def test_several_processes_fetch_it_once(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        paths = pool.starmap(fetch, [(server.url, DIGEST, str(tmp_path))] * 4)
    assert paths == [tmp_path / "some model.pt"] * 4 and paths[0].read_bytes() == CONTENT
    assert server.requests == 1 and len(list(tmp_path.iterdir())) == 1


def test_published_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source" / "weights.pt"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    monkeypatch.setenv("SPEECHDLM_CACHE", str(tmp_path / "cache"))
    table = {"some-model": Published(source.as_uri(), DIGEST[:8])}
    assert locate("some-model", table) == tmp_path / "cache" / "some-model" / "weights.pt"
    assert locate("some-model", table).read_bytes() == CONTENT
    assert locate(source, table) == source
    with pytest.raises(InputError, match="another-model: no such file.*some-model"):
        locate("another-model", table)
    monkeypatch.delenv("SPEECHDLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert cache_folder() == Path("/some/cache/speechdlm_ext")


def test_the_tables_are_those_of_the_publishers(data: Path) -> None:
    keys = data / "keys"
    lines = (keys / "textless_checkpoints.txt").read_text().splitlines()
    published = {name: Published(url, digest) for name, url, digest in (line.split("\t") for line in lines if line)}
    assert {name: published[name] for name in HUBERT} == HUBERT
    urls = (keys / "checkpoint_urls.txt").read_text().split()
    assert all(entry.url in urls and entry.digest in entry.url for entry in WAVLM.values())
