"""The servers and proxies of `docs/deployment.md`, run as that page says."""

from __future__ import annotations

import re
import shlex
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx

from debian import program
from pages import DOCS
from servers import Server, free_port

PAGE = DOCS / "deployment.md"


class Result(NamedTuple):
    """A row of the page's table of results."""

    name: str
    protocol: str
    at_once: str
    silence: str
    leaving: str
    cut: str


def section(heading: str) -> str:
    """The text under a heading of the page."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE
    )
    assert found, heading
    return found[1]


def rows(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading."""
    lines = re.findall(r"^\|(.*)\|$", section(heading), re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def block(heading: str) -> str:
    """The first block of code under a heading."""
    found = re.search(r"^```\w+\n(.*?)^```$", section(heading), re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


RESULTS = [Result(*row) for row in rows("Results")]
COMMANDS = {row[0]: row[1].strip("`") for row in rows("Servers")}
# Where each server is told to listen, and to close a connection that nobody uses, soon.
OPTIONS = {
    "uvicorn": "--port {port} --timeout-keep-alive 1",
    "gunicorn": "--bind 127.0.0.1:{port} --keep-alive 1 --timeout 2 --graceful-timeout 8",
    "granian": "--port {port}",
    "hypercorn": "--bind 127.0.0.1:{port} --keep-alive 1",
}


@dataclass(frozen=True)
class Proxy:
    """How a proxy is started, and what its configuration on the page leaves out.

    Args:
        command: "{folder}" is where its files are.
        package: Debian's.
        listens: What the page says of where it listens, and what the test puts there.
        around: The rest of the configuration, with "{page}" for what is on the page.
    """

    command: str
    package: str
    listens: tuple[str, str]
    around: str = "{page}"


PROXIES = {
    "nginx": Proxy(
        "nginx -p {folder} -c {folder}/proxy.conf",
        "nginx",
        ("listen 443", "listen 127.0.0.1:{port}"),
        """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{page}
}
""",
    ),
    "HAProxy": Proxy(
        "haproxy -db -f {folder}/proxy.conf", "haproxy", ("bind :443", "bind 127.0.0.1:{port}")
    ),
    "Apache": Proxy(
        "apache2 -D FOREGROUND -f {folder}/proxy.conf",
        "apache2",
        ("*:443", "127.0.0.1:{port}"),
        """\
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/apache.pid
ErrorLog /dev/stderr
ServerName localhost
User www-data
Group www-data
Listen 127.0.0.1:{port}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule filter_module /usr/lib/apache2/modules/mod_filter.so
LoadModule deflate_module /usr/lib/apache2/modules/mod_deflate.so
{page}
""",
    ),
    "Caddy": Proxy(
        "caddy run --config {folder}/proxy.conf --adapter caddyfile",
        "caddy",
        ("example.com {", "https://127.0.0.1:{port} {\n    import tested"),
        """\
{
    admin off
    auto_https disable_redirects
    grace_period 1s
    servers {
        protocols h1 h2
    }
}
(tested) {
    bind 127.0.0.1
    tls {folder}/site.crt {folder}/site.key
}
{page}
""",
    ),
}


def make_certificate(folder: Path) -> None:
    """Makes a self-signed certificate: `site.crt`, `site.key`, and both in `site.pem`."""
    key, certificate = folder / "site.key", folder / "site.crt"
    subprocess.run(
        [
            *(program("openssl", "openssl"), "req", "-x509", "-nodes", "-days", "2"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    (folder / "site.pem").write_text(certificate.read_text() + key.read_text())


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        if old == new:
            continue
        assert old in text, f"{PAGE.name} has no {old!r} there"
        text = text.replace(old, new)
    return text


class Deployment:
    """The application on a server, behind a proxy or not.

    Args:
        name: On the page.
        folder: Where its files are, with a certificate.
        redis_url: For its channels.
        edit: A part of the proxy's configuration, and what to put there.
        server: Behind the proxy.

    Attributes:
        app: The application's server.
        url: Where clients ask.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        redis_url: str,
        edit: tuple[str, str] = ("", ""),
        server: str = "uvicorn",
    ) -> None:
        self.name = name
        self.folder = folder
        self._stack = ExitStack()
        proxy = PROXIES.get(name)
        if proxy is not None:
            program(shlex.split(proxy.command)[0], proxy.package)
        self.app = self._serve(server if proxy else name, redis_url)
        self.port = self.app.port
        if proxy is not None:
            try:
                self.port = self._start(proxy, edit).port
            except BaseException:
                self.close()
                raise
        is_plain = proxy is None and "site.crt" not in COMMANDS[name]
        self.url = f"{'http' if is_plain else 'https'}://127.0.0.1:{self.port}"
        self._teller = self._stack.enter_context(self.client("HTTP/1.1"))

    def _serve(self, name: str, redis_url: str) -> Server:
        command = COMMANDS[name].replace("main:app", "deployment_app:app")
        command = command.replace("site.", f"{self.folder}/site.")
        module = shlex.split(command)[0]
        command = f"{command} {OPTIONS[module]}"
        server = Server(
            [sys.executable, "-m", *shlex.split(command)],
            DEPLOYMENT_FOLDER=str(self.folder),
            REDIS_URL=redis_url,
        )
        self._stack.callback(server.close)
        return server

    def _start(self, proxy: Proxy, edit: tuple[str, str]) -> Server:
        port = free_port()
        upstream = "127.0.0.1:8000", f"127.0.0.1:{self.app.port}"
        page = replaced(block(self.name), edit, upstream, proxy.listens, ("60s", "2s"))
        text = proxy.around.replace("{page}", page).replace("/etc/ssl/", "{folder}/")
        text = text.replace("{port}", str(port)).replace("{folder}", str(self.folder))
        (self.folder / "proxy.conf").write_text(text)
        command = shlex.split(proxy.command.replace("{folder}", str(self.folder)))
        server = Server(
            [program(command[0], proxy.package), *command[1:]],
            port=port,
            HOME=str(self.folder),
            XDG_CONFIG_HOME=str(self.folder),
            XDG_DATA_HOME=str(self.folder),
        )
        self._stack.callback(server.close)
        return server

    def close(self) -> None:
        self._stack.close()

    def is_running(self) -> bool:
        return self.app.process.poll() is None

    def trust(self) -> ssl.SSLContext:
        """What a client verifies the deployment with."""
        return ssl.create_default_context(cafile=str(self.folder / "site.crt"))

    @contextmanager
    def client(self, protocol: str) -> Iterator[httpx.Client]:
        http2 = protocol == "HTTP/2"
        with httpx.Client(
            base_url=self.url, http1=not http2, http2=http2, verify=self.trust(), timeout=20
        ) as client:
            yield client

    def tell(self, key: str, number: int) -> None:
        """Has the stream of this key go on."""
        # Not on a connection that stays: it would hold the server's exit.
        close = {"Connection": "close"}
        self._teller.post(f"/told/{key}/{number}", headers=close).raise_for_status()

    def has_noticed(self, key: str) -> bool:
        """Whether the stream of this key has ended in the application."""
        return f"{key} left" in self.app.log
