// Numbers and times as people read them. Pure: the same value gives the same text.

const NONE = "–";

/** A rate or count: 7, 42, 1.2k, 3.4M. */
export function compact(value) {
  if (!Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1e9) return `${trimmed(value / 1e9)}G`;
  if (size >= 1e6) return `${trimmed(value / 1e6)}M`;
  if (size >= 1e4) return `${trimmed(value / 1e3)}k`;
  if (size >= 100 || Number.isInteger(value)) return String(Math.round(value));
  return trimmed(value);
}

function trimmed(value) {
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(1);
}

/** Bytes in powers of ten: 512 B, 5.7 MB. */
export function bytes(value) {
  if (!Number.isFinite(value)) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  let left = value;
  while (Math.abs(left) >= 1000 && unit < units.length - 1) {
    left /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(left) : trimmed(left)} ${units[unit]}`;
}

/** Seconds as a length of time: 0.4 ms, 31 ms, 2.4 s, 3 min 5 s, 2 h 4 min. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NONE;
  const length = Math.max(0, seconds);
  if (length < 0.01) return `${(length * 1000).toFixed(length ? 1 : 0)} ms`;
  if (length < 1) return `${Math.round(length * 1000)} ms`;
  if (length < 9.95) return `${length.toFixed(1)} s`;
  const whole = Math.round(length);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** A share of one as a percentage. */
export function percent(share) {
  if (!Number.isFinite(share)) return NONE;
  const value = share * 100;
  return `${value > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

/** Layers of a stage, as `ctl swap --layers` takes them. */
export function layers([start, end]) {
  return `${start}:${end}`;
}

/** A time of day of a moment in seconds since 1970, here. */
export function timeOfDay(at) {
  const date = new Date(at * 1000);
  return [date.getHours(), date.getMinutes(), date.getSeconds()]
    .map((part) => String(part).padStart(2, "0"))
    .join(":");
}

/** `1 stage`, `2 stages`. */
export function count(number, word) {
  return `${compact(number)} ${word}${number === 1 ? "" : "s"}`;
}
