/**
 * LedgerFlux for browsers: market data that resumes by itself, every link verified.
 *
 * One ES module without dependencies; the counterpart of the Python package `client`, with the
 * same rules and the same names. The wire contract is docs/protocol.md.
 *
 *     import { Subscriber } from "./ledgerflux.js";
 *     const subscriber = new Subscriber("ws://127.0.0.1:8000/ws", { products: ["BTC-USD"] });
 *     for await (const update of subscriber) {
 *       console.log(update.op, update.data);
 *     }
 *
 * Numbers: `px`, `qty` and `last_px`, and prices and sizes in books, are strings with exactly the
 * venue's digits, since a JavaScript number would round them. `seq`, `prev_seq`, trade ids and
 * times in microseconds are numbers: they are exact below 2^53, which microseconds reach in the
 * year 2255. A `seq` beyond that is an error, never a rounded number.
 *
 * @module ledgerflux
 */

/** @typedef {"ticker" | "trades" | "book"} Feed */

/**
 * How far a subscriber has come: plain JSON, to be stored and handed to its successor.
 * @typedef {object} Position
 * @property {string | null} epoch  The canonical log that the numbers belong to.
 * @property {Record<string, Partial<Record<Feed, number>>>} from_seq
 *   The newest `seq` handed out, by `venue/product` and feed.
 */

/**
 * One canonical message.
 * @typedef {object} Update
 * @property {"snapshot" | "incr" | "status"} op
 * @property {any} data  The message; prices and sizes are strings.
 * @property {false | null} recovered  False on a snapshot before which messages are missing.
 * @property {string | null} reason  Why they are missing.
 */

/**
 * @typedef {object} Options
 * @property {string[]} [products]  Names, or `["*"]` for all, which is the default.
 * @property {Feed[]} [feeds]  All by default.
 * @property {number | "full"} [depth]  Levels a side in book snapshots; the whole book by default,
 *   since from fewer levels its deeper part cannot be known. Say 50 if you show the top only.
 * @property {number} [maxRate]  At most so many messages a second of each chain, each a snapshot.
 * @property {"conflate" | "disconnect"} [onSlow]  What the gateway does if this client falls far
 *   behind: drop increments and send a snapshot, or drop the connection, which is then resumed.
 * @property {"resync" | "raise"} [onBroken]  When a message does not link: ask for what is missing,
 *   or throw.
 * @property {Position} [resume]  Go on from a stored `position`.
 * @property {string} [namespace]  Subscribe to this replay, such as `replay-monday`, instead of
 *   what is live; its positions are its own.
 * @property {string} [apiKey]  Sent as the first message, as a browser cannot send a header.
 * @property {number} [giveUpAfterMs]  How long to try for a connection each time; for ever if
 *   it is left out.
 * @property {(sentence: string) => void} [notify]  Told when the connection comes and goes, and
 *   when a chain breaks or begins anew.
 * @property {typeof WebSocket} [WebSocket]  Another implementation of the browser's class.
 */

export const FEEDS = /** @type {const} */ (["ticker", "trades", "book"]);

const MAX_PRODUCTS = 1000;
const MAX_REQUEST_BYTES = 60_000;
const MAX_MENDS = 3;
const MAX_STATUSES = 32;
/** What may wait for the consumer, in characters; beyond it the connection is left and resumed. */
const MAX_WAITING = 64 * 1024 ** 2;
const FIRST_MS = 100;
const MAX_MS = 5000;
const OPEN_TIMEOUT_MS = 5000;
const PING_MS = 15_000;
const TOO_MANY = 4429;
const TOO_MANY_MS = 1000;
const FINAL_CODES = new Map([
  [1002, "this client's frames break the WebSocket protocol: mend the client"],
  [1003, "this client's frames are of a kind that is not read: mend the client"],
  [1007, "this client's text is not UTF-8: mend the client"],
  [1009, "a message to the gateway is beyond 1 MB: mend the client"],
  [4401, "the API key is not valid: get a valid one"],
  [4408, "no API key came in time: give one"],
  [4410, "the replay has been deleted"],
]);
/** Errors that another position would not cure. */
const OF_NAMESPACE = new Set(["unknown_namespace", "other_namespace", "too_many_replays"]);

