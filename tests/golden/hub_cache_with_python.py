#!/usr/bin/env python3
"""Holds the hub's cache to huggingface_hub. Run by hand, not by CI.

    pip install huggingface_hub            # tried with 2.4.0
    cargo build --release --features hub --example embed
    python tests/golden/hub_cache_with_python.py

What one writes the other reads, also with four of each at once, and after one was killed in the middle. Serves
weights/tiny-gpt2 on the loopback interface as huggingface.co describes files, and touches no other network.
"""
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
EMBED = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/embed"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {name: (ROOT / "weights/tiny-gpt2" / name).read_bytes() for name in ["config.json", "model.safetensors"]}
ETAGS = {
    "config.json": hashlib.sha1(b"blob %d\0" % len(FILES["config.json"]) + FILES["config.json"]).hexdigest(),
    "model.safetensors": hashlib.sha256(FILES["model.safetensors"]).hexdigest(),
}
REPO = "someone/gpt2"


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sent = {}  # bytes of bodies by file
    pause = 0.0  # after each 64 kB

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        name = self.path.split("?")[0].rsplit("/", 1)[-1]
        body = FILES.get(name)
        start, status = 0, 200
        if body is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            body = b""
        else:
            n_bytes = len(body)
            asked = self.headers.get("Range")
            if asked:
                first, last = asked.removeprefix("bytes=").split("-")
                start, end, status = int(first), min(int(last or n_bytes - 1) + 1, n_bytes), 206
                body = body[start:end]
            self.send_response(status)
            self.send_header("ETag", f'"{ETAGS[name]}"')
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{n_bytes}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            for at in range(0, len(body) if with_body else 0, 1 << 16):
                piece = body[at : at + (1 << 16)]
                self.wfile.write(piece)
                Hub.sent[name] = Hub.sent.get(name, 0) + len(piece)
                time.sleep(Hub.pause)
        except OSError:
            self.close_connection = True


def environment(home, endpoint, **more):
    without_proxies = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return {**without_proxies, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", **more}


def ours(home, endpoint, **more):
    command = [EMBED, "--hub", REPO, "--ids", "15496,11,995"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, env=environment(home, endpoint, **more), **streams)


READ = """
import json, sys, huggingface_hub as hub
repo, local = sys.argv[1], sys.argv[2] == "local"
paths = [hub.hf_hub_download(repo, name, local_files_only=local) for name in ["config.json", "model.safetensors"]]
info = hub.scan_cache_dir()
[found] = info.repos
print(json.dumps({
    "paths": paths,
    "tried": [hub.try_to_load_from_cache(repo, name) for name in ["config.json", "model.safetensors"]],
    "absent": hub.try_to_load_from_cache(repo, "tokenizer.json") is hub.file_download._CACHED_NO_EXIST,
    "warnings": [str(warning) for warning in info.warnings],
    "size": info.size_on_disk, "repo": found.repo_id, "refs": sorted(found.refs),
    "revisions": [revision.commit_hash for revision in found.revisions],
}))
"""


def python(home, endpoint, local=False):
    command = [sys.executable, "-c", READ, REPO, "local" if local else "online"]
    return subprocess.Popen(command, env=environment(home, endpoint), stdout=subprocess.PIPE, text=True)


def finish(process):
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, (process.args, process.returncode)
    return out


def vectors(out):
    return [line for line in out.splitlines() if line.startswith("     ")]


def check_python(seen, home):
    """What Python reads is all that there is, and nothing else."""
    assert seen["paths"] == seen["tried"], seen
    for path, content in zip(seen["paths"], FILES.values()):
        assert pathlib.Path(path).read_bytes() == content, path
    assert seen["warnings"] == [], seen["warnings"]
    assert (seen["repo"], seen["refs"], seen["revisions"]) == (REPO, ["main"], [COMMIT]), seen
    assert seen["size"] == sum(map(len, FILES.values())), seen["size"]
    assert not list(pathlib.Path(home).rglob("*.incomplete"))


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.handle_error = lambda *_: None  # killed clients reset their connections
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    whole = {name: len(content) for name, content in FILES.items()}

    def case(what):
        Hub.sent.clear()
        print(what, flush=True)
        return tempfile.TemporaryDirectory()

    with case("ours first, then Python without and with the network") as home:
        want = vectors(finish(ours(home, endpoint)))
        assert len(want) == 3, want
        seen = json.loads(finish(python(home, endpoint, local=True)))
        check_python(seen, home)
        assert seen["absent"], "the absence of a tokenizer is noted"
        Hub.sent.clear()
        check_python(json.loads(finish(python(home, endpoint))), home)
        assert Hub.sent == {}, Hub.sent

    with case("Python first, then ours with and without the network") as home:
        finish(python(home, endpoint))
        Hub.sent.clear()
        assert vectors(finish(ours(home, endpoint))) == want
        assert all(n_bytes == 1 for n_bytes in Hub.sent.values()), Hub.sent
        # Python notes an absence only where it was asked for; ours has asked above.
        assert vectors(finish(ours(home, endpoint, HF_HUB_OFFLINE="1"))) == want
        check_python(json.loads(finish(python(home, endpoint, local=True))), home)

    Hub.pause = 0.02
    for n in range(3):
        with case(f"four of each at once, run {n}") as home:
            both = [start(home, endpoint) for _ in range(4) for start in (ours, python)]
            outs = [finish(process) for process in both]
            assert all(vectors(out) == want for out in outs[::2])
            check_python(json.loads(outs[-1]), home)
            n_described = 8  # a byte for each of ours and each file, some twice
            assert all(Hub.sent[name] <= n_bytes + 2 * n_described for name, n_bytes in whole.items()), Hub.sent

    for first, second in [(ours, python), (python, ours), (ours, ours)]:
        with case(f"{first.__name__} killed in the middle, then {second.__name__}") as home:
            process = first(home, endpoint)
            while Hub.sent.get("model.safetensors", 0) < whole["model.safetensors"] // 2:
                time.sleep(0.01)
            process.kill()
            process.communicate()
            before = dict(Hub.sent)
            finish(second(home, endpoint))
            n_more = Hub.sent["model.safetensors"] - before["model.safetensors"]
            if first is second:
                assert n_more < whole["model.safetensors"] * 3 // 4, "it goes on where it ended"
            assert vectors(finish(ours(home, endpoint))) == want
            finish(python(home, endpoint))
    print("all as it should be")


if __name__ == "__main__":
    main()
