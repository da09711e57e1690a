// Where the boxes of a pipeline's graph stand: from left to right where there is room, from the top
// where there is not. Pure: sizes in pixels, no element.

export const BOX = { width: 204, height: 172, gap: 44, margin: 4 };
const ENDS = { width: 92, height: 64 };
const MAX_WIDTH = 560;
const NARROW = 560;
const LOOP = 34; // below or beside the stages, where the tokens come back

/**
 * The boxes and paths of one pipeline.
 *
 * @param numStages how many stages
 * @param width what there is, in pixels
 * @returns {vertical, width, height, gateway, stages, hops, ring}: boxes {x, y, width, height},
 *   hops the paths from the gateway to the last stage, ring the path of the tokens back.
 */
export function layout(numStages, width) {
  if (width < NARROW) return stacked(numStages, width);
  const perRow = Math.max(1, Math.floor((width - ENDS.width - LOOP) / (minWidth() + BOX.gap)));
  return numStages <= perRow ? inRow(numStages, width) : inRows(numStages, width, perRow);
}

function minWidth() {
  return BOX.width - 34;
}

function inRow(numStages, width) {
  const room = (width - ENDS.width - 2 * BOX.margin) / numStages - BOX.gap;
  const boxWidth = Math.min(Math.max(room, minWidth()), MAX_WIDTH);
  const y = BOX.margin;
  const gateway = box(BOX.margin, y + (BOX.height - ENDS.height) / 2, ENDS.width, ENDS.height);
  const stages = Array.from({ length: numStages }, (_, index) => {
    const x = BOX.margin + ENDS.width + BOX.gap + index * (boxWidth + BOX.gap);
    return box(x, y, boxWidth, BOX.height);
  });
  const height = BOX.height + LOOP + 2 * BOX.margin;
  const last = stages.at(-1) ?? gateway;
  const low = BOX.height + BOX.margin + LOOP / 2;
  const ring =
    `M ${middle(last)} ${bottom(last)} V ${low - 8} q 0 8 -8 8 H ${middle(gateway) + 8} ` +
    `q -8 0 -8 -8 V ${bottom(gateway)}`;
  return made(false, right(last) + BOX.margin, height, gateway, stages, hopsAcross(gateway, stages), ring);
}

/** Rows like lines of text: each begins at the left again. */
function inRows(numStages, width, perRow) {
  const usable = width - ENDS.width - 2 * BOX.margin;
  const boxWidth = Math.max(minWidth(), usable / perRow - BOX.gap);
  const pitch = BOX.height + LOOP;
  const gateway = box(BOX.margin, BOX.margin + (BOX.height - ENDS.height) / 2, ENDS.width, ENDS.height);
  const stages = Array.from({ length: numStages }, (_, index) => {
    const column = index % perRow;
    const x = BOX.margin + ENDS.width + BOX.gap + column * (boxWidth + BOX.gap);
    return box(x, BOX.margin + Math.floor(index / perRow) * pitch, boxWidth, BOX.height);
  });
  const numRows = Math.ceil(numStages / perRow);
  const last = stages.at(-1);
  const low = numRows * pitch - LOOP / 2 + BOX.margin;
  const ring =
    `M ${middle(last)} ${bottom(last)} V ${low - 8} q 0 8 -8 8 H ${middle(gateway) + 8} ` +
    `q -8 0 -8 -8 V ${bottom(gateway)}`;
  const hops = hopsAcross(gateway, stages);
  for (let index = perRow; index < numStages; index += perRow) {
    const from = stages[index - 1];
    const to = stages[index];
    const between = bottom(from) + LOOP / 2;
    hops[index] = `M ${middle(from)} ${bottom(from)} V ${between} H ${middle(to)} V ${to.y}`;
  }
  return made(false, width, numRows * pitch + 2 * BOX.margin, gateway, stages, hops, ring);
}

function stacked(numStages, width) {
  const boxWidth = Math.max(140, width - LOOP - 2 * BOX.margin);
  const gap = 26;
  const gateway = box(BOX.margin, BOX.margin, boxWidth, 44);
  const stages = Array.from({ length: numStages }, (_, index) =>
    box(BOX.margin, bottom(gateway) + gap + index * (BOX.height + gap), boxWidth, BOX.height),
  );
  const chain = [gateway, ...stages];
  const hops = stages.map((to, index) => {
    const from = chain[index];
    return `M ${middle(from)} ${bottom(from)} V ${to.y}`;
  });
  const last = chain.at(-1);
  const side = boxWidth + BOX.margin + LOOP / 2;
  const ring =
    `M ${right(last)} ${centre(last)} H ${side - 8} q 8 0 8 -8 V ${centre(gateway) + 8} ` +
    `q 0 -8 -8 -8 H ${right(gateway)}`;
  return made(true, width, bottom(last) + BOX.margin, gateway, stages, hops, ring);
}

function hopsAcross(gateway, stages) {
  const chain = [gateway, ...stages];
  return stages.map((to, index) => {
    const from = chain[index];
    return `M ${right(from)} ${centre(to)} H ${to.x}`;
  });
}

function made(vertical, width, height, gateway, stages, hops, ring) {
  return { vertical, width, height, gateway, stages, hops, ring: stages.length ? ring : "" };
}

const box = (x, y, width, height) => ({ x, y, width, height });
const middle = (one) => one.x + one.width / 2;
const centre = (one) => one.y + one.height / 2;
const right = (one) => one.x + one.width;
const bottom = (one) => one.y + one.height;
