/** Puts states, history and patterns on the page. */

import { colourOf, hasColour } from "./colours.js";
import { follow } from "./connection.js";
import { byId, say } from "./dom.js";
import { FORMATS, bytes, decimal, duration, integer, percent, rate, significant } from "./format.js";
import { LineChart } from "./line.js";
import { Scatter } from "./scatter.js";
import { StackedChart } from "./stacked.js";
import { backlog, judge, showLearner, showStatus } from "./status.js";
import { showBars, showCounters, showErrors, showLanes, showLosses, showRoutes } from "./tables.js";

const PATTERNS_MS = 5000;
const SHORTEST_REFRESH_MS = 1900;

const host = (name) => document.querySelector(`[data-chart="${name}"]`);
const charts = {
  reward: new LineChart(host("reward"), { title: "Mean reward", format: (n) => decimal(n, 3), tick: (n) => decimal(n, 2), fromZero: false, height: 240 }),
  shares: new StackedChart(host("shares"), { title: "Share of each route", format: percent, tick: (n) => `${integer(100 * n)} %`, height: 240, right: 104 }),
  rates: new LineChart(host("rates"), { title: "Records, decisions and outcomes per second", format: rate, height: 300 }),
  losses: new LineChart(host("losses"), { title: "Losses per second", format: rate, height: 110 }),
  patterns: new Scatter(host("patterns"), {
    title: "Patterns",
    columns: ["Pattern", "Best route", "Requests", "Mean quality", "x", "y"],
    row: (p) => [String(p.id), { text: p.best_route ?? "–", kind: "text" }, integer(p.size), decimal(p.quality, 3), decimal(p.x, 2), decimal(p.y, 2)],
    describe: (p) => `Pattern ${p.id}: ${integer(p.size)} requests, mean quality ${decimal(p.quality, 3)}, best route ${p.best_route ?? "not known"}` +
      (p.best_route === null ? "" : ` with mean reward ${decimal(p.best_reward, 3)}`),
    kind: (p) => (p.best_route === null ? "s0" : colourOf(p.best_route)),
  }),
};

let seconds = Number(document.querySelector("[name=window]:checked").value);
let nextHistory = 0;
let nextPatterns = 0;

function showState(state) {
  document.body.classList.remove("stale");
  document.title = `${state.name} · sona`;
  say(byId("engine"), state.name);
  showStatus(judge(state));
  say(byId("shm-free"), bytes(state.shm.free_bytes));
  if (state.up) showStats(state);
  else document.body.classList.add("stale");
  refresh();
}

function showStats({ stats, rates, time }) {
  for (const node of document.querySelectorAll("[data-as]")) {
    const value = node.dataset.figure.split(".").reduce((inner, key) => inner[key], stats);
    node.dataset.value = JSON.stringify(value);
    say(node, FORMATS[node.dataset.as](value));
  }
  for (const node of document.querySelectorAll("[data-rate]")) {
    say(node, rate(rates?.[node.dataset.rate]));
  }
  const lost = Object.values(stats.losses).reduce((sum, count) => sum + count, 0);
  say(byId("losses-now"), integer(lost));
  byId("losses-tile").classList.toggle("alarm", Boolean(rates?.alarms.length));
  say(byId("backlog"), bytes(backlog(stats)));
  const age = stats.seconds_since_publish;
  say(byId("published"), age === null ? "never" : age < 2 ? "just now" : `${duration(age)} ago`);
  showLearner(stats);
  showRoutes(stats);
  showLanes(stats);
  showLosses(stats, rates);
  showErrors(stats, time);
  showBars("experts", "expert_weights", stats.expert_weights, (n) => decimal(n, 3));
  showBars("shifts", "adapter_shift", stats.adapter_shift, significant);
  showCounters(stats);
}

async function load(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** History and patterns move slower than states; a failed fetch is tried again with a later state. */
async function refresh() {
  const now = performance.now();
  try {
    if (now >= nextHistory) {
      nextHistory = now + Math.max(SHORTEST_REFRESH_MS, Math.min(30000, (1000 * seconds) / 300));
      const asked = seconds;
      const history = await load(`/api/history?seconds=${asked}`);
      if (asked === seconds) showHistory(history);
    }
    if (now >= nextPatterns) {
      nextPatterns = now + PATTERNS_MS;
      charts.patterns.draw((await load("/api/patterns")).patterns);
    }
  } catch {
    nextHistory = nextPatterns = 0;
  }
}

function showHistory(history) {
  const { time, reward, shares } = history;
  charts.reward.draw(time, [{ label: "mean reward", kind: "s1", values: reward }]);
  charts.rates.draw(time, [
    { label: "recorded", kind: "s1", values: history.recorded },
    { label: "decisions", kind: "s2", values: history.decisions },
    { label: "outcomes learned", kind: "s3", values: history.outcomes },
  ]);
  charts.losses.draw(time, [{ label: "lost or refused", kind: "s8", values: history.losses }]);
  const shown = Object.keys(shares).filter(hasColour);
  const series = shown.map((label) => ({ label, kind: colourOf(label), values: shares[label] }));
  const rest = Object.keys(shares).filter((name) => !hasColour(name));
  if (rest.length) {
    const values = time.map((_, i) => rest.reduce((sum, name) => sum + (shares[name][i] ?? 0), 0));
    series.push({ label: rest.length === 1 ? rest[0] : `${rest.length} others`, kind: "s0", values });
  }
  charts.shares.draw(time, series);
  say(byId("reward-now"), decimal(meanReward(history), 3));
}

/** Over all outcomes of the time shown: rates times how long they lasted. */
function meanReward({ time, outcomes, reward }) {
  let [earned, learned] = [0, 0];
  for (let i = 1; i < time.length; i += 1) {
    if (reward[i] === null) continue;
    const count = outcomes[i] * (time[i] - time[i - 1]);
    earned += reward[i] * count;
    learned += count;
  }
  return learned ? earned / learned : null;
}

function showLost() {
  document.body.classList.add("stale");
  showStatus({ state: "bad", word: "Connection lost, retrying", trouble: "" });
  nextHistory = nextPatterns = 0;
}

for (const choice of document.querySelectorAll("[name=window]")) {
  choice.addEventListener("change", () => {
    seconds = Number(choice.value);
    nextHistory = 0;
    refresh();
  });
}
follow("/events", showState, showLost);
