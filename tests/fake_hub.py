"""The file endpoints of the Hugging Face Hub, as far as its client asks for them here."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34
OLDER = "0123456789" * 4


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``: (repository, commit, name) -> bytes; uploads make a new commit."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not match:
            self.answer(404)
            return
        repository, revision, name = match.groups()
        if not any(key[0] == repository for key in self.server.files):
            self.answer(404, X_Error_Code="RepoNotFound")
            return
        commit = {"main": COMMIT, "v1": OLDER}.get(revision, revision)
        if commit not in (COMMIT, OLDER):
            self.answer(404, X_Error_Code="RevisionNotFound")
            return
        body = self.server.files.get((repository, commit, name))
        if body is None:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        self.answer(200, body, ETag=etag, X_Repo_Commit=commit)

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        host = f"http://{self.headers['Host']}"
        if self.headers.get("Authorization") != "Bearer hf_secret":
            self.answer(401, b'{"error":"Invalid username or password."}')
            return
        if self.path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            self.server.created.append(name)
            self.reply({"url": f"{host}/{name}"})
            return
        if self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
            return
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path)
        if not match:
            self.answer(404)
            return
        repository, action = match.groups()
        if action == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self.reply({"files": files})
            return
        for line in body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                content = base64.b64decode(item["value"]["content"])
                self.server.files[repository, COMMIT, item["value"]["path"]] = content
        self.reply(
            {
                "success": True,
                "commitOid": COMMIT,
                "commitUrl": f"{host}/{repository}/commit/{COMMIT}",
            }
        )

    def reply(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")


@contextmanager
def fake_hub() -> Iterator[ThreadingHTTPServer]:
    """A Hub on this machine; ``url``, ``files``, ``created`` and ``requests`` tell of it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.files, server.created, server.requests = {}, [], []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
