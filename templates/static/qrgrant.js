/*
 * qrgrant.js: waits for a sign-in by QR code and says what becomes of it.
 *
 * A module without dependencies, for the provider's own sign-in page and for pages of relying parties that show
 * a QR code of their own (the direct door). It chooses how to wait: server-sent events first, WebSocket where
 * asked for, long polls where a proxy in between holds streams back; it recovers from cuts, lets go when the
 * page is left, and comes back with it.
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
 * in a page is none.
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
// The server sends a comment at once and every 15 s: what stays silent for longer is held back or dead.
const firstByteMillis = 4000;
const silenceMillis = 40000;
// A hidden page gives its connection back: browsers allow six to a host.
const hiddenMillis = 60000;
const longestPauseMillis = 30000;

/** The way is of no use here: go on with the next one. */
class Unusable extends Error {}

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
  #shortLived = 0;
  #last = { type: '', qr_seq: 0, payload: '' };
  #run = null;
  #ended = false;
  #hidden = 0;

  /** door is made by hosted and signIn; ways are 'sse', 'ws' and 'poll', tried in that order. */
  constructor(door, ways) {
    super();
    this.#door = door;
    this.#ways = ways;
    addEventListener('pagehide', this.#pause);
    addEventListener('pageshow', this.#resume);
    document.addEventListener('visibilitychange', this.#visibility);
  }

  /** start begins to wait. Listen before. */
  start() {
    this.#resume();
    return this;
  }

  /** close lets go; the sign-in itself goes on, see cancel of signIn. */
  close() {
    this.#ended = true;
    this.#pause();
    removeEventListener('pagehide', this.#pause);
    removeEventListener('pageshow', this.#resume);
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

  #visibility = () => {
    clearTimeout(this.#hidden);
    if (document.hidden) this.#hidden = setTimeout(this.#pause, hiddenMillis);
    else this.#resume();
  };

  async #wait(signal) {
    let failures = 0;
    while (!signal.aborted) {
      const transport = this.#ways[this.#way];
      const begun = Date.now();
      let heard = false;
      let pause = 0;
      try {
        for await (const message of this.#door[transport](signal, this.#last.qr_seq)) {
          if (!heard) this.#connection(transport, true);
          heard = true;
          failures = 0;
          if (message.pause !== undefined) pause = message.pause * 1000;
          if (message.type === 'reconnect') pause = message.after * 1000;
          else if (message.type) this.#tell(message);
          if (this.#ended) return;
        }
        this.#lived(transport, begun);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Fatal) {
          this.#tell({ type: 'failed', error: error.error, error_description: error.message });
          return;
        }
        if (error instanceof Unusable && this.#next()) continue;
        this.#lived(transport, begun);
        // A cut is mended at once, and after that with more and more patience.
        pause = failures === 0 ? 0 : Math.min(longestPauseMillis, 500 * 2 ** failures);
        failures++;
        if (failures > 1) this.#connection(transport, false);
      }
      if (pause > 0) await sleep(pause * (0.8 + Math.random() * 0.4), signal);
    }
  }

  // Streams that are cut again and again right away are worse than polls.
  #lived(transport, begun) {
    this.#shortLived = Date.now() - begun < 5000 ? this.#shortLived + 1 : 0;
    if (transport !== 'poll' && this.#shortLived >= 3) this.#next();
  }

  #next() {
    if (this.#way + 1 >= this.#ways.length) return false;
    this.#way++;
    this.#shortLived = 0;
    return true;
  }

  #connection(transport, live) {
    this.dispatchEvent(new CustomEvent('connection', { detail: { transport, live } }));
  }

  // Whatever way it came, each state is told once and none that is older than what was told.
  #tell(message) {
    const payload = message.qr ? message.qr.payload : '';
    const seq = message.qr_seq || this.#last.qr_seq;
    if (seq < this.#last.qr_seq) return;
    if (message.type === this.#last.type && seq === this.#last.qr_seq && payload === this.#last.payload) return;
    this.#last = { type: message.type, qr_seq: seq, payload };
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
    async *poll(signal, seq) {
      const answer = await limited(signal, (s) => fetch(`${state}&qr_seq=${seq || ''}`, { ...here, headers: { Prefer: 'wait=25' }, signal: s }));
      if (answer.status === 404) {
        yield { type: 'expired' };
        return;
      }
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const body = await answer.json();
      yield { ...body, type: typeOf(body.qr_status), pause: held(answer) || body.qr_seq !== seq ? 0 : 5 };
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

  // One poll of the token endpoint as a message; with wait it may be held.
  async function poll(signal, seq, wait) {
    const form = { ...device, grant_type: 'urn:qrgrant:params:oauth:grant-type:qr_code', code_verifier: verifier };
    if (wait && seq) form.qr_seq = seq;
    const answer = await limited(signal, (s) => post(metadata.token_endpoint, form, { headers: wait ? { Prefer: 'wait=25' } : {}, signal: s }));
    const body = await answer.json();
    if (answer.ok) return { ...body, type: 'tokens' };
    switch (body.error) {
      case 'slow_down':
        interval += 5;
      // falls through
      case 'authorization_pending':
        return { ...body, type: typeOf(body.qr_status), pause: held(answer) ? 0 : interval };
      case 'access_denied': return { type: 'denied' };
      case 'expired_token': return { type: 'expired' };
    }
    if (answer.status === 429 || answer.status >= 500) throw new Error(`status ${answer.status}`);
    throw new Fatal(body.error, body.error_description);
  }

  // Events are hints and carry no token: an approval is fetched.
  async function* fetched(signal, messages) {
    for await (const message of messages) {
      yield message;
      while (message.type === 'approved') {
        const answer = await poll(signal, 0, false);
        yield answer;
        if (ends.includes(answer.type)) return;
        await sleep(answer.pause * 1000, signal);
      }
    }
  }

  const watcher = new Watcher({
    sse: (signal) => fetched(signal, readEvents(signal, (s) => post(qr.events_endpoint, device, { headers: { Accept: 'text/event-stream' }, signal: s }))),
    ws: (signal) => fetched(signal, readSocket(signal, qr.websocket_endpoint, device)),
    async *poll(signal, seq) {
      yield await poll(signal, seq, true);
    },
  }, ways);
  /** cancel ends the sign-in: nobody can approve it any more. */
  watcher.cancel = async () => {
    watcher.close();
    await post(qr.cancel_endpoint, device);
  };
  /** code is what a person without a camera types at which address. */
  watcher.code = () => ({ userCode: opened.user_code, verificationURI: opened.verification_uri, expiresIn: opened.expires_in });
  // The caller listens first.
  queueMicrotask(() => {
    setTimeout(() => {
      watcher.dispatchEvent(new CustomEvent('qr', { detail: { type: 'qr', qr: opened.qr, expires_in: opened.expires_in } }));
      watcher.start();
    });
  });
  return watcher;
}

function typeOf(status) { return status === 'pending' ? 'qr' : status; }

function held(answer) { return answer.headers.has('Preference-Applied'); }

function sleep(millis, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, millis);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
    signal.addEventListener('abort', done);
  });
}

// limited gives a request up that takes longer than any answer may.
function limited(signal, request) { return request(AbortSignal.any([signal, AbortSignal.timeout(silenceMillis)])); }

async function readJSON(answer) {
  const body = await answer.json();
  if (!answer.ok) throw new Fatal(body.error, body.error_description);
  return body;
}

// readEvents reads a stream of server-sent events, comments as messages without a type.
async function* readEvents(signal, request) {
  const cut = new AbortController();
  let timer = setTimeout(() => cut.abort(), firstByteMillis);
  let first = true;
  let reader;
  try {
    const answer = await request(AbortSignal.any([signal, cut.signal]));
    if (answer.status === 429 || answer.status >= 500) throw new Error(`status ${answer.status}`);
    if (!answer.ok || !(answer.headers.get('Content-Type') || '').startsWith('text/event-stream')) {
      // The poll says why, in the words of the protocol.
      throw new Unusable(`status ${answer.status}`);
    }
    reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      first = false;
      clearTimeout(timer);
      timer = setTimeout(() => cut.abort(), silenceMillis);
      text += value.replaceAll('\r\n', '\n');
      const blocks = text.split('\n\n');
      text = blocks.pop();
      for (const block of blocks) {
        const data = block.split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trim()).join('\n');
        yield data === '' ? {} : JSON.parse(data);
      }
    }
  } catch (error) {
    // Nothing came although the server writes at once: something in between keeps it.
    if (first && cut.signal.aborted) throw new Unusable('the stream is held back');
    throw error;
  } finally {
    clearTimeout(timer);
    cut.abort();
    if (reader) reader.cancel().catch(() => {});
  }
}

// readSocket reads the same messages from a WebSocket.
async function* readSocket(signal, url, credentials) {
  const socket = new WebSocket(url);
  const queue = [];
  let wake = () => {};
  let open = false;
  let over = false;
  const finish = () => {
    over = true;
    wake();
  };
  socket.onopen = () => socket.send(JSON.stringify(credentials));
  socket.onmessage = (event) => {
    open = true;
    queue.push(JSON.parse(event.data));
    wake();
  };
  socket.onclose = finish;
  socket.onerror = finish;
  signal.addEventListener('abort', finish);
  const timer = setTimeout(() => { if (!open) finish(); }, firstByteMillis);
  try {
    for (;;) {
      while (queue.length > 0) yield queue.shift();
      if (over) break;
      await new Promise((resolve) => { wake = resolve; });
    }
    if (!open && !signal.aborted) throw new Unusable('no WebSocket');
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', finish);
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
