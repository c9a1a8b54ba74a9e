// This visit: its clicks, which the tag keeps, its cart, and every call that it made. Stored with consent alone.

import { nextclick } from "../nextclick.js";

const STORED = "nextclick.shop";
const MOST_CALLS = 40;
const CLICK = "POST /sessions/…/click";

/** Where the service is: where this page lies. */
const base = new URL(".", document.baseURI).href.replace(/[#?].*$/, "").replace(/\/$/, "");
const { key, fields, placements } = await (await fetch(`${base}/shop/config.json`)).json();
const stored = read();

export const known = new Map(); // id -> item, as last seen
export const cart = new Map(stored?.cart ?? []); // item id -> how many
export const calls = []; // the newest first
export const visit = new EventTarget(); // "clicks", "cart", "calls", "consent", "categories"
export const categories = new Set();

const nc = nextclick({ url: base, key: key ?? undefined, consent: Boolean(stored) });
let consented = Boolean(stored);
nc.on("stored", ({ milliseconds }) => note({ what: CLICK, ms: milliseconds }));
nc.on("error", ({ call, message }) => call === "click" && note({ what: CLICK, problem: message }));

/** The items that were clicked, the oldest first. */
export const clicked = () => nc.session.items;

export const consent = {
  get given() { return consented; },
  get session() { return consented ? nc.session.id : null; },
  give(given) {
    consented = given;
    nc.consent(given);
    store();
    tell("consent");
    tell("clicks"); // without it there are none any more
  },
};

/** The placement of this name, if the shop has set it. */
export const placement = (name) => (placements.includes(name) ? { placement: name } : {});

/** Count a look at an item, unless it is the one that was looked at last. */
export async function click(id, recommendationId) {
  if (clicked().at(-1) === id) return;
  const sent = nc.click(id, { recommendationId });
  tell("clicks");
  await sent; // so that what comes next has seen it
}

/** What comes next in this session: stored with consent, else of the clicks in this page. */
export async function recommend(wanted) {
  const what = consented ? "GET /recommend" : "POST /recommend";
  return listed(await timed(what, () => nc.recommend({ fields, ...wanted })));
}

/** What is like an item. */
export async function similar(id, k) {
  return listed(await timed("GET /items/…/similar", () => nc.similar(id, { k, fields })));
}

/** What comes next after any clicks; nothing of it is stored. */
export async function recommendItems(items, wanted) {
  return listed(await timed("POST /recommend", () => nc.recommend({ items, fields, ...wanted })));
}

/** A page of the catalogue: {items, next}. */
export async function list({ query = "", after = "", limit = 48 } = {}) {
  const asked = new URLSearchParams({ query, after, limit });
  const page = await timed("GET /items", () => ask(`/items?${asked}`));
  return { items: page.items.map(learn), next: page.next };
}

/** What is known of an item: of late, or asked for. */
export async function item(id) {
  if (!known.has(id) && (await hasCatalogue)) {
    try {
      learn(await timed("GET /items/…", () => ask(`/items/${encodeURIComponent(id)}`)));
    } catch (error) {
      if (error.status !== 404) throw error;
    }
  }
  return known.get(id) ?? { id, categories: [] };
}

/** Whether anything is known of items but their ids. */
export const hasCatalogue = list({ limit: 1 }).then(({ items }) => items.length > 0, () => false);

export function putInCart(id, by = 1) {
  const count = (cart.get(id) ?? 0) + by;
  if (count > 0) cart.set(id, count);
  else cart.delete(id);
  store();
  tell("cart");
}

async function ask(path) {
  const answer = await fetch(base + path, { headers: key ? { "X-API-Key": key } : {} });
  const told = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(told.detail), { status: answer.status });
  return told;
}

async function timed(what, call) {
  const started = performance.now();
  const entry = { what };
  try {
    const answer = await call();
    Object.assign(entry, { stage: answer?.stage, version: answer?.version });
    return answer;
  } catch (error) {
    entry.problem = error.name === "AbortError" ? "given up" : error.message;
    throw error;
  } finally {
    entry.ms = performance.now() - started;
    note(entry);
  }
}

function note(call) {
  calls.unshift(call);
  calls.length = Math.min(calls.length, MOST_CALLS);
  tell("calls");
}

function listed(answer) {
  const items = answer.items.map(({ item_id, score, fields }) => (
    { ...learn({ item_id, ...fields }), score }));
  return { ...answer, items, recommendationId: answer.recommendation_id };
}

function learn({ item_id: id, ...told }) {
  const before = known.get(id) ?? { id, categories: [] };
  const now = { ...before };
  for (const name of ["title", "price", "currency", "brand", "url", "available"]) now[name] = told[name] ?? before[name];
  now.image = told.image_url ?? before.image;
  now.categories = told.categories ?? before.categories;
  known.set(id, now);
  const count = categories.size;
  now.categories.forEach((category) => categories.add(category));
  if (categories.size > count) tell("categories");
  return now;
}

function tell(what) {
  visit.dispatchEvent(new Event(what));
}

function read() {
  try {
    return JSON.parse(localStorage.getItem(STORED));
  } catch {
    return null; // where pages may store nothing, or it is no JSON
  }
}

function store() {
  try {
    if (consented) localStorage.setItem(STORED, JSON.stringify({ cart: [...cart] }));
    else localStorage.removeItem(STORED);
  } catch {
    // where pages may store nothing, a reload begins anew
  }
}
