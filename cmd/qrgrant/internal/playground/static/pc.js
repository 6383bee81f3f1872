// The PC: a page of somebody else that signs in with qrgrant.js at the direct door.
import { signIn } from './qrgrant.js';
import { $, button, client, el, issuer } from './dom.js';

const waits = {
  sse: ['Server-Sent Events', ['sse', 'poll']],
  ws: ['WebSocket', ['ws', 'poll']],
  poll: ['Long poll', ['poll']],
};
let way = 'sse';
let current = null;
let inSight = () => {};
let timer = 0;

// start shows the first screen. seen is told the text of the code on the screen, '' for none.
export function start(seen) {
  inSight = seen;
  idle();
}

function screen(name, status, ...children) {
  clearInterval(timer);
  $('pc').dataset.state = name;
  $('pc').replaceChildren(...children);
  $('pc-status').textContent = status;
}

function idle() {
  inSight('');
  const choice = el('select', { id: 'way', change: event => { way = event.target.value; } },
    Object.entries(waits).map(([value, [text]]) => el('option', { value, selected: value === way }, text)));
  screen('idle', '',
    el('p', { class: 'lead' }, 'This device is signed in to by nobody.'),
    el('p', { class: 'small' }, 'A kiosk, a television or a desktop program: it shows a code, and a phone does the rest.'),
    button('begin', 'Sign in with a phone', begin, 'primary'),
    el('p', { class: 'way' }, el('label', { for: 'way' }, 'It hears of the phone by '), choice));
}

async function begin() {
  const opened = {};
  current = opened;
  screen('opening', 'Asking for a code.', el('p', { class: 'lead' }, 'Asking for a code …'));
  const nonce = crypto.randomUUID();
  let login;
  try {
    login = await signIn({ issuer, clientId: client, scope: 'openid profile', nonce, deviceName: 'The playground’s PC', ways: waits[way][1] });
  } catch (error) {
    ended('failed', 'It could not begin', error.message);
    return;
  }
  const live = work => event => current === opened && work(event.detail);
  login.addEventListener('qr', live(detail => code(login, detail)));
  login.addEventListener('scanned', live(detail => scanned(login, detail)));
  login.addEventListener('approved', live(() => screen('approved', 'Approved.', el('p', { class: 'lead' }, 'Approved. Fetching the tokens …'))));
  login.addEventListener('tokens', live(detail => signedIn(detail, nonce)));
  login.addEventListener('denied', live(() => ended('denied', 'Denied', 'The phone said no. Nobody is signed in.')));
  login.addEventListener('expired', live(() => ended('expired', 'Too late', 'Nobody approved in time. Nobody is signed in.')));
  login.addEventListener('cancelled', live(() => ended('cancelled', 'Cancelled', 'Nobody is signed in.')));
  login.addEventListener('replaced', live(() => ended('replaced', 'Continued elsewhere', 'Another page waits for this sign-in.')));
  login.addEventListener('failed', live(detail => ended('failed', 'It did not work', detail.error_description ?? detail.error)));
}

// code shows a frame; the next one replaces only the picture.
function code(login, { qr, expires_in: left }) {
  inSight(qr.payload);
  const picture = $('qr');
  if (picture) {
    picture.src = qr.image;
    return;
  }
  const { userCode, verificationURI, expiresIn } = login.code();
  const until = Date.now() + (left ?? expiresIn) * 1000;
  const remaining = el('span', { class: 'number' });
  screen('qr', 'Scan the code with the phone.',
    el('p', { class: 'lead' }, 'Scan with your phone'),
    el('div', { class: 'tile' }, el('img', { id: 'qr', src: qr.image, alt: 'The QR code', width: '264', height: '264' })),
    el('p', {}, 'or open ', el('span', { class: 'address' }, verificationURI), el('br'), 'and type ', el('strong', { id: 'user-code', class: 'code' }, userCode)),
    el('p', { class: 'small' }, 'A new picture every ten seconds. ', remaining, ' left.'),
    button('cancel', 'Cancel', () => cancel(login)));
  const tick = () => {
    const seconds = Math.max(0, Math.round((until - Date.now()) / 1000));
    remaining.textContent = Math.floor(seconds / 60) + ':' + String(seconds % 60).padStart(2, '0');
  };
  tick();
  timer = setInterval(tick, 1000);
}

