/*
 * qrgrant.js: waits for a sign-in by QR code and says what becomes of it.
 *
 * A module without dependencies, for the provider's own sign-in page and for pages of relying parties that show
 * a QR code of their own (the direct door). It chooses how to wait: server-sent events first, WebSocket where
 * asked for, long polls where something in between holds streams back; it recovers from cuts, lets go when the
 * page is left or hidden for long, and comes back with it.
 *
 *   import { signIn } from 'https://login.example/static/qrgrant.js';
 *
 *   const login = await signIn({ issuer: 'https://login.example', clientId: 'kiosk', scope: 'openid profile' });
 *   login.addEventListener('qr', (e) => { img.src = e.detail.qr.image; });        // every ten seconds a new one
 *   login.addEventListener('scanned', (e) => { show(e.detail.check_code); });     // the person types it on the phone
 *   login.addEventListener('tokens', (e) => { use(e.detail.id_token); });         // verify it as any other
 *   for (const end of ['denied', 'expired', 'cancelled', 'replaced', 'failed']) login.addEventListener(end, stop);
 *
 * The origin of the page must be that of one of the client's redirect URIs. The client must be public: a secret
 * in a page is none. A page with a content security policy needs the issuer in script-src and connect-src, and
 * data: in img-src.
 *
 * Events, each a CustomEvent whose detail is the message of the server:
 *
 *   qr         {qr: {payload, rotate_in, image?}, expires_in}   show it, and nothing older
 *   scanned    {check_code, expires_in}   take the code off the screen, show the two digits
 *   approved   {name?, expires_in}        the name only on the provider's own page
 *   tokens     the token answer; direct door only
 *   redeemed   {}                         somebody has used the sign-in; provider's own page only
 *   denied, expired, cancelled            {} the end; begin anew
 *   replaced   {}                         another page waits for the same sign-in; this one must not
 *   failed     {error, error_description} the end; a fault that waiting does not mend
 *   connection {transport, live}          which way is used, and whether it is up
 */

const ends = ['denied', 'expired', 'cancelled', 'replaced', 'redeemed', 'failed', 'tokens'];
// The server writes at once and then every 15 s: what stays silent for longer is held back or dead.
const firstByteMillis = 4000;
const silenceMillis = 40000;
// A hidden page gives its connection back: browsers allow six to a host.
const hiddenMillis = 60000;
// A stream that ends sooner than this was cut by something that cannot bear it.
const shortMillis = 5000;
const longestPauseSeconds = 30;

/** The way is of no use here; certain when the server itself said so. */
class Unusable extends Error {
  constructor(message, certain) {
    super(message);
    this.certain = certain;
  }
}

/** The server cannot answer now. */
class Later extends Error {
  constructor(answer) {
    super(`status ${answer.status}`);
    this.after = Number(answer.headers.get('Retry-After')) || null;
  }
}

/** What was answered ends the sign-in. */
class Fatal extends Error {
  constructor(error, description) {
    super(description || error);
    this.error = error;
  }
}

/** Watcher waits for one sign-in until it ends or close is called. */
export class Watcher extends EventTarget {
  #door;
  #ways;
  #way = 0;
  #worked = new Set();
  #connected = '';
  #last = { type: '', qr_seq: 0, payload: '' };
  #run = null;
  #started = false;
  #ended = false;
  #hidden = 0;

  /** door is made by hosted and signIn; ways are 'sse', 'ws' and 'poll', tried in that order. */
  constructor(door, ways) {
    super();
    this.#door = door;
    this.#ways = ways;
  }

