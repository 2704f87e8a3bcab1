import { $, element, post, showError } from "./common.js";

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
