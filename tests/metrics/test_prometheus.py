"""A real Prometheus scrapes a real application: the expressions of `docs/dashboard.json` and
`docs/alerts.yml` answer with data."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from debian import program
from pages import DOCS
from servers import Server, fetch, free_port, open_stream, until, uvicorn

pytestmark = pytest.mark.once

DASHBOARD = json.loads((DOCS / "dashboard.json").read_text(encoding="utf-8"))
ALERTS = DOCS / "alerts.yml"
CONFIGURATION = """
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 500ms}
rule_files: [alerts.yml]
scrape_configs: [{job_name: app, static_configs: [{targets: ["127.0.0.1:PORT"]}]}]
"""


@pytest.fixture(scope="module")
def app() -> Iterator[Server]:
    server = Server(uvicorn("metrics_app:app", "--log-level", "warning"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def prometheus(app: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = program("prometheus", "prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(CONFIGURATION.replace("PORT", str(app.port)))
    shutil.copy(ALERTS, folder)
    port = free_port()
    options = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder}/data"]
    server = Server([path, f"--config.file={folder}/prometheus.yml", *options], port=port)
    yield server
    server.close()


@pytest.fixture(scope="module")
def traffic(app: Server) -> Iterator[Callable[[], None]]:
    """Streams that stay open; what is yielded opens some of each kind that ends."""
    with ExitStack() as stack:
        for path in ("/single", "/sync"):
            stack.enter_context(open_stream(app, path))
        stack.enter_context(_asked(app, "/flood"))

        def more() -> None:
            first = httpx.post(f"{app.url}/news?count=5").json()
            for last_event_id in (first, "unknown"):
                _come_back(app, last_event_id)
            for path in ("/fails", "/single"):
                fetch(app, path)
            for path in ("/stalled", "/late"):
                stack.enter_context(_asked(app, path))

        yield more


def _asked(app: Server, path: str) -> socket.socket:
    """A client that asks and does not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", app.port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def _come_back(app: Server, last_event_id: str) -> None:
    """Reads the first event that a subscriber gets who comes back."""
    headers = {"Last-Event-ID": last_event_id}
    with httpx.stream("GET", f"{app.url}/news", headers=headers, timeout=20) as response:
        next(line for line in response.iter_lines() if line.startswith("data: "))


def ask(prometheus: Server, query: str) -> dict[str, float]:
    """The values that a query has, by their labels, as Grafana asks for them."""
    answer = httpx.get(f"{prometheus.url}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    return {str(each["metric"]): float(each["value"][1]) for each in answer["data"]["result"]}


def has_data(prometheus: Server, query: str) -> bool:
    """Whether a query has a value that is not nothing."""
    return any(value > 0 for value in ask(prometheus, query).values())


def dashboard() -> list[str]:
    """The expressions of the dashboard, over an interval that Grafana would choose for it."""
    return [
        target["expr"].replace("$__rate_interval", "10s")
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]


def test_each_expression_of_the_dashboard_answers_with_data(
    prometheus: Server, traffic: Callable[[], None]
) -> None:
    without_data = dashboard()
    assert len(without_data) > 10

    def none_is_left() -> bool:
        traffic()
        # A scrape that comes too late on a busy machine takes its series away until the next.
        without_data[:] = [each for each in without_data if not has_data(prometheus, each)]
        return not without_data

    try:
        until(none_is_left, timeout=60)
    except AssertionError:
        raise AssertionError(f"no data: {without_data}\n{prometheus.log}") from None


def test_each_alert_is_raised(prometheus: Server, traffic: Callable[[], None]) -> None:
    def alerts() -> dict[str, dict[str, Any]]:
        groups = httpx.get(f"{prometheus.url}/api/v1/rules").json()["data"]["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def all_are_raised() -> bool:
        traffic()
        return all(rule["state"] != "inactive" for rule in alerts().values())

    until(lambda: alerts() and all_are_raised(), timeout=60)
    assert {rule["health"] for rule in alerts().values()} == {"ok"}
    assert len(alerts()) == ALERTS.read_text(encoding="utf-8").count("- alert: ")


def test_the_dashboard_has_every_metric(app: Server) -> None:
    exposed = httpx.get(f"{app.url}/metrics").text
    families = text_string_to_metric_families(exposed)
    # prometheus-client has a time beside each of its counters.
    names = {family.name for family in families if not family.name.endswith("_created")}
    shown = " ".join(dashboard())
    assert len(names) > 10
    assert [name for name in names if name not in shown] == []


def test_a_metric_that_does_not_exist_has_no_data(prometheus: Server) -> None:
    assert not has_data(prometheus, "sum by (route) (sserpent_no_such_metric)")
