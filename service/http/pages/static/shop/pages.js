// The shop's pages: each is given its place in the address, and answers what to show and what keeps it up to date.

import { card, h, nameOf, pageOf, picture, priceOf, strip, there } from "./parts.js";
import {
  cart, categories, click, clicked, hasCatalogue, item as look, known, list, placement, putInCart, recommend,
  recommendItems, similar,
} from "./visit.js";

const ROW = 6; // so many stand side by side where there is room
const MANY = 48;
const cameFrom = new Map(); // item id -> the answer that it was clicked in

const follow = (item, recommendationId) => cameFrom.set(item.id, recommendationId);

/** What the shop has decided for a place of it; what makes sense where it has decided nothing. */
function placedOr(name, otherwise) {
  const placed = placement(name);
  return placed.placement ? placed : otherwise;
}

function recommended(heading, wanted, { count = ROW, hint } = {}) {
  return strip({
    heading, count, onclick: follow, hint: hint && "…",
    load: async () => {
      const answer = await recommend({ k: count, ...wanted });
      return { ...answer, hint: hint?.(answer.stage) };
    },
  });
}

function lastViews(without) {
  return strip({
    heading: "Your last views", count: ROW,
    load: async () => {
      const ids = [...new Set(clicked().reverse())].filter((id) => id !== without).slice(0, ROW);
      return { items: await Promise.all(ids.map(look)) };
    },
  });
}

const whoAnswered = {
  model: "the model’s answer to this visit’s clicks",
  neighbours: "what other visits with your last click went on to",
  trending: "what everyone clicks now: this visit has no click yet",
  popular: "what is popular: this visit has no click yet",
};

export function home() {
  const began = clicked().length > 0;
  const strips = [
    recommended(began ? "For you" : "To begin with", placedOr("home", { exclude_seen: true }), {
      count: 2 * ROW, hint: (stage) => whoAnswered[stage],
    }),
  ];
  if (began) {
    strips.push(lastViews(), strip({
      heading: "What others like", count: ROW, onclick: follow,
      load: async () => recommendItems([], { k: ROW }),
    }));
  }
  const rest = everything();
  return {
    title: "Nextclick shop",
    heading: h("div.hero", {},
      h("h1", { tabindex: -1 }, "Click around. What comes next follows you."),
      h("p", {}, "Each list is your model’s answer to the clicks of this visit.")),
    parts: [...strips.map((each) => each.section), rest.section],
    refresh: () => Promise.all([...strips, rest].map((each) => each.refresh())),
  };
}

/** The whole range: of the catalogue, or what is popular where only ids are known. */
function everything() {
  let after = "";
  const more = h("button.button.quiet.more", { type: "button", hidden: true }, "Show more");
  const all = strip({
    heading: "Everything", count: ROW,
    load: async () => {
      if (!(await hasCatalogue)) return recommendItems([], { k: 96 });
      const page = await list({ limit: MANY });
      after = page.next;
      more.hidden = after === null;
      return page;
    },
  });
  more.addEventListener("click", async () => {
    const page = await list({ limit: MANY, after });
    after = page.next;
    more.hidden = after === null;
    const cards = page.items.map((each) => card(each));
    all.grid.append(...cards);
    cards[0]?.focus();
  });
  all.section.append(more);
  return all;
}

export function category(name) {
  const shelf = strip({
    heading: `In ${name}`, count: 2 * ROW, onclick: follow,
    load: () => recommend({ k: 60, filter: { attribute: "categories", contains: name } }),
  });
  return {
    title: name,
    heading: h("div.hero.small", {}, h("h1", { tabindex: -1 }, name),
      h("p", {}, "In the order of what this visit is likeliest to want.")),
    parts: [shelf.section],
    refresh: shelf.refresh,
  };
}

export function search(query) {
  const results = strip({
    heading: "Found", count: ROW, hint: "…",
    load: async () => {
      let after = "", items = [];
      for (let page = 0; page < 4 && after !== null && items.length < MANY; page += 1) {
        const found = await list({ query, after, limit: MANY }); // a page may be empty before the last one
        items = items.concat(found.items);
        after = found.next;
      }
      if (!items.length && !(await hasCatalogue)) {
        const { items: popular } = await recommendItems([], { k: 100 });
        items = popular.filter((each) => each.id.toLowerCase().includes(query.toLowerCase()));
      }
      return { items, hint: items.length ? `${items.length} of the shop` : "nothing of that name or id" };
    },
  });
  return {
    title: `“${query}”`,
    heading: h("div.hero.small", {}, h("h1", { tabindex: -1 }, `Search: ${query}`)),
    parts: [results.section],
    refresh: results.refresh,
  };
}

