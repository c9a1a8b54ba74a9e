import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { nextclick } from "../src/nextclick.js";
import { answer, MINUTE, NOON, Page, problem, SECOND, Storage, stored } from "./page.js";

const nothing = () => new TypeError("Failed to fetch");
const never = () => new Promise(() => {});

function open({ consent = true, ...options } = {}, page = new Page()) {
  const errors = [];
  const nc = nextclick({ consent, url: "https://clicks.example/", key: "k&y", ...options }, page);
  nc.on("error", (error) => errors.push(error));
  return { nc, page, errors };
}

const ids = (requests) => requests.map(({ body }) => body.item_id);

describe("a click", () => {
  test("is sent with an id of its own, its time and its session", async () => {
    const { nc, page } = open();
    const [first, second] = [nc.click("a"), nc.click(7, { type: "cart", recommendationId: "r" })];
    await page.pass();
    assert.deepEqual(await first, { session_id: "s", length: 1, duplicate: false });
    assert.equal((await second).length, 2);
    const [a, b] = page.requests;
    assert.match(nc.session.id, /^[A-Za-z0-9_-]{22}$/);
    assert.equal(a.path, `/sessions/${nc.session.id}/click`);
    assert.equal(b.path, a.path);
    assert.deepEqual([a.method, a.keepalive], ["POST", true]);
    assert.deepEqual([a.headers, a.searchParams.get("key")], [{}, "k&y"], "no preflight");
    assert.match(a.body.event_id, /^[A-Za-z0-9_-]{22}$/);
    assert.notEqual(a.body.event_id, b.body.event_id);
    assert.deepEqual({ ...a.body, event_id: 0 }, { item_id: "a", event_id: 0, type: "click", timestamp: NOON / 1000 });
    assert.deepEqual([b.body.item_id, b.body.type, b.body.recommendation_id], ["7", "cart", "r"]);
    assert.deepEqual(nc.session.items, ["a"], "what was put into the cart was no click");
    assert.deepEqual(page.localStorage.kept.queue, []);
  });

  test("waits for the one before it", async () => {
    let give;
    const page = new Page({ answers: [new Promise((resolve) => (give = resolve))] });
    const { nc } = open({}, page);
    nc.click("a");
    nc.click("b");
    await page.pass(SECOND);
    assert.deepEqual(ids(page.requests), ["a"]);
    give(stored());
    await page.pass();
    assert.deepEqual(ids(page.requests), ["a", "b"]);
  });

  test("is tried again later and later, as the same click", async () => {
    const page = new Page({ answers: Array.from({ length: 9 }, nothing) });
    const { nc, errors } = open({}, page);
    const outcome = nc.click("a");
    await page.pass();
    assert.deepEqual(await outcome, { queued: true });
    await page.pass(10 * MINUTE);
    const times = page.requests.map(({ at }) => (at - NOON) / SECOND);
    assert.deepEqual(times, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
    assert.equal(new Set(page.requests.map(({ body }) => body.event_id)).size, 1);
    assert.deepEqual(page.localStorage.kept.queue, []);
    assert.deepEqual(errors.map(({ call, status, retries }) => [call, status, retries])[8], ["click", 0, true]);
    assert.equal(errors.length, 9);
  });

  test("is tried again at different times by different visitors", async () => {
    const page = new Page({ answers: [nothing()] });
    page.Math = { random: () => 0 };
    const { nc } = open({}, page);
    nc.click("a");
    await page.pass(SECOND / 2);
    assert.equal(page.requests.length, 2);
  });

  for (const status of [408, 429, 500, 502, 503]) {
    test(`is tried again after a ${status}, and not before it may be`, async () => {
      const waits = problem(status, "wait", {}, { "Retry-After": "20" });
      const page = new Page({ answers: [waits] });
      const { nc } = open({}, page);
      nc.click("a");
      await page.pass(19 * SECOND);
      assert.deepEqual(await nc.click("b"), { queued: true });
      page.dispatch("online");
      page.hide(false);
      await page.pass();
      assert.deepEqual(ids(page.requests), ["a"]);
      await page.pass(SECOND);
      assert.deepEqual(ids(page.requests), ["a", "a", "b"]);
    });
  }

  test("waits for a moment that is named, and within reason", async () => {
    const moment = new Date(NOON + 30 * SECOND).toUTCString();
    const page = new Page({ answers: [problem(503, "x", {}, { "Retry-After": moment })] });
    open({}, page).nc.click("a");
    await page.pass(29 * SECOND);
    assert.equal(page.requests.length, 1);
    await page.pass(SECOND);
    assert.equal(page.requests.length, 2);
    const other = new Page({ answers: [problem(429, "x", {}, { "Retry-After": "999999" })] });
    open({}, other).nc.click("a");
    await other.pass(60 * MINUTE);
    assert.equal(other.requests.length, 2);
  });

  for (const [status, kind] of [
    [400, "x"],
    [401, "key-missing"],
    [403, "key-wrong"],
    [404, "x"],
    [413, "x"],
    [422, "invalid-input"],
    [429, "session-full"],
  ]) {
    test(`that is refused by ${status} ${kind} is not sent again, and told`, async () => {
      const page = new Page({ answers: [problem(status, kind)] });
      const { nc, errors } = open({}, page);
      const [first, second] = [nc.click("a"), nc.click("b")];
      await page.pass(60 * MINUTE);
      assert.deepEqual(await first, { queued: false });
      assert.equal((await second).length, 2);
      assert.deepEqual(ids(page.requests), ["a", "b"]);
      assert.deepEqual(
        errors.map(({ status, message, retries, click }) => [status, message, retries, click.item_id]),
        [[status, kind, false, "a"]],
      );
    });
  }

  test("goes without its time when the visitor's clock runs ahead, and so do those after it", async () => {
    const ahead = problem(422, "invalid-input", { errors: [{ field: "body.timestamp", message: "ahead" }] });
    const page = new Page({ answers: [ahead] });
    const { nc, errors } = open({}, page);
    const first = nc.click("a");
    await page.pass();
    assert.equal((await first).length, 2);
    await nc.click("b");
    assert.deepEqual(page.requests.map(({ body }) => "timestamp" in body), [true, false, false]);
    assert.equal(page.requests[0].body.event_id, page.requests[1].body.event_id);
    assert.deepEqual(errors, []);
  });

  test("is not taken for stored by whoever else answers", async () => {
    const portal = { ...answer(200), json: () => Promise.reject(new SyntaxError("<html>")) };
    const page = new Page({ answers: [portal] });
    const { nc } = open({}, page);
    assert.deepEqual(await nc.click("a"), { queued: true });
    await page.pass(SECOND);
    assert.deepEqual(ids(page.requests), ["a", "a"]);
  });

  test("does not wait for ever for an answer", async () => {
    const page = new Page({ answers: [never()] });
    open({}, page).nc.click("a");
    await page.pass(10 * SECOND);
    assert.equal(page.requests.length, 1);
    await page.pass(SECOND);
    assert.equal(page.requests.length, 2);
  });

  test("waits offline until the network is back", async () => {
    const page = new Page({ answers: [nothing(), nothing(), nothing()] });
    page.navigator.onLine = false;
    const { nc } = open({}, page);
    nc.click("a");
    await page.pass(3 * SECOND);
    page.navigator.onLine = true;
    page.dispatch("online");
    await page.pass();
    assert.equal(page.requests.length, 4);
    assert.deepEqual(page.localStorage.kept.queue, []);
  });

  test("is not tried again where nobody looks, but once somebody does", async () => {
    const page = new Page({ answers: [nothing()] });
    const { nc } = open({}, page);
    nc.click("a");
    await page.pass();
    page.hide();
    await page.pass(10 * MINUTE);
    assert.equal(page.requests.length, 1);
    page.hide(false);
    await page.pass();
    assert.equal(page.requests.length, 2);
  });

  test("is lost when too many wait, the oldest first, and told", async () => {
    const page = new Page({ answers: [never()] });
    const { nc, errors } = open({}, page);
    const outcomes = Array.from({ length: 203 }, (_, i) => nc.click(i));
    assert.deepEqual(await outcomes[2], { queued: false });
    assert.deepEqual(errors.map(({ click }) => click.item_id), ["0", "1", "2"]);
    const { queue, items } = page.localStorage.kept;
    assert.deepEqual([queue.length, queue[0].body.item_id, queue[199].body.item_id], [200, "3", "202"]);
    assert.equal(items.length, 50);
  });

  test("does not fail with the shop's own listener, whose error is the page's", async () => {
    const { nc, page } = open();
    nc.on("click", () => {
      throw new Error("the shop's");
    });
    const off = nc.on("stored", assert.fail);
    off();
    const outcome = nc.click("a");
    await assert.rejects(page.pass(), /the shop's/);
    assert.equal((await outcome).length, 1);
  });
});

describe("the next page", () => {
  test("sends what this one could not, as the same click of the same session", async () => {
    const page = new Page({ answers: [never()] });
    const { nc } = open({}, page);
    nc.click("a");
    nc.click("b");
    const { id } = nc.session;
    const next = new Page({ storage: page.localStorage, at: NOON + 29 * MINUTE });
    open({}, next);
    await next.pass();
    assert.deepEqual(ids(next.requests), ["a", "b"]);
    assert.equal(next.requests[0].body.event_id, page.requests[0].body.event_id);
    assert.equal(next.requests[0].body.timestamp, NOON / 1000);
    assert.equal(next.requests[1].path, `/sessions/${id}/click`);
  });

  test("drops what may have been stored longer ago than the service remembers", async () => {
    const page = new Page({ answers: [problem(503, "store-unavailable")] });
    open({}, page).nc.click("a");
    await page.pass();
    const next = new Page({ storage: page.localStorage, at: NOON + 31 * MINUTE });
    const { errors } = open({}, next);
    await next.pass();
    assert.deepEqual([next.requests, errors.length], [[], 1]);
    assert.deepEqual(page.localStorage.kept.queue, []);
  });

  test("drops what a beacon may have brought, and no beacon brings what is too old", async () => {
    const page = new Page({ answers: [nothing(), nothing()] });
    page.navigator.onLine = false;
    open({}, page).nc.click("a");
    await page.pass();
    page.hide();
    assert.equal(page.beacons.length, 1);
    const next = new Page({ storage: page.localStorage, at: NOON + 31 * MINUTE });
    const { errors } = open({}, next);
    next.hide();
    await next.pass();
    assert.deepEqual([next.requests, next.beacons, errors.length], [[], [], 1]);
  });

  test("sends what was made offline, within a day", async () => {
    for (const [hours, expected] of [[23, ["a"]], [25, []]]) {
      const page = new Page({ answers: [nothing()] });
      page.navigator.onLine = false;
      const { nc } = open({}, page);
      nc.click("a");
      await page.pass();
      const { id } = nc.session;
      const next = new Page({ storage: page.localStorage, at: NOON + hours * 60 * MINUTE });
      open({}, next);
      await next.pass();
      assert.deepEqual(ids(next.requests), expected);
      if (expected.length) assert.equal(next.requests[0].path, `/sessions/${id}/click`);
    }
  });

  test("knows the answer that its click came from, for half an hour", async () => {
    for (const [minutes, expected] of [[29, "r1"], [31, undefined]]) {
      const recommended = answer(200, { recommendation_id: "r1", items: [{ item_id: "b" }] });
      const page = new Page({ answers: [recommended] });
      await open({ sessionMinutes: 90 }, page).nc.recommend();
      const next = new Page({ storage: page.localStorage, at: NOON + minutes * MINUTE });
      const { nc } = open({ sessionMinutes: 90 }, next);
      nc.click("b");
      nc.click("c");
      await next.pass();
      assert.deepEqual(next.requests.map(({ body }) => body.recommendation_id), [expected, undefined]);
    }
  });
});

test("a click comes from the newest of the last five answers that had it", async () => {
  const { nc, page } = open();
  const items = [["a", "b"], ["b"], ["c"], ["c"], ["c"], ["c"]];
  page.answers = items.map((ids, i) => answer(200, { recommendation_id: `r${i}`, items: ids.map((item_id) => ({ item_id })) }));
  for (const _ of items) await nc.recommend();
  for (const item of ["a", "b", "c"]) await nc.click(item);
  assert.deepEqual(page.clicks.map(({ body }) => body.recommendation_id), [undefined, "r1", "r5"]);
  assert.equal(page.localStorage.kept.answers.length, 5);
});

describe("a page that is left", () => {
  test("sends what has no answer by beacon, once, and keeps it until there is one", async () => {
    for (const leave of [(page) => page.hide(), (page) => page.dispatch("pagehide")]) {
      const page = new Page({ answers: [nothing(), never()] });
      const { nc } = open({}, page);
      nc.click("a");
      nc.click("b");
      await page.pass();
      leave(page);
      page.dispatch("pagehide");
      assert.deepEqual(ids(page.beacons), ["a", "b"]);
      const { pathname, searchParams } = new URL(page.beacons[0].url);
      assert.equal(pathname, `/sessions/${nc.session.id}/click`);
      assert.equal(searchParams.get("key"), "k&y");
      assert.equal(page.beacons[0].body.event_id, page.requests[0].body.event_id);
      assert.equal(page.localStorage.kept.queue.length, 2);
    }
  });

  test("does not repeat what is under way and outlives it", async () => {
    const page = new Page({ answers: [never()] });
    const { nc } = open({ key: undefined }, page);
    nc.click("a");
    nc.click("b");
    await page.pass();
    page.hide();
    assert.deepEqual(ids(page.beacons), ["b"]);
    assert.equal(new URL(page.beacons[0].url).search, "");
  });

  test("repeats what is under way in a browser that ends it with the page", async () => {
    const page = new Page({ answers: [never()] });
    page.Request = class {};
    open({}, page).nc.click("a");
    await page.pass();
    page.hide();
    assert.deepEqual(ids(page.beacons), ["a"]);
  });

  test("sends no beacon of what the service may have stored too long ago to know it again", async () => {
    const page = new Page({ answers: [problem(503, "x", {}, { "Retry-After": "3600" })] });
    open({}, page).nc.click("a");
    await page.pass(31 * MINUTE);
    page.hide();
    assert.deepEqual(page.beacons, []);
  });

  test("leaves it to the next one where beacons are refused or broken", async () => {
    const broken = () => {
      throw new Error("blocked");
    };
    for (const sendBeacon of [() => false, broken, undefined]) {
      const page = new Page({ answers: [nothing()] });
      page.navigator.sendBeacon = sendBeacon;
      const { nc } = open({}, page);
      nc.click("a");
      await page.pass();
      page.hide();
      assert.equal(page.localStorage.kept.queue.length, 1);
    }
  });
});

describe("without consent", () => {
  for (const consent of [undefined, false, "yes", () => false, async () => true, () => null.x]) {
    test(`${consent}: nothing is read, stored or sent but what is asked for`, async () => {
      const { nc, page } = open({ consent: consent ?? false });
      assert.deepEqual(await nc.click("a"), { queued: true });
      page.hide();
      page.hide(false);
      page.dispatch("online");
      page.dispatch("pagehide");
      await page.pass(10 * MINUTE);
      assert.deepEqual([page.requests, page.beacons, page.localStorage.asked], [[], [], 0]);
      assert.deepEqual(nc.session, { id: null, items: ["a"] });
      page.answers = [answer(200, { recommendation_id: "r", items: [{ item_id: "b" }] })];
      await nc.recommend({ k: 3, fields: ["title", "price"], filter: { any: [] } });
      const [{ method, path, body }] = page.requests;
      assert.deepEqual([method, path], ["POST", "/recommend"]);
      assert.deepEqual(body, { items: ["a"], k: 3, fields: ["title", "price"], filter: { any: [] } });
      assert.equal(page.localStorage.asked, 0);
    });
  }

  test("the default is none", async () => {
    const page = new Page();
    await nextclick({}, page).click("a");
    assert.deepEqual([page.requests, page.localStorage.asked], [[], 0]);
  });

  test("given later, it sends what the page has seen, in the session that begins or goes on", async () => {
    const storage = new Storage();
    const earlier = new Page({ storage, at: NOON - MINUTE });
    const before = open({}, earlier).nc;
    await before.click("x");
    const page = new Page({ storage });
    const { nc } = open({ consent: false }, page);
    page.answers = [answer(200, { recommendation_id: "r", items: [{ item_id: "b" }] })];
    await nc.recommend();
    nc.click("a");
    nc.click("b");
    await page.pass(MINUTE);
    nc.consent(true);
    await page.pass();
    assert.equal(nc.session.id, before.session.id);
    assert.deepEqual(nc.session.items, ["x", "a", "b"]);
    assert.deepEqual(ids(page.clicks), ["a", "b"]);
    assert.equal(page.clicks[0].body.timestamp, NOON / 1000, "when it was made");
    assert.deepEqual(page.clicks.map(({ body }) => body.recommendation_id), [undefined, "r"]);
    assert.equal(page.clicks[0].path, `/sessions/${nc.session.id}/click`);
    assert.equal(storage.kept.at, NOON, "the session's last click, too, was made then");
    await nc.click("b");
    assert.equal(page.clicks[2].body.recommendation_id, "r", "what was answered before is known");
  });

  test("given later, no more wait than may", async () => {
    const storage = new Storage();
    const earlier = open({}, new Page({ storage, answers: [never()] })).nc;
    for (let i = 0; i < 150; i++) earlier.click(`x${i}`);
    const page = new Page({ storage, answers: [never()] });
    const { nc } = open({ consent: false }, page);
    for (let i = 0; i < 150; i++) nc.click(`y${i}`);
    nc.consent(true);
    assert.equal(storage.kept.queue.length, 200);
    assert.equal(storage.kept.queue[199].body.item_id, "y149");
  });

  test("given by a function's word, it counts from the next use on, each click once", async () => {
    let agreed = false;
    const { nc, page } = open({ consent: () => agreed });
    nc.click("a");
    agreed = true;
    await nc.click("b");
    assert.deepEqual(ids(page.requests), ["a", "b"]);
    agreed = false;
    await nc.click("c");
    assert.deepEqual([page.localStorage.kept, nc.session], [null, { id: null, items: ["c"] }]);
  });

  test("withdrawn, everything is erased and what is under way ends", async () => {
    const page = new Page({ answers: [never()] });
    const { nc, errors } = open({}, page);
    const outcomes = [nc.click("a"), nc.click("b")];
    await page.pass();
    const before = nc.session.id;
    nc.consent(false);
    assert.equal(page.requests[0].signal.aborted, true);
    assert.deepEqual(await Promise.all(outcomes), [{ queued: false }, { queued: false }]);
    assert.equal(page.localStorage.content.size, 0);
    assert.deepEqual(nc.session, { id: null, items: [] });
    page.hide();
    page.hide(false);
    await page.pass(10 * MINUTE);
    assert.deepEqual([ids(page.requests), page.beacons, errors], [["a"], [], []]);
    assert.equal(page.localStorage.content.size, 0);
    nc.consent(true);
    await nc.click("c");
    assert.notEqual(nc.session.id, before);
  });

  test("withdrawn while a try waits, none follows", async () => {
    const page = new Page({ answers: [nothing()] });
    const { nc } = open({}, page);
    await nc.click("a");
    nc.consent(false);
    nc.consent(true);
    assert.equal((await nc.click("b")).length, 2, "what is said later is heard at once");
    await page.pass(10 * MINUTE);
    assert.deepEqual(ids(page.requests), ["a", "b"]);
  });

  test("refused, what earlier pages left is erased too", async () => {
    const storage = new Storage();
    await open({}, new Page({ storage })).nc.click("a");
    open({ consent: false }, new Page({ storage })).nc.consent(false);
    assert.equal(storage.content.size, 0);
  });

  test("withdrawn in another tab, it is withdrawn here", async () => {
    const { nc, page } = open();
    await nc.click("a");
    page.dispatch("storage", { key: "another", newValue: null });
    page.dispatch("storage", { key: "nextclick", newValue: "{}" });
    assert.notEqual(nc.session.id, null);
    page.localStorage.content.clear();
    page.dispatch("storage", { key: "nextclick", newValue: null });
    await nc.click("b");
    assert.deepEqual([page.requests.length, page.localStorage.content.size, nc.session.id], [1, 0, null]);
  });
});

describe("a session", () => {
  test("ends half an hour after its last click, or when the shop says", async () => {
    for (const [sessionMinutes, minutes] of [[undefined, 30], [5, 5]]) {
      const { nc, page } = open({ sessionMinutes });
      await nc.click("a");
      const first = nc.session.id;
      await page.pass(minutes * MINUTE);
      await nc.click("b");
      assert.equal(nc.session.id, first);
      await page.pass(minutes * MINUTE + 1);
      assert.deepEqual(nc.session, { id: null, items: [] });
      await nc.click("c");
      assert.notEqual(nc.session.id, first);
      assert.deepEqual(nc.session.items, ["c"]);
    }
  });

  test("ends when the visitor's clock is set back by more than that", async () => {
    const { nc, page } = open();
    await nc.click("a");
    page.at -= 31 * MINUTE;
    assert.equal(nc.session.id, null);
  });

  test("of an earlier page is not told again once the storage is full", async () => {
    const storage = new Storage();
    await open({}, new Page({ storage })).nc.click("a");
    storage.setItem = () => {
      throw new Error("QuotaExceededError");
    };
    const { nc } = open({}, new Page({ storage }));
    await nc.click("b");
    assert.deepEqual([nc.session.items, storage.content.size], [["a", "b"], 0]);
  });

  test("is one in all tabs, whose clicks do not get lost among them", async () => {
    const storage = new Storage();
    const [one, two] = [new Page({ storage, answers: [never()] }), new Page({ storage })];
    const [a, b] = [open({}, one).nc, open({}, two).nc];
    a.click("a");
    await b.click("b");
    assert.equal(a.session.id, b.session.id);
    assert.deepEqual(a.session.items, ["a", "b"]);
    assert.deepEqual(ids(two.requests), ["a", "b"]);
    assert.equal(two.requests[0].body.event_id, one.requests[0].body.event_id);
  });

  test("may have the shop's own id", async () => {
    const { nc, page } = open({ sessionId: "shop/7" });
    await nc.click("a");
    assert.equal(page.requests[0].path, "/sessions/shop/7/click");
    assert.match(page.requests[0].url, /shop%2F7/);
    assert.deepEqual([nc.session.id, page.localStorage.kept.id], ["shop/7", null]);
  });

  for (const [name, make] of Object.entries({
    "blocked storage": () => new Error("SecurityError"),
    "no storage": () => null,
    "full storage": () =>
      Object.assign(new Storage(), {
        setItem() {
          throw new Error("QuotaExceededError");
        },
      }),
    "storage that keeps nothing": () => Object.assign(new Storage(), { setItem() {} }),
  })) {
    test(`lives in the page with ${name}`, async () => {
      const page = new Page({ storage: make(), answers: [nothing()] });
      const { nc } = open({}, page);
      await nc.click("a");
      const { id } = nc.session;
      assert.match(id, /^.{22}$/);
      await page.pass(SECOND);
      await nc.click("b");
      assert.deepEqual(ids(page.requests), ["a", "a", "b"]);
      assert.deepEqual(nc.session, { id, items: ["a", "b"] });
      nc.consent(false);
      assert.equal(nc.session.id, null);
    });
  }

  for (const garbage of ["", "{", "null", "7", '"text"', "[]", '{"queue": 3}', '{"queue": [null, {}, 7]}', '{"answers": [null]}', '{"answers": [[1, 2]], "at": 1}', '{"items": {}}']) {
    test(`begins anew where somebody has stored ${garbage || "nothing"}`, async () => {
      const storage = new Storage();
      storage.setItem("nextclick", garbage);
      const { nc } = open({}, new Page({ storage }));
      assert.equal((await nc.click("a")).length, 1);
      assert.deepEqual(storage.kept.queue, []);
    });
  }
});

describe("asking", () => {
  test("asks for the session, with what is wanted", async () => {
    const { nc, page } = open();
    page.answers = [answer(200, { recommendation_id: "r", items: [] })];
    const told = [];
    nc.on("answer", (detail) => told.push(detail));
    const wanted = { placement: "home", k: 5, fields: ["title", "price"], exclude: ["a,b", "c"], exclude_seen: true };
    const given = await nc.recommend({ ...wanted, filter: { not: 1 }, explain: undefined });
    const [{ method, path, searchParams, headers }] = page.requests;
    assert.deepEqual([method, path, headers["X-API-Key"]], ["GET", "/recommend", "k&y"]);
    assert.deepEqual([...searchParams], [
      ["session_id", nc.session.id],
      ["placement", "home"],
      ["k", "5"],
      ["fields", "title,price"],
      ["exclude", "a,b"],
      ["exclude", "c"],
      ["exclude_seen", "true"],
      ["filter", '{"not":1}'],
    ]);
    assert.deepEqual(told, [{ call: "recommend", answer: given, milliseconds: 0 }]);
  });

  test("asks for other items without the session, and remembers nothing of it", async () => {
    const { nc, page } = open();
    page.answers = [answer(200, { recommendation_id: "r", items: [{ item_id: "b" }] })];
    await nc.recommend({ items: ["x"], k: 2 });
    assert.deepEqual(page.requests[0].body, { items: ["x"], k: 2 });
    await nc.click("b");
    assert.equal(page.requests[1].body.recommendation_id, undefined);
  });

  test("waits for the click that was just made, and not for long", async () => {
    let give;
    const found = answer(200, { items: [] });
    const page = new Page({ answers: [new Promise((resolve) => (give = resolve)), found, never(), found] });
    const { nc } = open({}, page);
    nc.click("a");
    const asked = nc.recommend();
    await page.pass(SECOND / 2);
    assert.equal(page.requests.length, 1);
    give(stored());
    await page.pass();
    await asked;
    assert.deepEqual(page.requests.map(({ method }) => method), ["POST", "GET"]);
    nc.click("b");
    nc.recommend();
    await page.pass(SECOND);
    assert.deepEqual(page.requests.map(({ method }) => method), ["POST", "GET", "POST", "GET"]);
  });

  test("asks what is like an item, and what everyone clicks", async () => {
    const { nc, page } = open();
    await nc.similar("a/b", { k: 2, fields: ["title"] });
    await nc.trending();
    assert.deepEqual(page.requests.map(({ path }) => path), ["/items/a/b/similar", "/trending"]);
    assert.match(page.requests[0].url, /a%2Fb/);
    assert.equal(page.requests[0].searchParams.get("fields"), "title");
  });

  test("rejects with what was wrong, and tells it", async () => {
    const page = new Page({ answers: [problem(404, "unknown-placement"), nothing()] });
    const { nc, errors } = open({}, page);
    await assert.rejects(nc.recommend({ placement: "x" }), { status: 404, message: "unknown-placement", call: "recommend" });
    await assert.rejects(nc.similar("a"), { status: 0, call: "similar" });
    assert.equal(errors.length, 2);
  });

  test("is ended by a signal, and no error is told", async () => {
    const page = new Page({ answers: [never()] });
    const { nc, errors } = open({}, page);
    const ending = new AbortController();
    const asked = nc.recommend({ signal: ending.signal });
    await page.pass();
    ending.abort();
    await assert.rejects(asked, { name: "AbortError" });
    page.answers = [never()];
    await assert.rejects(nc.recommend({ signal: ending.signal }), { name: "AbortError" });
    assert.deepEqual(errors, []);
  });
});

test("a page that is made on a server needs no window", async () => {
  assert.deepEqual(nextclick().session, { id: null, items: [] });
});
