// Proof of possession (RFC 9449): the tokens of this phone are good only together with a key that
// no script can read, not even ours. Whoever copies a token out of here has nothing.
//
// The key is in IndexedDB, because only there a CryptoKey survives that cannot be exported, and
// because all pages of the application share it, as they share the refresh token. It goes when the
// person signs out. Nothing here keeps it in memory: another page may have made a new one.
import { ask, body, Fault } from './ask.js';
import { forgetAll, keep, kept } from './store.js';

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const utf8 = text => new TextEncoder().encode(text);

export const base64url = bytes => btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
export const digest = async text => base64url(await crypto.subtle.digest('SHA-256', utf8(text)));
export const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));

// thumbprint makes the key if there is none, and returns the parameter dpop_jkt (RFC 7638): a code
// that is asked for with it is good for this key alone. The caller holds the lock of all pages.
export async function thumbprint() {
  let key = await kept('key');
  if (!key) {
    const { privateKey, publicKey } = await crypto.subtle.generateKey(algorithm, false, ['sign', 'verify']);
    const { crv, kty, x, y } = await crypto.subtle.exportKey('jwk', publicKey); // in the order of RFC 7638
    key = { privateKey, jwk: { crv, kty, x, y } };
    await keep('key', key);
  }
  return digest(JSON.stringify(key.jwk));
}

// held returns the key. Without it every token here is worthless: the person signs in again.
export async function held() {
  const key = await kept('key');
  if (key) return key;
  const person = await kept('person');
  await forgetAll();
  throw new Fault(person ? 'key_lost' : 'signed_out');
}

// ahead is how far the provider's clock is ahead of this one, in milliseconds. Clocks of phones
// are wrong by hours, and a proof is good for a minute.
let ahead = 0;

async function proof(method, address, token) {
  const { privateKey, jwk } = await held();
  const { origin, pathname } = new URL(address);
  const nonce = await kept('nonce');
  const parts = [
    { typ: 'dpop+jwt', alg: 'ES256', jwk },
    {
      jti: random(), htm: method, htu: origin + pathname, iat: Math.floor((Date.now() + ahead) / 1000),
      ...(nonce && { nonce }), ...(token && { ath: await digest(token) }),
    },
  ];
  const signed = parts.map(part => base64url(utf8(JSON.stringify(part)))).join('.');
  return signed + '.' + base64url(await crypto.subtle.sign(algorithm, privateKey, utf8(signed)));
}

// prove is ask with a proof, and with the access token if there is one. It asks once more when the
// provider wants another nonce (RFC 9449 §8, §9), or another time of day.
export async function prove(address, options, token) {
  const send = async () => ask(address, {
    ...options,
    headers: { ...options.headers, dpop: await proof(options.method, address, token), ...(token && { authorization: 'DPoP ' + token }) },
  });
  const reply = await send();
  return await learn(reply) ? learned(await send()) : reply;
}

// learn keeps what an answer says for the proofs to come, and reports whether the same request
// with another proof may do better. What it reads of the answer can be read again.
async function learn(reply) {
  await learned(reply);
  if (reply.status !== 400 && reply.status !== 401) return false;
  const challenge = reply.headers.get('www-authenticate') ?? '';
  const { error } = await body(reply.clone());
  const says = code => error === code || challenge.includes(`error="${code}"`);
  if (says('use_dpop_nonce')) return true;
  const theirs = Date.parse(reply.headers.get('date'));
  if (!says('invalid_dpop_proof') || !theirs || Math.abs(theirs - Date.now() - ahead) < 5_000) return false;
  ahead = theirs - Date.now();
  return true;
}

// The nonce is kept for all pages: each would otherwise begin with a refusal. There is one server.
async function learned(reply) {
  const next = reply.headers.get('dpop-nonce');
  if (next && next !== await kept('nonce')) await keep('nonce', next);
  return reply;
}
