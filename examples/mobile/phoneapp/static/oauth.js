// Sign-in by code and PKCE (RFC 7636) as a public client, and the tokens, bound to a key (dpop.js).
import { ask, body, Fault } from './ask.js';
import { digest, prove, random, thumbprint } from './dpop.js';
import { framed, tell } from './outer.js';
import { forget, forgetAll, keep, kept } from './store.js';

const { issuer, client, url } = document.documentElement.dataset;
const redirectURI = url + '/';
const scope = 'openid profile offline_access qr:approve';

let documents;

// metadata asks the provider about itself. Its documents must be its own.
export function metadata() {
  documents ??= (async () => {
    const [op, qr] = await Promise.all(['openid-configuration', 'qr-configuration'].map(async name => {
      const reply = await ask(issuer + '/.well-known/' + name, { cache: 'default' });
      const found = await body(reply);
      if (!reply.ok || found.issuer !== issuer) throw new Fault('not_a_provider');
      return found;
    }));
    return { op, qr };
  })().catch(fault => {
    documents = undefined;
    throw fault;
  });
  return documents;
}

// signIn leads to the provider. extra are parameters such as those of a step-up (RFC 9470).
export async function signIn(extra = {}) {
  const { op } = await metadata();
  const asked = { state: random(), nonce: random(), verifier: random() };
  const [challenge, key] = [await digest(asked.verifier), await locked(thumbprint)];
  await keep('asked', asked);
  const query = new URLSearchParams({
    response_type: 'code', client_id: client, redirect_uri: redirectURI, scope, state: asked.state, nonce: asked.nonce,
    code_challenge: challenge, code_challenge_method: 'S256', dpop_jkt: key, ui_locales: navigator.language, ...extra,
  });
  const address = op.authorization_endpoint + '?' + query;
  if (framed) tell({ type: 'authorize', address });
  else location.assign(address);
}

// returned takes the provider's answer out of the address, if there is one.
export async function returned() {
  const query = new URLSearchParams(location.search);
  if (!query.has('state')) return;
  history.replaceState(null, '', location.pathname);
  const asked = await kept('asked');
  await forget('asked');
  // RFC 9207: an answer of another provider must not get this one's code.
  if (!asked || query.get('state') !== asked.state || query.get('iss') !== issuer) throw new Fault('not_asked');
  if (query.has('error')) throw new Fault(query.get('error') === 'access_denied' ? 'sign_in_refused' : 'sign_in_failed');
  const earlier = await kept('person');
  const reply = await token({ grant_type: 'authorization_code', code: query.get('code') ?? '', redirect_uri: redirectURI, code_verifier: asked.verifier });
  const answer = await body(reply);
  const claims = reply.ok && readIDToken(answer.id_token);
  // A token that is not bound is not what was asked for, and good for whoever finds it.
  if (!claims || answer.token_type?.toLowerCase() !== 'dpop' || claims.iss !== issuer || ![claims.aud].flat().includes(client) || claims.nonce !== asked.nonce || claims.exp * 1000 < Date.now() - clockSkew) {
    throw new Fault('sign_in_failed');
  }
  if (!(answer.scope ?? scope).split(' ').includes('qr:approve')) throw new Fault('not_an_approver');
  await accept(answer);
  await name(claims.sub);
  // The sign-in before this one is over, also at the provider; it ends by itself if this fails.
  if (earlier?.refresh && earlier.refresh !== answer.refresh_token) await revoke(earlier.refresh).catch(() => {});
}

// name asks who it is; the name is only shown, so without an answer there is none.
async function name(sub) {
  const { op } = await metadata();
  const reply = await prove(op.userinfo_endpoint, { method: 'GET' }, access.value).catch(() => null);
  const claims = reply?.ok ? await body(reply) : {};
  if (claims.sub === sub) await keep('person', { ...await kept('person'), name: claims.name ?? claims.preferred_username });
}

// A phone's clock may be wrong by hours; what the answer is for, the nonce says.
const clockSkew = 24 * 3600 * 1000;

// readIDToken reads the claims. The token came from the token endpoint itself over TLS, which
// stands for its signature (OpenID Connect Core §3.1.3.7).
function readIDToken(raw) {
  try {
    const octets = Uint8Array.from(atob(raw.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')), c => c.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(octets));
  } catch {
    return null;
  }
}

async function token(form) {
  const { op } = await metadata();
  return prove(op.token_endpoint, { method: 'POST', body: new URLSearchParams({ client_id: client, ...form }) });
}

async function revoke(value) {
  const { op } = await metadata();
  return ask(op.revocation_endpoint, { method: 'POST', body: new URLSearchParams({ client_id: client, token: value }) });
}

let access = { value: '', until: 0 };

async function accept(answer) {
  access = { value: answer.access_token, until: performance.now() + (answer.expires_in ?? 60) * 1000 - 10_000 };
  const before = await kept('person');
  await keep('person', { refresh: answer.refresh_token ?? before?.refresh, idToken: answer.id_token ?? before?.idToken, name: before?.name });
}

// accessToken returns a token that should be good; unless is one that the provider refused.
export async function accessToken(unless) {
  // One page at a time: the provider takes a used refresh token for a stolen one.
  return locked(async () => {
    if (access.value && access.value !== unless && performance.now() < access.until) return access.value;
    const { refresh } = await kept('person') ?? {};
    if (!refresh) throw new Fault('signed_out');
    const form = { grant_type: 'refresh_token', refresh_token: refresh };
    // A lost answer may be asked for once more.
    const reply = await token(form).catch(() => token(form));
    const answer = await body(reply);
    if (!reply.ok) {
      if (answer.error !== 'invalid_grant') throw new Fault('server_error');
      await drop();
      throw new Fault('signed_out');
    }
    await accept(answer);
    return access.value;
  });
}

const locked = work => navigator.locks ? navigator.locks.request('tokens', work) : work();

// drop forgets everything here that belongs to the person.
export async function drop() {
  access = { value: '', until: 0 };
  await forgetAll();
}

// signedIn returns what is kept of the person; undefined when nobody is signed in.
export async function signedIn() {
  const found = await kept('person');
  return found?.refresh ? found : undefined;
}

// signOut ends the sign-in here first, then at the provider.
export async function signOut() {
  const found = await kept('person');
  await drop();
  if (found?.refresh) await revoke(found.refresh).catch(() => {});
  if (framed) { // the provider's page is not for frames, and no browser is signed in
    location.assign('/');
    return;
  }
  const { op } = await metadata();
  const query = new URLSearchParams({ client_id: client, post_logout_redirect_uri: redirectURI });
  if (found?.idToken) query.set('id_token_hint', found.idToken);
  location.assign(op.end_session_endpoint + '?' + query);
}
