/**
 * Nextclick's tag: a page's clicks go out, each counted once; recommendations come in. ../README.md tells how.
 *
 * What it keeps stands in one object, `kept`: in memory, and with consent in localStorage, where all tabs of a
 * shop share it. So it is read before each use, and written after each change.
 */
const KEY = "nextclick";
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const DAY = 24 * 60 * MINUTE;
const PATIENCE = 10 * SECOND; // with one call
const MOST_QUEUED = 200;
const MOST_ITEMS = 50; // of a session: the service keeps no more
const MOST_ANSWERS = 5; // in which a click may have its recommendation_id
const SHOWN = ["title", "url", "image_url", "price", "currency"];

const nothing = () => ({ id: null, at: 0, items: [], queue: [], answers: [] });

/** `page` is what belongs to the page: tests hand in their own clock, storage and network. */
export function nextclick(
  { url = "", key, consent: asked = false, sessionId, sessionMinutes = 30 } = {},
  page = globalThis,
) {
  const base = url.replace(/\/+$/, "");
  const life = sessionMinutes * MINUTE;
  const listeners = {};
  const promised = new Map(); // event_id -> resolves what click() returned
  const beaconed = new Set();
  let kept = nothing();
  let allowed = false;
  let storable = true; // false: storage is blocked or full, and memory does
  let busy = false; // sends
  let sending = null; // the event_id under way
  let stop = null; // ends what is under way
  let waiting = null; // the timer of the next try
  let failures = 0;
  let unheard = false; // the last try had no answer at all
  let skewed = false; // this visitor's clock runs ahead: the service's is taken

  const outlives = "keepalive" in page.Request.prototype; // what is under way when a page is left

  const now = () => page.Date.now();

  const random = () =>
    btoa(String.fromCharCode(...page.crypto.getRandomValues(new Uint8Array(16)))).replace(
      /[+/=]/g,
      (sign) => ({ "+": "-", "/": "_" })[sign] || "",
    );

  function tell(event, detail) {
    for (const listener of listeners[event] || []) {
      try {
        listener(detail);
      } catch (error) {
        page.setTimeout(() => {
          throw error; // is the shop's own, and shall not end what is done here
        });
      }
    }
  }

  // What is kept.

  function stored() {
    let text;
    try {
      text = page.localStorage.getItem(KEY);
    } catch {
      storable = false;
      return kept;
    }
    try {
      const found = { ...nothing(), ...JSON.parse(text) };
      found.queue = found.queue.filter((each) => each?.body);
      if (Array.isArray(found.items) && found.answers.every(([, , ids]) => Array.isArray(ids))) return found;
    } catch {
      // written by somebody else
    }
    return nothing();
  }

  function read() {
    if (allowed && storable) kept = stored();
    if (Math.abs(now() - kept.at) > life) kept = { ...nothing(), queue: kept.queue };
    return kept;
  }

  function write() {
    if (!allowed || !storable) return;
    const text = JSON.stringify(kept);
    try {
      page.localStorage.setItem(KEY, text);
      storable = page.localStorage.getItem(KEY) === text; // some blockers take all and keep nothing
    } catch {
      storable = false;
    }
    if (!storable) erase(); // what it held before would be told again at the next page
  }

  function erase() {
    try {
      page.localStorage.removeItem(KEY);
    } catch {
      // then there is nothing either
    }
  }

  function identify() {
    if (!sessionId && !kept.id) {
      kept.id = random();
      kept.at = now();
    }
    return sessionId || kept.id;
  }

  // Consent.

  function mayStore() {
    let may = false;
    try {
      may = (typeof asked === "function" ? asked() : asked) === true;
    } catch {
      // who cannot say yes has not
    }
    if (may && !allowed) {
      const before = kept;
      kept = nothing();
      allowed = true;
      read();
      if (before.queue.length) {
        const session_id = identify();
        kept.queue.push(...before.queue.map((each) => ({ ...each, session_id })));
      }
      kept.at = before.at || kept.at;
      kept.items = [...kept.items, ...before.items].slice(-MOST_ITEMS);
      kept.answers = [...before.answers, ...kept.answers].slice(0, MOST_ANSWERS);
      write();
      bound();
      send();
    } else if (!may && allowed) {
      erase();
      forget();
    }
    return allowed;
  }

  function forget() {
    allowed = false;
    kept = nothing();
    page.clearTimeout(waiting);
    waiting = null;
    stop?.abort();
    settle({ queued: false });
  }

  // Calls.

  async function call(path, body, isClick, signal) {
    const ending = new AbortController();
    const end = () => ending.abort();
    const timer = page.setTimeout(end, PATIENCE);
    if (isClick) stop = ending;
    if (signal?.aborted) end();
    signal?.addEventListener("abort", end);
    const headers = {};
    if (!isClick) {
      if (body) headers["Content-Type"] = "application/json";
      if (key) headers["X-API-Key"] = key;
    }
    try {
      const response = await page.fetch(base + path, {
        method: body ? "POST" : "GET",
        headers,
        body: body && JSON.stringify(body),
        cache: "no-store",
        keepalive: isClick,
        signal: ending.signal,
      });
      const { ok, status } = response;
      const retryAfter = response.headers.get("Retry-After");
      const data = await response.json().catch((error) => {
        if (ok) throw error; // whoever answered, it was not the service
      });
      return { ok, status, data: data || {}, retryAfter };
    } catch (error) {
      return lost(String(error));
    } finally {
      page.clearTimeout(timer);
      signal?.removeEventListener("abort", end);
    }
  }

  const lost = (detail) => ({ ok: false, status: 0, data: { detail } });

  function failed(what, { status, data }, more) {
    const error = new Error(data.detail || `status ${status}`);
    Object.assign(error, { call: what, status, problem: data, ...more });
    tell("error", error);
    return error;
  }

  async function answered(what, path, body, signal) {
    const started = now();
    const answer = await call(path, body, false, signal);
    if (signal?.aborted) throw signal.reason;
    if (!answer.ok) throw failed(what, answer);
    tell("answer", { call: what, answer: answer.data, milliseconds: now() - started });
    return answer.data;
  }

  function query(values) {
    const pairs = new URLSearchParams();
    for (const [name, value] of Object.entries(values)) {
      if (value === undefined || value === null) continue;
      if (Array.isArray(value) && name !== "fields") value.forEach((each) => pairs.append(name, each));
      else pairs.set(name, name === "filter" ? JSON.stringify(value) : value); // fields: a,b
    }
    return `?${pairs}`;
  }

  // Clicks.

  /** As a beacon is sent: without headers, so that no browser has to ask first whether it may (CORS). */
  const clickPath = (session_id) =>
    `/sessions/${encodeURIComponent(session_id)}/click${key ? `?key=${encodeURIComponent(key)}` : ""}`;

  function settle(outcome) {
    promised.forEach((resolve) => resolve(outcome));
    promised.clear();
  }

  /** Change a click that waits; one whose change is false waits no more. */
  function change({ body }, changed) {
    read();
    kept.queue = kept.queue.filter((each) => each.body.event_id !== body.event_id || changed(each));
    write();
  }

  function done(entry, outcome) {
    const { event_id } = entry.body;
    change(entry, () => false);
    promised.get(event_id)?.(outcome);
    promised.delete(event_id);
  }

  function drop(entry, answer) {
    done(entry, { queued: false });
    failed("click", answer, { click: entry.body, retries: false });
  }

  function bound() {
    while (kept.queue.length > MOST_QUEUED) drop(kept.queue[0], lost("too many wait"));
  }

  /** Whether it may still be sent: so long the service knows its event_id again, if it has come already. */
  const isTimely = ({ made, tried }) => now() - made < DAY && !(tried && now() - tried > life);

  async function send() {
    if (busy) return;
    busy = true;
    let next;
    while (!waiting && mayStore() && (next = read().queue[0])) {
      sending = next.body.event_id;
      await sendOne(next);
      sending = null;
    }
    busy = false;
    settle({ queued: true });
  }

  async function sendOne(entry) {
    const { session_id, body } = entry;
    if (!isTimely(entry)) return drop(entry, lost("waited too long"));
    const started = now();
    const answer = await call(clickPath(session_id), body, true);
    if (!allowed) return;
    const { ok, status, data, retryAfter } = answer;
    if (ok) {
      failures = 0;
      done(entry, data);
      tell("stored", { click: body, answer: data, milliseconds: now() - started });
    } else if (status === 422 && body.timestamp && data.errors?.[0]?.field === "body.timestamp") {
      skewed = true;
      change(entry, (found) => delete found.body.timestamp);
    } else if (status && status < 500 && status !== 408 && (status !== 429 || /session-full$/.test(data.type))) {
      drop(entry, answer);
    } else {
      unheard = !status;
      // It may have come all the same, but for a visitor who is offline.
      if (status >= 500 || (unheard && page.navigator?.onLine !== false)) change(entry, (found) => (found.tried ||= started));
      failed("click", answer, { click: body, retries: true });
      const pause = Math.min(SECOND * 2 ** failures++, MINUTE) * (0.5 + page.Math.random() / 2);
      const wanted = +retryAfter * SECOND || Date.parse(retryAfter) - now() || 0;
      waiting = page.setTimeout(again, Math.max(pause, Math.min(wanted, 60 * MINUTE)));
    }
  }

  function again() {
    page.clearTimeout(waiting);
    waiting = null;
    if (!page.document?.hidden) send();
  }

  /** The page may never be seen again: what has had no answer goes out without waiting for one. */
  function leave() {
    if (!mayStore()) return;
    for (const entry of read().queue.filter(isTimely)) {
      const { session_id, body } = entry;
      if (beaconed.has(body.event_id) || (body.event_id === sending && outlives)) continue;
      try {
        if (!page.navigator.sendBeacon(base + clickPath(session_id), JSON.stringify(body))) return;
      } catch {
        return;
      }
      beaconed.add(body.event_id);
      change(entry, (found) => (found.tried ||= now()));
    }
  }

  const back = () => (unheard ? again() : send());

  page.addEventListener?.("online", back);
  page.addEventListener?.("pagehide", leave);
  page.document?.addEventListener?.("visibilitychange", () => {
    if (page.document.hidden) leave();
    else back();
  });
  page.addEventListener?.("storage", (event) => {
    if (event.key !== KEY || event.newValue !== null || !allowed) return;
    if (typeof asked !== "function") asked = false; // it was withdrawn in another tab
    forget();
  });

  const tag = {
    consent(may) {
      asked = may;
      if (!mayStore()) erase(); // also what an earlier page has left
    },

    async click(itemId, { type = "click", recommendationId } = {}) {
      const item_id = String(itemId);
      mayStore();
      read();
      const made = now();
      const body = { item_id, event_id: random(), type };
      if (!skewed) body.timestamp = made / SECOND;
      const answer = kept.answers.find(([, at, ids]) => made - at < 30 * MINUTE && ids.includes(item_id));
      const from = recommendationId || answer?.[0];
      if (from) body.recommendation_id = from;
      const entry = { made, body };
      if (allowed) entry.session_id = identify();
      kept.at = made;
      if (type === "click") kept.items = [...kept.items, item_id].slice(-MOST_ITEMS);
      kept.queue.push(entry);
      write();
      bound();
      tell("click", body);
      if (!allowed) return { queued: true };
      return new Promise((resolve) => {
        promised.set(body.event_id, resolve);
        send();
      });
    },

    async recommend({ items, signal, ...wanted } = {}) {
      let answer;
      if (busy && !items) {
        // The click that has just been made shall count.
        await new Promise((resolve) => {
          promised.set(resolve, resolve);
          page.setTimeout(resolve, SECOND);
        });
      }
      if (!items && mayStore()) {
        read();
        const session_id = identify();
        write();
        answer = await answered("recommend", `/recommend${query({ session_id, ...wanted })}`, null, signal);
      } else {
        const body = { ...wanted, items: items || read().items };
        if (body.fields) body.fields = String(body.fields).split(",");
        answer = await answered("recommend", "/recommend", body, signal);
      }
      if (!items) {
        read();
        kept.at ||= now();
        const shown = [answer.recommendation_id, now(), answer.items.map((each) => each.item_id)];
        kept.answers = [shown, ...kept.answers].slice(0, MOST_ANSWERS);
        write();
      }
      return answer;
    },

    similar(itemId, wanted = {}) {
      return answered("similar", `/items/${encodeURIComponent(itemId)}/similar${query(wanted)}`);
    },

    trending(wanted = {}) {
      return answered("trending", `/trending${query(wanted)}`);
    },

    mount: (element, wanted) => mount(tag, tell, page, element, wanted),

    get session() {
      const may = mayStore();
      read();
      return { id: may ? sessionId || kept.id : null, items: [...kept.items] };
    },

    on(event, listener) {
      (listeners[event] ||= new Set()).add(listener);
      return () => listeners[event].delete(listener);
    },
  };
  Promise.resolve().then(send); // once the shop listens
  return tag;
}

