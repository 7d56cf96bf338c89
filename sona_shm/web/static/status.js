/** What goes on, in words. */

import { byId, say } from "./dom.js";
import { duration } from "./format.js";

/**
 * Of a state: {state: good, warn or bad; word; trouble: what to know and do, or empty}.
 *
 * Without figures that move: whoever listens to the page would hear it again every second.
 */
export function judge(state) {
  const { stats } = state;
  if (!state.up) return { state: "bad", word: "No engine", trouble: sentence(state.trouble) };
  if (stats.learner_alive) return { state: "good", word: "Learning", trouble: "" };
  if (stats.standby_alive) return { state: "warn", word: "Standby takes over", trouble: "" };
  const never = stats.learner_terms === 0;
  const served = stats.seconds_since_publish === null
    ? "Workers route with what the engine began with"
    : `Workers go on with version ${stats.version}`;
  return {
    state: "bad",
    word: never ? "No learner yet" : "Learner dead",
    trouble: `${never ? "No learner has started" : "No learner is alive"}: nothing is learned. ${served}; ` +
      "what they record waits in their lanes and is refused when those are full. " +
      `Start one: sona learner ${state.name}`,
  };
}

export function backlog(stats) {
  return stats.lanes.reduce((sum, lane) => sum + lane.backlog_bytes, 0);
}

export function showStatus({ state, word, trouble }) {
  const pill = byId("status");
  pill.dataset.state = state;
  say(pill, word);
  const banner = byId("banner");
  banner.hidden = trouble === "";
  say(banner, trouble);
}

export function showLearner(stats) {
  say(byId("learner-state"), stats.learner_alive ? "alive" : stats.learner_terms ? "dead" : "never started");
  byId("learner-state").className = stats.learner_alive ? "" : "alarming";
  say(byId("learner-since"), stats.learner_seconds === null ? "–" : `${duration(stats.learner_seconds)} ago`);
  say(byId("standby"), stats.standby_alive ? "waiting" : "none");
  say(byId("task"), stats.tasks ? `${stats.task + 1} of ${stats.tasks}` : "–");
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}. This page goes on when it is there.`;
}
