import { $, post, showError } from "./common.js";
import { readEventStream } from "./sse.js";

// One chat for each tab: a reload of the tab finds it again.
const chatId = (sessionStorage.chat ??= crypto.randomUUID());
const url = `live/chat/${chatId}`;
let connection = null;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function show(state, text) {
  $("chat-state").dataset.state = state;
  $("chat-state").textContent = text;
  $("chat-cut").disabled = $("chat-stop").disabled = state !== "open";
}

/** Reads an answer to its end, and comes back for it whenever the connection is cut. */
async function follow(request) {
  let isOver = false;
  while (!isOver) {
    connection = new AbortController();
    try {
      const response = await request(connection.signal);
      if (response.status === 204) break; // no answer is active
      isOver = await readAnswer(response);
    } catch (error) {
      if (!(error instanceof TypeError) && error.name !== "AbortError") throw error;
    }
    if (!isOver) {
      show("connecting", "Connecting again");
      await pause(1000);
      request = resume;
    }
  }
}

/** Returns whether the answer has come to its end. */
async function readAnswer(response) {
  for await (const { events } of readEventStream(response)) {
    for (const { data } of events) {
      if (data === "[DONE]") return true;
      const part = JSON.parse(data);
      if (part.type === "start") {
        $("chat-answer").textContent = ""; // a client that comes back gets the answer anew
        show("open", "Answers");
      }
      if (part.type === "text-delta") $("chat-answer").append(part.delta);
      if (part.type === "finish") show("closed", "Done");
      if (part.type === "abort") show("closed", "Stopped");
      if (part.type === "error") show("closed", `Failed: ${part.errorText}`);
    }
  }
  return false;
}

const resume = (signal) => fetch(`${url}/stream`, { signal });

const ask = (text) => (signal) =>
  fetch("live/chat", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ id: chatId, messages: [{ role: "user", parts: [{ type: "text", text }] }] }),
    signal,
  });

async function withErrors(work) {
  showError("chat-error", null);
  try {
    await work();
  } catch (error) {
    show("closed", "");
    showError("chat-error", error);
  }
}

$("chat-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  withErrors(() => follow(ask($("chat-prompt").value)));
});
$("chat-cut").addEventListener("click", () => connection.abort());
$("chat-stop").addEventListener("click", () => withErrors(() => post(`${url}/stop`)));
withErrors(() => follow(resume));
