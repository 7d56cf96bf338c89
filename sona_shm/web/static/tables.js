/** Tables and bars of one state. */

import { assign, colourOf } from "./colours.js";
import { byId, fill, html, say } from "./dom.js";
import { bytes, decimal, duration, integer, percent, rate, significant } from "./format.js";

function figure(path, value, format, kind = "") {
  return { text: format(value), figure: path, value, kind };
}

export function showRoutes(stats) {
  assign(stats.routes);
  fill(byId("routes"), stats.routes.map((route, i) => {
    const at = (field, format) => figure(`routes.${i}.${field}`, route[field], format);
    return [
      { text: route.name + (route.active ? "" : " (retired)"), swatch: colourOf(route.name), kind: route.active ? "" : "off", title: route.name },
      at("share", percent),
      at("propensity", (n) => decimal(n, 3)),
      at("mean_reward", (n) => decimal(n, 4)),
      at("outcomes", integer),
      at("cost", (n) => significant(n, 6)),
      at("mean_latency_ms", (n) => (n === null ? "–" : `${integer(n)} ms`)),
      at("mean_tokens", integer),
    ];
  }));
}

export function showLanes(stats) {
  const rows = [...stats.lanes.map((lane, i) => [lane, `lanes.${i}`]), [stats.retired, "retired"]];
  fill(byId("lanes"), rows.map(([lane, path]) => {
    const at = (field, format) => figure(`${path}.${field}`, lane[field], format);
    const former = lane.index < 0;
    return [
      former ? "" : String(lane.index),
      { text: former ? "former owners" : String(lane.pid), kind: "text", title: lane.label },
      laneState(lane, former),
      at("recorded", integer), at("dropped", integer), at("decisions", integer),
      at("backlog_bytes", bytes),
    ];
  }));
}

function laneState(lane, former) {
  if (former) return "";
  if (lane.quarantined) return { text: "quarantined", kind: "text alarming" };
  return lane.alive ? { text: "alive", kind: "text" } : { text: "dead", kind: "text off" };
}

export function showLosses(stats, rates) {
  const names = Object.keys(stats.losses);
  fill(byId("losses"), names.map((name) => [
    name.replaceAll("_", " "),
    figure(`losses.${name}`, stats.losses[name], integer, stats.losses[name] ? "" : "off"),
    { text: rate(rates?.losses[name]), kind: rates?.alarms.includes(name) ? "alarming" : "off" },
  ]));
}

export function showErrors(stats, now) {
  fill(byId("errors"), stats.errors.map((error, i) => [
    `${duration(now - error.last_ns / 1e9)} ago`,
    { text: error.where, kind: "text" },
    figure(`errors.${i}.count`, error.count, integer),
    { text: error.what || "(not finished by its writer)", kind: "text" },
  ]));
  const more = stats.errors_unlisted ? `${integer(stats.errors_unlisted)} more, for which there was no room.` : "";
  say(byId("no-errors"), stats.errors.length ? more : more || "None.");
}

export function showBars(id, path, values, format) {
  const host = byId(id);
  const names = Object.keys(values);
  const largest = Math.max(1e-9, ...Object.values(values).map((value) => value ?? 0));
  if (host.children.length !== 3 * names.length) {
    host.replaceChildren(...names.flatMap((name) => [
      html("span", {}, name), html("div", { class: "track" }, html("div")),
      html("data", { "data-figure": `${path}.${name}` }),
    ]));
  }
  names.forEach((name, i) => {
    const [, track, number] = [...host.children].slice(3 * i);
    track.firstChild.style.width = `${(100 * (values[name] ?? 0)) / largest}%`;
    number.dataset.value = JSON.stringify(values[name]);
    say(number, format(values[name]));
  });
}

export function showCounters(stats) {
  const host = byId("counters");
  const names = Object.keys(stats.counters);
  if (host.children.length !== names.length) {
    host.replaceChildren(...names.map((name) => html("div", {},
      html("dt", {}, name.replaceAll("_", " ")), html("dd", { "data-figure": `counters.${name}` }))));
  }
  names.forEach((name, i) => {
    const number = host.children[i].lastChild;
    number.dataset.value = stats.counters[name];
    say(number, integer(stats.counters[name]));
  });
}
