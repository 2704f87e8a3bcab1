import { useEffect, useState } from "react";

/** Returns the newest events of a stream, parsed, and whether it is connected. */
export function useEvents(url, keep = 100) {
  const [events, setEvents] = useState([]);
  const [state, setState] = useState("connecting");

  useEffect(() => {
    const source = new EventSource(url);
    source.onopen = () => setState("open");
    source.onerror = () => {
      setState(source.readyState === EventSource.CLOSED ? "closed" : "connecting");
    };
    source.onmessage = (event) => {
      setEvents((events) => [...events, JSON.parse(event.data)].slice(-keep));
    };
    source.addEventListener("reset", () => setEvents([])); // of a channel
    return () => {
      source.close();
      setEvents([]);
      setState("connecting");
    };
  }, [url, keep]);

  return { events, state };
}