/** Base of what a subscriber throws. */
export class SubscriberError extends Error {
  name = this.constructor.name;
}

/** No gateway answered in time; try again later. */
export class GatewayUnavailableError extends SubscriberError {}

/** The gateway refuses what was asked for; asking again would not help. `code` is its own. */
export class GatewayRefusedError extends SubscriberError {
  /** @param {string} code @param {string} msg */
  constructor(code, msg) {
    super(`the gateway refused (${code}): ${msg}`);
    this.code = code;
  }
}

/** A message is missing, doubled or out of order. */
export class ChainBrokenError extends SubscriberError {
  /** @param {any} data @param {number | undefined} expected */
  constructor(data, expected) {
    const due = expected === undefined ? "no snapshot has come" : `prev_seq ${expected} was due`;
    super(
      `the chain of ${data.product} ${data.feed} is broken at seq ${data.seq}: ${due} and ` +
        `${data.prev_seq} came.`,
    );
    this.expected = expected;
    this.got = data.prev_seq;
    this.seq = data.seq;
  }
}

/**
 * Read a message of the gateway; prices and sizes become strings with the venue's own digits.
 *
 * A quote within a JSON string is escaped, so `"px":` can only be the name of a field.
 * @param {string} text
 */
export function parse(text) {
  return JSON.parse(text.replace(/"(px|qty|last_px)":\s*(-?\d[\d.eE+-]*)/g, '"$1":"$2"'));
}

/** A chain's name. @param {{venue: string, product: string, feed: string}} chain */
const keyOf = ({ venue, product, feed }) => `${venue}/${product} ${feed}`;

/** What a subscriber wants, as messages for the gateway. */
class Subscription {
  /** @param {Options} options */
  constructor({ products = ["*"], feeds = [...FEEDS], depth = "full", ...more }) {
    if (!Array.isArray(products) || !products.length || !feeds.length) {
      throw new TypeError('name the products and feeds as lists, such as ["BTC-USD"] or ["*"]');
    }
    this.all = products.includes("*");
    this.products = this.all ? ["*"] : [...new Set(products)];
    this.feeds = feeds;
    const { maxRate, onSlow, namespace } = more;
    this.resumable = maxRate === undefined;
    this.options = { depth, max_rate: maxRate, on_slow: onSlow, namespace };
  }

  /** @param {Chain} chain */
  wants({ product, feed }) {
    return this.feeds.includes(feed) && (this.all || this.products.includes(product));
  }

  /**
   * Return what to say on a new connection: go on with these chains, begin all others.
   *
   * One message where the gateway's limits allow it. Beyond them `*` goes first, with as many
   * positions as it can hold; the messages after it resume the other products by name.
   * @param {Iterable<Chain>} chains @param {string | null} epoch
   */
  requests(chains, epoch) {
    /** @type {Map<string, Chain[]>} */
    const entries = new Map();
    for (const chain of chains) {
      const known = entries.get(chain.product);
      if (known) known.push(chain);
      else entries.set(chain.product, [chain]);
    }
    const requests = [];
    let names = this.all ? ["*"] : [];
    /** @type {Chain[]} */
    let resumed = [];
    let bytes = 0;
    for (const name of this.all ? entries.keys() : this.products) {
      const own = entries.get(name) ?? [];
      const size = sizeOf(name, own);
      if (bytes && (names.length >= MAX_PRODUCTS || bytes + size > MAX_REQUEST_BYTES)) {
        requests.push(this.request(names, this.feeds, resumed, epoch));
        [names, resumed, bytes] = [[], [], 0];
      }
      bytes += size;
      resumed.push(...own);
      if (names[0] !== "*") names.push(name);
    }
    requests.push(this.request(names, this.feeds, resumed, epoch));
    return requests;
  }

