"use strict";
// The page: two students, one scan. picture.js, before this, makes of a frame the picture that they take.

const content = JSON.parse(document.getElementById("content").textContent);
const GRID = 12; // places of the grey square along each side of the occlusion map
const TIMED = { calls: 15, milliseconds: 500 }; // latency: as many calls as both allow, at least three
const LARGEST = 2 ** 24; // pixels; more is no B-scan
const SMALLEST = 16; // pixels a side

const byId = (id) => document.getElementById(id);
const lookOf = (name) => content.looks[name] ?? { label: name, color: "#7F7F7F", marker: "o", hatch: "" };
const MARKERS = { o: "●", s: "■", "^": "▲", D: "◆" };

// --- the students ----------------------------------------------------------------------------------------------------

/** The bytes of a file that this page carries: gzip, then base64. */
async function unpack(id) {
  const text = atob(byId(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Start ONNX Runtime Web on one thread, from what the page carries, and give each student its session. */
async function loadStudents() {
  const code = new Blob([await unpack("runtime-script")], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(code));
  ort.env.wasm.numThreads = 1; // more would need headers that a file on a disk does not have
  ort.env.wasm.wasmBinary = await unpack("runtime-wasm");
  return Promise.all(content.students.map(async (student) => ({
    ...student,
    ort,
    session: await ort.InferenceSession.create(await unpack(student.id), { executionProviders: ["wasm"] }),
  })));
}

/** Logits (count rows) and distances of pictures, a Uint8Array (count * R * R). */
async function ask(student, pictures, count) {
  const side = student.about.stored_size;
  const image = new student.ort.Tensor("uint8", pictures, [count, 1, side, side]);
  const { logits, distance } = await student.session.run({ image });
  const classes = student.about.class_names.length;
  return {
    logits: Array.from({ length: count }, (_, k) => Array.from(logits.data.slice(k * classes, (k + 1) * classes))),
    distance: Array.from(distance.data),
  };
}

/** Median milliseconds of one picture. */
async function latency(student, picture) {
  const times = [];
  const begin = performance.now();
  while (times.length < 3 || (times.length < TIMED.calls && performance.now() - begin < TIMED.milliseconds)) {
    const start = performance.now();
    await ask(student, picture, 1);
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}

function softmax(logits, temperature) {
  const highest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp((logit - highest) / temperature));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

/** The rule that ships with a student, the same as OnnxClassifier.classify. */
function decide(about, logits, distance) {
  const { temperature, threshold, sure_above, refuse_above } = about.decision;
  const probabilities = softmax(logits, temperature);
  const top = probabilities.indexOf(Math.max(...probabilities));
  const ill = 1 - probabilities[about.class_names.indexOf(about.healthy)];
  const answer = { probabilities, logits, distance, top, ill, refer: ill >= threshold, decision: about.class_names[top] };
  const agrees = (about.class_names[top] !== about.healthy) === answer.refer;
  if (probabilities[top] < sure_above || !agrees) answer.decision = "not sure";
  if (distance > refuse_above) answer.decision = "refused";
  return answer;
}

// --- a scan ----------------------------------------------------------------------------------------------------------

/** The pixels of an image file: {width, height, rgba}. Throws an Error that says what is wrong with it. */
async function decode(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const has = (place, ...values) => values.every((value, k) => bytes[place + k] === value);
  const last = (...values) => bytes.findLastIndex((_, place) => has(place, ...values));
  const jpeg = has(0, 0xff, 0xd8), png = has(0, 0x89, 0x50, 0x4e, 0x47), bmp = has(0, 0x42, 0x4d);
  if (!jpeg && !png && !bmp) throw new Error("it is no JPEG, PNG or BMP image");
  // browsers draw a file whose end is missing; a lost end is a lost scan
  if (jpeg && last(0xff, 0xd9) < last(0xff, 0xda)) throw new Error("the end of the JPEG is missing");
  if (png && last(0x49, 0x45, 0x4e, 0x44) < 0) throw new Error("the end of the PNG is missing");
  if (png && bytes[24] === 16) throw new Error("it has 16 bits a pixel; save it with 8");
  // the levels as stored: no color management
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" })
    .catch(() => { throw new Error("it is damaged"); });
  const { width, height } = bitmap;
  if (Math.min(width, height) < SMALLEST) throw new Error(`${width} x ${height} pixels are too few for a B-scan`);
  if (width * height > LARGEST) throw new Error(`${width} x ${height} pixels are too many for a B-scan`);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  for (let k = 3; k < rgba.length; k += 4) if (rgba[k] < 255) throw new Error("it is partly transparent");
  return { width, height, rgba };
}

/** What every student says of an image file; the tests compare this with Python. */
async function classify(blob) {
  const frame = await decode(blob);
  const prepared = [];
  for (const student of await students) {
    const { picture, box } = toPicture(frame, student.about.stored_size, student.about.crop_to_band);
    const { logits, distance } = await ask(student, picture, 1);
    prepared.push({ student, picture, box, answer: decide(student.about, logits[0], distance[0]) });
  }
  return { frame, prepared };
}

// --- occlusion: what matters to a student ----------------------------------------------------------------------------

/** Logits for every place of a grey square on the picture, a row of places at a time; null where `stop` says so. */
async function occlude(student, picture, stop, progress) {
  const side = student.about.stored_size, wide = Math.ceil(side / 7);
  const grey = picture.reduce((a, b) => a + b) / picture.length;
  const places = Array.from({ length: GRID }, (_, k) => Math.round((k * (side - wide)) / (GRID - 1)));
  const cells = [];
  for (const [done, top] of places.entries()) {
    const pictures = new Uint8Array(GRID * side * side);
    places.forEach((left, k) => {
      const covered = pictures.subarray(k * side * side, (k + 1) * side * side);
      covered.set(picture);
      for (let row = top; row < top + wide; row++) covered.fill(grey, row * side + left, row * side + left + wide);
    });
    const { logits } = await ask(student, pictures, GRID);
    places.forEach((left, k) => cells.push({ top, left, wide, logits: logits[k] }));
    progress((done + 1) / GRID);
    await new Promise((resume) => setTimeout(resume)); // the page stays awake
    if (stop()) return null;
  }
  return cells;
}

/** Of each pixel, how much the probability of a class falls where a square covers it: mean of those that do. */
function fallOf(cells, logits, top, temperature, side) {
  const whole = softmax(logits, temperature)[top];
  const sum = new Float64Array(side * side), count = new Float64Array(side * side);
  let strongest = { fall: -Infinity };
  for (const cell of cells) {
    const fall = whole - softmax(cell.logits, temperature)[top];
    if (fall > strongest.fall) strongest = { ...cell, fall };
    for (let row = cell.top; row < cell.top + cell.wide; row++) {
      for (let column = cell.left; column < cell.left + cell.wide; column++) {
        sum[row * side + column] += fall;
        count[row * side + column] += 1;
      }
    }
  }
  return { whole, strongest, map: sum.map((value, k) => value / count[k]) };
}

// --- what the page shows ---------------------------------------------------------------------------------------------

let shown = null; // {name, truth, frame, prepared: [{student, picture, box, answer, cells, speed}]}; speed in milliseconds
let turn = 0; // counts the scans, so that work for an earlier one stops
const cards = new Map(); // student id -> its article

/** null: each student at the T that it ships with. */
function chosenTemperature() {
  return byId("shipped").getAttribute("aria-pressed") === "true" ? null : 2 ** (byId("temperature").value / 10);
}

function makeCard(student) {
  const card = byId("student").content.firstElementChild.cloneNode(true);
  card.querySelector("h3").textContent = student.title;
  card.querySelector("caption").textContent = `Probabilities: ${student.title}`;
  for (const name of student.about.class_names) {
    const row = card.querySelector("tbody").insertRow();
    const { label, color, marker, hatch } = lookOf(name);
    row.innerHTML = '<th scope="row"><span aria-hidden="true"></span> </th><td class="bar"><div><i></i></div></td><td></td>';
    row.querySelector("span").textContent = MARKERS[marker] ?? "●";
    row.querySelector("span").style.color = color;
    row.querySelector("th").append(label);
    row.querySelector("i").style.backgroundColor = color;
    row.querySelector("i").dataset.hatch = hatch;
  }
  byId("students").append(card);
  cards.set(student.id, card);
}

/** Bars, decision and map of one student at the temperature that is chosen. */
function draw({ student, answer, picture, cells, speed }) {
  const card = cards.get(student.id), { decision } = student.about;
  const temperature = chosenTemperature() ?? decision.temperature;
  const probabilities = softmax(answer.logits, temperature);
  card.dataset.decision = answer.decision;
  card.querySelector(".decision").textContent =
    { "not sure": "Not sure", refused: "Refused" }[answer.decision] ?? lookOf(answer.decision).label;
  [...card.querySelectorAll("tbody tr")].forEach((row, k) => {
    row.querySelector("i").style.width = `${100 * probabilities[k]}%`;
    row.lastElementChild.textContent = probabilities[k].toFixed(3);
    row.classList.toggle("top", k === answer.top);
  });
  card.querySelector(".reason").replaceChildren(...reasons(answer, decision).map((text) => {
    return Object.assign(document.createElement("li"), { textContent: text });
  }));
  card.querySelector(".speed").textContent =
    `T = ${temperature.toFixed(2)}` + (speed === undefined ? "" : ` · ${speed.toFixed(1)} ms here`);
  drawMap(card, student, answer, picture, cells, temperature);
}

/** What the decision follows from, a line each. */
function reasons(answer, { refuse_above, threshold, sure_above }) {
  const { decision, distance, ill, refer, probabilities, top } = answer;
  const far = `Distance ${distance.toFixed(1)} (refused above ${refuse_above.toFixed(1)})`;
  if (decision === "refused") return ["Unlike any B-scan that the student knows: the bars do not count", far];
  const lines = [`Any disease ${ill.toFixed(2)}: ${refer ? "refer" : "no referral"} (from ${threshold.toFixed(2)} on)`, far];
  if (probabilities[top] < sure_above) {
    lines.unshift(`Top class ${probabilities[top].toFixed(2)}: sure from ${sure_above.toFixed(2)} on`);
  } else if (decision === "not sure") {
    lines.unshift("Top class and referral contradict each other");
  }
  return lines;
}

/** The picture, and over it orange where a grey square lowers the top class, blue where it raises it. */
function drawMap(card, student, answer, picture, cells, temperature) {
  const canvas = card.querySelector("canvas"), caption = card.querySelector("figcaption");
  const side = student.about.stored_size, label = lookOf(student.about.class_names[answer.top]).label;
  const pixels = new ImageData(side, side);
  const found = cells && fallOf(cells, answer.logits, answer.top, temperature, side);
  const most = found ? found.map.reduce((a, b) => Math.max(a, Math.abs(b)), 0.02) : 1;
  picture.forEach((level, k) => {
    const share = found ? Math.min(Math.abs(found.map[k]) / most, 1) * 0.75 : 0;
    const tint = found?.map[k] > 0 ? [255, 140, 0] : [60, 150, 255];
    tint.forEach((part, channel) => { pixels.data[4 * k + channel] = level * (1 - share) + part * share; });
    pixels.data[4 * k + 3] = 255;
  });
  const small = new OffscreenCanvas(side, side);
  small.getContext("2d").putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  if (!found) return;
  const { strongest, whole } = found;
  const matters = strongest.fall >= 0.01;
  if (matters) {
    const [x, y] = [canvas.width / side, canvas.height / side];
    context.lineWidth = 3;
    context.strokeStyle = "#fff";
    context.strokeRect(strongest.left * x, strongest.top * y, strongest.wide * x, strongest.wide * y);
  }
  caption.textContent = matters
    ? `Orange speaks for ${label}, blue against. With the white square grey: ${whole.toFixed(2)} → ` +
      `${(whole - strongest.fall).toFixed(2)}.`
    : `No grey square lowers ${label} by 0.01 or more.`;
  canvas.setAttribute("aria-label", `What matters. ${student.title}. ${caption.textContent}`);
}

function drawFrame({ name, truth, frame, prepared }) {
  const canvas = byId("frame"), { width, height } = frame, box = prepared[0].box;
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.putImageData(new ImageData(frame.rgba, width, height), 0, 0);
  context.setLineDash([12, 8]);
  context.lineWidth = Math.max(2, width / 250);
  context.strokeStyle = "#ffd54a";
  context.strokeRect(box.left, box.top, box.right - box.left, box.bottom - box.top);
  const drawn = truth ? ` It was drawn as ${lookOf(truth).label}.` : "";
  byId("frame-caption").textContent = `${name}, ${width} × ${height} pixels.${drawn} The students see what is inside the dashes.`;
  canvas.setAttribute("aria-label", byId("frame-caption").textContent);
}

/** Show a scan: pixels first, then answers, latency, and the maps as they come. */
async function open(blob, name, truth = null) {
  const mine = ++turn;
  const read = await classify(blob).catch((error) => ({ error }));
  if (mine !== turn) return;
  document.body.classList.toggle("faulty", "error" in read);
  byId("fault").textContent = read.error ? `${name} is refused: ${read.error.message}.` : "";
  shown = read.error ? null : { name, truth, ...read };
  byId("said").textContent = shown ? summary(shown) : "";
  if (!shown) return;
  drawFrame(shown);
  shown.prepared.forEach(draw);
  for (const one of shown.prepared) {
    one.speed = await latency(one.student, one.picture);
    if (mine !== turn) return;
    draw(one);
  }
  await Promise.all(shown.prepared.map(async (one) => {
    const caption = cards.get(one.student.id).querySelector("figcaption");
    const progress = (share) => { caption.textContent = `What matters: ${Math.round(100 * share)} % …`; };
    one.cells = await occlude(one.student, one.picture, () => mine !== turn, progress);
    if (one.cells) draw(one);
  }));
  if (mine === turn) document.body.dataset.done = name;
}

/** The answers in a sentence each, for those who listen, and on a phone where the cards are further down. */
function summary({ name, prepared }) {
  const answers = prepared.map(({ student, answer }) => {
    const top = `${lookOf(student.about.class_names[answer.top]).label} ${answer.probabilities[answer.top].toFixed(2)}`;
    const said = { refused: "refused", "not sure": `not sure, ${top} at most` }[answer.decision] ?? top;
    return `${student.title}: ${said}.`;
  });
  return `${name}. ${answers.join(" ")}`;
}

// --- what a person does ----------------------------------------------------------------------------------------------

function offerPhantoms() {
  content.phantoms.forEach((phantom, k) => {
    const label = document.createElement("label"), choice = document.createElement("input");
    Object.assign(choice, { type: "radio", name: "phantom", value: k });
    const image = Object.assign(new Image(), { src: phantom.image, alt: phantom.name });
    choice.addEventListener("change", () => openPhantom(k));
    label.append(choice, image);
    byId("phantoms").append(label);
  });
}

async function openPhantom(k) {
  const { image, name, truth } = content.phantoms[k];
  const bytes = Uint8Array.from(atob(image.split(",")[1]), (letter) => letter.charCodeAt(0));
  await open(new Blob([bytes], { type: "image/jpeg" }), name, truth);
}

function openFile(file) {
  for (const choice of document.querySelectorAll("#phantoms input")) choice.checked = false;
  if (file) open(file, file.name);
}

function showTemperature() {
  const chosen = chosenTemperature();
  byId("temperature-value").textContent = chosen === null ? "own" : chosen.toFixed(2);
  byId("temperature").setAttribute("aria-valuetext", chosen === null ? "each student's own" : chosen.toFixed(2));
  shown?.prepared.forEach(draw);
}

function listen() {
  byId("file").addEventListener("change", (event) => openFile(event.target.files[0]));
  byId("temperature").addEventListener("input", () => {
    byId("shipped").setAttribute("aria-pressed", "false");
    showTemperature();
  });
  byId("shipped").addEventListener("click", () => {
    byId("shipped").setAttribute("aria-pressed", "true");
    showTemperature();
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  for (const end of ["dragleave", "drop"]) {
    document.addEventListener(end, () => document.body.classList.remove("dropping"));
  }
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    openFile(event.dataTransfer.files[0]);
  });
}

content.students.forEach(makeCard);
offerPhantoms();
listen();
showTemperature();
const students = loadStudents();
students.then(() => {
  document.querySelector("#phantoms input").checked = true;
  return openPhantom(0);
}).catch((error) => { byId("fault").textContent = `The students cannot be loaded: ${error.message}`; });
