// The provider's endpoints for phones.
import { body, Fault } from './ask.js';
import { prove } from './dpop.js';
import { accessToken, metadata } from './oauth.js';

// call sends a request with an access token. A token that has expired is refreshed once.
async function call(address, method, json) {
  const send = token => prove(address, {
    method, headers: json && { 'content-type': 'application/json' }, body: json && JSON.stringify(json),
  }, token);
  const token = await accessToken();
  let reply = await send(token);
  let answer = await body(reply);
  if (reply.status === 401 && answer.error === 'invalid_token') {
    reply = await send(await accessToken(token));
    answer = await body(reply);
  }
  if (reply.ok) return answer;
  if (reply.status === 401 && answer.error === 'invalid_token') throw new Fault('signed_out');
  throw new Fault(answer.error ?? (reply.status === 404 ? 'not_found' : 'server_error'), {
    ...answer, status: reply.status, retryAfter: Number(reply.headers.get('retry-after')) || 0,
  });
}

export const scan = async request => call((await metadata()).qr.scan_endpoint, 'POST', request);
export const decide = async decision => call((await metadata()).qr.decision_endpoint, 'POST', decision);

// sessionsAddress is where the linked devices are; not every provider has them.
async function sessionsAddress() {
  const address = (await metadata()).qr.sessions_endpoint;
  if (!address) throw new Fault('no_sessions');
  return address;
}

const noSessions = fault => {
  throw fault.detail?.status === 404 ? new Fault('no_sessions') : fault;
};

export const sessions = async () => call(await sessionsAddress(), 'GET').catch(noSessions);
// One that is gone already is what was wanted.
export const revokeSession = async sid => call(await sessionsAddress() + '/' + encodeURIComponent(sid), 'DELETE').catch(fault => {
  if (fault.detail?.status !== 404) throw fault;
});
export const revokeAll = async () => call(await sessionsAddress() + '/revoke-all', 'POST', { reason: 'lost_phone' }).catch(noSessions);