function scanned(login, { check_code: digits }) {
  inSight('');
  screen('scanned', `Scanned. Type ${digits} on the phone.`,
    el('p', { class: 'lead' }, 'Type this number on the phone'),
    el('p', { id: 'check-code', class: 'digits' }, digits),
    el('p', { class: 'small' }, 'Was it not your phone? Take a new code; this one ends.'),
    button('new-code', 'New code', async () => {
      current = null;
      await login.cancel().catch(() => {});
      await begin();
    }));
}

async function cancel(login) {
  current = null;
  await login.cancel().catch(() => {});
  idle();
}

async function signedIn(tokens, nonce) {
  inSight('');
  screen('verifying', 'Verifying.', el('p', { class: 'lead' }, 'Verifying the ID token …'));
  let claims;
  let person;
  try {
    const metadata = await get('/.well-known/openid-configuration');
    claims = await verified(tokens.id_token, metadata, nonce);
    person = await get(metadata.userinfo_endpoint, { headers: { authorization: 'Bearer ' + tokens.access_token } });
    if (person.sub !== claims.sub) throw new Error('The provider speaks of somebody else.');
  } catch (error) {
    ended('failed', 'The ID token is not good', error.message);
    return;
  }
  const revoke = async next => {
    await post('revocation_endpoint', { client_id: client, token: tokens.refresh_token ?? tokens.access_token }).catch(() => {});
    next();
  };
  const name = person.name ?? claims.sub;
  screen('signed-in', `Signed in as ${name}.`,
    el('p', { class: 'lead' }, 'Signed in as ', el('strong', { id: 'person' }, name)),
    el('dl', {}, ['sub', 'acr', 'amr', 'auth_time', 'sid'].filter(claim => claims[claim] !== undefined).map(claim =>
      [el('dt', {}, claim), el('dd', {}, claim === 'auth_time' ? new Date(claims[claim] * 1000).toLocaleTimeString() : String(claims[claim]))])),
    el('p', { class: 'small' }, 'From the ID token, whose signature, issuer, audience, nonce and time are checked.'),
    el('div', { class: 'buttons' },
      button('again', 'Sign out', () => revoke(idle), 'primary'),
      button('not-me', 'Not me', () => revoke(() => ended('not-me', 'Ended', 'The sign-in is over at the server, and its tokens are worth nothing.')))));
}

function ended(state, title, text) {
  inSight('');
  screen(state, title + '. ' + text, el('p', { class: 'lead' }, title), el('p', {}, text),
    el('div', { class: 'buttons' }, button('begin', 'Begin again', begin, 'primary'), button('back', 'Back', idle)));
}

async function get(address, options = {}) {
  const reply = await fetch(new URL(address, issuer + '/'), { cache: 'no-store', credentials: 'omit', ...options });
  if (!reply.ok) throw new Error('The server answered ' + reply.status + '.');
  return reply.json();
}

async function post(endpoint, form) {
  const metadata = await get('/.well-known/openid-configuration');
  return fetch(metadata[endpoint], { method: 'POST', credentials: 'omit', body: new URLSearchParams(form) });
}

const algorithms = {
  RS256: [{ name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }, 'RSASSA-PKCS1-v1_5'],
  ES256: [{ name: 'ECDSA', namedCurve: 'P-256' }, { name: 'ECDSA', hash: 'SHA-256' }],
  EdDSA: ['Ed25519', 'Ed25519'],
};
const octets = text => Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), c => c.charCodeAt(0));
const json = text => JSON.parse(new TextDecoder().decode(octets(text)));

// verified checks an ID token (OpenID Connect Core §3.1.3.7) and returns its claims.
async function verified(token, metadata, nonce) {
  const [head, body, signature] = token.split('.');
  const { alg, kid } = json(head);
  const found = (await get(metadata.jwks_uri)).keys.find(candidate => candidate.kid === kid);
  if (!found || !algorithms[alg]) throw new Error('Nobody knows its key.');
  const [kind, how] = algorithms[alg];
  const imported = await crypto.subtle.importKey('jwk', found, kind, false, ['verify']);
  if (!await crypto.subtle.verify(how, imported, octets(signature), new TextEncoder().encode(head + '.' + body))) throw new Error('Its signature is wrong.');
  const claims = json(body);
  if (claims.iss !== issuer || ![claims.aud].flat().includes(client) || claims.nonce !== nonce || claims.exp * 1000 < Date.now()) {
    throw new Error('It is for somebody else, or for another time.');
  }
  return claims;
}
