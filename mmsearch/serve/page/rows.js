// Rows of pictures that fill the width, whatever their shapes.

export const GAP = 10;
/** Panoramas and scans of receipts would make rows of their own. */
const NARROWEST = 0.45;
const WIDEST = 2.8;

const rowHeight = (width) => (width < 520 ? 132 : width < 1000 ? 180 : 224);

/** How wide a picture is shown, beside its height. */
export const ratioOf = ({ width, height }) =>
  Math.min(WIDEST, Math.max(NARROWEST, width / height || 1));

/** Rows that fill the width: [{top, height, first, tiles: [{left, width}]}], and the full height. */
export function justify(ratios, width, ended) {
  const target = rowHeight(width);
  const rows = [];
  let top = 0;
  let first = 0;
  let sum = 0;
  const close = (end, height) => {
    let left = 0;
    const tiles = [];
    for (let i = first; i < end; i += 1) {
      tiles.push({ left, width: ratios[i] * height });
      left += ratios[i] * height + GAP;
    }
    rows.push({ top, height, first, tiles });
    top += height + GAP;
    first = end;
    sum = 0;
  };
  for (let i = 0; i < ratios.length; i += 1) {
    sum += ratios[i];
    const height = (width - GAP * (i - first)) / sum;
    if (height <= target) close(i + 1, height);
  }
  // The rest of an unfinished list waits for its neighbours; that of a finished one stays ragged.
  if (ended && first < ratios.length) close(ratios.length, target);
  return { rows, height: Math.max(0, top - GAP) };
}

function rowOf(rows, at) {
  return rows.findIndex((row) => at >= row.first && at < row.first + row.tiles.length);
}

const middle = (tile) => tile.left + tile.width / 2;

/** Where the middle of a tile is across the page; null where there is no such tile. */
export function middleOf(rows, at) {
  const row = rows[rowOf(rows, at)];
  return row ? middle(row.tiles[at - row.first]) : null;
}

/** The tile of the row above or below (step -1 or 1) whose middle is nearest to `here`; null past
 * the edge. */
export function beside(rows, at, step, here) {
  const index = rowOf(rows, at);
  const other = rows[index + step];
  if (index < 0 || !other) return null;
  let best = 0;
  other.tiles.forEach((tile, n) => {
    if (Math.abs(middle(tile) - here) < Math.abs(middle(other.tiles[best]) - here)) best = n;
  });
  return other.first + best;
}
