// The sheet of a report: cards are made of the lines of JSON above when they come into view.
const rows = JSON.parse(document.getElementById("rows").textContent);
const find = (name) => document.getElementById(name);
const list = find("sheet");
const STEP = 60;
const orders = {
  given: () => 0,
  best: (a, b) => (b.cider ?? -1) - (a.cider ?? -1),
  worst: (a, b) => (a.cider ?? Infinity) - (b.cider ?? Infinity),
  sure: (a, b) => (b.sure ?? -1) - (a.sure ?? -1),
  unsure: (a, b) => (a.sure ?? Infinity) - (b.sure ?? Infinity),
  said: (a, b) => a.said.localeCompare(b.said),
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
};
let chosen = rows;

const make = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};

function choose() {
  const wanted = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const holds = ({ said, name, references = [] }) => {
    const all = [said, name, ...references.map(([text]) => text)].join(" ").toLowerCase();
    return wanted.every((word) => all.includes(word));
  };
  chosen = rows.filter(holds).sort(orders[find("order").value]);
  list.replaceChildren();
  more();
  find("count").textContent = `${chosen.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} pictures`;
}

function more() {
  const start = list.children.length;
  list.append(...chosen.slice(start, start + STEP).map(card));
  find("more").hidden = list.children.length >= chosen.length;
  return start;
}

function card(row) {
  const figure = make("figure");
  const stage = make("div", undefined, "stage");
  if (row.error) stage.append(make("p", row.error, "lost bad"));
  else {
    const image = make("img");
    image.alt = row.references ? row.references.reduce((a, b) => (b[1] > a[1] ? b : a))[0] : row.said;
    image.src = `data:image/webp;base64,${row.picture}`;
    stage.append(image);
  }
  const text = make("figcaption");
  const said = make("p", undefined, "said");
  said.dir = "auto";
  if (row.maps) said.append(...words(row, stage));
  else if (row.said) said.textContent = row.said;
  else said.append(make("span", "nothing", "nothing"));
  const about = make("p", undefined, "about");
  if (row.cider !== undefined) about.append("CIDEr-D ", make("b", row.cider.toFixed(3)), " · ");
  if (row.sure !== undefined) about.append("sure ", make("b", `${Math.round(100 * row.sure)} %`), " · ");
  about.append(row.name);
  text.append(said, about);
  if (row.references) text.append(references(row.references));
  figure.append(stage, text);
  const item = make("li");
  item.append(figure);
  return item;
}

function references(written) {
  const count = written.reduce((sum, [, times]) => sum + times, 0);
  const details = make("details");
  const distinct = written.length < count ? `, ${written.length} distinct` : "";
  const items = make("ul");
  for (const [text, times] of written) items.append(make("li", times > 1 ? `${text} ×${times}` : text));
  details.append(make("summary", `${count} reference${count > 1 ? "s" : ""}${distinct}`), items);
  return details;
}

// The words, and where in the picture each comes from

function words(row, stage) {
  const canvas = make("canvas");
  canvas.setAttribute("aria-hidden", "true");
  stage.append(canvas);
  return row.words.flatMap((word, number) => {
    const button = make("button", word);
    button.type = "button";
    for (const begin of ["pointerenter", "focus", "click"]) {
      button.addEventListener(begin, () => heat(row, stage, canvas, number));
    }
    for (const end of ["pointerleave", "blur"]) button.addEventListener(end, () => heat(row, stage, canvas, null));
    return [button, " "];
  });
}

function heat(row, stage, canvas, number) {
  const image = stage.querySelector("img");
  canvas.width = image.clientWidth;
  canvas.height = image.clientHeight;
  if (number === null) return;
  const [down, across] = row.grid;
  const values = Uint8Array.from(atob(row.maps), (letter) => letter.charCodeAt(0));
  const small = new OffscreenCanvas(across, down);
  const cells = small.getContext("2d").createImageData(across, down);
  for (let cell = 0; cell < across * down; cell++) {
    const strength = values[number * across * down + cell] / 255;
    cells.data.set([255, 220 * strength, 60, 210 * strength], 4 * cell);
  }
  small.getContext("2d").putImageData(cells, 0, 0);
  const scale = Math.min(canvas.width / image.naturalWidth, canvas.height / image.naturalHeight);
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  const [left, top] = [(canvas.width - width) / 2, (canvas.height - height) / 2];
  const [x0, y0, x1, y1] = row.box ?? [0, 0, 1, 1];
  const context = canvas.getContext("2d");
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.imageSmoothingQuality = "high";
  context.drawImage(small, left + x0 * width, top + y0 * height, (x1 - x0) * width, (y1 - y0) * height);
}

for (const [name, has] of [["best", "cider"], ["worst", "cider"], ["sure", "sure"], ["unsure", "sure"]]) {
  if (!rows.some((row) => row[has] !== undefined)) find("order").querySelector(`[value=${name}]`).remove();
}
find("order").addEventListener("change", choose);
find("filter").addEventListener("input", choose);
find("more").addEventListener("click", () => {
  const start = more();
  list.children[start]?.querySelector("button, summary")?.focus();
});
new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && more(), { rootMargin: "600px" }).observe(
  find("more"),
);
find("sheet-part").hidden = false;
choose();
