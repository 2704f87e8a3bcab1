/**
 * Reads a stream with an EventSource, and opens another one when the server has refused it.
 * Returns a function that stops. `types` are the names of the events to read.
 */
export function listen(url, onEvent, types = ["message"]) {
  let lastEventId = "";
  let wait = 1_000;
  let source, timer;

  function connect() {
    const address = new URL(url, location.href);
    if (lastEventId) address.searchParams.set("last_event_id", lastEventId);
    source = new EventSource(address);
    source.onopen = () => (wait = 1_000);
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return; // it reconnects by itself
      timer = setTimeout(connect, wait * (1 + Math.random()));
      wait = Math.min(2 * wait, 60_000);
    };
    for (const type of types) {
      source.addEventListener(type, (event) => {
        lastEventId = event.lastEventId;
        onEvent(event);
      });
    }
  }

  connect();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}