/** The answer as a list in an element, which it renews, and what of it was seen and clicked. */
function mount(nc, tell, page, element, wanted = {}) {
  const { template = link, onClick, label, fields = SHOWN, ...asked } = wanted;
  const { document } = page;
  const list = document.createElement("ul");
  const timers = new Map(); // of the entries that are in sight
  let shown = new Map(); // li -> { item, position }
  let answer = null;
  let ending = null;
  list.className = "nextclick";
  list.setAttribute("role", "list"); // which Safari takes from lists without bullets
  if (label) list.setAttribute("aria-label", label);

  const seen = new page.IntersectionObserver(look, { threshold: 0.5 });

  function look(entries) {
    for (const { target, intersectionRatio } of entries) {
      page.clearTimeout(timers.get(target));
      timers.delete(target);
      if (intersectionRatio >= 0.5) timers.set(target, page.setTimeout(count, SECOND, target));
    }
  }

  function count(entry) {
    if (document.hidden) return timers.set(entry, page.setTimeout(count, SECOND, entry));
    const { item, position } = shown.get(entry);
    seen.unobserve(entry);
    timers.delete(entry);
    const { item_id } = item;
    tell("impression", { item_id, position, placement: asked.placement, recommendation_id: answer.recommendation_id });
  }

  function clear() {
    seen.disconnect();
    timers.forEach((timer) => page.clearTimeout(timer));
    timers.clear();
  }

  function render(next) {
    const had = document.activeElement;
    const focused = [...shown].find(([entry]) => entry.contains(had))?.[1];
    clear();
    shown = new Map();
    next.items.forEach((item, position) => {
      const entry = document.createElement("li");
      entry.append(template(item, document));
      shown.set(entry, { item, position });
    });
    answer = next;
    list.replaceChildren(...shown.keys());
    if (!list.isConnected) element.replaceChildren(list);
    shown.forEach((_, entry) => seen.observe(entry));
    if (focused) {
      const entries = [...shown];
      const same = entries.find(([, { item }]) => item.item_id === focused.item.item_id);
      const [entry] = same || entries[focused.position] || entries.pop() || [];
      entry?.querySelector("a[href],button")?.focus({ preventScroll: true });
    }
  }

  async function refresh() {
    ending?.abort();
    const { signal } = (ending = new AbortController());
    try {
      const next = await nc.recommend({ ...asked, fields, signal });
      if (signal.aborted) return null;
      render(next);
      return next;
    } catch {
      return null; // was told as an error event; what is shown stays
    }
  }

  function clicked(event) {
    if (event.type === "auxclick" && event.button !== 1) return; // the middle one opens a tab
    for (const [entry, { item }] of shown) {
      if (!entry.firstChild?.contains(event.target)) continue;
      if (onClick?.(item, event, answer) === false) return;
      nc.click(item.item_id, { recommendationId: answer.recommendation_id });
    }
  }

  list.addEventListener("click", clicked);
  list.addEventListener("auxclick", clicked);
  refresh();
  return {
    refresh,
    unmount() {
      ending.abort();
      clear();
      shown = new Map();
      list.remove();
    },
  };
}