  /** @param {string[]} products @param {Feed[]} feeds @param {Chain[]} chains */
  request(products, feeds, chains, /** @type {string | null} */ epoch) {
    const fields = { op: "subscribe", products, feeds, ...this.options };
    if (!chains.length) return { fields, resumes: chains };
    const from_seq = positionOf(chains, epoch).from_seq;
    return { fields: { ...fields, from_seq, epoch: epoch ?? undefined }, resumes: chains };
  }
}

/** At most how many bytes a product takes in a message. @param {string} name @param {Chain[]} chains */
function sizeOf(name, chains) {
  const entry = JSON.stringify([name, positionOf(chains, null).from_seq]);
  return new TextEncoder().encode(entry).length;
}

/**
 * One product and feed of a venue. `seq` is its newest message, undefined before its snapshot.
 *
 * `waiting`: for the answer to its `from_seq`, or for a snapshot; what comes of it meanwhile is
 * left out, since it will come again in its place. `missed`: why its next snapshot is no
 * continuation. `heard`: status messages since `seq`, so that none comes twice after a break.
 */
class Chain {
  /** @param {{venue: string, product: string, feed: Feed}} name @param {number} [seq] */
  constructor({ venue, product, feed }, seq) {
    this.venue = venue;
    this.product = product;
    this.feed = feed;
    this.seq = seq;
    /** @type {"answer" | "snapshot" | null} */
    this.waiting = null;
    /** @type {string | null} */
    this.missed = null;
    this.heard = { seq, lines: /** @type {string[]} */ ([]), again: 0 };
    this.breaks = 0;
  }

  /** Tell whether a status came already, before the chain was resumed. @param {string} line */
  heardBefore(line) {
    if (this.seq === undefined) return false;
    if (this.heard.seq !== this.seq) this.heard = { seq: this.seq, lines: [], again: 0 };
    const { lines, again } = this.heard;
    if (again < lines.length && lines[again] === line) {
      this.heard.again += 1;
      return true;
    }
    if (lines.length < MAX_STATUSES) lines.push(line);
    this.heard.again = lines.length;
    return false;
  }
}

/** @param {Iterable<Chain>} chains @param {string | null} epoch @returns {Position} */
function positionOf(chains, epoch) {
  /** @type {Position["from_seq"]} */
  const from_seq = {};
  for (const { venue, product, feed, seq } of chains) {
    if (seq !== undefined) (from_seq[`${venue}/${product}`] ??= {})[feed] = seq;
  }
  return { epoch, from_seq };
}

/** The state of a subscription over many connections: messages in; updates, and what to say, out. */
class Session {
  /** @param {Options} options */
  constructor(options) {
    this.subscription = new Subscription(options);
    this.onBroken = options.onBroken ?? "resync";
    this.notify = options.notify ?? (() => {});
    this.apiKey = options.apiKey;
    this.epoch = options.resume?.epoch ?? null;
    /** @type {Map<string, Chain>} */
    this.chains = new Map();
    this.verified = 0;
    this.broken = 0;
    this.acknowledged = false;
    /** @type {number | null} */
    this.drainMs = null;
    this.pauseMs = 0;
    /** @type {any[]} */
    this.due = [];
    /** @type {any[]} */
    this.unanswered = [];
    for (const [name, feeds] of Object.entries(options.resume?.from_seq ?? {})) {
      const slash = name.indexOf("/");
      if (slash < 0) throw new TypeError(`a position names venue/product; '${name}' has no venue`);
      const [venue, product] = [name.slice(0, slash), name.slice(slash + 1)];
      for (const [feed, seq] of Object.entries(feeds)) {
        const chain = new Chain({ venue, product, feed: /** @type {Feed} */ (feed) }, seq);
        if (this.subscription.wants(chain)) this.chains.set(keyOf(chain), chain);
      }
    }
  }

