"""The pages of the documentation: their code runs and prints what they say, and they name all there
is."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

import sserpent
import sserpent._cli.findings
import sserpent.channels
import sserpent.client
import sserpent.metrics
import sserpent.protocols
import sserpent.testing
from pages import DOCS, PAGES, PROJECT, README, all_blocks, blocks, run_blocks, text_of
from sserpent._delivery.life import Ending
from sserpent._delivery.options import _CHECKS, _CLASS_CHECKS
from sserpent.testing import connect_sync

REFERENCE = DOCS / "reference"
GUIDES = [page for page in PAGES if page.parent != REFERENCE]
MODULES = (
    sserpent,
    sserpent.channels,
    sserpent.client,
    sserpent.metrics,
    sserpent.protocols,
    sserpent.testing,
)
TOOL = runpy.run_path(str(PROJECT / "tools" / "copies.py"))
REPOSITORY = "https://github.com/sserpent/sserpent/"
RAW = "https://raw.githubusercontent.com/sserpent/sserpent"


def id_of(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=id_of)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("sserpent._fastapi.acceleration._accelerated", False)
    run_blocks(page)


WHOLE = [(page, code) for page in PAGES for code in blocks(page) if "FastAPI(" in code]


@pytest.mark.parametrize(("page", "code"), WHOLE, ids=[id_of(page) for page, _ in WHOLE])
def test_code_that_makes_an_application_runs_pasted_alone(
    page: Path, code: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("sserpent._fastapi.acceleration._accelerated", False)
    namespace: dict[str, Any] = {"__name__": "main"}
    exec(compile(code, page.name, "exec", dont_inherit=True), namespace)
    assert namespace["app"].routes


APPLICATIONS = [page for page in GUIDES if any("FastAPI(" in code for code in blocks(page))]


@pytest.mark.parametrize("page", APPLICATIONS, ids=id_of)
def test_a_text_of_any_length_in_a_url_fails_no_route_of_a_page(
    page: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("sserpent._fastapi.acceleration._accelerated", False)
    namespace: dict[str, Any] = {"__name__": page.stem}
    applications: list[Any] = []
    for code in blocks(page):
        exec(compile(code, page.name, "exec", dont_inherit=True), namespace)
        if namespace.get("app") not in [None, *applications]:
            applications.append(namespace["app"])
    failed = [
        f"{method} {route.path}: {status}"
        for app in applications
        for route in app.routes
        if isinstance(route, APIRoute) and "{" in route.path and not route.dependant.body_params
        for method in route.methods
        if (status := status_of(app, method, route)) >= 500
    ]
    assert failed == []


def status_of(app: FastAPI, method: str, route: APIRoute) -> int:
    """Returns the status for a path whose variable parts are too long for a key."""
    url = re.sub(r"\{\w+\}", "a" * 600, route.path)
    query = {field.alias: "1" for field in route.dependant.query_params}
    headers = {field.alias: "1" for field in route.dependant.header_params}
    with connect_sync(app) as client:
        try:
            with client.stream(method, url, params=query, headers=headers) as response:
                return response.status_code
        except Exception:
            return 500


def test_the_page_on_metrics_has_all_of_them_and_all_reasons_of_an_end() -> None:
    page = DOCS / "operations.md"
    text = page.read_text(encoding="utf-8")
    with TestClient(run_blocks(page)["app"]) as client:
        client.get("/hello").raise_for_status()
        exposed = client.get("/metrics").text
    assert 'sserpent_events_total{route="/hello"} 1.0' in exposed
    names = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(exposed)
        if not family.name.endswith("_created")  # when prometheus-client made it
    }
    assert names == set(re.findall(r"^\| `(sserpent_\w+)` \| `sserpent\.", text, re.MULTILINE))
    reasons = re.findall(r"^\| `([a-z_]+)` \| [A-Z]", text, re.MULTILINE)
    assert reasons[: len(Ending)] == [ending.name.lower() for ending in Ending]


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    text = text_of(page)
    links = re.findall(r"\]\(([^)#:]+)[^):]*\)|(?:src|srcset)=\"([^\":]+)\"", text)
    files = [page.parent / "".join(link) for link in links]
    files += [
        PROJECT / link
        for link in re.findall(rf"(?:{REPOSITORY}(?:blob|tree)|{RAW})/main/([^)#\"]+)", text)
    ]
    assert [file for file in files if not file.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_no_line_within_a_sentence_begins_a_numbered_list(page: Path) -> None:
    """As "409." does in Markdown, which is then not shown."""
    prose = re.sub(r"^( *)```.*?^\1```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^ *\d\d+[.)] .*", prose, re.MULTILINE) == []


def test_every_page_is_in_the_navigation() -> None:
    configuration = (PROJECT / "zensical.toml").read_text(encoding="utf-8")
    listed = re.findall(r'= "([\w./-]+\.md)"', configuration)
    assert sorted(listed) == sorted(
        page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")
    )


def test_the_readme_has_no_link_that_pypi_could_not_follow() -> None:
    text = README.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    assert len(links) > 20
    relative = [link for found in links if not (link := "".join(found)).startswith("https://")]
    assert relative == []


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_the_examples_on_a_page_are_as_their_files_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == TOOL["with_copies"](text), "run `python tools/copies.py`"


def test_a_page_gets_an_example_that_was_changed() -> None:
    page = "<!-- examples/notify.py -->\n```python\nold\n```\n\n```python\nkept\n```\n"
    code = (PROJECT / "examples/notify.py").read_text(encoding="utf-8")
    changed = page.replace("old\n", code)
    assert TOOL["with_copies"](page) == TOOL["with_copies"](changed) == changed


SEARCHED = {
    "authentication": "security.md",
    "broadcast": "channels.md",
    "heartbeat": "options.md",
    "timeout": "options.md",
    "Kubernetes": "deployment.md",
    "CancelledError": "troubleshooting.md",
    "CORS": "security.md",
    "React": "browser.md",
    "WebSocket": "which.md",
}


@pytest.mark.parametrize("word", SEARCHED)
def test_a_page_has_the_word_that_people_search_for(word: str) -> None:
    assert re.search(rf"\b{word}", (DOCS / SEARCHED[word]).read_text(encoding="utf-8"))


def test_llms_txt_leads_to_every_page() -> None:
    text = runpy.run_path(str(PROJECT / "tools" / "llms.py"))["text"]()
    lines = re.findall(r"^- \[.+\]\(https://[^/]+/sserpent/(\S+)\): (.+)$", text, re.MULTILINE)
    assert sorted(page for page, _ in lines) == sorted(
        page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")
    )
    assert [sentence for _, sentence in lines if not 15 < len(sentence) < 200] == []


def test_a_link_of_the_site_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "guide").mkdir()
    (tmp_path / "index.html").write_text('<a href="guide/#here">1</a><a href="https://a.b/">2</a>')
    guide = '<h2 id="here"></h2><a href="..">1</a><a href="#there">2</a><img src="gone.png">'
    (tmp_path / "guide" / "index.html").write_text(guide)
    dead_links = runpy.run_path(str(PROJECT / "tools" / "docs.py"))["dead_links"]
    assert dead_links(tmp_path) == [
        "guide/index.html: #there leads nowhere",
        "guide/index.html: gone.png leads nowhere",
    ]


# Rules


def rules_of(page: str) -> set[str]:
    """Returns the codes that the tables of a page define."""
    firsts = re.findall(r"^\| ([A-Z]\d+(?:, [A-Z]\d+)*) \|", text_of(DOCS / page), re.MULTILINE)
    return {code for first in firsts for code in first.split(", ")}


def test_every_rule_in_the_name_of_a_test_is_defined() -> None:
    tests = {
        name
        for file in (PROJECT / "tests").rglob("test_*.py")
        for name in re.findall(
            r"^ *(?:async )?def test_((?:[a-z]\d+_)+)",
            file.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    used = {code.upper() for name in tests for code in name.split("_") if code}
    defined = rules_of("rules.md") | rules_of("delivery.md")
    assert {"C1", "D1", "R1", "X1"} <= used
    assert sorted(used - defined) == []


def test_no_rule_is_defined_twice() -> None:
    codes = re.findall(r"^\| ([A-Z]\d+) \|", text_of(DOCS / "rules.md"), re.MULTILINE)
    assert sorted(codes) == sorted(set(codes))
    assert not set(codes) & rules_of("delivery.md")


# Names


def test_the_reference_says_what_the_docstrings_say() -> None:
    command = [sys.executable, str(PROJECT / "tools" / "reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(module: Any) -> None:
    page = REFERENCE / f"{module.__name__.rpartition('.')[2]}.md"
    listed = re.findall(r"^<!-- (\S+) -->$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(f"{module.__name__}.{name}" for name in module.__all__)


def test_every_option_of_a_stream_is_on_its_page_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", (DOCS / "options.md").read_text(), re.MULTILINE)
    options = rows[: len(_CHECKS) + len(_CLASS_CHECKS)]
    assert sorted(name for name, _ in options) == sorted([*_CHECKS, *_CLASS_CHECKS])
    for name, default in options:
        value = getattr(sserpent.EventSourceResponse, name)
        shown = f"`{value}`" if value is None or value is False else f"{value:,g}"
        assert default == shown, name
    arguments = inspect.signature(sserpent.EventSourceResponse).parameters
    assert [name for name, _ in rows[len(options) :]] == [*arguments][:-1]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_class_that_help_names_is_the_public_one(module: Any) -> None:
    public = {name: getattr(each, name) for each in MODULES for name in each.__all__}
    others = [
        f"{function.__qualname__}: {name}"
        for function in signatures(module)
        for annotation in map(str, function.__annotations__.values())
        for name in re.findall(r"\w+", annotation)
        if name in public and function.__globals__.get(name, public[name]) is not public[name]
    ]
    assert others == []


def signatures(module: Any) -> Iterator[Any]:
    """Yields the functions of a module, and the methods of its classes."""
    for name in module.__all__:
        found = getattr(module, name)
        owners = inspect.getmro(found) if inspect.isclass(found) else ()
        members = [member for owner in owners for member in vars(owner).values()]
        ours = (each for each in (found, *members) if inspect.isfunction(each))
        yield from (each for each in ours if each.__module__.startswith("sserpent."))


CALLS = [
    sserpent.ServerSentEvent,
    sserpent.channels.Channels,
    sserpent.channels.Channels.channel,
    sserpent.channels.Channel.publish,
    sserpent.channels.Channel.subscribe,
    sserpent.channels.Channels.runs,
    sserpent.channels.Runs.start,
    sserpent.client.aiter_events,
    sserpent.testing.connect,
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__qualname__)
def test_every_parameter_is_on_a_page(call: Any) -> None:
    text = "\n".join(map(text_of, GUIDES))
    names = [name for name in inspect.signature(call).parameters if name not in ("self", "options")]
    assert [name for name in names if not re.search(rf"`{name}\b|\b{name}[:=]", text)] == []


def test_every_error_has_its_page() -> None:
    text = "\n".join(map(text_of, GUIDES))
    errors = [
        name
        for module in MODULES
        for name in module.__all__
        if inspect.isclass(found := getattr(module, name)) and issubclass(found, Exception)
    ]
    assert {"EventTooLarge", "BrokerUnavailable", "StreamEnded"} <= set(errors)
    assert [name for name in errors if not re.search(rf"\b{name}\b", text)] == []


def test_each_alert_links_to_what_to_do_about_it() -> None:
    alerts = (DOCS / "alerts.yml").read_text(encoding="utf-8")
    names = re.findall(r"- alert: (\w+)", alerts)
    link = "runbook_url: https://sserpent.github.io/sserpent/operations/#alerts"
    assert alerts.count(link) == len(names)
    _, _, rest = (DOCS / "operations.md").read_text(encoding="utf-8").partition("\n## Alerts\n")
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", rest.partition("\n## ")[0], re.MULTILINE)
    assert rows == names


# The messages of the log and of the command


def test_the_messages_of_the_log_on_the_page_on_troubleshooting_are_those_of_the_package() -> None:
    package = Path(inspect.getfile(sserpent)).parent
    texts = [
        node.value
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    _, _, rest = text_of(DOCS / "troubleshooting.md").partition("\n## What the log says\n")
    cells = re.findall(r"^\| (`.+?`) \| ", rest, re.MULTILINE)
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 10
    # On the page "…" stands for the names and numbers in a message.
    patterns = {message: ".+".join(map(re.escape, message.split("…"))) for message in messages}
    assert [
        message
        for message, pattern in patterns.items()
        if not any(re.search(pattern, text) for text in texts)
    ] == []


def test_what_the_doctor_says_on_the_page_on_troubleshooting_is_what_it_says() -> None:
    source = Path(inspect.getfile(sserpent._cli.findings)).read_text(encoding="utf-8")
    texts = {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 8
    }
    said = "".join(
        block.code
        for block in all_blocks(DOCS / "troubleshooting.md")
        if block.language == "console"
    )
    findings = re.findall(r"^ +(?:ok|note|fail)  (.+)$", said, re.MULTILINE)
    advice = re.findall(r"^ {8}(\S.+)$", said, re.MULTILINE)
    assert len(findings) > 20
    assert len(advice) >= 10
    unknown = [line for line in [*findings, *advice] if not any(text in line for text in texts)]
    # Its text is put together of numbers and short words.
    assert [line for line in unknown if "came as" not in line] == []
