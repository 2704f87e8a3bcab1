/**
 * Reads a stream in one tab, for all tabs of the page: they need one connection together.
 * Returns a function that stops.
 */
export function listenInOneTab(url, onEvent) {
  const tabs = new BroadcastChannel(url);
  const stop = new AbortController();
  let newestId = "";

  function take(event) {
    newestId = event.lastEventId;
    onEvent(event);
  }

  function read() {
    const address = new URL(url, location.href);
    if (newestId) address.searchParams.set("last_event_id", newestId);
    const source = new EventSource(address);
    source.onmessage = ({ data, lastEventId }) => {
      tabs.postMessage({ data, lastEventId });
      take({ data, lastEventId });
    };
    return new Promise((resolve) => {
      stop.signal.addEventListener("abort", () => {
        source.close();
        resolve();
      });
    });
  }

  tabs.onmessage = ({ data: event }) => take(event);
  // One tab holds the lock. When that is closed, the browser gives the lock to another.
  navigator.locks.request(url, { signal: stop.signal }, read).catch(() => {});
  return () => {
    stop.abort();
    tabs.close();
  };
}
