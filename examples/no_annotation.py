"""An async generator without a return type can yield anything that FastAPI can encode."""

from datetime import date

from fastapi import FastAPI

from sserpent import EventSourceResponse

app = FastAPI()


@app.get("/orders", response_class=EventSourceResponse)
async def stream_orders():
    yield {"order": 1, "placed": date(2025, 3, 1)}
    yield ["order", 2]
    yield "no more orders"
