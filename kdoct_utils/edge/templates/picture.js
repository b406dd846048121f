"use strict";
// From a frame to the picture that a student takes: kdoct_utils/data/band.py by hand, function by function, in the
// same order and the same arithmetic. tests/test_demo.py holds the two together.
// A grey image is {width, height, levels}: one level a pixel, row by row.

const FRAME_ROWS = 496, BAND_ROWS = 300, BAND_COLUMNS = 512; // of a Spectralis frame: 1.16 mm of depth, 6 mm of width
const FLAT = 8, WHITE = 180; // levels: the least contrast of a frame; a white border after JPEG
const GROWN = 4; // pixels that a border's edge rings into the frame
const COLORED = 16, MOST_COLORED = 2e-4; // levels that channels are apart; share of the pixels that may be so

/** The picture, a Uint8Array (size * size), and the box of the frame that it shows. Throws where there is no retina. */
function toPicture({ width, height, rgba }, size, crop) {
  const filled = fillBorders(toGrey(width, height, rgba));
  const box = crop ? findBand(filled) : { top: 0, bottom: height, left: 0, right: width };
  return { picture: resize(cut(filled, box), size, size).levels, box };
}

/** Luminance in the whole numbers that Pillow takes. Throws for a frame in colors. */
function toGrey(width, height, rgba) {
  const levels = new Uint8Array(width * height);
  let colored = 0;
  for (let k = 0; k < levels.length; k++) {
    const red = rgba[4 * k], green = rgba[4 * k + 1], blue = rgba[4 * k + 2];
    colored += Math.max(red, green, blue) - Math.min(red, green, blue) > COLORED;
    levels[k] = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16;
  }
  if (colored > MOST_COLORED * levels.length) throw new Error("it holds colors, and a B-scan is grey");
  return { width, height, levels };
}

/** The frame with white borders mirrored at their edge. A border holds a corner: from each side the run of white
 * pixels inward, its running median, and of it only what no gap parts from a corner. */
function fillBorders({ width, height, levels }) {
  const darkest = levels.reduce((a, b) => Math.min(a, b)), brightest = levels.reduce((a, b) => Math.max(a, b));
  if (brightest - darkest < FLAT || darkest >= WHITE) {
    throw new Error(`it is flat or white, about ${brightest} of 255: there is no retina in it`);
  }
  const grown = Math.max(roundEven(GROWN * Math.min(height / FRAME_ROWS, 1)), 1);
  const nearest = new Int32Array(levels.length).fill(levels.length); // pixels to the edge of a border
  let source = Int32Array.from(levels, (_, k) => k); // the number of each pixel's mirror image
  const sides = [ // each side is the top once: its length, its depth, and the place of (down, along)
    [width, height, (down, along) => down * width + along],
    [width, height, (down, along) => (height - 1 - down) * width + along],
    [height, width, (down, along) => along * width + down],
    [height, width, (down, along) => along * width + width - 1 - down],
  ];
  for (const [length, deep, place] of sides) {
    const white = (down, along) => levels[place(down, along)] >= WHITE;
    let run = new Array(length).fill(0).map((_, along) => {
      let down = 0;
      while (down < deep && white(down, along)) down++;
      return down;
    });
    if (run.every((depth) => depth === 0)) continue; // as in most frames
    run = around(run, Math.floor(length / 16), (near) => near.sort((a, b) => a - b)[near.length >> 1]);
    const first = run.indexOf(0);
    if (first >= 0) run.fill(0, first, run.lastIndexOf(0) + 1);
    run = around(run, grown, (near) => Math.max(...near));
    for (let along = 0; along < length; along++) {
      const edge = run[along] > 0 ? run[along] + grown : 0;
      for (let down = 0; down < Math.min(edge, deep); down++) {
        const here = place(down, along), depth = edge - down;
        if (depth >= nearest[here]) continue;
        nearest[here] = depth;
        source[here] = place(Math.min(down + 2 * depth - 1, deep - 1), along);
      }
    }
  }
  for (let again = 0; again < 3; again++) source = source.map((from) => source[from]); // it may lie in another border
  return { width, height, levels: Uint8Array.from(source, (from) => levels[from]) };
}

