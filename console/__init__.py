"""The operator's pages, a process of its own over the service's API. Imports readers of artifacts alone.

How a page is written:

* What it shows is computed by a plain function in a module of its own (`shown/trials.py`,
  `watching/rates.py`), which knows nothing of NiceGUI and is tested without it; `pages/<name>.py` only lays
  that out.
* `pages/<name>.py` has `async def page(console: Console) -> None`, and one row in `pages/__init__.py`. The
  shell has put header, navigation and the page's heading there by then.
* `console.service` asks the service with the key of who is logged in: `await console.service.get("/models")`.
  Anything that goes wrong is a `ServiceError`. A page need not catch it: while the page is built it becomes a
  notice in its place, in an event's handler a notice that closes by itself.
* Every change asks first: `if await console.confirm(title, what_will_happen, "Publish"): ...`.
* `console.query` has the address's parameters; `console.artifacts` is the directory of artifacts, if there is
  one: read it in a thread (`nicegui.run.io_bound`).
* `console.watch` is the one poller of metrics that all open pages share.
* Looks: Quasar's classes (`row`, `col`, `q-gutter-md`; no Tailwind) and those of `console.css`: `cards`,
  `card`, `figure`, `caption`, `notice`, `scrolls` (around a table: it scrolls by itself on narrow screens),
  `good`, `bad`, `warn`, `muted`, `numbers`.
* Inputs get a label, buttons that only show an icon an `aria-label`; numbers get their unit.
"""
