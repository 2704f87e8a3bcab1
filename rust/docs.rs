//! The documentation of the twin, by its names in Python. Written by `tools/rust_docs.py` from
//! `python/sserpent/_core/`: change it there.

#[rustfmt::skip]
macro_rules! doc {
    ("Buffer") => { r"The buffer between a stream's generator and its connection; safe to use from any thread.

Args:
    item_schema: What the route declares: the type of its items, which events are never checked
        against, or its events.
    max_pending: How many bytes may be pending before it is time to hand them over.
    max_age: How many seconds may pass after the oldest pending event, or after `restart_age`,
        until it is time.
    framed: Whether items that are text or bytes are parts of the stream as they are.
    rules: What a protocol asks of the items.
    count: How many events there were before." };
    ("Buffer.push") => { r"Appends one framed event; if that fails, the pending bytes stay as they were.

Args:
    item: An event, ours or FastAPI's, or a value for the `data` field; or what is framed
        already.

Returns:
    Whether it is time to hand the pending bytes over. There may be none, of items that
    become nothing: then it is time for others to have a turn.

Raises:
    ValueError: a field of an event breaks a rule, or text has lone surrogates.
    Exception: whatever the item's schema or FastAPI's encoder raise." };
    ("Buffer.append") => { r"Appends one event that is framed already." };
    ("Buffer.kept") => { r"Returns the first event with data, if the rules keep it, and the last one, as they were
framed, how many events were pushed, and whether one was left out after the last with data;
nothing and 0 without rules." };
    ("Buffer.take") => { r"Returns the pending bytes, whole events in the order of their pushes, and keeps none." };
    ("Buffer.at_line_start") => { r"Whether a line of the stream begins after all that has been taken. A CR alone may be the
first half of a line's end." };
    ("Buffer.at_event_start") => { r"Whether an event of the stream begins after all that was pushed. Only what was framed
already may end within one." };
    ("Buffer.restart_age") => { r"Says that the generator goes on after a turn of the event loop: if it takes longer than
`max_age` to its next event, that event is due at once." };
    ("Buffer.pending") => { r"How many bytes are pending." };
    ("DeclaredEvents") => { r"The events that a route declares, each with the type of its data.

Args:
    by_name: The schema of an event's `data`, by the event's name; under None for all others.
    by_class: The event's name and the schema of an item that is no event, by its exact class.
    otherwise: Called with an event or an item that neither has; returns the name, the schema
        and the data, which is not validated again, or raises." };
    ("EventStreamParser") => { r"Reads the events of one stream from its bytes, however they are cut into chunks.

Not for several threads at a time.

Args:
    max_event_size: How many bytes an event may take: those of the line being read and of the
        data before it, with a line break for each of its lines. At least 1.
    last_event_id: The ID that the stream goes on after, if it is resumed; one line, no NUL.

Raises:
    ValueError: an argument breaks one of these rules; the message names it." };
    ("EventStreamParser.feed") => { r"Reads the next bytes of the stream, and keeps no reference to them.

Returns:
    The events that are complete now. What is still incomplete when the stream ends is no
    event.

Raises:
    EventTooLarge: the next event is larger than `max_event_size`. If there are events
        before it in the chunk, they are returned first, and the next call raises, also one
        without bytes. Then every call raises." };
    ("EventStreamParser.last_event_id") => { r"The ID to resume from: that of the last complete event with an ID, also of one without
data." };
    ("EventStreamParser.reconnection_time") => { r"The time to wait before reconnecting, in milliseconds, if the stream has sent one; at
most 2**31 - 1." };
    ("EventTooLarge") => { r"An event of the stream is larger than `max_event_size`." };
    ("ItemRules") => { r"The rules of a protocol for the items of a stream.

Args:
    owner: The class whose rules these are, for errors.
    only_objects: Whether items other than events have to be objects in JSON.
    name_from: The field of an item that names its event.
    exclude_none: Whether the fields of models that are None are left out.
    number_as: The field of an item that gets its number, from 0, whatever it had there.
    leaves_out: The whole data of events that are left out, blanks around it or not.
    keeps_first: Whether the first event is kept.
    convert: Called with an item and its number; returns what is sent for it, or None for
        nothing." };
    ("ItemSchema") => { r"A declared item type: how its values are validated and serialized.

Args:
    validate: Called with the item and `validate_options`; returns the value to serialize.
    validate_options: Keyword arguments for `validate`, 16 at most.
    to_json: Called with that value and `json_options`; returns compact JSON in UTF-8, without
        raw line breaks, as pydantic-core writes it.
    json_options: Keyword arguments for `to_json`, 16 at most.
    valid_class: A class whose own instances, not those of its subclasses, `validate` would
        return as they are; they are not validated." };
    ("MessageEvent") => { r"One event as a client receives it; immutable, comparable, hashable, picklable.

Args:
    data: The data, as text or as UTF-8 bytes.
    type: The event type; `message` if left out.
    last_event_id: The ID to resume from; empty if left out.

Raises:
    ValueError: a value is not text; the message names it." };
    ("MessageEvent.type") => { r"The event type, `message` unless the stream names another." };
    ("MessageEvent.data") => { r"The lines of the `data` field, joined with LF. Bytes that are not UTF-8 become U+FFFD." };
    ("MessageEvent.data_bytes") => { r"The bytes of the data, with nothing replaced." };
    ("MessageEvent.last_event_id") => { r"The ID to resume from: of this event, or of the last event before it that had one." };
    ("MessageEvent.json") => { r"Returns the data parsed as JSON, like `json.loads(event.data)`.

Raises:
    ValueError: the data is not JSON, or nested too deeply." };
    ("MessageEvent.decode") => { r"Returns the data, parsed as JSON and validated by pydantic.

Args:
    item: A model or any other type that pydantic validates.

Raises:
    pydantic.ValidationError: the data is not JSON, or does not fit the type; the error's
        attribute `event` is this event." };
    ("Meter") => { r"Counts the events and bytes that are taken from a buffer. One task takes; any thread may read
the counts.

Args:
    pending: A buffer, or whatever else has `take` and `pending`.
    on_first_event: Called without arguments when the first event is taken." };
    ("Meter.take") => { r"Takes the pending bytes from the buffer, counts them, and returns them." };
    ("Meter.at_line_start") => { r"As `at_line_start` of what it counts says." };
    ("Meter.pending") => { r"How much is pending, as `pending` of what it counts says." };
    ("Meter.counted") => { r"How many times something was taken, how many events, and how many bytes." };
    ("BaseSender") => { r"Sends the pending events, one `send` at a time. It steps each `send` itself, as asyncio's
current task. This is the part of a sender that runs for each event that trickles.

A base class. `flush` calls a method of the subclass where there is more to it:
`_flush_closed()` while it is not open, `_wait_for(what)` when the `send` waits,
`_failed(error)` when it raises, and `_finish()` when it was cancelled and has ended.

Args:
    send: The ASGI callable; returns coroutines.
    pending: Has `take` and `pending`, as a buffer has.
    loop: The event loop.
    context: The context of each step.
    current_tasks: As for `step_as`." };
    ("BaseSender.flush") => { r"Sends the pending events, if there are any and no `send` is in progress." };
    ("BaseSender.cancellations") => { r"How often the `send` in progress was cancelled." };
    ("BaseSender.context") => { r"The context of each step." };
    ("BaseSender.in_progress") => { r"The `send` in progress, or None." };
    ("BaseSender.is_open") => { r"Whether `flush` sends; not at first." };
    ("BaseSender.loop") => { r"The event loop." };
    ("BaseSender.pending") => { r"The buffer: has `take` and `pending`." };
    ("BaseSender.send") => { r"The ASGI callable." };
    ("BaseSender.sent_at") => { r"When the last `send` ended, or all began, in the event loop's time." };
    ("Pump") => { r"Runs an async iterator and pushes what it yields into a buffer.

To be awaited again and again, by one task. Each time it runs the iterator until that has ended,
or until the task has something to do before the iterator goes on: the buffer is due, the
iterator is at a yield and to stop, or the sender is busy.

Args:
    iterator: What is run.
    buffer: Where the items go.
    sender: Its `flush()` is called whenever the iterator suspends and something is
        pending, before the suspension is passed on. It is busy while a `send` is in progress.
    explain: Called with an error of `push` and the item; returns what is raised instead.

Returns:
    Whether the iterator has ended.

Raises:
    TypeError: `iterator` is no async iterator; the message names it.
    Exception: whatever the iterator raises." };
    ("Pump.suspended") => { r"Whether the iterator has suspended since the pump was last awaited." };
    ("Pump.at_yield") => { r"Whether the iterator is at a yield, or has not begun." };
    ("Pump.stop") => { r"Lets the iterator get no further than its next yield, whatever the sender does." };
    ("Pump.throw_next") => { r"Has an error thrown into the iterator, where it is, when it would go on." };
    ("ServerSentEvent") => { r"One event, to be yielded by a path operation or turned into bytes with `encode()`.

An event is immutable, comparable and picklable, and hashable if its data is.

Args:
    data: Any value that FastAPI can encode as JSON. Strings too are sent as JSON, in quotes.
        None leaves the field out. Not together with `raw_data`.
    raw_data: Text that is sent as it is, one `data:` line for each of its lines.
    event: The event type, a single line; browsers dispatch `message` when it is left out.
    id: The event's ID, a single line without NUL; browsers send the last one back in the
        `Last-Event-ID` header when they reconnect.
    retry: The time to wait before reconnecting; a non-negative integer of milliseconds.
    comment: Text that clients ignore, one `:` line for each of its lines.

Raises:
    ValueError: a field breaks one of these rules; the message names it.

Fields as in https://html.spec.whatwg.org/multipage/server-sent-events.html" };
    ("ServerSentEvent.data") => { r"The value that is sent as JSON, or None." };
    ("ServerSentEvent.raw_data") => { r"The text that is sent as it is, or None." };
    ("ServerSentEvent.event") => { r"The event type, or None." };
    ("ServerSentEvent.id") => { r"The event's ID, or None." };
    ("ServerSentEvent.retry") => { r"The time to wait before reconnecting in milliseconds, or None." };
    ("ServerSentEvent.comment") => { r"The text that clients ignore, or None." };
    ("ServerSentEvent.encode") => { r"Returns the event in wire format, with the blank line that ends it.

Raises:
    Exception: whatever FastAPI's `jsonable_encoder` or `json.dumps` raise for `data`." };
    ("format_sse_event") => { r"Returns one event in wire format, from data that is text already. The bytes are those of the
function of this name in `fastapi.sse`.

Args:
    data_str: The `data` field, one `data:` line for each of its lines.
    event: The event type, a single line.
    id: The event's ID, a single line without NUL.
    retry: The time to wait before reconnecting; a non-negative integer of milliseconds.
    comment: Text that clients ignore, one `:` line for each of its lines.

Returns:
    The bytes of the event, with the blank line that ends it.

Raises:
    ValueError: a field breaks one of these rules; the message names it. FastAPI's function
        lets a line break in `event` or `id` start a field of its own." };
    ("step") => { r"Runs a coroutine to its next suspension.

Returns:
    What it waits for; `default` if it has ended, whatever it returned." };
    ("step_as") => { r"Runs a coroutine to its next suspension, in a context, as asyncio's current task.

Args:
    task: The task.
    current_tasks: Where asyncio keeps the current task of each event loop: the dict of them,
        or the function that exchanges one, which it has since Python 3.12.
    loop: The event loop.
    context: The context.
    coroutine: What is run.
    default: What is returned at its end.
    error: What is thrown into it first.

Returns:
    What it waits for; `default` if it has ended, whatever it returned." };
}
