// Reads an event stream from a fetch response, by the rules of
// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
// EventSource does the same, but only for GET, and it shows neither wire text nor comments.

export class EventStreamParser {
  #line = "";
  #afterReturn = false;
  #atStart = true;
  #type = "";
  #data = "";
  #id = "";

  /** The ID to resume from: that of the last whole block, which need not have been an event. */
  lastEventId = "";

  /** Takes the next piece of text, however it is cut, and returns the events that it completes. */
  push(text) {
    if (this.#atStart && text) {
      this.#atStart = false;
      text = text.replace(/^\uFEFF/, "");
    }
    if (this.#afterReturn && text) {
      this.#afterReturn = false;
      if (text[0] === "\n") text = text.slice(1);
    }
    this.#afterReturn ||= text.endsWith("\r");
    const lines = (this.#line + text).split(/\r\n|\r|\n/);
    this.#line = lines.pop();
    return lines.map((line) => this.#take(line)).filter((event) => event !== null);
  }

  #take(line) {
    if (line === "") return this.#dispatch();
    if (line.startsWith(":")) return null;
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#type = value;
    if (field === "data") this.#data += value + "\n";
    if (field === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }

  #dispatch() {
    this.lastEventId = this.#id;
    const event = {
      type: this.#type || "message",
      data: this.#data.slice(0, -1),
      lastEventId: this.lastEventId,
    };
    const empty = this.#data === "";
    this.#type = this.#data = "";
    return empty ? null : event;
  }
}

/** Yields { text, events, lastEventId } for each piece of the response's body, as it comes. */
export async function* readEventStream(response) {
  if (!response.ok) throw new Error(await whatWentWrong(response));
  const type = response.headers.get("content-type") ?? "none";
  if (!type.startsWith("text/event-stream")) throw new Error(`not an event stream but ${type}`);
  const parser = new EventStreamParser();
  // The parser takes care of the byte order mark, which belongs to the wire text.
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const text = decoder.decode(value, { stream: true });
      const events = parser.push(text);
      yield { text, events, lastEventId: parser.lastEventId };
    }
  } finally {
    reader.cancel().catch(() => {}); // closes the connection if the caller stops early
  }
}

async function whatWentWrong(response) {
  const body = await response.text();
  try {
    const { detail } = JSON.parse(body);
    return Array.isArray(detail) ? detail.map((each) => each.msg).join("; ") : detail;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}
