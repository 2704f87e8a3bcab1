"""An A2A agent whose SDK finds `sserpent.compat.sse_starlette` where it looks for
`sse_starlette`."""

from __future__ import annotations

import compat_setup  # noqa: F401 - before the SDK

# isort: split
import a2a.server.routes.common as sdk
import anyio
from a2a.helpers import new_task_from_user_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sserpent.compat import sse_starlette

assert sdk.EventSourceResponse is sse_starlette.EventSourceResponse


class Counter(AgentExecutor):
    """Sends what it was told in parts, and waits in between if that has "wait" in it."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        task = context.current_task or new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work()
        words = context.get_user_input().split()
        for number, word in enumerate(words):
            await updater.add_artifact(
                [new_text_part(word)],
                artifact_id="words",
                append=number > 0,
                last_chunk=number == len(words) - 1,
            )
            if word == "wait":
                try:
                    print("agent waits")
                    await anyio.sleep_forever()
                finally:
                    print("agent cancelled")
            if word == "go-on":
                await go_on.wait()
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.task_id is not None
        assert context.context_id is not None
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


go_on = anyio.Event()


async def let_go_on(request: Request) -> Response:
    """Lets the agents that wait for it go on."""
    global go_on
    go_on.set()
    go_on = anyio.Event()
    return Response(status_code=204)


card = AgentCard(
    name="counter",
    description="Sends words",
    version="1",
    supported_interfaces=[
        AgentInterface(protocol_binding="JSONRPC", url="/rpc", protocol_version="1.0"),
        AgentInterface(protocol_binding="HTTP+JSON", url="/rest", protocol_version="1.0"),
    ],
    capabilities=AgentCapabilities(streaming=True),
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    skills=[AgentSkill(id="count", name="count", description="Sends words", tags=["words"])],
)
handler = DefaultRequestHandler(Counter(), InMemoryTaskStore(), card)
app = Starlette(routes=[Route("/go-on", let_go_on)])
app.router.routes.extend(create_agent_card_routes(card))
app.router.routes.extend(create_jsonrpc_routes(handler, "/rpc"))
app.router.routes.extend(create_rest_routes(handler, path_prefix="/rest"))