/** The box of a frame without borders: its central 6 mm, its BAND_ROWS with most bright tissue. */
function findBand(filled) {
  const { width, height } = filled;
  const wide = Math.min(width, roundEven(((width > 2 * height ? 2 : 1) * height * BAND_COLUMNS) / FRAME_ROWS));
  const left = Math.floor((width - wide) / 2), right = left + wide;
  const { levels, width: across } = resize(
    cut(filled, { top: 0, bottom: height, left, right }), Math.ceil(height / 4), Math.ceil(wide / 4),
  );
  const mean = levels.reduce((a, b) => a + b, 0) / levels.length;
  const spread = Math.sqrt(levels.reduce((sum, level) => sum + (level - mean) ** 2, 0) / levels.length);
  const tissue = new Float64Array(levels.length / across);
  levels.forEach((level, k) => { tissue[Math.floor(k / across)] += Math.max(level - mean - spread, 0); });
  tissue[0] = tissue[tissue.length - 1] = 0; // what is left of a thin white border is no tissue
  const tall = roundEven((height * BAND_ROWS) / FRAME_ROWS);
  const held = new Float64Array(height + tall - 1); // tissue in each position, hanging over the frame or not
  for (let row = 0; row < height; row++) {
    for (let k = 0; k < tall; k++) held[row + k] += tissue[Math.floor(row / 4)];
  }
  const enough = held.reduce((a, b) => Math.max(a, b)) * (1 - 1e-3);
  let sum = 0, count = 0;
  held.forEach((tissueHeld, k) => {
    if (tissueHeld < enough) return;
    sum += k - tall + 1;
    count += 1;
  });
  const top = Math.min(Math.max(roundEven(sum / count), 0), height - tall);
  return { top, bottom: top + tall, left, right };
}

/** Exact area averages where the image shrinks, linear in between where it grows. */
function resize(image, height, width) {
  const rows = overlaps(image.height, height), columns = overlaps(image.width, width);
  const lower = new Float64Array(height * image.width), levels = new Uint8Array(height * width);
  rows.forEach(([first, weights], row) => weights.forEach((weight, k) => {
    for (let column = 0; column < image.width; column++) {
      lower[row * image.width + column] += weight * image.levels[(first + k) * image.width + column];
    }
  }));
  for (let row = 0; row < height; row++) {
    columns.forEach(([first, weights], column) => {
      let level = 0.5;
      weights.forEach((weight, k) => { level += weight * lower[row * image.width + first + k]; });
      levels[row * width + column] = Math.floor(level);
    });
  }
  return { width, height, levels };
}

/** Of each new pixel, the first old pixel of a box around it, at least one wide, and the share of each in that box. */
function overlaps(before, after) {
  const half = Math.max(before / after, 1) / 2;
  return Array.from({ length: after }, (_, k) => {
    const middle = ((k + 0.5) * before) / after;
    const first = Math.max(Math.floor(middle - half), 0), end = Math.min(Math.ceil(middle + half), before);
    const shares = Array.from({ length: end - first }, (_, n) =>
      Math.max(Math.min(middle + half, first + n + 1) - Math.max(middle - half, first + n), 0));
    const sum = shares.reduce((a, b) => a + b);
    return [first, shares.map((share) => share / sum)];
  });
}

function cut(image, { top, bottom, left, right }) {
  const levels = new Uint8Array((bottom - top) * (right - left));
  for (let row = top; row < bottom; row++) {
    const from = row * image.width;
    levels.set(image.levels.subarray(from + left, from + right), (row - top) * (right - left));
  }
  return { width: right - left, height: bottom - top, levels };
}

/** `choose` of each value with its neighbors, the ends repeated. */
function around(values, by, choose) {
  const last = values.length - 1;
  return values.map((_, k) => choose(Array.from({ length: 2 * by + 1 }, (_, n) =>
    values[Math.min(Math.max(k - by + n, 0), last)])));
}

/** To the nearest whole number, halves to the even one, as Python does. */
function roundEven(value) {
  const down = Math.floor(value), rest = value - down;
  return rest < 0.5 || (rest === 0.5 && down % 2 === 0) ? down : down + 1;
}
