/** Which route has which colour: the busiest have one each, which they keep, the rest share grey. */

const SLOTS = 9;
const taken = new Map();

export function assign(routes) {
  const busiest = [...routes].sort((a, b) => b.outcomes - a.outcomes).slice(0, SLOTS);
  const names = new Set(busiest.map(({ name }) => name));
  for (const name of [...taken.keys()]) if (!names.has(name)) taken.delete(name);
  // In the order of the routes, so that a page that is loaded again has the same colours.
  for (const { name } of routes) {
    if (!names.has(name) || taken.has(name)) continue;
    const used = new Set(taken.values());
    taken.set(name, Array.from({ length: SLOTS }, (_, i) => i + 1).find((slot) => !used.has(slot)));
  }
}

export function colourOf(name) {
  return `s${taken.get(name) ?? 0}`;
}

export function hasColour(name) {
  return taken.has(name);
}