export function product(id) {
  const next = recommended("Others went on to", { ...placedOr("product", { exclude_seen: true }), exclude: [id] });
  const alike = strip({ heading: "Similar", count: ROW, onclick: follow,
    load: () => similar(id, ROW).catch((error) => {
      if (error.status === 404) return { items: [] }; // no model knows it
      throw error;
    }) });
  const views = lastViews(id);
  const place = h("article.product", {});
  const show = () => place.replaceChildren(...there(details(known.get(id) ?? { id, categories: [] })));
  show();
  return {
    title: nameOf(known.get(id) ?? { id }),
    heading: place,
    parts: [next.section, alike.section, views.section],
    opened: async () => {
      const from = cameFrom.get(id);
      cameFrom.delete(id);
      const beside = look(id).then((found) => {
        if (place.dataset.shown !== JSON.stringify(found)) show();
        document.title = `${nameOf(found)} · Nextclick shop`;
      });
      await Promise.all([click(id, from), beside]);
    },
    refresh: () => Promise.all([next.refresh(), alike.refresh(), views.refresh()]),
  };

  function details(item) {
    place.dataset.shown = JSON.stringify(item);
    const put = h("button.button", { type: "button", onclick: () => putInCart(id) }, "Add to cart");
    const isLink = /^https?:/i.test(item.url ?? "");
    return [
      picture(item, { eager: true, alt: nameOf(item) }),
      h("div.about", {},
        h("p.crumbs", {}, h("a", { href: "#/" }, "Shop"), item.categories.slice(0, 3).map((each) =>
          [" / ", h("a", { href: `#/category/${encodeURIComponent(each)}` }, each)])),
        item.brand && h("p.brand", {}, item.brand),
        h("h1", { tabindex: -1 }, nameOf(item)),
        h("p.price", {}, priceOf(item)),
        item.available === false && h("p.problem", {}, "Out of stock: it is not recommended until it is back."),
        h("p.buy", {}, put, isLink && h("a.button.quiet", { href: item.url, rel: "noreferrer" }, "In your own shop")),
        h("p.hint", {}, "Item ", h("code", {}, id))),
    ];
  }
}

export function basket() {
  const rows = h("ul.basket", {});
  const total = h("p.total", {});
  const goesWith = strip({
    heading: cart.size ? "Goes with it" : "For you", count: ROW, onclick: follow,
    load: async () => {
      const exclude = [...cart.keys()];
      if (!exclude.length) return recommend({ k: ROW });
      const placed = placement("cart");
      if (placed.placement) return recommend({ ...placed, k: ROW, exclude });
      return recommendItems(exclude, { k: ROW, exclude });
    },
  });
  const show = async () => {
    const items = await Promise.all([...cart.keys()].map(look));
    const focused = rows.contains(document.activeElement) ? document.activeElement.dataset.of : null;
    rows.replaceChildren(...items.map(row));
    if (focused) (rows.querySelector(`[data-of="${CSS.escape(focused)}"]`) ?? document.querySelector("h1")).focus();
    const money = new Set(items.map((each) => each.currency));
    const sum = items.reduce((before, each) => before + (each.price ?? 0) * cart.get(each.id), 0);
    total.textContent = !items.length ? "Your cart is empty."
      : money.size === 1 && sum ? `Together ${priceOf({ price: sum, currency: [...money][0] })}. Nothing is sold here.`
        : "Nothing is sold here.";
  };
  return {
    title: "Cart",
    heading: h("div.hero.small", {}, h("h1", { tabindex: -1 }, "Cart")),
    parts: [rows, total, goesWith.section],
    refresh: () => Promise.all([show(), goesWith.refresh()]),
  };

  function row(item) {
    const button = (label, by, text) => h("button.step", {
      type: "button", "aria-label": `${label}: ${nameOf(item)}`, "data-of": `${by} ${item.id}`,
      onclick: () => putInCart(item.id, by),
    }, text);
    return h("li", {}, picture(item),
      h("a", { href: pageOf(item.id) }, nameOf(item)),
      h("span.steps", {}, button("One less", -1, "−"), h("span", { "aria-label": "how many" }, String(cart.get(item.id))),
        button("One more", 1, "+")),
      h("span.price", {}, priceOf(item, cart.get(item.id))));
  }
}

/** The chips of the header: the categories of what was seen so far. */
export function chips(current) {
  return [...categories].sort().map((name) => h("a.chip", {
    href: `#/category/${encodeURIComponent(name)}`, "aria-current": name === current && "page",
  }, name));
}
