"""The OpenAPI documents of typed events, as others read them: the standard's own schema, and
generators of clients."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field

from sserpent import EventSourceResponse, Named, ServerSentEvent


class Item(BaseModel):
    name: str
    tags: list[str]


class Closed(BaseModel):
    reason: str


class Cat(BaseModel):
    kind: Literal["cat"]
    meows: int


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: int


Created = Annotated[Item, Named("created")]
Deleted = Annotated[int, Named("deleted")]
Pet = Annotated[Annotated[Cat | Dog, Field(discriminator="kind")], Named("pet")]
ClosedEvent = ServerSentEvent[Closed, Literal["closed"]]

app = FastAPI()


@app.get("/values", response_class=EventSourceResponse)
async def values() -> AsyncIterable[Created | Deleted | Pet]:
    yield 7


@app.get("/events", response_class=EventSourceResponse)
async def events() -> AsyncIterable[ClosedEvent | Created]:
    yield ServerSentEvent(data=Closed(reason="late"), event="closed")


@app.get("/any", response_class=EventSourceResponse)
async def any_name() -> AsyncIterable[ServerSentEvent[Closed]]:
    yield ServerSentEvent(data=Closed(reason="late"))


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(app.openapi()))
    return path


def test_openapi_3_2_allows_the_document() -> None:
    """FastAPI names 3.1, of which `itemSchema` is no part; the version that has it is 3.2."""
    validator: Any = pytest.importorskip("openapi_spec_validator").OpenAPIV32SpecValidator
    document = {**app.openapi(), "openapi": "3.2.0"}
    assert list(validator(document).iter_errors()) == []
    content = document["paths"]["/any"]["get"]["responses"]["200"]["content"]
    content["text/event-stream"]["itemSchema"] = 7
    assert list(validator(document).iter_errors()) != []


# Their own text, so that what a generator writes is not run here.
FIELDS = {
    "Item": {"name", "tags"},
    "Closed": {"reason"},
    "Cat": {"kind", "meows"},
    "Dog": {"kind", "barks"},
}


def fields_in(*files: Path) -> dict[str, set[str]]:
    """The annotated fields of the classes of generated code."""
    return {
        node.name: {
            each.target.id
            for each in node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        }
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    }


def run(package: str, *arguments: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed for this Python")
    done = subprocess.run(
        [sys.executable, "-m", package, *arguments], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.once
def test_datamodel_code_generator_has_the_types(document: Path, tmp_path: Path) -> None:
    models = tmp_path / "models.py"
    run(
        "datamodel_code_generator",
        *("--input", str(document), "--input-file-type", "openapi"),
        *("--output-model-type", "pydantic_v2.BaseModel", "--output", str(models)),
    )
    found = fields_in(models)
    assert {name: found.get(name) for name in FIELDS} == FIELDS


@pytest.mark.once
def test_openapi_python_client_has_the_types(document: Path, tmp_path: Path) -> None:
    client = tmp_path / "client"
    run(
        "openapi_python_client",
        *("generate", "--path", str(document), "--output-path", str(client), "--meta", "none"),
    )
    found = fields_in(*(client / "models").glob("*.py"))
    assert {name: found.get(name, set()) & FIELDS[name] for name in FIELDS} == FIELDS
    assert {file.stem for file in (client / "api" / "default").glob("*_get.py")} == {
        "values_values_get",
        "events_events_get",
        "any_name_any_get",
    }
