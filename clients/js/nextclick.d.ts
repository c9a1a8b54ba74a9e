/** Nextclick in a page. */
export function nextclick(options?: Options): Nextclick;

export interface Options {
  /** Where the service is, as `https://clicks.shop.example` or `/nextclick`; by default the page's own origin. */
  url?: string;
  /** A public key, where the service asks for one. */
  key?: string;
  /** Whether anything may be stored: `true`, or a function that answers `true`, asked again at each use. Default: no. */
  consent?: boolean | (() => boolean);
  /** The shop's own id of the session, in place of one that the tag makes. */
  sessionId?: string;
  /** A session ends after so long without a click: what the service's NEXTCLICK_SESSION_TTL_SECONDS is. Default: 30. */
  sessionMinutes?: number;
}

export interface Nextclick {
  /** Say what the visitor decided. `false` erases what is stored, and nothing is sent for the session any more. */
  consent(may: boolean | (() => boolean)): void;
  /** Count a click. Never rejects: what goes wrong is told by the event `error`. */
  click(itemId: string | number, options?: { type?: string; recommendationId?: string }): Promise<Stored | Queued>;
  /** What the session may want next. Rejects with a `Failure`. */
  recommend(wanted?: Wanted & { items?: string[]; signal?: AbortSignal }): Promise<Answer>;
  similar(itemId: string | number, wanted?: Pick<Wanted, "k" | "fields" | "filter">): Promise<Similar>;
  trending(wanted?: Pick<Wanted, "k" | "fields" | "filter">): Promise<{ items: Item[] }>;
  /** Show recommendations in an element: at once, and anew at each `refresh()`. */
  mount(element: Element, options?: MountOptions): Mounted;
  /** `id` is null without consent and before the first call; `items` are those clicked, oldest first, at most 50. */
  readonly session: { id: string | null; items: string[] };
  /** Returns what takes the listener off again. */
  on<Name extends keyof Events>(event: Name, listener: (detail: Events[Name]) => void): () => void;
}

export interface Wanted {
  placement?: string;
  k?: number;
  /** Attributes to answer with each item. */
  fields?: string[];
  exclude?: string[];
  exclude_seen?: boolean;
  /** A rule: only items that it lets through are answered. */
  filter?: object;
  model?: string;
  explain?: boolean;
}

export interface MountOptions extends Wanted {
  /** What the list is called by screen readers. */
  label?: string;
  /** Makes what stands in an entry; by default a link with picture, title and price. */
  template?: (item: Item, document: Document) => Node;
  /** Called at each click on an entry; if it returns `false`, the tag does not count the click. */
  onClick?: (item: Item, event: MouseEvent, answer: Answer) => unknown;
}

export interface Mounted {
  /** Ask again; null when there was no answer, or another refresh overtook this one: what is shown then stays. */
  refresh(): Promise<Answer | null>;
  unmount(): void;
}

export interface Stored {
  session_id: string;
  /** Clicks now in the session. */
  length: number;
  /** This click had been stored already. */
  duplicate: boolean;
}

/** `true`: it will be sent later (or once there is consent); `false`: it never will, and `error` told why. */
export interface Queued {
  queued: boolean;
}

export interface Item {
  item_id: string;
  score: number;
  fields?: Record<string, any>;
}

export interface Answer {
  session_id?: string;
  recommendation_id: string;
  version: string | null;
  stage: "neighbours" | "model" | "trending" | "popular";
  degraded: boolean;
  ignored: string[];
  items: Item[];
  explanation?: {
    reason: string;
    encoded: string[];
    items: { item_id: string; stage: string; score: number; moved_by: string[] }[];
  };
}

export interface Similar {
  item_id: string;
  version: string;
  items: Item[];
}

/** A click as it is sent. */
export interface Click {
  item_id: string;
  event_id: string;
  type: string;
  /** Epoch seconds. */
  timestamp?: number;
  recommendation_id?: string;
}

export interface Failure extends Error {
  call: "click" | "recommend" | "similar" | "trending";
  /** Of the HTTP answer; 0 where there was none. */
  status: number;
  /** The problem document (RFC 9457), as far as there was one. */
  problem: { type?: string; title?: string; detail?: string; errors?: { field: string; message: string }[] };
  click?: Click;
  /** Of a click: whether it will be sent again. */
  retries?: boolean;
}

export interface Events {
  /** A click was made. */
  click: Click;
  /** A click was acknowledged. */
  stored: { click: Click; answer: Stored; milliseconds: number };
  answer: {
    call: "recommend" | "similar" | "trending";
    answer: Answer | Similar | { items: Item[] };
    milliseconds: number;
  };
  error: Failure;
  /** Half of a mounted entry was in sight for a second: once for each entry of an answer. */
  impression: { item_id: string; position: number; placement?: string; recommendation_id: string };
}
