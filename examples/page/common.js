/** What all pages share. */

export const $ = (id) => document.getElementById(id);

export function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

export function showError(id, error) {
  $(id).textContent = error ? `Something went wrong: ${error.message ?? error}` : "";
  $(id).hidden = !error;
}

/** The wire text of a stream beside the events in it. */
export class Panes {
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
export function startAndStop(button, errorId, work) {
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

export async function send(method, url, body) {
  const response = await fetch(url, {
    method,
    headers: { "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  return response;
}

export const post = (url, body) => send("POST", url, body);

async function describeServer() {
  const backend = await (await fetch("live/backend")).json();
  const isOnRedis = await (await fetch("live/redis")).json();
  const core = backend === "rust" ? "Running in Rust" : "Running in pure Python";
  $("backend").textContent = core + (isOnRedis ? ", channels on Redis" : "");
}

describeServer();
