"use strict";
// From a frame to the picture that a student takes: kdoct_utils/data/band.py by hand, function by function, in the
// same order and the same arithmetic. tests/test_demo.py holds the two together.
// A grey image is {width, height, levels}: one level a pixel, row by row.

const FRAME_ROWS = 496, BAND_ROWS = 300, BAND_COLUMNS = 512; // of a Spectralis frame: 1.16 mm of depth, 6 mm of width
const DEEPER = 20; // rows from the middle of the retina to that of all tissue
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

/** The four sides of a frame, each the top once: how long it is, how deep the frame below it, and the place of
 * (down, along) among the pixels. */
function sidesOf(width, height) {
  return [
    [width, height, (down, along) => down * width + along],
    [width, height, (down, along) => (height - 1 - down) * width + along],
    [height, width, (down, along) => along * width + down],
    [height, width, (down, along) => along * width + width - 1 - down],
  ];
}

/** The frame with white borders mirrored at their edge. A border holds a corner: from each side the white run inward,
 * its running median, and of it only what no gap parts from a corner. */
function fillBorders({ width, height, levels }) {
  const grown = Math.max(roundEven(GROWN * Math.min(height / FRAME_ROWS, 1)), 1);
  const mask = new Uint8Array(levels.length), filled = levels.slice();
  const whiteAllOver = levels.every((level) => level >= WHITE), sides = whiteAllOver ? [] : sidesOf(width, height);
  for (const [length, deep, place] of sides) {
    let run = Array.from({ length }, (_, along) => {
      let down = 0;
      while (down < deep && levels[place(down, along)] >= WHITE) down++;
      return down;
    });
    if (run.every((depth) => depth === 0)) continue; // as in most frames
    run = around(run, Math.floor(length / 16), (near) => near.sort((a, b) => a - b)[near.length >> 1]);
    const gap = run.indexOf(0);
    if (gap >= 0) run.fill(0, gap, run.lastIndexOf(0) + 1);
    run = around(run, grown, (near) => Math.max(...near));
    run.forEach((depth, along) => {
      for (let down = 0; depth > 0 && down < Math.min(depth + grown, deep); down++) mask[place(down, along)] = 1;
    });
  }
  const nearest = new Int32Array(levels.length).fill(levels.length); // pixels to the mask's edge, along row or column
  for (const [length, deep, place] of sides) {
    for (let along = 0; along < length; along++) {
      let edge = Infinity; // the next pixel below that is not masked
      for (let down = deep - 1; down >= 0; down--) {
        const here = place(down, along);
        if (!mask[here]) edge = down;
        if (!mask[here] || edge >= deep || edge - down >= nearest[here]) continue;
        const mirror = Math.min(2 * edge - down, deep - 1);
        filled[here] = levels[place(mask[place(mirror, along)] ? edge : mirror, along)];
        nearest[here] = edge - down;
      }
    }
  }
  const most = levels.reduce((a, b) => Math.max(a, b));
  const contrast = filled.reduce((a, b) => Math.max(a, b)) - filled.reduce((a, b) => Math.min(a, b));
  if (contrast < FLAT || whiteAllOver) {
    throw new Error(`it is flat or white, about ${most} of 255: there is no retina in it`);
  }
  return { width, height, levels: filled };
}

/** The box of a frame without borders: its central 6 mm, its BAND_ROWS with most bright tissue. */
function findBand(filled) {
  const { width, height } = filled, scale = height / FRAME_ROWS;
  const wide = Math.min(width, roundEven((width > 2 * height ? 2 : 1) * scale * BAND_COLUMNS));
  const tall = roundEven(scale * BAND_ROWS), step = Math.max(Math.floor(4 * scale), 1); // averaged: less speckle
  const left = Math.floor((width - wide) / 2), right = left + wide;
  const middle = cut(filled, { top: 0, bottom: height, left, right });
  const { levels, width: across } = resize(middle, Math.ceil(height / step), Math.ceil(wide / step));
  const mean = levels.reduce((a, b) => a + b, 0) / levels.length;
  const spread = Math.sqrt(levels.reduce((sum, level) => sum + (level - mean) ** 2, 0) / levels.length);
  const tissue = new Float64Array(levels.length / across);
  levels.forEach((level, k) => { tissue[Math.floor(k / across)] += Math.max(level - mean - spread, 0); });
  tissue[0] = tissue[tissue.length - 1] = 0; // what is left of a thin white border is no tissue
  const held = new Float64Array(height + tall - 1); // tissue in each position, hanging over the frame or not
  for (let row = 0; row < height; row++) {
    for (let k = 0; k < tall; k++) held[row + k] += tissue[Math.floor(row / step)];
  }
  const enough = held.reduce((a, b) => Math.max(a, b)) * (1 - 1e-3);
  let sum = 0, count = 0;
  held.forEach((tissueHeld, k) => {
    if (tissueHeld < enough) return;
    sum += k - tall + 1;
    count += 1;
  });
  const top = Math.min(Math.max(roundEven(sum / count - DEEPER * scale), 0), height - tall);
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
