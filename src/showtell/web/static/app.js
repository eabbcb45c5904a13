// The page of `showtell serve`: one request captions what was added; parts are looked for when they are asked for.
const $ = (selector, root = document) => root.querySelector(selector);
const problem = $("#problem");
const news = $("#news");
let limits = { files: 16 };
let report = null;
const floor = 0.3; // of confidence, as showtell alt has it
let key = sessionStorage.getItem("showtell-key");

class Refused extends Error {}

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused("The server does not answer; is showtell serve still running?");
  }
  if (response.status === 401) {
    $("#key").hidden = false;
    $("#secret").focus();
  }
  if (!response.ok) {
    const about = await response.json().catch(() => ({}));
    const wait = response.status === 503 ? " Try again in a moment." : "";
    throw new Refused((about.detail ?? `The server answered ${response.status}.`) + wait);
  }
  return response;
}

function tell(error) {
  if (!(error instanceof Refused)) throw error;
  problem.textContent = error.message;
}

function announce(text) {
  news.append(Object.assign(document.createElement("p"), { textContent: text }));
  while (news.children.length > 8) news.firstChild.remove();
}

// What was written about a picture is kept under the hash of its bytes, in this browser alone.
async function nameOf(file) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return "showtell-text-" + [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A whole sentence is never likely by itself; beside its alternatives it is.
const shares = (said) => {
  const best = Math.max(...said.map(({ logprob }) => logprob));
  const odds = said.map(({ logprob }) => Math.exp(logprob - best));
  const sum = odds.reduce((total, one) => total + one, 0);
  return odds.map((one) => `${Math.round((100 * one) / sum)} %`);
};

function sentence(caption) {
  const text = caption.trim();
  return text ? text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") : "";
}

// Adding pictures

async function add(files) {
  problem.textContent = "";
  const chosen = [...files].filter((file) => file.size);
  for (let start = 0; start < chosen.length; start += limits.files) {
    await caption(chosen.slice(start, start + limits.files));
  }
}

async function caption(files) {
  const cards = files.map(place);
  $("#cards").prepend(...cards.map((card) => card.element));
  $("#none").hidden = true;
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name || "pasted.png");
  try {
    const response = await ask("/v1/captions?beam=5&top=3&maps=true", { method: "POST", body: form });
    const { results } = await response.json();
    for (const [number, result] of results.entries()) show(cards[number], result);
  } catch (error) {
    for (const card of cards) fail(card, error instanceof Refused ? error.message : "It did not work.");
    tell(error);
  }
}

function place(file) {
  const element = $("#card").content.firstElementChild.cloneNode(true);
  const card = { element, file, image: $("img", element), result: null, stored: nameOf(file) };
  const url = URL.createObjectURL(file);
  card.image.src = url;
  card.image.alt = file.name || "pasted picture";
  $(".name", element).textContent = file.name || "pasted picture";
  $(".words", element).textContent = "Looking …";
  element.setAttribute("aria-busy", "true");
  $(".remove", element).addEventListener("click", () => remove(card, url));
  $(".speak", element).addEventListener("click", () => speak($("textarea", element).value));
  $(".copy", element).addEventListener("click", () => copy($("textarea", element)));
  $("textarea", element).addEventListener("change", () => keep(card));
  $(".parts", element).addEventListener("toggle", () => parts(card));
  return card;
}

async function show(card, result) {
  if (result.error) return fail(card, result.error);
  card.result = result;
  card.element.removeAttribute("aria-busy");
  write(card, result);
  const doubt = doubts(card, result.confidence);
  const others = $(".alternatives", card.element);
  const likely = shares([...(result.alternatives ?? []), result]);
  for (const [number, other] of (result.alternatives ?? []).entries()) {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: other.caption });
    button.addEventListener("click", () => edit(card, sentence(other.caption)));
    item.append(button, ` ${likely[number]}`);
    others.append(item);
  }
  $(".more", card.element).hidden = !others.children.length;
  $(".more summary", card.element).textContent = `Other captions (the one above: ${likely.at(-1)})`;
  const stored = await card.stored;
  const text = (stored && localStorage.getItem(stored)) || sentence(result.caption);
  $("textarea", card.element).value = text;
  card.image.alt = text;
  announce(`${$(".name", card.element).textContent}: ${result.caption}${doubt}`);
}

