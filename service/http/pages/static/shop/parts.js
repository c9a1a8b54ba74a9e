// What the pages are built of. Whatever an item is called is only ever text here: nothing is read as HTML.

/** An element: h("a.card", {href}, "text", node). An attribute that is a function listens; false and null are left out. */
export function h(what, attributes = {}, ...children) {
  const [name, ...classes] = what.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...there(children));
  return element;
}

/** Of nested lists of children those that are any. */
export const there = (children) => children.flat(Infinity).filter((child) => child != null && child !== false);

/** The address of an item's page. */
export const pageOf = (id) => `#/item/${encodeURIComponent(id)}`;

/** What an item is called, if only by its id. */
export const nameOf = (item) => item.title || item.id;

/** Its price as this visitor writes prices; empty where none is known. */
export function priceOf({ price, currency }, times = 1) {
  if (typeof price !== "number") return "";
  try {
    return new Intl.NumberFormat(undefined, { style: "currency", currency }).format(price * times);
  } catch {
    return `${(price * times).toFixed(2)} ${currency ?? ""}`.trim(); // no currency, or none that is known
  }
}

/** Its picture in a square that is there before it is; drawn from its id where it has none. */
export function picture(item, { alt = "", eager = false } = {}) {
  const frame = h("span.picture");
  if (!/^(https?:|data:image\/|\/|\.)/i.test(item.image ?? "")) frame.append(drawn(item, alt));
  else {
    const image = h("img", { alt, width: 200, height: 200, decoding: "async", referrerpolicy: "no-referrer" });
    if (!eager) image.loading = "lazy"; // before src, or it is too late
    image.addEventListener("error", () => image.replaceWith(drawn(item, alt)), { once: true });
    image.src = item.image;
    frame.append(image);
  }
  return frame;
}

function drawn(item, alt) {
  let hue = 7;
  for (const letter of item.id) hue = (hue * 31 + letter.codePointAt(0)) % 360;
  const square = h("span.drawn", alt ? { role: "img", "aria-label": alt } : { "aria-hidden": "true" });
  square.style.setProperty("--hue", hue);
  square.style.setProperty("--turn", `${(hue * 7) % 180}deg`);
  square.append(h("span", {}, [...item.id].slice(-6).join("")));
  return square;
}

/** An item among others. */
export function card(item, onclick) {
  return h("a.card", { href: pageOf(item.id), onclick },
    picture(item),
    h("span.brand", {}, item.brand ?? ""),
    h("span.title", {}, shortNameOf(item)),
    h("span.price", {}, priceOf(item)));
}

function shortNameOf(item) { // the brand stands above it
  const name = nameOf(item);
  const brand = `${item.brand} `;
  return name.startsWith(brand) && name.length > brand.length ? name.slice(brand.length) : name;
}

function skeletons(count) {
  return Array.from({ length: count }, () =>
    h("span.card.skeleton", { "aria-hidden": "true" },
      h("span.picture"), h("span.brand"), h("span.title"), h("span.price")));
}

/**
 * Items under a heading, whose place is kept until they come. `load` answers {items, hint}; without any it goes
 * away. `hint` stands there until then. `refresh()` asks again, and leaves what is there until the answer.
 */
export function strip({ heading, hint, count, load, onclick }) {
  const grid = h("div.grid", { "aria-busy": "true" }, skeletons(count));
  const told = h("p.hint", { hidden: hint == null }, hint);
  const section = h("section.strip", {}, h("div.heading", {}, h("h2", {}, heading), told), grid);
  let turn = 0;
  const refresh = async () => {
    const mine = ++turn;
    grid.setAttribute("aria-busy", "true");
    let found;
    try {
      found = await load();
    } catch (error) {
      found = { items: [], problem: error.message };
    }
    if (mine !== turn) return; // asked again meanwhile
    if (found.hint != null) told.textContent = found.hint;
    section.hidden = !found.items.length && !found.problem;
    show(grid, found, onclick);
    grid.removeAttribute("aria-busy");
  };
  return { section, refresh, grid };
}

function show(grid, { items, recommendationId, problem }, onclick) {
  if (problem) return grid.replaceChildren(h("p.problem", { role: "alert" }, `This did not work: ${problem}`));
  const old = new Map([...grid.children].map((each) => [each.dataset.item, each]));
  const cards = items.map((item) => {
    const kept = old.get(item.id);
    const made = card(item, () => onclick?.(item, recommendationId));
    made.dataset.item = item.id;
    if (!kept && old.size && !old.has(undefined)) made.classList.add("new");
    if (kept && document.activeElement === kept) queueMicrotask(() => made.focus());
    return made;
  });
  return grid.replaceChildren(...cards);
}

/** Say it to those who do not see it. */
export function say(text) {
  document.getElementById("said").textContent = text;
}
