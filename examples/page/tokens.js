import { $, Panes, startAndStop } from "./common.js";
import { readEventStream } from "./sse.js";

const tokenPanes = new Panes("token");

const runTokens = startAndStop($("token-start"), "token-error", async (signal) => {
  tokenPanes.clear();
  $("answer").textContent = "";
  const response = await fetch("live/tokens", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify({ text: $("prompt").value }),
    signal,
  });
  let done = false;
  // A screen reader reads the answer when it is complete, not a token at a time.
  $("answer").ariaBusy = "true";
  try {
    for await (const { text, events } of readEventStream(response)) {
      tokenPanes.add(text, events);
      for (const event of events) {
        if (event.type === "token") $("answer").append(JSON.parse(event.data));
        if (event.type === "done") done = true;
      }
    }
  } finally {
    $("answer").ariaBusy = "false";
  }
  if (!done) throw new Error("the stream ended before the answer did");
});

$("token-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  runTokens();
});
