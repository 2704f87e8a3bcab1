import { Chart } from "./chart.js";
import { readEventStream } from "./sse.js";

const $ = (id) => document.getElementById(id);

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function showError(id, error) {
  $(id).textContent = error ? `Something went wrong: ${error.message ?? error}` : "";
  $(id).hidden = !error;
}

/** The wire text of a stream beside the events in it. */
class Panes {
  constructor(name) {
    this.wire = $(`${name}-wire`);
    this.events = $(`${name}-events`);
  }

  clear() {
    this.wire.textContent = "";
    this.events.replaceChildren();
  }

  add(text, events) {
    this.wire.append(text);
    for (const event of events) {
      const id = event.lastEventId ? [element("span", "id", `id ${event.lastEventId}`)] : [];
      this.events.append(
        element("li", "", element("span", "type", event.type), element("code", "", event.data), ...id),
      );
    }
    for (const pane of [this.wire, this.events]) pane.scrollTop = pane.scrollHeight;
  }
}

/** Runs `work` with an AbortSignal from the first press of a button until it ends or the second. */
function startAndStop(button, errorId, work) {
  const label = button.textContent;
  let controller = null;
  return async () => {
    if (controller) {
      controller.abort();
      return;
    }
    controller = new AbortController();
    button.textContent = "Stop";
    showError(errorId, null);
    try {
      await work(controller.signal);
    } catch (error) {
      if (error.name !== "AbortError") showError(errorId, error);
    } finally {
      controller.abort(); // ends what was not read to its end
      controller = null;
      button.textContent = label;
    }
  };
}