  get position() {
    return positionOf(this.chains.values(), this.epoch);
  }

  /** Begin on a new connection. */
  connected() {
    this.acknowledged = false;
    this.drainMs = null;
    this.pauseMs = 0;
    this.unanswered = [];
    for (const chain of this.chains.values()) {
      if (!this.subscription.resumable) chain.seq = undefined;
      chain.waiting = chain.seq === undefined ? null : "answer";
      chain.heard.again = 0;
    }
    const whole = [...this.chains.values()].filter((chain) => chain.seq !== undefined);
    this.due = this.subscription.requests(whole, this.epoch);
    if (this.apiKey !== undefined) {
      this.due.unshift({ fields: { op: "auth", key: this.apiKey }, resumes: [] });
    }
  }

  /** Return the messages that are due, to be sent at once and in this order. */
  say() {
    const due = this.due;
    this.due = [];
    this.pauseMs = 0;
    this.unanswered.push(...due);
    return due.map((request) => JSON.stringify(request.fields));
  }

  /**
   * Take the next message; return what it has for the consumer.
   * @param {string} text @returns {Update | null}
   */
  receive(text) {
    let message;
    try {
      message = parse(text);
    } catch (error) {
      throw new GatewayRefusedError("not_understood", `what answers is no gateway (${error})`);
    }
    if (message.data !== undefined) return this.#take(message, text);
    this.#note(message);
    return null;
  }

  /** @param {any} message @param {string} text @returns {Update | null} */
  #take({ op, data, recovered }, text) {
    const key = keyOf(data);
    let chain = this.chains.get(key);
    if (!chain) this.chains.set(key, (chain = new Chain(data)));
    if (chain.waiting && this.#waits(chain, op, recovered)) return null;
    if (op === "status") {
      return chain.heardBefore(text) ? null : { op, data, recovered: null, reason: null };
    }
    if (!Number.isSafeInteger(data.seq)) {
      throw new GatewayRefusedError("unsafe_seq", `JavaScript would round the seq of ${key}`);
    }
    if (op === "snapshot") {
      const reason = chain.missed ?? (data.reason === "conflated" ? "conflated" : null);
      chain.missed = null;
      chain.seq = data.seq;
      return { op, data, recovered: reason === null ? null : false, reason };
    }
    if (chain.seq !== data.prev_seq) {
      const broken = new ChainBrokenError(data, chain.seq);
      this.#mend(chain, broken);
      if (this.onBroken === "raise") throw broken;
      return null;
    }
    chain.seq = data.seq;
    chain.breaks = 0;
    this.verified += 1;
    return { op, data, recovered: null, reason: null };
  }

