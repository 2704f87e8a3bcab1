import { readEventStream } from "./sse.js";

/**
 * Yields the events of a stream that needs headers, and reconnects as an EventSource does. It ends
 * when the server answers 204, and throws when the server refuses the stream.
 * `headers` is called for each connection, so that a token can be renewed.
 */
export async function* follow(url, { headers = () => ({}), signal } = {}) {
  let lastEventId = "";
  let wait = 1_000;
  for (;;) {
    const given = new Headers(await headers());
    if (lastEventId) given.set("Last-Event-ID", lastEventId);
    try {
      const response = await fetch(url, { headers: given, signal, cache: "no-store" });
      if (response.status === 204) return;
      if (mayWorkLater(response.status)) throw new TypeError(`status ${response.status}`);
      for await (const { events, lastEventId: newest } of readEventStream(response)) {
        wait = 1_000;
        yield* events;
        lastEventId = newest;
      }
    } catch (error) {
      // The network and the server fail with a TypeError, and everything else is final.
      if (!(error instanceof TypeError)) throw error;
    }
    await sleep(wait * (1 + Math.random()), signal);
    wait = Math.min(2 * wait, 60_000);
  }
}

const mayWorkLater = (status) => status >= 500 || [408, 425, 429].includes(status);

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    setTimeout(resolve, milliseconds);
  });
}