// Nothing of a model that is not calibrated.
function doubts(card, confidence) {
  if (confidence == null) return "";
  const line = $(".sure", card.element);
  const likely = `${Math.round(100 * confidence)} % likely to be a good caption`;
  const unsure = confidence < floor;
  line.textContent = unsure ? `Do not rely on this one: ${likely}.` : `${likely}.`;
  line.classList.toggle("unsure", unsure);
  return unsure ? `. ${line.textContent}` : "";
}

function fail(card, message) {
  card.element.removeAttribute("aria-busy");
  const words = $(".words", card.element);
  words.textContent = message;
  words.classList.add("problem");
  for (const part of [".parts", ".text-label", ".speak", ".copy"]) $(part, card.element).hidden = true;
  announce(`${$(".name", card.element).textContent}: ${message}`);
}

function remove(card, url) {
  const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
  card.element.remove();
  URL.revokeObjectURL(url);
  $("#none").hidden = Boolean($("#cards").children.length);
  (next ? $(".remove", next) : $("#main")).focus();
}

// The words, and where the model looked for each

function write(card, result) {
  const place = $(".words", card.element);
  place.textContent = "";
  if (!result.maps) {
    place.textContent = result.caption;
    return;
  }
  for (const [number, { word }] of result.words.entries()) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: word });
    button.title = `Where the model looked for “${word}”`;
    for (const begin of ["pointerenter", "focus", "click"]) {
      button.addEventListener(begin, () => heat(card, result.maps[number], result.maps_box));
    }
    for (const end of ["pointerleave", "blur"]) button.addEventListener(end, () => heat(card, null));
    place.append(button, " ");
  }
}

// Where the picture lies on its stage, which is as wide as the column whatever the picture's shape.
function shown(card) {
  const { clientWidth: width, clientHeight: height } = card.image;
  const { naturalWidth: across, naturalHeight: down } = card.image;
  const scale = Math.min(width / across, height / down);
  return { left: (width - across * scale) / 2, top: (height - down * scale) / 2, scale };
}

function heat(card, map, covered) {
  const canvas = $("canvas", card.element);
  const context = canvas.getContext("2d");
  canvas.width = card.image.clientWidth;
  canvas.height = card.image.clientHeight;
  if (!map) return;
  const small = new OffscreenCanvas(map[0].length, map.length);
  const cells = small.getContext("2d").createImageData(small.width, small.height);
  const values = map.flat();
  const most = Math.max(...values) || 1;
  for (const [cell, value] of values.entries()) {
    const strength = value / most;
    cells.data.set([255, 220 * strength, 60, 210 * strength], 4 * cell);
  }
  small.getContext("2d").putImageData(cells, 0, 0);
  const { left, top, scale } = shown(card);
  context.imageSmoothingQuality = "high";
  const [width, height] = [card.image.naturalWidth * scale, card.image.naturalHeight * scale];
  const [x0, y0, x1, y1] = covered ?? [0, 0, 1, 1];
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.drawImage(small, left + x0 * width, top + y0 * height, (x1 - x0) * width, (y1 - y0) * height);
}

// Parts of the picture

async function parts(card) {
  const details = $(".parts", card.element);
  $(".boxes", card.element).textContent = "";
  if (!details.open || card.looked) return;
  card.looked = true;
  const list = $(".regions", card.element);
  list.textContent = "Looking …";
  const form = new FormData();
  form.append("files", card.file, card.file.name || "pasted.png");
  try {
    const { regions } = await (await ask("/v1/regions?top=8", { method: "POST", body: form })).json();
    list.textContent = regions.length ? "" : "Nothing that stands out.";
    for (const region of regions) {
      const item = document.createElement("li");
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: region.caption });
      for (const begin of ["pointerenter", "focus", "click"]) {
        button.addEventListener(begin, () => box(card, region.box));
      }
      for (const end of ["pointerleave", "blur"]) button.addEventListener(end, () => box(card, null));
      item.append(button);
      list.append(item);
    }
    announce(`${regions.length} parts: ${regions.map((region) => region.caption).join("; ")}`);
  } catch (error) {
    card.looked = false;
    list.textContent = "";
    tell(error);
  }
}

