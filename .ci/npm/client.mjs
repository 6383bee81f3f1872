// What the tests of openid-client share.

import assert from 'node:assert/strict'
import * as client from 'openid-client'

export const qrCode = 'urn:qrgrant:params:oauth:grant-type:qr_code'
export const deviceCode = 'urn:ietf:params:oauth:grant-type:device_code'

// discover returns a client that also checks the signature of every ID token against the JWKS, and that it is
// made with the algorithm that is registered in server.yaml.
export function discover(server, clientId, { secret, alg = 'ES256' } = {}) {
  const authentication = secret ? client.ClientSecretBasic(secret) : client.None()
  return client.discovery(new URL(server.issuer), clientId, { id_token_signed_response_alg: alg }, authentication, {
    execute: [client.allowInsecureRequests, client.enableNonRepudiationChecks],
  })
}

export async function pkce() {
  const verifier = client.randomPKCECodeVerifier()
  return {
    verifier,
    challenge: { code_challenge: await client.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256' },
  }
}

// request makes an authorization request with PKCE, state and nonce, and what its answer must be checked against.
export async function request(config, parameters) {
  const { verifier, challenge } = await pkce()
  const expectedState = client.randomState()
  const expectedNonce = client.randomNonce()
  const url = client.buildAuthorizationUrl(config, {
    scope: 'openid profile',
    state: expectedState,
    nonce: expectedNonce,
    ...challenge,
    ...parameters,
  })
  return { url, checks: { pkceCodeVerifier: verifier, expectedState, expectedNonce, idTokenExpected: true } }
}

async function failure(promise, code) {
  return promise.then(
    () => assert.fail(`expected ${code}, got an answer`),
    (err) => err,
  )
}

// rejectsWith asserts that a promise ends in this OAuth error, a 400 with a JSON body, and returns the error.
export async function rejectsWith(promise, code) {
  const error = await failure(promise, code)
  assert.ok(error instanceof client.ResponseBodyError, String(error.cause ?? error))
  assert.equal(error.error, code)
  assert.equal(error.status, 400)
  return error
}

// answersWith asserts that the answer in the redirect is this error, with the right state and issuer.
export async function answersWith(config, answer, checks, code) {
  const error = await failure(client.authorizationCodeGrant(config, answer, checks), code)
  assert.ok(error instanceof client.AuthorizationResponseError, String(error.cause ?? error))
  assert.equal(error.error, code)
}

// challenges asserts that an access token is refused with this code of RFC 6750.
export async function challenges(promise, code) {
  const error = await failure(promise, code)
  assert.ok(error instanceof client.WWWAuthenticateChallengeError, String(error.cause ?? error))
  assert.equal(error.status, 401)
  assert.equal(error.cause[0].scheme, 'bearer')
  assert.equal(error.cause[0].parameters.error, code)
}

export function checkClaims(server, tokens, { clientId, nonce }) {
  assert.equal(tokens.token_type, 'bearer')
  assert.ok(tokens.access_token)
  assert.ok(tokens.expires_in > 0 && tokens.expires_in <= 600)
  const claims = tokens.claims()
  assert.equal(claims.iss, server.issuer)
  assert.deepEqual([claims.aud].flat(), [clientId])
  assert.equal(claims.sub, 'alice-1')
  assert.equal(claims.nonce, nonce)
  assert.ok(claims.sid)
  assert.ok(claims.auth_time <= claims.iat && claims.iat < claims.exp)
  return claims
}
