import { $, send, showError } from "./common.js";

// The answer that goes on. The URL of the page has its id, so that a reload or another tab follows it.

let answerSource = null;

const runId = () => new URLSearchParams(location.hash.slice(1)).get("run");

function followRun() {
  answerSource?.close();
  $("run-answer").textContent = "";
  const id = runId();
  $("run-stop").disabled = !id;
  $("run-state").dataset.state = id ? "connecting" : "";
  $("run-state").textContent = "";
  if (!id) return;
  const source = (answerSource = new EventSource(`live/answers/${id}`));
  const end = (state, text) => {
    source.close();
    $("run-state").dataset.state = state;
    $("run-state").textContent = text;
    $("run-stop").disabled = true;
  };
  source.addEventListener("open", () => {
    $("run-state").dataset.state = "open";
    $("run-state").textContent = "Goes on";
  });
  source.addEventListener("message", (event) => $("run-answer").append(JSON.parse(event.data)));
  source.addEventListener("reset", () => ($("run-answer").textContent = ""));
  source.addEventListener("run-end", (event) => end("closed", `Ended: ${JSON.parse(event.data).end}`));
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) end("closed", "There is no such run any more");
  });
}

async function withRunErrors(work) {
  showError("run-error", null);
  try {
    await work();
  } catch (error) {
    showError("run-error", error);
  }
}

$("run-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  withRunErrors(async () => {
    const response = await send("POST", "live/answers", { text: $("run-prompt").value });
    location.hash = `run=${await response.json()}`;
  });
});
$("run-stop").addEventListener("click", () =>
  withRunErrors(() => send("DELETE", `live/answers/${runId()}`)),
);
window.addEventListener("hashchange", followRun);
// A browser has six connections to a server at most, for all tabs together.
document.addEventListener("visibilitychange", () =>
  document.hidden ? answerSource?.close() : followRun(),
);
followRun();
