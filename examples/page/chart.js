// A line chart of events per second over time, drawn as SVG at the size it is shown in.

const MARGIN = { top: 14, right: 14, bottom: 30, left: 52 };
const HEIGHT = 260;

export class Chart {
  #svg;
  #seconds = 2.5;
  #series = new Map();

  constructor(svg) {
    this.#svg = svg;
    new ResizeObserver(() => this.#draw()).observe(svg);
  }

  /** Begins anew, with an axis of so many seconds. */
  clear(seconds) {
    this.#seconds = seconds;
    this.#series.clear();
    this.#draw();
  }

  /** Adds a point to the line of this number, in the colour of that number. */
  add(number, seconds, rate) {
    if (!this.#series.has(number)) this.#series.set(number, []);
    this.#series.get(number).push([seconds, rate]);
    this.#draw();
  }

  #draw() {
    const width = this.#svg.clientWidth;
    const rates = [...this.#series.values()].flat().map(([, rate]) => rate);
    const step = niceStep(Math.max(...rates, 50_000) / 4);
    const top = Math.ceil(Math.max(...rates, 50_000) / step) * step;
    const right = width - MARGIN.right;
    const bottom = HEIGHT - MARGIN.bottom;
    const x = (seconds) => MARGIN.left + (seconds / this.#seconds) * (right - MARGIN.left);
    const y = (rate) => bottom - (rate / top) * (bottom - MARGIN.top);

    const parts = [];
    for (let rate = 0; rate <= top; rate += step) {
      parts.push(line("grid", MARGIN.left, y(rate), right, y(rate)));
      parts.push(text("end", MARGIN.left - 8, y(rate) + 4, short(rate)));
    }
    for (let second = 0; second <= this.#seconds; second += 0.5) {
      const label = second === 0 ? "0 s" : String(second);
      parts.push(text("middle", x(second), bottom + 20, label));
    }
    for (const [number, points] of this.#series) {
      const path = points.map(([seconds, rate]) => `${x(seconds)},${y(rate)}`).join(" ");
      parts.push(`<polyline class="series series-${number}" points="${path}"/>`);
      const [seconds, rate] = points.at(-1);
      parts.push(
        `<circle class="series-${number}" cx="${x(seconds)}" cy="${y(rate)}" r="3.5"/>`,
      );
    }
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#svg.innerHTML = parts.join("");
  }
}

/** 12345 as "12 k", 1234567 as "1.2 M". */
function short(rate) {
  if (rate >= 1e6) return `${Number((rate / 1e6).toFixed(1))} M`;
  if (rate >= 1e3) return `${Math.round(rate / 1e3)} k`;
  return String(Math.round(rate));
}

function niceStep(atLeast) {
  const power = 10 ** Math.floor(Math.log10(atLeast));
  return [1, 2, 2.5, 5, 10].find((factor) => factor * power >= atLeast) * power;
}

function line(kind, x1, y1, x2, y2) {
  return `<line class="${kind}" x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"/>`;
}

function text(anchor, x, y, content) {
  return `<text text-anchor="${anchor}" x="${x}" y="${y}">${content}</text>`;
}
