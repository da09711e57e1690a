// From values to places on a chart. Pure.

/** A round number not below a value, for the top of an axis: 1, 2, 5 and their tens. */
export function niceTop(value) {
  if (!(value > 0)) return 10;
  const power = 10 ** Math.floor(Math.log10(value));
  const found = [1, 2, 5, 10].find((step) => step * power >= value);
  return Math.max(10, found * power);
}

/** Where a moment so many seconds ago stands on a time axis that ends now. */
export function xAgo(secondsAgo, span, width) {
  return width * (1 - secondsAgo / span);
}

/** An area under values, as a path; `points` are [seconds ago, value], oldest first. */
export function areaPath(points, span, top, width, height) {
  if (!points.length) return "M 0 0";
  const line = linePath(points, span, top, width, height);
  const first = xAgo(points[0][0], span, width).toFixed(1);
  const last = xAgo(points.at(-1)[0], span, width).toFixed(1);
  return `${line} L ${last} ${height} L ${first} ${height} Z`;
}

/** A line through values, as a path. */
export function linePath(points, span, top, width, height) {
  if (!points.length) return "M 0 0";
  return points
    .map(([ago, value], index) => {
      const x = xAgo(ago, span, width).toFixed(1);
      const y = (height * (1 - Math.min(value, top) / top)).toFixed(1);
      return `${index ? "L" : "M"} ${x} ${y}`;
    })
    .join(" ");
}

/**
 * The epochs of a pipeline's time line as bands {from, to, epoch}, in seconds ago.
 *
 * @param marks of sentences.js, oldest first
 * @param epoch the one that serves
 * @param now by the clock that dates the marks
 */
export function bands(marks, epoch, now, span) {
  const changes = marks.filter((mark) => mark.kind === "epoch" && now - mark.at < span);
  const found = [];
  let from = span;
  const earlier = marks.findLast((mark) => mark.kind === "epoch" && now - mark.at >= span);
  let current = earlier?.epoch ?? null;
  for (const change of changes) {
    const ago = now - change.at;
    found.push({ from, to: ago, epoch: current });
    from = ago;
    current = change.epoch;
  }
  found.push({ from, to: 0, epoch: changes.length ? changes.at(-1).epoch : epoch });
  return found;
}
