import { Chart } from "./chart.js";
import { $, element, startAndStop } from "./common.js";
import { readEventStream } from "./sse.js";

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
