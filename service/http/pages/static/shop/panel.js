// "What Nextclick sees": the clicks of the visit, what they are answered with and why, and what if they were others.
// Every answer here is POST /recommend with items: nothing of it is stored.

import { h, nameOf, pageOf, picture, say, there } from "./parts.js";
import { calls, clicked, consent, hasCatalogue, known, list, recommendItems, visit } from "./visit.js";

const DEEP = 100; // ranks are known so far
const SHOWN = 12;
const MOST_LEFT_OUT = 10; // clicks, the last ones, that are left out one at a time
const PAUSE = 120; // ms: who clicks fast is answered once

/** Fill the panel; `close` is called by its button. */
export function openPanel(aside, close) {
  let draft = null; // item ids: what if; null: the visit as it is
  let before = null; // id -> rank, of what the answer is compared with
  let real = null; // the visit's own answer, and the clicks that it is of
  let waiting, running;

  const status = h("div.status", {});
  const list_ = h("ol.clicks", {});
  const none = h("p.hint", {}, "No click yet: look at an item.");
  const note = h("p.what-if", { hidden: true }, "What if? Nothing of this is stored. ",
    h("button.link", { type: "button", onclick: () => edit(null) }, "Back to the visit"));
  const chips = h("p.facts", {});
  const ranks = h("ol.ranks", {});
  const log = h("tbody", {});
  aside.replaceChildren(
    h("div.panel-top", {}, h("h2", { id: "panel-title", tabindex: -1 }, "What Nextclick sees"),
      h("button.step", { type: "button", "aria-label": "Close the panel", onclick: close }, "×")),
    status,
    h("section", { "aria-labelledby": "clicks-title" },
      h("h3", { id: "clicks-title" }, "Clicks"),
      h("p.hint", {}, "Take one out, move it, or add one, and see the ranks move."),
      note, list_, none, adding()),
    h("section", { "aria-labelledby": "answer-title" },
      h("h3", { id: "answer-title" }, "The answer"), chips,
      h("p.hint", {}, "Before any placement. Under each item, the click without which it would fall most."), ranks),
    h("section", { "aria-labelledby": "calls-title" },
      h("h3", { id: "calls-title" }, "Calls of this page"),
      h("div.scrolls", { tabindex: 0, role: "region", "aria-labelledby": "calls-title" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Call", "Stage", "Took"].map((name) => h("th", { scope: "col" }, name)))), log))),
  );

  visit.addEventListener("calls", showCalls);
  visit.addEventListener("consent", showStatus);
  visit.addEventListener("clicks", () => {
    draft = null; // a real click is the end of what if
    refresh();
  });
  showStatus();
  return { refresh };

  function current() {
    return draft ?? clicked();
  }

  function edit(items, focus) {
    draft = items;
    if (items === null) say("Back to the visit as it is");
    refresh(focus);
  }

  function refresh(focus) {
    showClicks(focus);
    if (aside.hidden) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => answer([...current()]), PAUSE);
  }

  async function answer(items) {
    running?.abort();
    running = new AbortController();
    const { signal } = running;
    const isWhatIf = draft !== null;
    try {
      const started = performance.now();
      const found = await recommendItems(items, { k: DEEP, signal });
      const ms = performance.now() - started;
      const rankOf = ranksOf(found.items);
      if (isWhatIf) {
        real ??= { rankOf: ranksOf((await recommendItems(clicked(), { k: DEEP, fields: undefined, signal })).items) };
        before = real.rankOf;
      } else {
        // The answer before the last click, which is what that click moved.
        if (real?.of !== items.join("\n")) {
          before = items.length > 1
            ? ranksOf((await recommendItems(items.slice(0, -1), { k: DEEP, fields: undefined, signal })).items) : null;
        }
        real = { of: items.join("\n"), rankOf };
      }
      showAnswer(found, ms, isWhatIf);
      const losses = await leaveOut(items, rankOf, signal);
      if (!signal.aborted) showCauses(items, losses);
    } catch (error) {
      if (error.name !== "AbortError") chips.replaceChildren(h("span.problem", {}, error.message));
    }
  }

  /** For each item shown: how many places it loses without each of the last clicks. */
  async function leaveOut(items, rankOf, signal) {
    const from = Math.max(0, items.length - MOST_LEFT_OUT);
    const without = await Promise.all(items.slice(from).map(async (_, i) =>
      ranksOf((await recommendItems(items.toSpliced(from + i, 1), { k: DEEP, fields: undefined, signal })).items)));
    return [...rankOf].slice(0, SHOWN).map(([id, rank]) => {
      let most = { places: 0 };
      without.forEach((ranks_, i) => {
        const places = (ranks_.get(id) ?? DEEP + 1) - rank;
        if (places >= most.places && places > 0) most = { places, click: from + i, gone: !ranks_.has(id) };
      });
      return most;
    });
  }

  function showStatus() {
    const toggle = h("input", { type: "checkbox", role: "switch", id: "remember", checked: consent.given });
    toggle.addEventListener("change", () => consent.give(toggle.checked));
    const had = status.contains(document.activeElement);
    status.replaceChildren(
      h("label.switch", { for: "remember" }, toggle, "Remember this visit"),
      h("p.hint", {}, consent.given ? ["Stored as session ", h("code", {}, `${String(consent.session).slice(0, 8)}…`)]
        : "Nothing is stored: each question carries the clicks with it."));
    if (had) toggle.focus();
  }

  function showClicks(focus) {
    const items = current();
    none.hidden = items.length > 0;
    note.hidden = draft === null;
    // The newest first, as it counts most; numbered as they came.
    list_.replaceChildren(...items.map((id, i) => row(items, id, i)).reverse());
    if (focus) (aside.querySelector(`[data-focus="${focus}"]:not([disabled])`) ?? aside.querySelector("#add")).focus();
  }

  function row(items, id, i) {
    const item = known.get(id) ?? { id };
    const button = (label, what, text, change, isOff = false) => h("button.step", {
      type: "button", "aria-label": `${label}: ${nameOf(item)}`, "data-focus": `${what}-${i}`, disabled: isOff,
      onclick: change,
    }, text);
    const moved = (by) => items.toSpliced(i, 1).toSpliced(i + by, 0, id);
    return h("li", { value: i + 1 },
      h("span.number", { "aria-hidden": "true" }, String(i + 1)), picture(item), h("span.title", {}, nameOf(item)),
      h("span.steps", {},
        button("Later", "later", "↑", () => edit(moved(1), `later-${i + 1}`), i === items.length - 1),
        button("Earlier", "earlier", "↓", () => edit(moved(-1), `earlier-${i - 1}`), i === 0),
        button("Take out", "out", "×", () => edit(items.toSpliced(i, 1), `out-${Math.max(0, i - 1)}`))));
  }

  function adding() {
    const field = h("input", { id: "add", type: "search", autocomplete: "off", placeholder: "Name or id", maxlength: 256 });
    const choices = h("ul.choices", {});
    const add = (id) => {
      field.value = "";
      choices.replaceChildren();
      edit([...current(), id], `out-${current().length}`);
    };
    const find = async (query) => {
      const found = (await hasCatalogue) ? (await list({ query, limit: 5 })).items
        : [...known.values()].filter(({ id }) => id.includes(query)).slice(0, 5);
      if (!found.length) return [{ id: query }]; // the model may know it all the same
      return found.sort((one, other) => (other.id === query) - (one.id === query));
    };
    let asked = 0;
    field.addEventListener("input", async () => {
      const mine = ++asked;
      const query = field.value.trim();
      await new Promise((done) => setTimeout(done, PAUSE));
      const found = query && mine === asked ? await find(query).catch(() => []) : [];
      if (mine !== asked) return;
      choices.replaceChildren(...found.map((item) => h("li", {},
        h("button", { type: "button", onclick: () => add(item.id) }, picture(item), h("span.title", {}, nameOf(item))))));
    });
    return h("form.add", { onsubmit: async (event) => {
      event.preventDefault();
      const query = field.value.trim();
      asked += 1; // whatever is on its way comes too late
      if (query) add((await find(query).catch(() => [{ id: query }]))[0].id);
    } }, h("label", { for: "add" }, "Add a click"), field, choices);
  }

  function showAnswer(found, ms, isWhatIf) {
    chips.replaceChildren(...there([
      h(`span.fact.${found.stage}`, {}, found.stage), h("span.fact", {}, `${ms.toFixed(1)} ms`),
      h("span.fact.version", { title: found.version }, found.version ?? "no model"),
      found.degraded && h("span.fact.bad", {}, "without Redis"),
      found.ignored.length > 0 && h("span.fact.bad", {}, `${found.ignored.length} unknown`)]));
    const was = new Map([...ranks.children].map((row) => [row.dataset.item, row.getBoundingClientRect().top]));
    ranks.replaceChildren(...found.items.slice(0, SHOWN).map((item, i) => ranked(item, i + 1)));
    if (matchMedia("(prefers-reduced-motion: no-preference)").matches) slide(was);
    if (isWhatIf) say(`What if: first is ${found.items.length ? nameOf(found.items[0]) : "nothing"}`);
  }

  function ranked(item, rank) {
    const [text, kind, told] = movement(item.id, rank);
    return h("li", { "data-item": item.id },
      h("span.number", { "aria-hidden": "true" }, String(rank)), picture(item),
      h("span.named", {}, h("a.title", { href: pageOf(item.id) }, nameOf(item)), h("span.cause", {}, " ")),
      h("span.figures", {}, h(`span.moved.${kind}`, { role: "img", "aria-label": told }, text),
        h("span.score", {}, item.score.toFixed(3))));
  }

  function movement(id, rank) {
    if (!before) return ["", "same", "no other answer to compare with"];
    const old = before.get(id);
    if (old === undefined) return ["new", "up", `new: it was not among ${DEEP}`];
    if (old === rank) return ["·", "same", "where it was"];
    return old > rank ? [`▲${old - rank}`, "up", `up ${old - rank} places`]
      : [`▼${rank - old}`, "down", `down ${rank - old} places`];
  }

  function showCauses(items, losses) {
    [...ranks.children].forEach((row, i) => {
      const { places, click, gone } = losses[i] ?? {};
      row.querySelector(".cause").textContent = !places ? (items.length ? "by no single click" : "without any click")
        : `click ${click + 1}: ${gone ? `beyond ${DEEP}` : `−${places} ${places === 1 ? "place" : "places"}`} without`;
    });
  }

  function slide(was) {
    for (const row of ranks.children) {
      const from = was.get(row.dataset.item);
      const by = from === undefined ? 0 : from - row.getBoundingClientRect().top;
      if (from === undefined) row.animate([{ opacity: 0 }, { opacity: 1 }], 250);
      else if (by) row.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 350, easing: "ease-out" });
    }
  }

  function showCalls() {
    if (aside.hidden) return;
    log.replaceChildren(...calls.slice(0, SHOWN).map(({ what, stage, problem, ms }) => h("tr", {},
      h("td", {}, what), h("td", {}, problem ?? stage ?? "–"), h("td", {}, `${ms.toFixed(1)} ms`))));
  }
}

const ranksOf = (items) => new Map(items.map(({ id }, i) => [id, i + 1]));