  /** @param {Chain} chain @param {string} op @param {boolean | undefined} recovered */
  #waits(chain, op, recovered) {
    if (op !== "snapshot" || (recovered !== false && chain.waiting !== "snapshot")) return true;
    if (recovered === false) chain.missed ??= "unknown";
    chain.waiting = null;
    return false;
  }

  /** Ask for what is missing after the last message that linked. */
  #mend(/** @type {Chain} */ chain, /** @type {ChainBrokenError} */ broken) {
    this.notify(broken.message);
    this.broken += 1;
    chain.breaks += 1;
    if (chain.breaks > 1) {
      this.pauseMs = Math.max(this.pauseMs, Math.min(FIRST_MS * 2 ** chain.breaks, MAX_MS));
    }
    if (chain.seq !== undefined && (chain.breaks > MAX_MENDS || !this.subscription.resumable)) {
      this.#lose(chain, "broken");
    }
    chain.heard.again = 0;
    chain.waiting = chain.seq === undefined ? "snapshot" : "answer";
    const resumes = chain.seq === undefined ? [] : [chain];
    this.due.push(
      this.subscription.request([chain.product], [chain.feed], resumes, this.epoch),
    );
  }

  /** @param {any} message */
  #note(message) {
    switch (message.op) {
      case "authenticated":
        this.unanswered.shift();
        break;
      case "subscribed":
        this.#acknowledge(message.epoch ?? null);
        break;
      case "resumed":
        this.#goOn(message);
        break;
      case "rate_limit":
        this.due = [...this.unanswered, ...this.due];
        this.unanswered = [];
        this.pauseMs = Math.max(this.pauseMs, message.retry_ms);
        break;
      case "drain":
        this.drainMs = message.reconnect_ms;
        break;
      case "error":
        this.#refused(message);
        break;
      default: // `pong`, and what later gateways may say
    }
  }

  /** @param {string | null} epoch */
  #acknowledge(epoch) {
    this.acknowledged = true;
    this.unanswered.shift();
    if (this.epoch !== null && epoch !== this.epoch) {
      const whole = [...this.chains.values()].filter((chain) => chain.seq !== undefined);
      if (whole.some((chain) => !chain.waiting)) {
        this.due.push(...this.subscription.requests([], epoch));
      }
      for (const chain of whole) this.#lose(chain, "epoch");
    }
    this.epoch = epoch;
  }

  /** @param {any} resumed */
  #goOn(resumed) {
    const chain = this.chains.get(keyOf(resumed));
    if (chain?.waiting !== "answer" || chain.seq !== resumed.from_seq) return;
    if (resumed.recovered) chain.waiting = null;
    else this.#lose(chain, resumed.reason ?? "unknown");
  }

  /** Ask without a position if there was one, since that may be what was wrong. */
  #refused(/** @type {any} */ error) {
    const request = this.unanswered.shift();
    if (request?.fields.op === "auth" && error.code === "unauthorized") return; // needs no key
    if (!request?.resumes.length || OF_NAMESPACE.has(error.code)) {
      throw new GatewayRefusedError(error.code, error.msg);
    }
    for (const chain of request.resumes) this.#lose(chain, error.code);
    const { from_seq: _, epoch: __, ...fields } = request.fields;
    this.due.push({ fields, resumes: [] });
  }

  /** Give a chain up: its next message is a snapshot that says what is missing before it. */
  #lose(/** @type {Chain} */ chain, /** @type {string} */ reason) {
    chain.seq = undefined;
    chain.waiting = "snapshot";
    chain.missed = reason;
    this.notify(`${keyOf(chain)} cannot go on (${reason}): it begins anew`);
  }
}

