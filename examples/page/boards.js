import { $, element, post, showError } from "./common.js";

const url = "live/boards/market";
const client = Math.random().toString(36).slice(2);
const FIGURES = ["Visitors", "Orders", "Load in %"];
const PRICES = [97, 98, 99, 100, 101, 102, 103];

let figures = {};
let book = {};
let lastEventId = "";
let source = null;
const counts = { snapshots: 0, changes: 0 };

// What may be applied twice, and what may not: the server sends each change exactly once.
const HANDLERS = {
  dashboard: (state) => { figures = state; counts.snapshots++; },
  figures: (change) => { Object.assign(figures, change); counts.changes++; },
  book: (state) => { book = state; counts.snapshots++; },
  order: ({ price, amount }) => { book[price] = (book[price] ?? 0) + amount; counts.changes++; },
};

function connect() {
  const query = new URLSearchParams({ client, last_event_id: lastEventId });
  source = new EventSource(`${url}?${query}`);
  source.addEventListener("open", () => setState("open", "Connected"));
  source.addEventListener("error", () => {
    setState("connecting", "Connecting again");
    if (source.readyState !== EventSource.CLOSED) return; // it reconnects by itself
    setTimeout(connect, 1_000);
  });
  for (const [type, apply] of Object.entries(HANDLERS)) {
    source.addEventListener(type, (event) => {
      lastEventId = event.lastEventId;
      apply(JSON.parse(event.data));
      requestShow();
    });
  }
}

let isRequested = false;

/** Shows everything, once for all events that have come together. */
function requestShow() {
  if (isRequested) return;
  isRequested = true;
  setTimeout(() => {
    isRequested = false;
    show();
  });
}

function show() {
  $("board-figures").replaceChildren(
    ...Object.keys(figures).sort().map((name) =>
      element("div", "", element("dt", "", name), element("dd", "", `${figures[name]}`))),
  );
  const most = Math.max(1, ...Object.values(book));
  $("board-book").replaceChildren(
    ...Object.keys(book).sort((a, b) => b - a).map((price) => {
      const amount = element("td", "", `${book[price]}`);
      amount.style.setProperty("--share", `${(100 * book[price]) / most}%`);
      const header = element("th", "", price);
      header.scope = "row";
      return element("tr", "", header, amount);
    }),
  );
  $("board-snapshots").textContent = counts.snapshots;
  $("board-changes").textContent = counts.changes;
}

function setState(state, text) {
  $("board-state").dataset.state = state;
  $("board-state").textContent = text;
  for (const name of ["trade", "cut", "miss"]) $(`board-${name}`).disabled = state !== "open";
}

const pick = (list) => list[Math.floor(Math.random() * list.length)];

async function trade(count) {
  for (let number = 0; number < count; number++) {
    await post(url, {
      figures: { [pick(FIGURES)]: Math.floor(Math.random() * 100) },
      order: { price: pick(PRICES), amount: 1 + Math.floor(Math.random() * 20) },
    });
  }
}

function reportErrors(work) {
  showError("board-error", null);
  return work().catch((error) => showError("board-error", error));
}

$("board-trade").addEventListener("click", () => reportErrors(() => trade(50)));
$("board-cut").addEventListener("click", () => reportErrors(() => post(`live/cut?client=${client}`)));
$("board-miss").addEventListener("click", () =>
  reportErrors(async () => {
    source.close();
    setState("connecting", "Away");
    try {
      await trade(250);
    } finally {
      connect();
    }
  }),
);
connect();
