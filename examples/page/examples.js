import { $, Panes, element, post, showError, startAndStop } from "./common.js";
import { readEventStream } from "./sse.js";

const examplePanes = new Panes("example");
let examples = [];

const runExample = startAndStop($("example-start"), "example-error", async (signal) => {
  examplePanes.clear();
  const example = examples[$("example").selectedIndex];
  const request = { method: example.method, headers: { ...example.headers }, signal };
  if (example.body !== null) {
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(example.body);
  }
  const url = example.url.slice(1);
  const response = await fetch(url, request);
  for (const body of example.posts) await post(url, body);
  let awaited = example.snapshots + example.posts.length || Infinity;
  for await (const { text, events } of readEventStream(response)) {
    examplePanes.add(text, events);
    awaited -= events.length;
    if (awaited <= 0) return;
  }
});

function describe() {
  const example = examples[$("example").selectedIndex];
  const headers = Object.entries(example.headers).map(([name, value]) => `  ${name}: ${value}`);
  $("request").textContent = `${example.method} ${example.url}${headers.join("")}`;
}

async function loadExamples() {
  const response = await fetch("examples");
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  examples = await response.json();
  $("example").replaceChildren(...examples.map((each) => element("option", "", each.title)));
  describe();
}

$("example").addEventListener("change", () => {
  describe();
  examplePanes.clear();
});
$("example-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  runExample();
});
loadExamples().catch((error) => showError("example-error", error));
