"""A hub on loopback: a model directory in the layout that huggingface_hub asks for, with faults.

`/api/models/{id}/revision/{rev}` and `/{id}/resolve/{rev}/{file}` as the hub serves them; weight
files are redirected to a second server, as the hub does to its CDN. Run as a program, it serves
until it is killed: for pulls in processes of their own.
"""

import hashlib
import json
import re
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34
CHUNK_BYTES = 16 * 1024


@dataclass
class Faults:
    """What the server does wrong; change it at any time."""

    flip_from: int | None = None
    """Every byte of weight files from here on is inverted."""
    cut_after: int | None = None
    """Weight responses break off after so many bytes, while `cuts` lasts."""
    cuts: int = 0
    stall_s: float = 0.0
    """Before every weight response."""
    pause_s: float = 0.0
    """After every chunk of 16 KiB."""
    ignore_ranges: bool = False
    gated: bool = False
    status: int = 0
    """For weight files, instead of an answer."""


@dataclass
class Hub:
    """One repository, and what was asked of it."""

    directory: Path
    repository: str = "org/tiny"
    faults: Faults = field(default_factory=Faults)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    """(file, start, end) of every range of a weight file that was served."""
    tokens: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, authorization) of every request."""
    url: str = ""
    cdn_url: str = ""
    commit: str = COMMIT

    def fetched(self, start_of_data: int = 4096) -> int:
        return sum(end - start for _, start, end in self.ranges)


def info(hub):
    siblings = []
    for path in sorted(hub.directory.iterdir()):
        data = path.read_bytes()
        blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        sibling = {"rfilename": path.name, "size": len(data), "blobId": blob}
        if path.suffix == ".safetensors":
            sha256 = hashlib.sha256(data).hexdigest()
            sibling["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 134}
        siblings.append(sibling)
    return {"id": hub.repository, "sha": hub.commit, "siblings": siblings}


def handler_of(hub, *, is_cdn):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            """Tests look at `hub`, not at stderr."""

        def do_GET(self):
            hub.tokens.append((self.path, self.headers.get("authorization")))
            path = self.path.partition("?")[0]
            if not is_cdn and path.startswith(f"/api/models/{hub.repository}"):
                return self.answer_info()
            place = re.fullmatch(rf"/(?:cdn|{hub.repository}/resolve/[^/]+)/([^/]+)", path)
            if place is None or not (hub.directory / place[1]).is_file():
                return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
            if not is_cdn and place[1].endswith(".safetensors") and hub.cdn_url:
                return self.send(302, b"", {"Location": f"{hub.cdn_url}/cdn/{place[1]}"})
            return self.answer_file(place[1])

        def answer_info(self):
            if hub.faults.gated:
                return self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            return self.send(200, json.dumps(info(hub)).encode(), {"X-Repo-Commit": hub.commit})

        def answer_file(self, name):
            data = (hub.directory / name).read_bytes()
            is_weights = name.endswith(".safetensors")
            faults = hub.faults if is_weights else Faults()
            if faults.status:
                return self.send(faults.status, b"", {})
            if faults.flip_from is not None:
                bad = bytes(b ^ 255 for b in data[faults.flip_from :])
                data = data[: faults.flip_from] + bad
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
            if asked is None or faults.ignore_ranges:
                return self.send(200, data, {"ETag": f'"{name}"', "X-Repo-Commit": hub.commit})
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
            if is_weights:
                hub.ranges.append((name, start, end))
            headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
            time.sleep(faults.stall_s)
            return self.send(206, data[start:end], headers, faults)

        def send(self, status, body, headers, faults=None):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if faults and faults.cuts and len(body) > (faults.cut_after or 0):
                faults.cuts -= 1
                body = body[: faults.cut_after]
                self.close_connection = True
            for position in range(0, len(body), CHUNK_BYTES):
                self.wfile.write(body[position : position + CHUNK_BYTES])
                time.sleep(faults.pause_s if faults else 0)

    return Handler


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that goes away in mid-answer is what some tests are about."""


@contextmanager
def serving(directory, *, with_cdn=True, **fields):
    """A running hub of one directory."""
    hub = Hub(Path(directory), **fields)
    servers = [QuietServer(("127.0.0.1", 0), handler_of(hub, is_cdn=False))]
    hub.url = f"http://127.0.0.1:{servers[0].server_port}"
    if with_cdn:
        servers.append(QuietServer(("127.0.0.1", 0), handler_of(hub, is_cdn=True)))
        hub.cdn_url = f"http://127.0.0.1:{servers[1].server_port}"
    threads = [threading.Thread(target=s.serve_forever, args=(0.01,)) for s in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    with serving(sys.argv[1]) as running:
        print(running.url, flush=True)
        time.sleep(600)