/** What one WebSocket brings, in order, bounded; dead ones are found out by pings. */
class Connection {
  #texts = /** @type {string[]} */ ([]);
  #next = 0;
  #waiting = 0;
  #wake = () => {};
  #heard = true;
  #pinged = false;
  #ended = () => {};
  /** @type {{code: number, reason: string} | null} */
  closed = null;
  /** Resolves when it has ended. */
  ended = new Promise((resolve) => (this.#ended = /** @type {() => void} */ (resolve)));
  /** What is due on it is said later. */
  pausing = false;

  /** @param {WebSocket} socket */
  constructor(socket) {
    this.socket = socket;
    socket.onmessage = ({ data }) => this.#arrived(data);
    socket.onclose = ({ code, reason }) => this.end(code, reason);
    socket.onerror = () => this.end(1006, "lost");
    this.timer = setInterval(() => this.#check(), PING_MS);
  }

  /** Return the next message that is here already, or undefined. */
  take() {
    if (this.#next === this.#texts.length) return undefined;
    const text = this.#texts[this.#next];
    this.#next += 1;
    this.#waiting -= text.length;
    if (this.#next === this.#texts.length) [this.#texts, this.#next] = [[], 0];
    return text;
  }

  /** Return when there is a message, or the connection has ended. */
  async ready() {
    if (this.#texts.length || this.closed) return;
    await new Promise((wake) => (this.#wake = /** @type {() => void} */ (wake)));
  }

  /** @param {string[]} texts */
  send(texts) {
    if (this.socket.readyState === 1) for (const text of texts) this.socket.send(text);
  }

  /** Leave; what has come already can still be taken. */
  end(code = 1000, reason = "") {
    if (this.closed) return;
    this.closed = { code, reason };
    clearInterval(this.timer);
    this.socket.onmessage = this.socket.onclose = this.socket.onerror = null;
    this.socket.close();
    this.#ended();
    this.#wake();
  }

  /** @param {string} text */
  #arrived(text) {
    this.#heard = true;
    this.#waiting += text.length;
    this.#texts.push(text);
    if (this.#waiting > MAX_WAITING) this.end(1000, "the consumer is slow");
    this.#wake();
  }

  #check() {
    if (this.#heard) this.#pinged = false;
    else if (this.#pinged) return this.end(1006, "no answer to a ping");
    else {
      this.send(['{"op":"ping"}']);
      this.#pinged = true;
    }
    this.#heard = false;
  }
}

/**
 * Messages of some products and feeds, snapshot first, every link verified.
 *
 * Iterate with `for await`, or hand a callback to `forEach`. After any break it connects again and
 * goes on after the last message that it handed out: nothing is missing, nothing comes twice.
 * Where that cannot be had, the chain goes on with a snapshot whose `recovered` is false and whose
 * `reason` says why. One iteration at a time.
 */
export class Subscriber {
  #url;
  #options;
  #session;
  /** @type {Connection | null} */
  #connection = null;
  /** @type {Promise<Connection> | null} */
  #successor = null;
  #abort = new AbortController();
  #waitMs = 0;
  #failures = 0;
  /** @type {number | null} */
  #troubleSince = null;
  /** How often a connection was made. */
  connects = 0;

  /** @param {string} url @param {Options} [options] */
  constructor(url, options = {}) {
    if (options.resume && options.maxRate !== undefined) {
      throw new TypeError("maxRate sends only the newest state: there is nothing to resume");
    }
    this.#url = url;
    this.#options = options;
    this.#session = new Session(options);
  }

  /** How far the consumer has come, the update that was handed out last included. */
  get position() {
    return this.#session.position;
  }

  /** How many links fitted, and how many did not. */
  get links() {
    return { verified: this.#session.verified, broken: this.#session.broken };
  }

  /** End the iteration; what has come already is not handed out any more. */
  close() {
    this.#abort.abort();
    this.#connection?.end();
  }

  /** Hand every update to a function until `close`. @param {(update: Update) => unknown} take */
  async forEach(take) {
    for await (const update of this) await take(update);
  }

  /**
   * Iterate.
   * @throws {ChainBrokenError} a message is missing, and `onBroken` is `raise`
   * @throws {GatewayRefusedError} the gateway does not accept the key or the subscription
   * @throws {GatewayUnavailableError} no gateway answered within `giveUpAfterMs`
   * @returns {AsyncGenerator<Update, void, void>}
   */
  async *[Symbol.asyncIterator]() {
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    try {
      while (!signal.aborted) {
        const connection = (this.#connection = await (this.#successor ?? this.#connect(signal)));
        this.#successor = null;
        this.#session.connected();
        this.#speak(connection);
        while (!signal.aborted) {
          const text = connection.take();
          if (text === undefined) {
            if (connection.closed) break;
            await connection.ready();
            continue;
          }
          const update = this.#session.receive(text);
          if (update) yield update;
          else this.#tend(connection, signal);
        }
        if (connection.closed && !this.#successor) this.#ended(connection.closed);
      }
    } catch (error) {
      if (error !== signal.reason) throw error;
    } finally {
      this.#abort.abort();
      this.#connection?.end();
      this.#successor?.then((connection) => connection.end(), () => {});
      this.#successor = null;
    }
  }

  /** See to what a message has brought about. */
  #tend(/** @type {Connection} */ connection, /** @type {AbortSignal} */ signal) {
    this.#speak(connection);
    const { drainMs } = this.#session;
    if (drainMs === null || this.#successor) return;
    this.#successor = this.#move(connection, drainMs, signal);
    this.#successor.catch(() => {}); // whoever awaits it gets the error; maybe nobody does
  }

  /** Connect anew when it is time, or when the old one ends; the old one is read until then. */
  async #move(/** @type {Connection} */ old, /** @type {number} */ ms, /** @type {AbortSignal} */ s) {
    await Promise.race([sleep(ms, s), old.ended]);
    const successor = await this.#connect(s);
    old.end(1000, "moved");
    return successor;
  }

  /** Say what is due, after the pause that it needs. */
  #speak(/** @type {Connection} */ connection) {
    const session = this.#session;
    if (!session.due.length || connection.pausing) return;
    if (!session.pauseMs) {
      connection.send(session.say());
      return;
    }
    connection.pausing = true;
    setTimeout(() => {
      connection.pausing = false;
      if (!connection.closed) connection.send(session.say());
    }, session.pauseMs);
  }

  /** Connect, trying again with growing waits. @param {AbortSignal} signal */
  async #connect(signal) {
    for (;;) {
      await sleep(this.#waitMs, signal);
      try {
        const connection = await this.#attempt(signal);
        this.#waitMs = 0;
        this.connects += 1;
        this.#session.notify(`connected to ${this.#url}`);
        return connection;
      } catch (error) {
        signal.throwIfAborted();
        this.#wait(String(error), 0);
      }
    }
  }

  /** Connect once. @param {AbortSignal} signal @returns {Promise<Connection>} */
  #attempt(signal) {
    const socket = new (this.#options.WebSocket ?? WebSocket)(this.#url);
    return new Promise((resolve, reject) => {
      const settle = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", stop);
        socket.onopen = socket.onclose = socket.onerror = null;
      };
      const fail = (/** @type {string} */ why) => {
        settle();
        socket.close();
        reject(new Error(why));
      };
      const stop = () => fail("closed");
      const timer = setTimeout(() => fail("no answer"), OPEN_TIMEOUT_MS);
      signal.addEventListener("abort", stop);
      // A browser does not tell a script why; some never tell of a close after an error.
      socket.onerror = socket.onclose = () => fail("nobody there, or refused");
      socket.onopen = () => {
        settle();
        resolve(new Connection(socket));
      };
    });
  }

  /** Note how a connection ended. @param {{code: number, reason: string}} closed */
  #ended({ code, reason }) {
    const final = FINAL_CODES.get(code);
    if (final) throw new GatewayRefusedError(String(code), final);
    if (this.#session.acknowledged) {
      this.#session.notify(`lost the gateway (${code} ${reason}); connecting again`);
      this.#failures = 0;
      this.#troubleSince = null;
      this.#waitMs = Math.random() * FIRST_MS;
    } else {
      this.#wait(`closed with ${code}`, code === TOO_MANY ? TOO_MANY_MS : 0);
    }
  }

  /** Set the wait before the next attempt, unless it has taken too long already. */
  #wait(/** @type {string} */ failure, /** @type {number} */ leastMs) {
    const now = Date.now();
    if (this.#troubleSince === null) {
      this.#troubleSince = now;
      this.#session.notify(`waiting for a gateway at ${this.#url} (${failure})`);
    }
    const waited = now - this.#troubleSince;
    const limit = this.#options.giveUpAfterMs;
    if (limit !== undefined && waited > limit) {
      throw new GatewayUnavailableError(`no gateway answers at ${this.#url} (${failure})`);
    }
    const ceiling = Math.min(FIRST_MS * 2 ** this.#failures, MAX_MS);
    this.#failures += 1;
    // Half of it is random, so that the clients of a restarted gateway do not all come at once.
    this.#waitMs = leastMs + ceiling / 2 + (Math.random() * ceiling) / 2;
  }
}

/** Wait; closing the subscriber ends the wait. @param {number} ms @param {AbortSignal} signal */
function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve(undefined);
    }, ms);
    signal.throwIfAborted();
    signal.addEventListener("abort", stop, { once: true });
  });
}