/** What may be asked for: a catalogue is not trusted to hold no `javascript:`. */
function safe(address, document, isImage) {
  try {
    const { protocol, href } = new URL(address, document.baseURI);
    return /^https?:$/.test(protocol) || (isImage && /^data:image\//.test(href)) ? href : "";
  } catch {
    return "";
  }
}

function link({ item_id, fields = {} }, document) {
  const { title, url, image_url, price, currency } = fields;
  const make = (kind, name, text = "") => {
    const made = document.createElement(kind);
    made.className = `nextclick-${name}`;
    made.textContent = text;
    return made;
  };
  const href = url && safe(url, document);
  const card = make(href ? "a" : "button", "item");
  if (href) card.href = href;
  else card.type = "button";
  const src = image_url && safe(image_url, document, true);
  if (src) {
    const image = make("img", "image");
    image.alt = ""; // the title stands beside it
    image.loading = "lazy";
    image.src = src;
    card.append(image);
  }
  card.append(make("span", "title", title || item_id));
  if (typeof price === "number") card.append(" ", make("span", "price", priced(price, currency, document)));
  return card;
}

function priced(price, currency, document) {
  try {
    const language = document.documentElement.lang || undefined;
    return new Intl.NumberFormat(language, currency && { style: "currency", currency }).format(price);
  } catch {
    return `${price} ${currency || ""}`.trim(); // a currency or language that nobody knows
  }
}
