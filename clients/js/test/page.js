// A page whose clock, storage and network the test holds in its hands.
import { webcrypto } from "node:crypto";

export const NOON = Date.UTC(2026, 0, 1, 12);
export const SECOND = 1000;
export const MINUTE = 60 * SECOND;

const settled = () => new Promise((resolve) => setImmediate(resolve)); // all promises that can go on have

export class Storage {
  content = new Map();
  asked = 0;
  getItem(key) {
    this.asked += 1;
    return this.content.get(key) ?? null;
  }
  setItem(key, value) {
    this.asked += 1;
    this.content.set(key, String(value));
  }
  removeItem(key) {
    this.asked += 1;
    this.content.delete(key);
  }
  get kept() {
    return this.content.has("nextclick") ? JSON.parse(this.content.get("nextclick")) : null;
  }
}

class Target {
  #listeners = {};
  addEventListener(name, listener) {
    (this.#listeners[name] ||= []).push(listener);
  }
  dispatch(name, event = {}) {
    (this.#listeners[name] || []).forEach((listener) => listener(event));
  }
}

export const answer = (status, data = {}, headers = {}) => ({
  ok: status < 300,
  status,
  headers: new Headers(headers),
  json: async () => data,
});
export const stored = (length = 1) => answer(200, { session_id: "s", length, duplicate: false });
export const problem = (status, kind, more = {}, headers = {}) =>
  answer(status, { type: `urn:nextclick:problem:${kind}`, detail: kind, ...more }, headers);

/** `answers`: what fetch gives, in turn, then `stored()`: an answer, an error, or a promise of one. */
export class Page extends Target {
  crypto = webcrypto;
  Request = Request;
  navigator = { onLine: true, sendBeacon: (url, body) => this.beacons.push({ url, body: JSON.parse(body) }) > 0 };
  document = Object.assign(new Target(), { hidden: false });
  Math = { random: () => 1 };
  beacons = [];
  requests = [];
  #timers = new Map();
  #names = 0;

  constructor({ storage = new Storage(), answers = [], at = NOON } = {}) {
    super();
    this.answers = answers;
    this.at = at;
    this.Date = { now: () => this.at };
    if (storage instanceof Error) {
      Object.defineProperty(this, "localStorage", {
        get() {
          throw storage;
        },
      });
    } else {
      this.localStorage = storage;
    }
  }

  fetch(url, { signal, method, headers, body, keepalive }) {
    const { pathname, searchParams } = new URL(url, "https://clicks.example");
    const path = decodeURIComponent(pathname);
    this.requests.push({ at: this.at, url, method, path, searchParams, headers, keepalive, signal, body: body && JSON.parse(body) });
    const next = this.answers.length ? this.answers.shift() : stored(this.requests.length);
    return new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(new Error("aborted")));
      if (signal.aborted) reject(new Error("aborted"));
      if (next instanceof Error) reject(next);
      else Promise.resolve(next).then(resolve);
    });
  }

  setTimeout(then, after = 0, ...rest) {
    this.#timers.set(++this.#names, { at: this.at + after, then: () => then(...rest) });
    return this.#names;
  }

  clearTimeout(name) {
    this.#timers.delete(name);
  }

  /** Let time pass; what is due happens when it is due. */
  async pass(milliseconds = 0) {
    const end = this.at + milliseconds;
    await settled();
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.at = Math.max(this.at, due[1].at);
      due[1].then();
      await settled();
    }
    this.at = end;
  }

  get clicks() {
    return this.requests.filter(({ path }) => path.endsWith("/click"));
  }

  hide(hidden = true) {
    this.document.hidden = hidden;
    this.document.dispatch("visibilitychange");
  }
}