function box(card, edges) {
  const boxes = $(".boxes", card.element);
  boxes.textContent = "";
  if (!edges) return;
  const { left, top, scale } = shown(card);
  const mark = document.createElement("span");
  mark.style.left = `${left + edges[0] * scale}px`;
  mark.style.top = `${top + edges[1] * scale}px`;
  mark.style.width = `${(edges[2] - edges[0]) * scale}px`;
  mark.style.height = `${(edges[3] - edges[1]) * scale}px`;
  boxes.append(mark);
}

// The text

function edit(card, text) {
  $("textarea", card.element).value = text;
  keep(card);
  announce(`Alt text: ${text}`);
}

async function keep(card) {
  const text = $("textarea", card.element).value;
  card.image.alt = text;
  const stored = await card.stored;
  if (stored) localStorage.setItem(stored, text);
}

function speak(text) {
  if (!globalThis.speechSynthesis) {
    problem.textContent = "This browser has no voice.";
    return;
  }
  speechSynthesis.cancel();
  const spoken = new SpeechSynthesisUtterance(text);
  spoken.lang = "en";
  speechSynthesis.speak(spoken);
}

async function copy(area) {
  try {
    await navigator.clipboard.writeText(area.value);
    announce("Copied.");
  } catch {
    area.select();
    announce("Selected; copy it with the keyboard.");
  }
}

// Finding pictures of the index

async function find(event) {
  event.preventDefault();
  problem.textContent = "";
  const list = $("#found");
  try {
    const response = await ask("/v1/search?top=12", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ sentence: $("#sentence").value }),
    });
    const { results } = await response.json();
    const items = await Promise.all(results.map(thumbnail));
    list.replaceChildren(...items);
    announce(`${results.length} pictures found.`);
  } catch (error) {
    tell(error);
  }
}

async function thumbnail({ path, score, thumbnail: where }) {
  const item = document.createElement("li");
  const figure = document.createElement("figure");
  const image = Object.assign(document.createElement("img"), { alt: "", loading: "lazy" });
  try {
    image.src = URL.createObjectURL(await (await ask(where)).blob());
  } catch {
    image.remove(); // it is gone from the disk; its path says which it was
  }
  const text = Object.assign(document.createElement("figcaption"), { textContent: `${path} (${score.toFixed(2)})` });
  figure.append(image, text);
  item.append(figure);
  return item;
}

// The page itself

function paint(theme) {
  document.documentElement.dataset.theme = theme;
  $("#theme").setAttribute("aria-pressed", String(theme === "dark"));
  localStorage.setItem("showtell-theme", theme);
}

// The scores are a page of their own (showtell report), which is shown in a frame that can do nothing else.
function view() {
  const scores = report !== null && location.hash === "#scores";
  $("#scores-view").hidden = !scores;
  $("#pictures-view").hidden = scores;
  for (const link of document.querySelectorAll("#views a")) {
    if ((link.hash === "#scores") === scores) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (scores && !$("#scores-view").firstChild) {
    $("#scores-view").append(Object.assign(document.createElement("iframe"), { title: "Scores of the model", src: report }));
  }
}

async function begin() {
  try {
    const about = await (await ask("/v1/models")).json();
    limits = about.limits;
    $("#model").textContent = `Model ${about.models[0].name}, showtell ${about.version}`;
    $("#search").hidden = about.indexed === null;
    $("#key").hidden = true;
    report = about.report;
    $("#views").hidden = report === null;
    view();
  } catch (error) {
    tell(error);
  }
}

for (const picker of ["#files", "#camera"]) {
  $(picker).addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = "";
  });
}
window.addEventListener("hashchange", view);
document.addEventListener("paste", (event) => add(event.clipboardData.files));
const drop = $("#drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}
$("#search").addEventListener("submit", find);
$("#key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("#secret").value;
  sessionStorage.setItem("showtell-key", key);
  problem.textContent = "";
  begin();
});
$("#theme").addEventListener("click", () => {
  paint($("#theme").getAttribute("aria-pressed") === "true" ? "light" : "dark");
});
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
paint(localStorage.getItem("showtell-theme") ?? (dark ? "dark" : "light"));
begin();