  /** start begins to wait; first is a message to begin with. Listen before. */
  start(first) {
    if (this.#started || this.#ended) return this;
    this.#started = true;
    addEventListener('pagehide', this.#pause);
    addEventListener('pageshow', this.#resume);
    addEventListener('online', this.#again);
    document.addEventListener('visibilitychange', this.#visibility);
    if (first) this.#tell(first);
    this.#resume();
    this.#visibility();
    return this;
  }

  /** close lets go; the sign-in itself goes on, see cancel of signIn. */
  close() {
    this.#ended = true;
    this.#pause();
    removeEventListener('pagehide', this.#pause);
    removeEventListener('pageshow', this.#resume);
    removeEventListener('online', this.#again);
    document.removeEventListener('visibilitychange', this.#visibility);
    clearTimeout(this.#hidden);
  }

  #pause = () => {
    if (this.#run) this.#run.abort();
    this.#run = null;
  };

  #resume = () => {
    if (this.#run || this.#ended) return;
    this.#run = new AbortController();
    this.#wait(this.#run.signal);
  };

  #again = () => {
    if (!this.#run) return;
    this.#pause();
    this.#resume();
  };

  #visibility = () => {
    clearTimeout(this.#hidden);
    if (document.hidden) this.#hidden = setTimeout(this.#pause, hiddenMillis);
    else this.#resume();
  };

  async #wait(signal) {
    let failures = 0; // in a row, since something was heard
    let short = 0; // streams in a row that were soon cut
    while (!signal.aborted) {
      const transport = this.#ways[this.#way];
      const begun = Date.now();
      let heard = false;
      let pause = null; // in seconds, as the server wants it
      try {
        for await (const message of this.#door[transport](signal, { seq: this.#last.qr_seq, hold: failures === 0 })) {
          if (signal.aborted) return;
          heard = true;
          failures = 0;
          this.#worked.add(transport);
          this.#connection(transport, true);
          if (message.pause !== undefined) pause = message.pause;
          if (message.type === 'reconnect') pause = message.after;
          else if (message.type) this.#tell(message);
          if (this.#ended) return;
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Fatal) {
          this.#tell({ type: 'failed', error: error.error, error_description: error.message });
          return;
        }
        const left = error instanceof Unusable && (error.certain || !this.#worked.has(transport));
        if (left && this.#way + 1 < this.#ways.length) {
          this.#way++;
          continue;
        }
        if (error instanceof Later) pause = error.after;
      }
      if (pause === null) {
        // Cut. The first time that is mended at once, and then with more and more patience. What is
        // cut again and again, or does not come about, is given up for the next way.
        failures++;
        if (heard) short = Date.now() - begun < shortMillis ? short + 1 : 0;
        if (failures > 1) this.#connection(transport, false);
        const patience = Math.max(failures, short);
        pause = patience < 2 ? 0 : Math.min(longestPauseSeconds, 2 ** (patience - 2));
        if (patience >= 3) {
          this.#way = (this.#way + 1) % this.#ways.length;
          short = 0;
        }
      }
      // Not all at once when a server comes back.
      if (pause > 0) await sleep(1000 * pause * (1 + Math.random() / 4), signal);
    }
  }

  #connection(transport, live) {
    const now = `${transport} ${live}`;
    if (now === this.#connected) return;
    this.#connected = now;
    this.dispatchEvent(new CustomEvent('connection', { detail: { transport, live } }));
  }

  // Whatever way it came, each state is told once and none that is older than what was told.
  #tell(message) {
    const payload = message.qr ? message.qr.payload : '';
    const seq = message.qr_seq || this.#last.qr_seq;
    if (seq < this.#last.qr_seq) return;
    const same = message.type === this.#last.type && payload === this.#last.payload;
    this.#last = { type: message.type, qr_seq: seq, payload };
    if (same) return;
    if (ends.includes(message.type)) this.close();
    this.dispatchEvent(new CustomEvent(message.type, { detail: message }));
  }
}

/**
 * hosted waits on the provider's own sign-in page. events and state are the URLs of the flow, ways the transports
 * in the order to try. It is not started yet.
 */
export function hosted({ events, state, ways = ['sse', 'poll'] }) {
  const here = { credentials: 'same-origin', cache: 'no-store' };
  return new Watcher({
    sse: (signal) => readEvents(signal, (s) => fetch(events, { ...here, headers: { Accept: 'text/event-stream' }, signal: s })),
    async *poll(signal, { seq, hold }) {
      // Held only for news: what is not known yet, or perhaps missed, is asked for without waiting.
      const wait = hold && seq > 0;
      const headers = wait ? { Prefer: 'wait=25' } : {};
      const { answer, body } = await ask(signal, (s) => fetch(`${state}&qr_seq=${seq || ''}`, { ...here, headers, signal: s }));
      if (answer.status === 404) {
        yield { type: 'expired' };
        return;
      }
      if (!answer.ok) throw new Later(answer);
      yield { ...body, type: typeOf(body.qr_status), pause: !wait || held(answer) || body.qr_seq !== seq ? 0 : 5 };
    },
  }, ways);
}

/**
 * signIn opens a sign-in at the direct door with PKCE and waits for it. Its promise fails when the sign-in cannot
 * be opened. The watcher it gives has two more methods, cancel() and code(), and is started already; the first
 * frame is its first event. Further members: nonce, acrValues, maxAge, loginHint, bindingMessage, deviceName, image
 * ('svg', 'png' or '' for none), ways (['sse', 'ws', 'poll']) and fetch.
 */
export async function signIn(options) {
  const { issuer, clientId, scope = 'openid', image = 'svg', ways = ['sse', 'poll'] } = options;
  const get = options.fetch || ((...args) => fetch(...args));
  const metadata = await readJSON(await get(`${issuer}/.well-known/openid-configuration`));
  const qr = await readJSON(await get(`${issuer}/.well-known/qr-configuration`));
  if (metadata.issuer !== issuer || qr.issuer !== issuer) throw new Error('The issuer is another one than was asked for.');
  const verifier = random();
  const post = (url, form, init = {}) => get(url, { method: 'POST', credentials: 'omit', cache: 'no-store', body: new URLSearchParams(form), ...init });
  const asked = {
    client_id: clientId, scope, code_challenge: await challenge(verifier), code_challenge_method: 'S256', qr_image: image,
    nonce: options.nonce, acr_values: options.acrValues, max_age: options.maxAge, login_hint: options.loginHint,
    binding_message: options.bindingMessage, device_name: options.deviceName,
  };
  for (const name of Object.keys(asked)) if (asked[name] === undefined || asked[name] === '') delete asked[name];
  const opened = await readJSON(await post(metadata.device_authorization_endpoint, asked));
  const device = { client_id: clientId, device_code: opened.device_code };
  let interval = opened.interval;
  let due = 0; // when the next poll may be sent

  // One poll of the token endpoint as a message; with wait it may be held, and whatever was held
  // to its end may be followed at once. What was cut is a poll like any other.
  async function poll(signal, seq, wait) {
    await sleep(due - Date.now(), signal);
    const form = { ...device, grant_type: 'urn:qrgrant:params:oauth:grant-type:qr_code', code_verifier: verifier };
    if (wait && seq) form.qr_seq = seq;
    const headers = wait ? { Prefer: 'wait=25' } : {};
    due = Date.now() + 1000 * interval;
    const { answer, body } = await ask(signal, (s) => post(metadata.token_endpoint, form, { headers, signal: s }));
    if (answer.ok) return { ...body, type: 'tokens' };
    switch (body.error) {
      case 'slow_down':
        interval += 5;
      // falls through
      case 'authorization_pending':
        due = held(answer) ? 0 : Date.now() + 1000 * interval;
        return { ...body, type: typeOf(body.qr_status), pause: 0 };
      case 'access_denied': return { type: 'denied' };
      case 'expired_token': return { type: 'expired' };
    }
    if (answer.status === 429 || answer.status >= 500 || !body.error) throw new Later(answer);
    throw new Fatal(body.error, body.error_description);
  }

  // Events are hints and carry no token: an approval is fetched.
  async function* fetched(signal, messages) {
    for await (const message of messages) {
      yield message;
      while (message.type === 'approved') yield await poll(signal, 0, false);
    }
  }

  const watcher = new Watcher({
    sse: (signal) => fetched(signal, readEvents(signal, (s) => post(qr.events_endpoint, device, { headers: { Accept: 'text/event-stream' }, signal: s }))),
    ws: (signal) => fetched(signal, readSocket(signal, qr.websocket_endpoint, device)),
    async *poll(signal, { seq }) {
      yield await poll(signal, seq, true);
    },
  }, ways.filter((way) => way === 'poll' || (way === 'sse' ? qr.events_endpoint : qr.websocket_endpoint)));
  /** cancel ends the sign-in: nobody can approve it any more. */
  watcher.cancel = async () => {
    watcher.close();
    await post(qr.cancel_endpoint, device);
  };
  /** code is what a person without a camera types at which address. */
  watcher.code = () => ({ userCode: opened.user_code, verificationURI: opened.verification_uri, expiresIn: opened.expires_in });
  // The caller listens first.
  setTimeout(() => watcher.start({ type: 'qr', qr: opened.qr, expires_in: opened.expires_in }));
  return watcher;
}

function typeOf(status) { return status === 'pending' ? 'qr' : status; }

function held(answer) { return answer.headers.has('Preference-Applied'); }

function sleep(millis, signal) {
  return new Promise((resolve) => {
    if (millis <= 0) {
      resolve();
      return;
    }
    const timer = setTimeout(done, millis);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
    signal.addEventListener('abort', done);
    if (signal.aborted) done();
  });
}

// within gives a controller whose signal ends with the given one too. Browsers of 2022 have no AbortSignal.any.
function within(signal) {
  const own = new AbortController();
  const end = () => own.abort();
  if (signal.aborted) end();
  signal.addEventListener('abort', end);
  own.signal.addEventListener('abort', () => signal.removeEventListener('abort', end));
  return own;
}

// ask reads an answer to its end, and gives a request up that takes longer than any may.
async function ask(signal, request) {
  const limit = within(signal);
  const timer = setTimeout(() => limit.abort(), silenceMillis);
  try {
    const answer = await request(limit.signal);
    return { answer, body: await answer.json() };
  } finally {
    clearTimeout(timer);
    limit.abort();
  }
}

async function readJSON(answer) {
  const body = await answer.json();
  if (!answer.ok) throw new Fatal(body.error, body.error_description);
  return body;
}

// readEvents reads a stream of server-sent events, comments as messages without a type.
async function* readEvents(signal, request) {
  const cut = within(signal);
  let silent = false;
  const hush = () => {
    silent = true;
    cut.abort();
  };
  let timer = setTimeout(hush, firstByteMillis);
  let first = true;
  try {
    const answer = await request(cut.signal);
    if (answer.status >= 500 && answer.status !== 501) throw new Later(answer);
    if (!answer.ok || !(answer.headers.get('Content-Type') || '').startsWith('text/event-stream')) {
      // The poll says why, in the words of the protocol.
      throw new Unusable(`status ${answer.status}`, true);
    }
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let text = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      first = false;
      clearTimeout(timer);
      timer = setTimeout(hush, silenceMillis);
      text = (text + decoder.decode(value, { stream: true })).replaceAll('\r\n', '\n');
      const blocks = text.split('\n\n');
      text = blocks.pop();
      for (const block of blocks) {
        const data = block.split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trim()).join('\n');
        yield data === '' ? {} : JSON.parse(data);
      }
    }
  } catch (error) {
    // Nothing came although the server writes at once: something in between keeps it.
    if (first && silent) throw new Unusable('the stream is held back', true);
    throw error;
  } finally {
    clearTimeout(timer);
    cut.abort();
  }
}

// readSocket reads the same messages from a WebSocket.
async function* readSocket(signal, url, credentials) {
  const socket = new WebSocket(url);
  const queue = [];
  let wake = () => {};
  let heard = false;
  let over = signal.aborted;
  let code = 0;
  const finish = () => {
    over = true;
    wake();
  };
  let timer = setTimeout(finish, firstByteMillis);
  socket.onopen = () => socket.send(JSON.stringify(credentials));
  socket.onmessage = (event) => {
    heard = true;
    // The server's pings are not seen here: a socket that says nothing for long is opened again.
    clearTimeout(timer);
    timer = setTimeout(finish, silenceMillis);
    queue.push(JSON.parse(event.data));
    wake();
  };
  socket.onclose = (event) => {
    code = event.code;
    finish();
  };
  signal.addEventListener('abort', finish);
  try {
    for (;;) {
      while (queue.length > 0) yield queue.shift();
      if (over) break;
      await new Promise((resolve) => { wake = resolve; });
    }
    // Refused, or a limit is reached: the poll says why.
    if (code === 1008 || code === 1013 || code >= 4000) throw new Unusable(`closed with ${code}`, true);
    if (!heard && !signal.aborted) throw new Unusable('no WebSocket', false);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', finish);
    socket.onclose = null;
    socket.close();
  }
}

function base64url(bytes) {
  return btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
}

function random() { return base64url(crypto.getRandomValues(new Uint8Array(32))); }

async function challenge(verifier) {
  return base64url(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(verifier))));
}
