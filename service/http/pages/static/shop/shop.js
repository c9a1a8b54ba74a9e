// The shop: which page is shown, and what changes when the visit does.

import { basket, category, chips, home, product, search } from "./pages.js";
import { openPanel } from "./panel.js";
import { say } from "./parts.js";
import { cart, consent, visit } from "./visit.js";

const WIDE = matchMedia("(min-width: 1200px)");
const byId = (id) => document.getElementById(id);
const main = byId("main");
let shown; // the page that is there
let turn = 0;

history.scrollRestoration = "manual"; // what a page shows comes later than the browser would scroll
const scrolled = new Map(); // place in the history -> how far down it was read
let place = 0;
let places = 0;

function wanted() {
  const [, kind = "", ...rest] = location.hash.split("/");
  let what = rest.join("/");
  try {
    what = decodeURIComponent(what);
  } catch {
    // a % that stands for itself
  }
  if (kind === "item" && what) return product(what);
  if (kind === "category" && what) return { ...category(what), category: what };
  if (kind === "search" && what) return search(what);
  return kind === "cart" ? basket() : home();
}

async function go({ first = false } = {}) {
  const mine = ++turn;
  scrolled.set(place, scrollY);
  const was = history.state?.place;
  place = was ?? ++places;
  places = Math.max(places, place);
  if (was == null) history.replaceState({ place }, "");

  const page = (shown = wanted());
  document.title = page.title === "Nextclick shop" ? page.title : `${page.title} · Nextclick shop`;
  main.replaceChildren(page.heading, ...page.parts);
  showChips();
  if (!first) main.querySelector("h1").focus({ preventScroll: true });
  scrollTo(0, was == null ? 0 : scrolled.get(place) ?? 0);
  await page.opened?.();
  if (mine === turn) await page.refresh();
  if (mine === turn && was != null) scrollTo(0, scrolled.get(place) ?? 0);
  if (mine === turn && !first) say(`${page.title}: what comes next is up to date.`);
}

function showChips() {
  byId("chips").replaceChildren(...chips(shown.category));
}

function showCart() {
  byId("cart-count").textContent = [...cart.values()].reduce((sum, each) => sum + each, 0);
}

function askConsent() {
  const answered = (given) => {
    byId("consent").hidden = true;
    consent.give(given);
    byId("main").focus({ preventScroll: true });
  };
  byId("consent").hidden = consent.given;
  byId("consent-yes").addEventListener("click", () => answered(true));
  byId("consent-no").addEventListener("click", () => answered(false));
  visit.addEventListener("consent", () => {
    byId("consent").hidden = true;
    say(consent.given ? "This visit is remembered." : "Nothing of this visit is stored.");
  });
}

function panel() {
  const aside = byId("panel");
  const button = byId("panel-button");
  const veil = byId("veil");
  const content = openPanel(aside, () => set(false));
  const set = (open, { moveFocus = true } = {}) => {
    aside.hidden = !open;
    document.body.classList.toggle("with-panel", open);
    button.setAttribute("aria-expanded", String(open));
    cover();
    if (open) content.refresh();
    if (moveFocus) (open ? aside.querySelector("h2") : button).focus();
  };
  const cover = () => { // on a narrow screen it lies over the shop, which is out of reach meanwhile
    const covers = !aside.hidden && !WIDE.matches;
    veil.hidden = !covers;
    for (const each of [main, document.querySelector(".top"), byId("consent")]) each.inert = covers;
  };
  button.addEventListener("click", () => set(aside.hidden));
  veil.addEventListener("click", () => set(false));
  aside.addEventListener("keydown", (event) => {
    if (event.key === "Escape") set(false);
  });
  WIDE.addEventListener("change", cover);
  set(WIDE.matches, { moveFocus: false });
}

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = byId("query").value.trim();
  location.hash = query ? `#/search/${encodeURIComponent(query)}` : "#/";
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // it would be a page's address here
  main.focus();
});
visit.addEventListener("categories", showChips);
visit.addEventListener("cart", () => {
  showCart();
  say(`${byId("cart-count").textContent} in the cart`);
  if (location.hash === "#/cart") shown.refresh();
});
addEventListener("hashchange", () => go());

showCart();
askConsent();
panel();
await go({ first: true });
