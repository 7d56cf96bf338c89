/** Numbers, sizes and times as people read them; a dash where there is none. */

const NONE = "–";
const LOCALE = "en-GB";

export function integer(n) {
  return n == null ? NONE : n.toLocaleString(LOCALE, { maximumFractionDigits: 0 });
}

export function decimal(n, digits = 3) {
  if (n == null) return NONE;
  return n.toLocaleString(LOCALE, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** For what may be tiny. */
export function significant(n, digits = 3) {
  return n == null ? NONE : n.toLocaleString(LOCALE, { maximumSignificantDigits: digits });
}

export function percent(n) {
  return n == null ? NONE : `${decimal(100 * n, 1)}\u00a0%`;
}

export function rate(n) {
  if (n == null) return NONE;
  return n === 0 || n >= 10 ? integer(n) : decimal(n, n < 0.1 ? 3 : 1);
}

export function plain(n) {
  return n == null ? NONE : String(n);
}

export function bytes(n) {
  if (n == null) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1000;
    unit += 1;
  }
  return `${unit ? decimal(n, n < 100 ? 1 : 0) : n} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 10) return `${decimal(Math.max(0, seconds), 1)} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

export function clock(seconds, withSeconds = true) {
  return new Date(1000 * seconds).toLocaleTimeString(LOCALE, {
    hour: "2-digit",
    minute: "2-digit",
    ...(withSeconds ? { second: "2-digit" } : {}),
  });
}

/** By the names that `data-as` has in the page. */
export const FORMATS = { integer, decimal, percent, plain, bytes };
