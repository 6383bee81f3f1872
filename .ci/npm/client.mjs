// What the tests of openid-client share.

import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import * as client from 'openid-client'

export const qrCode = 'urn:qrgrant:params:oauth:grant-type:qr_code'
export const deviceCode = 'urn:ietf:params:oauth:grant-type:device_code'

// discover returns a client that also checks the signature of every ID token against the JWKS, and that it is
// made with the algorithm that is registered in server.yaml.
export function discover(server, clientId, { secret, key, alg = 'ES256', metadata, execute = [] } = {}) {
  let authentication = secret ? client.ClientSecretBasic(secret) : client.None()
  if (key) authentication = client.PrivateKeyJwt(key.privateKey)
  const said = { id_token_signed_response_alg: alg, ...metadata }
  return client.discovery(new URL(server.issuer), clientId, said, authentication, {
    execute: [client.allowInsecureRequests, client.enableNonRepudiationChecks, ...execute],
  })
}

export async function pkce() {
  const verifier = client.randomPKCECodeVerifier()
  return {
    verifier,
    challenge: { code_challenge: await client.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256' },
  }
}

// question makes the parameters of an authorization request with PKCE, state and nonce, and what its answer must be
// checked against.
export async function question(parameters) {
  const { verifier, challenge } = await pkce()
  const expectedState = client.randomState()
  const expectedNonce = client.randomNonce()
  const asked = { scope: 'openid profile', state: expectedState, nonce: expectedNonce, ...challenge, ...parameters }
  return { asked, checks: { pkceCodeVerifier: verifier, expectedState, expectedNonce, idTokenExpected: true } }
}

// request is question as an address.
export async function request(config, parameters) {
  const { asked, checks } = await question(parameters)
  return { url: client.buildAuthorizationUrl(config, asked), checks }
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

// scannedByPhone polls for the tokens of a session while the phone scans what the screen shows and approves it. poll
// is given the qr_seq of the last answer; bodyOf takes the OAuth error out of what it throws.
export async function scannedByPhone(phone, opened, poll, bodyOf) {
  let scan
  let approval
  let seq
  for (let polls = 0; polls < 10; polls++) {
    const polling = poll(seq)
    // A person takes a moment, so the scan meets a poll that is already held; if it did not, this only lasts longer.
    scan ??= sleep(250).then(() => phone.scan(opened.qr.payload))
    try {
      const tokens = await polling
      assert.equal((await approval).state, 'approved')
      return tokens
    } catch (err) {
      const body = bodyOf(err)
      assert.equal(err.status, 400)
      assert.equal(body.error, 'authorization_pending')
      seq = body.qr_seq
      if (body.qr_status === 'scanned') {
        assert.match(body.check_code, /^[1-9][0-9]$/)
        approval ??= phone.decide(await scan, 'approve', body.check_code)
      }
      // Only a poll that was not held owes the interval.
      if (!err.response.headers.has('preference-applied')) await sleep(opened.interval * 1000)
    }
  }
  return assert.fail('too many polls')
}

// prefer has every request of fetch ask for an answer that waits for the given seconds.
export function prefer(seconds) {
  return (url, options) =>
    fetch(url, { ...options, headers: { ...Object.fromEntries(new Headers(options.headers)), prefer: `wait=${seconds}` } })
}

export function checkClaims(server, tokens, { clientId, nonce, type = 'bearer' }) {
  assert.equal(tokens.token_type, type)
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
