// openid-client, unmodified, against a running server.
//
// QRGRANT_ISSUER names the server, which was started with server.yaml of this folder and with
// QRGRANT_PASSWORD and QRGRANT_CLIENT_SECRET as here.

import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import * as client from 'openid-client'
import { Browser } from './browser.mjs'
import { Phone } from './phone.mjs'

const issuer = process.env.QRGRANT_ISSUER
const password = process.env.QRGRANT_PASSWORD
const secret = process.env.QRGRANT_CLIENT_SECRET
assert.ok(issuer && password && secret, 'QRGRANT_ISSUER, QRGRANT_PASSWORD and QRGRANT_CLIENT_SECRET must be set')

const person = { login: 'alice', password }
const qrCode = 'urn:qrgrant:params:oauth:grant-type:qr_code'
const deviceCode = 'urn:ietf:params:oauth:grant-type:device_code'

// discover returns a client that also checks the signature of every ID token against the JWKS.
function discover(clientId, clientSecret) {
  return client.discovery(new URL(issuer), clientId, clientSecret, clientSecret ? undefined : client.None(), {
    execute: [client.allowInsecureRequests, client.enableNonRepudiationChecks],
  })
}

// preferWait makes every request of config a long poll of the given seconds.
function preferWait(config, seconds) {
  config[client.customFetch] = (url, options) =>
    fetch(url, { ...options, headers: { ...Object.fromEntries(new Headers(options.headers)), prefer: `wait=${seconds}` } })
}

