"""A stand-in for the hub on this machine: it speaks the calls that huggingface_hub makes to push and to fetch.

Made after what huggingface_hub 1.33 and 2.4 send. It keeps repositories in memory, knows one token, and can fail at any
call: with a status, or by closing the connection in the middle.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_StandInToken0123456789"  # noqa: S105
GONE = "gone"  # the connection ends without an answer
BY_LFS = (".safetensors",)


@dataclass
class Repository:
    """The files of its last commit."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def sha(self) -> str:
        """The name of the last commit."""
        return f"{self.commits:040x}"


@dataclass
class StandInHub:
    """The state of the hub.

    Args:
        faults: a regular expression of `METHOD /path`, and the status that such a call gets, or GONE.
        calls: every `METHOD /path`, in order.
    """

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, int | str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def fault(self, call: str) -> int | str | None:
        """Return what this call is to get in place of its answer."""
        return next((fault for pattern, fault in self.faults.items() if re.search(pattern, call)), None)

    def create(self, body: bytes) -> tuple[int, object]:
        """Make a repository, private unless it is asked to be public."""
        wish = json.loads(body)
        name = f"{wish['organization'] or 'me'}/{wish['name']}"
        url = {"url": f"{self.endpoint}/{name}", "id": name}
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", **url}
        private = wish.get("private", wish.get("visibility") == "private")
        self.repositories[name] = Repository(private)
        return 200, url

    def upload_modes(self, body: bytes) -> tuple[int, object]:
        """Say of every file whether it goes through LFS."""
        paths = [file["path"] for file in json.loads(body)["files"]]
        files = [
            {"path": path, "uploadMode": "lfs" if path.endswith(BY_LFS) else "regular", "shouldIgnore": False}
            for path in paths
        ]
        return 200, {"files": files}

    def lfs_batch(self, body: bytes) -> tuple[int, object]:
        """Say where the objects go."""
        places = {"upload": {"href": f"{self.endpoint}/lfs/"}, "verify": {"href": f"{self.endpoint}/verify/"}}
        objects = [
            {**wanted, "actions": {name: {"href": place["href"] + wanted["oid"]} for name, place in places.items()}}
            for wanted in json.loads(body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def store(self, oid: str, body: bytes) -> tuple[int, object]:
        """Keep an object, if its bytes are the announced ones."""
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "not the announced bytes"}
        self.objects[oid] = body
        return 200, {}

    def commit(self, name: str, body: bytes) -> tuple[int, object]:
        """Put the files of a commit in place, all at once."""
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        repository = self.repositories[name]
        repository.files |= files
        repository.commits += 1
        url = f"{self.endpoint}/{name}/commit/{repository.sha}"
        return 200, {"success": True, "commitUrl": url, "commitOid": repository.sha}

    def information(self, name: str) -> tuple[int, object]:
        """Say what the repository holds."""
        repository = self.repositories[name]
        siblings = [{"rfilename": path} for path in repository.files]
        return 200, {"id": name, "sha": repository.sha, "private": repository.private, "siblings": siblings}

    def tree(self, name: str) -> tuple[int, object]:
        """List the files with their sizes."""
        files = self.repositories[name].files
        return 200, [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324
            for path, content in files.items()
        ]

    def validate(self, body: bytes) -> tuple[int, object]:
        """Check the metadata of a card: a license that the hub does not know is refused."""
        unknown = re.search(r"^license: unknown-license$", json.loads(body)["content"], flags=re.MULTILINE)
        errors = [{"message": '"license" must be one of [apache-2.0, mit, ...]'}] if unknown else []
        return (400 if errors else 200), {"errors": errors, "warnings": []}


class _Handler(BaseHTTPRequestHandler):
    """Reads a call, finds its answer in `hub`, and writes it."""

    protocol_version = "HTTP/1.1"
    hub: StandInHub

    def answer(self) -> None:
        """Answer one call of any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = f"{self.command} {self.path.partition('?')[0]}"
        self.hub.calls.append(call)
        fault = self.hub.fault(call)
        if fault == GONE:
            self.close_connection = True
            return
        signed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if fault is None and not signed and not call.startswith("PUT /lfs/"):
            fault = 401
        if fault is not None:
            self.send(int(fault), {"error": f"refused with {fault}"})
        elif (file := self.file(call)) is not None:
            self.send_file(*file)
        else:
            self.send(*self.found(call, body))

    def found(self, call: str, body: bytes) -> tuple[int, object]:
        """Return the answer to a call that is no download."""
        hub = self.hub
        if call == "POST /api/repos/create":
            return hub.create(body)
        if call == "POST /api/validate-yaml":
            return hub.validate(body)
        if call.startswith("PUT /lfs/"):
            return hub.store(call.rpartition("/")[2], body)
        if call.startswith("POST /verify/"):
            return (200 if call.rpartition("/")[2] in hub.objects else 404), {}
        parts = re.fullmatch(r"\w+ (?:/api/models)?/([\w.-]+/[\w-]+)(?:\.git/info/lfs/objects)?/(\w+).*", call)
        if parts is None or parts[1] not in hub.repositories:
            return 404, {"error": "Repository not found"}
        name, job = parts.groups()
        jobs = {
            "preupload": lambda: hub.upload_modes(body),
            "batch": lambda: hub.lfs_batch(body),
            "commit": lambda: hub.commit(name, body),
            "revision": lambda: hub.information(name),
            "tree": lambda: hub.tree(name),
        }
        return jobs[job]() if job in jobs else (404, {"error": "no such call"})

    def file(self, call: str) -> tuple[Repository, bytes] | None:
        """Return the content that a download asks for."""
        parts = re.fullmatch(r"(?:GET|HEAD) /([\w.-]+/[\w-]+)/resolve/\w+/(.+)", call)
        repository = self.hub.repositories.get(parts[1]) if parts else None
        if parts is None or repository is None or parts[2] not in repository.files:
            return None
        return repository, repository.files[parts[2]]

    def send(self, status: int, content: object) -> None:
        """Write an answer in JSON."""
        body = json.dumps(content).encode()
        kind = {404: "RepoNotFound"}.get(status)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if kind:
            self.send_header("X-Error-Code", kind)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, repository: Repository, content: bytes) -> None:
        """Write a file with what the client's cache needs."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", repository.sha)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    """Run a hub on a free port of this machine."""
    hub = StandInHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
