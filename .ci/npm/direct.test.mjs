// openid-client, unmodified, as a device that another device signs in: both grants of the direct door.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import * as client from 'openid-client'
import { checkClaims, deviceCode, discover, pkce, prefer, qrCode, rejectsWith, scannedByPhone } from './client.mjs'
import { Phone } from './phone.mjs'
import { Server } from './server.mjs'

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

    config[client.customFetch] = prefer(10)
    const poll = (seq) =>
      client.genericGrantRequest(config, qrCode, {
        device_code: opened.device_code,
        code_verifier: verifier,
        ...(seq === undefined ? {} : { qr_seq: String(seq) }),
      })
    const tokens = await scannedByPhone(phone, opened, poll, (err) => {
      if (!(err instanceof client.ResponseBodyError)) throw err
      return err.cause
    })
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