async function send(method, url, body) {
  const response = await fetch(url, {
    method,
    headers: { "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  return response;
}

const post = (url, body) => send("POST", url, body);

// Tokens

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

// The room

const room = Math.random().toString(36).slice(2);

const write = (author, text) => post(`live/rooms/${room}`, { author, text });

function reportErrors(work) {
  showError("room-error", null);
  return work().catch((error) => showError("room-error", error));
}

/** One who reads the room, and writes to it. */
class Client {
  #id = Math.random().toString(36).slice(2);
  #lastEventId = "";
  #source = null;

  constructor(name) {
    this.key = name.toLowerCase();
    $(`${this.key}-form`).addEventListener("submit", (submit) => {
      submit.preventDefault();
      reportErrors(() => write(name, $(`${this.key}-text`).value));
    });
    $(`${this.key}-cut`).addEventListener("click", () =>
      reportErrors(() => post(`live/cut?client=${this.#id}`)),
    );
    this.connect();
  }

  /** Reads what comes after an event ID, as an EventSource that is new has to ask for it. */
  connect(after = this.#lastEventId) {
    this.#setState("connecting", "Connecting…");
    const query = new URLSearchParams({ client: this.#id, last_event_id: after });
    const source = new EventSource(`live/rooms/${room}?${query}`);
    this.#source = source;
    source.addEventListener("open", () => {
      if (this.#state === "cut") this.#note("Back");
      this.#setState("open", "Connected");
    });
    source.addEventListener("error", () => this.#onError());
    source.addEventListener("message", (event) => {
      const { author, text } = JSON.parse(event.data);
      this.#show(event, "", element("b", "", author), element("span", "", text));
    });
    source.addEventListener("gap", (event) => {
      const { missed } = JSON.parse(event.data);
      this.#show(event, "note lost", element("span", "", `Gap: ${missed} missed`));
    });
    source.addEventListener("reset", (event) => {
      // What is here may be of another history, so all of it is fetched anew.
      $(`${this.key}-feed`).replaceChildren();
      const { reason } = JSON.parse(event.data);
      this.#show(event, "note lost", element("span", "", `Reset: ${reason}`));
    });
  }

  disconnect() {
    this.#source.close();
    this.#setState("connecting", "Away");
    this.#note("Away");
  }

  #onError() {
    if (this.#source.readyState === EventSource.CLOSED) {
      this.#setState("closed", "Closed");
      showError("room-error", "the server refused the stream.");
    } else {
      if (this.#state === "open") this.#note("Cut off");
      this.#setState("cut", "Coming back…");
    }
  }

  /** Adds a line for an event, with its number, which is the second part of its id. */
  #show(event, className, ...children) {
    this.#lastEventId = event.lastEventId;
    const number = element("span", "id", event.lastEventId.split("-")[1]);
    number.title = `id: ${event.lastEventId}`;
    this.#add(className, ...children, number);
  }

  #note(text) {
    this.#add("note", element("span", "", text));
  }

  #add(className, ...children) {
    const feed = $(`${this.key}-feed`);
    feed.append(element("li", className, ...children));
    while (feed.children.length > 40) feed.firstChild.remove();
    feed.scrollTop = feed.scrollHeight;
  }

  get #state() {
    return $(`${this.key}-state`).dataset.state;
  }

  #setState(state, text) {
    $(`${this.key}-state`).dataset.state = state;
    $(`${this.key}-state`).textContent = text;
    $(`${this.key}-cut`).disabled = state !== "open";
    if (this.key === "grace") $("away").disabled = $("forge").disabled = state !== "open";
  }
}

new Client("Ada");
const grace = new Client("Grace");

$("away").addEventListener("click", () =>
  reportErrors(async () => {
    grace.disconnect();
    try {
      for (let number = 1; number <= 8; number++) await write("Ada", `${number} of 8`);
    } finally {
      grace.connect();
    }
  }),
);
$("forge").addEventListener("click", () => {
  grace.disconnect();
  grace.connect("0123456789abcdef-7-1");
});

// The race

const chart = new Chart($("chart"));
const threeDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The median of the ratios of each round: whatever slows a round down slows all of it down. */
function ratioOf(rounds, firstRounds) {
  const ratios = rounds.map((rates, round) => median(rates) / median(firstRounds[round]));
  return `${median(ratios).toFixed(1)}×`;
}

/** `rates` has the rates in each round for each name. */
function showResults(names, rates) {
  $("results").replaceChildren(
    ...names.map((name, number) => {
      const rounds = rates.get(name);
      const swatch = element("span", `swatch series-${number}`);
      const heading = element("th", "", swatch, name);
      heading.scope = "row";
      const cells = rounds.length
        ? [threeDigits.format(median(rounds.flat())), ratioOf(rounds, rates.get(names[0]))]
        : ["…", ""];
      return element("tr", "", heading, ...cells.map((cell) => element("td", "", cell)));
    }),
  );
}

const runRace = startAndStop($("race-start"), "race-error", async (signal) => {
  chart.clear(2.5);
  $("results").replaceChildren();
  $("race-state").textContent = "Starting the servers…";
  let done = false;
  let start = null;
  let names = [];
  const rates = new Map();
  try {
    const response = await fetch("live/race", { signal });
    for await (const { events } of readEventStream(response)) {
      for (const event of events) {
        if (event.type === "done") done = true;
        if (event.type === "start") {
          start = JSON.parse(event.data);
          names = start.contenders;
          for (const name of names) rates.set(name, []);
          chart.clear(start.seconds);
        }
        if (event.type === "sample") {
          const sample = JSON.parse(event.data);
          (rates.get(sample.contender)[sample.round - 1] ??= []).push(sample.events_per_second);
          chart.add(names.indexOf(sample.contender), sample.seconds, sample.events_per_second);
          $("race-state").textContent = `Round ${sample.round} of ${start.rounds}`;
        }
      }
      showResults(names, rates);
    }
    if (!done) throw new Error("the race ended early");
  } finally {
    $("race-state").textContent = done ? "Medians of one run on this machine." : "Stopped.";
  }
});

$("race-start").addEventListener("click", runRace);

// The examples

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
  let awaited = example.posts.length || Infinity;
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
  const backend = await (await fetch("live/backend")).json();
  const isOnRedis = await (await fetch("live/redis")).json();
  const core = backend === "rust" ? "Running in Rust" : "Running in pure Python";
  $("backend").textContent = core + (isOnRedis ? ", channels on Redis" : "");
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
