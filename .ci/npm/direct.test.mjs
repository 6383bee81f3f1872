// openid-client, unmodified, as a device that another device signs in: both grants of the direct door.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import * as client from 'openid-client'
import { checkClaims, deviceCode, discover, pkce, qrCode, rejectsWith } from './client.mjs'
import { Phone } from './phone.mjs'
import { Server } from './server.mjs'

// preferWait makes every request of config a long poll of the given seconds.
function preferWait(config, seconds) {
  config[client.customFetch] = (url, options) =>
    fetch(url, { ...options, headers: { ...Object.fromEntries(new Headers(options.headers)), prefer: `wait=${seconds}` } })
}

describe('openid-client: direct door', { concurrency: true, timeout: 120_000 }, () => {
  let server
  let phone

  before(async () => {
    server = await Server.start()
    phone = await Phone.signIn(server)
  })
  after(() => server?.stop())

  test('discovery names the endpoints and both grants of the direct door', async () => {
    const metadata = (await discover(server, 'cli')).serverMetadata()
    assert.equal(metadata.issuer, server.issuer)
    assert.ok(metadata.device_authorization_endpoint)
    for (const grant of [qrCode, deviceCode, 'authorization_code', 'refresh_token']) {
      assert.ok(metadata.grant_types_supported.includes(grant), grant)
    }
  })

  test('device grant: approved on the phone while the device polls', async () => {
    const config = await discover(server, 'tv')
    const { verifier, challenge } = await pkce()
    const nonce = client.randomNonce()
    const device = await client.initiateDeviceAuthorization(config, { scope: 'openid profile', nonce, ...challenge })
    const approval = phone
      .scan(device.verification_uri_complete)
      .then((scan) => phone.decide(scan, 'approve', device.user_code))
    const tokens = await client.pollDeviceAuthorizationGrant(config, device, { code_verifier: verifier })
    assert.equal((await approval).state, 'approved')
    const claims = checkClaims(server, tokens, { clientId: 'tv', nonce })
    assert.ok(claims.amr.includes('mca'), `amr is ${claims.amr}`)
    const info = await client.fetchUserInfo(config, tokens.access_token, claims.sub)
    assert.equal(info.sub, claims.sub)
  })

  test('device grant: a denied sign-in ends the poll', async () => {
    const config = await discover(server, 'tv')
    const device = await client.initiateDeviceAuthorization(config, { scope: 'openid' })
    const scan = await phone.scan(device.verification_uri_complete)
    assert.equal((await phone.decide(scan, 'deny')).state, 'denied')
    await rejectsWith(client.pollDeviceAuthorizationGrant(config, device), 'access_denied')
  })

  test('QR grant by genericGrantRequest: pending, scanned with the check code, tokens once', async () => {
    const config = await discover(server, 'cli')
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
    const claims = checkClaims(server, tokens, { clientId: 'cli', nonce })
    assert.ok(claims.amr.includes('mca'), `amr is ${claims.amr}`)
    await rejectsWith(poll(), 'invalid_grant')
  })

  test('QR grant: another verifier is invalid_grant', async () => {
    const config = await discover(server, 'cli')
    const { challenge } = await pkce()
    const opened = await client.initiateDeviceAuthorization(config, { scope: 'openid', ...challenge })
    const wrong = client.genericGrantRequest(config, qrCode, {
      device_code: opened.device_code,
      code_verifier: client.randomPKCECodeVerifier(),
    })
    await rejectsWith(wrong, 'invalid_grant')
  })
})