async function pkce() {
  const verifier = client.randomPKCECodeVerifier()
  return {
    verifier,
    challenge: { code_challenge: await client.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256' },
  }
}

// rejectsWith asserts that a promise ends in this OAuth error, a 400 with a JSON body, and returns the error.
async function rejectsWith(promise, code) {
  const error = await promise.then(
    () => assert.fail(`expected ${code}, got tokens`),
    (err) => err,
  )
  assert.ok(error instanceof client.ResponseBodyError, String(error.cause ?? error))
  assert.equal(error.error, code)
  assert.equal(error.status, 400)
  return error
}

function checkClaims(tokens, { clientId, nonce }) {
  assert.equal(tokens.token_type, 'bearer')
  assert.ok(tokens.access_token)
  assert.ok(tokens.expires_in > 0 && tokens.expires_in <= 600)
  const claims = tokens.claims()
  assert.equal(claims.iss, issuer)
  assert.deepEqual([claims.aud].flat(), [clientId])
  assert.ok(claims.sub)
  assert.equal(claims.nonce, nonce)
  assert.ok(claims.auth_time <= claims.iat && claims.iat < claims.exp)
  return claims
}

describe('openid-client', { concurrency: true, timeout: 120_000 }, () => {
  let phone

  before(async () => {
    phone = await Phone.signIn(issuer, {
      clientId: 'phone',
      redirectUri: 'com.example.phone:/callback',
      scope: 'openid qr:approve',
      ...person,
    })
  })

  test('discovery names the endpoints and both grants of the direct door', async () => {
    const server = (await discover('cli')).serverMetadata()
    assert.equal(server.issuer, issuer)
    assert.ok(server.device_authorization_endpoint)
    for (const grant of [qrCode, deviceCode, 'authorization_code', 'refresh_token']) {
      assert.ok(server.grant_types_supported.includes(grant), grant)
    }
  })

  test('device grant: approved on the phone while the device polls', async () => {
    const config = await discover('tv')
    const { verifier, challenge } = await pkce()
    const nonce = client.randomNonce()
    const device = await client.initiateDeviceAuthorization(config, { scope: 'openid profile', nonce, ...challenge })
    const approval = phone
      .scan(device.verification_uri_complete)
      .then((scan) => phone.decide(scan, 'approve', device.user_code))
    const tokens = await client.pollDeviceAuthorizationGrant(config, device, { code_verifier: verifier })
    assert.equal((await approval).state, 'approved')
    const claims = checkClaims(tokens, { clientId: 'tv', nonce })
    assert.ok(claims.amr.includes('mca'), `amr is ${claims.amr}`)
    const info = await client.fetchUserInfo(config, tokens.access_token, claims.sub)
    assert.equal(info.sub, claims.sub)
  })

  test('device grant: a denied sign-in ends the poll', async () => {
    const config = await discover('tv')
    const device = await client.initiateDeviceAuthorization(config, { scope: 'openid' })
    const scan = await phone.scan(device.verification_uri_complete)
    assert.equal((await phone.decide(scan, 'deny')).state, 'denied')
    await rejectsWith(client.pollDeviceAuthorizationGrant(config, device), 'access_denied')
  })

  test('QR grant by genericGrantRequest: pending, scanned with the check code, tokens once', async () => {
    const config = await discover('cli')
    const { verifier, challenge } = await pkce()
    const nonce = client.randomNonce()
    const opened = await client.initiateDeviceAuthorization(config, { scope: 'openid profile', nonce, ...challenge })
    assert.equal(opened.interval, 5)
    assert.equal(opened.verification_uri_complete, undefined)
    assert.match(opened.qr.payload, /\/Q#1[A-Z2-7]{44}$/)

    preferWait(config, 10)
    const poll = (seq) =>
      client.genericGrantRequest(config, qrCode, {
        device_code: opened.device_code,
        code_verifier: verifier,
        ...(seq === undefined ? {} : { qr_seq: String(seq) }),
      })
    let scan
    let approval
    let tokens
    let seq
    for (let polls = 0; !tokens; polls++) {
      assert.ok(polls < 10, 'too many polls')
      const polling = poll(seq)
      // A person takes a moment, so the scan meets a poll that is already held; if it did not, this only lasts longer.
      scan ??= sleep(250).then(() => phone.scan(opened.qr.payload))
      try {
        tokens = await polling
      } catch (err) {
        if (!(err instanceof client.ResponseBodyError)) throw err
        assert.equal(err.status, 400)
        assert.equal(err.error, 'authorization_pending')
        seq = err.cause.qr_seq
        if (err.cause.qr_status === 'scanned') {
          assert.match(err.cause.check_code, /^[1-9][0-9]$/)
          approval ??= phone.decide(await scan, 'approve', err.cause.check_code)
        }
        // Only a poll that was not held owes the interval.
        if (!err.response.headers.has('preference-applied')) await sleep(opened.interval * 1000)
      }
    }
    assert.equal((await approval).state, 'approved')
    const claims = checkClaims(tokens, { clientId: 'cli', nonce })
    assert.ok(claims.amr.includes('mca'), `amr is ${claims.amr}`)
    await rejectsWith(poll(), 'invalid_grant')
  })

  test('QR grant: another verifier is invalid_grant', async () => {
    const config = await discover('cli')
    const { challenge } = await pkce()
    const opened = await client.initiateDeviceAuthorization(config, { scope: 'openid', ...challenge })
    const wrong = client.genericGrantRequest(config, qrCode, {
      device_code: opened.device_code,
      code_verifier: client.randomPKCECodeVerifier(),
    })
    await rejectsWith(wrong, 'invalid_grant')
  })

  test('authorization code with PKCE, refresh, introspection and revocation', async () => {
    const config = await discover('web', secret)
    const { verifier, challenge } = await pkce()
    const expectedState = client.randomState()
    const expectedNonce = client.randomNonce()
    const redirectUri = 'http://127.0.0.1:9/callback'
    const start = client.buildAuthorizationUrl(config, {
      redirect_uri: redirectUri,
      scope: 'openid profile offline_access',
      prompt: 'consent',
      state: expectedState,
      nonce: expectedNonce,
      ...challenge,
    })
    const back = await new Browser().authorize(start, redirectUri, person)
    const checks = { pkceCodeVerifier: verifier, expectedState, expectedNonce, idTokenExpected: true }
    const first = await client.authorizationCodeGrant(config, back, checks)
    const claims = checkClaims(first, { clientId: 'web', nonce: expectedNonce })
    assert.ok(!(claims.amr ?? []).includes('mca'), 'a password sign-in is not a QR approval')
    assert.equal((await client.fetchUserInfo(config, first.access_token, claims.sub)).sub, claims.sub)

    const second = await client.refreshTokenGrant(config, first.refresh_token)
    assert.notEqual(second.access_token, first.access_token)
    assert.notEqual(second.refresh_token, first.refresh_token)
    assert.equal(second.claims()?.sub ?? claims.sub, claims.sub)

    const live = await client.tokenIntrospection(config, second.access_token)
    assert.equal(live.active, true)
    assert.equal(live.sub, claims.sub)
    assert.equal(live.client_id, 'web')

    await client.tokenRevocation(config, second.refresh_token)
    assert.deepEqual(await client.tokenIntrospection(config, second.access_token), { active: false })
    await rejectsWith(client.refreshTokenGrant(config, second.refresh_token), 'invalid_grant')
  })
})
