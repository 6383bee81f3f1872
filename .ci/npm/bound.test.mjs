// openid-client, unmodified, as a client with a key: pushed and signed requests, tokens that are bound and made for one
// resource server, and clients that register themselves.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from 'jose'
import * as client from 'openid-client'
import { Browser } from './browser.mjs'
import {
  answersWith,
  checkClaims,
  discover,
  pkce,
  prefer,
  qrCode,
  question,
  rejectsWith,
  request,
  scannedByPhone,
} from './client.mjs'
import { Phone } from './phone.mjs'
import { Server } from './server.mjs'

const accounts = 'https://api.example/accounts'

describe('openid-client: keys', { concurrency: false, timeout: 120_000 }, () => {
  let server
  let bank

  before(async () => {
    server = await Server.start()
    bank = await discover(server, 'bank', { key: server.keys.ES256 })
  })
  after(() => server?.stop())

  // watched counts the requests that the server answers with use_dpop_nonce, which the library sends once more.
  function watched(config) {
    const asked = { paths: [] }
    config[client.customFetch] = async (url, options) => {
      const response = await fetch(url, options)
      const challenge = response.headers.get('www-authenticate') ?? ''
      const body = response.status === 400 ? await response.clone().json() : {}
      if (body.error === 'use_dpop_nonce' || challenge.includes('error="use_dpop_nonce"')) {
        assert.ok(response.headers.get('dpop-nonce'), 'a nonce to use')
        asked.paths.push(new URL(url).pathname)
      }
      return response
    }
    return asked
  }

  // pushed signs in with a request that is pushed.
  async function pushed(config, DPoP, parameters) {
    const redirect_uri = `${server.party.origin}/bank`
    const { asked, checks } = await question({ redirect_uri, ...parameters })
    const form = new URLSearchParams(asked)
    // The access token is for userinfo and for one resource server.
    form.append('resource', server.issuer)
    form.append('resource', accounts)
    const url = await client.buildAuthorizationUrlWithPAR(config, form, { DPoP })
    assert.deepEqual([...url.searchParams.keys()].sort(), ['client_id', 'request_uri'])
    return { answer: await new Browser().signIn(url, server.person), checks, url }
  }

  async function accessToken(config, token, audience, DPoP) {
    const keys = createRemoteJWKSet(new URL(config.serverMetadata().jwks_uri))
    const { payload } = await jwtVerify(token, keys, {
      issuer: server.issuer,
      audience,
      typ: 'at+jwt',
      algorithms: ['ES256'],
      requiredClaims: ['exp', 'iat', 'jti', 'sub', 'client_id'],
    })
    assert.equal(payload.sub, 'alice-1')
    assert.deepEqual([payload.aud].flat().sort(), [audience].flat().sort())
    assert.deepEqual(payload.cnf, { jkt: await DPoP.calculateThumbprint() })
    return payload
  }

  test('private_key_jwt, pushed request, DPoP with the nonce of the server, JWT access token, one resource', async () => {
    const config = await discover(server, 'bank', { key: server.keys.ES256 })
    const asked = watched(config)
    const DPoP = client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256'))
    const offline = { scope: 'openid profile offline_access', prompt: 'consent' }
    const { answer, checks } = await pushed(config, DPoP, offline)
    assert.deepEqual(asked.paths, ['/par'], 'the first proof has no nonce, and the library asks again')

    const tokens = await client.authorizationCodeGrant(config, answer, checks, { resource: server.issuer }, { DPoP })
    const claims = checkClaims(server, tokens, { clientId: 'bank', nonce: checks.expectedNonce, type: 'dpop' })
    const payload = await accessToken(config, tokens.access_token, server.issuer, DPoP)
    assert.equal(payload.client_id, 'bank')
    assert.equal(payload.sid, claims.sid)
    assert.deepEqual(payload.scope.split(' ').sort(), ['offline_access', 'openid', 'profile'])
    const info = await client.fetchUserInfo(config, tokens.access_token, claims.sub, { DPoP })
    assert.equal(info.name, 'Alice Example')

    const next = await client.refreshTokenGrant(config, tokens.refresh_token, { resource: accounts }, { DPoP })
    assert.equal(next.token_type, 'dpop')
    await accessToken(config, next.access_token, accounts, DPoP)
    // What is for the accounts is for them alone.
    const elsewhere = client.fetchUserInfo(config, next.access_token, claims.sub, { DPoP })
    await assert.rejects(elsewhere, (err) => err.cause[0].parameters.error === 'invalid_token')
    assert.deepEqual(asked.paths, ['/par'], 'every other proof had the nonce')

    const resourceServer = await discover(server, 'accounts', { secret: server.secret })
    const told = await client.tokenIntrospection(resourceServer, next.access_token)
    assert.equal(told.active, true)
    assert.deepEqual(told.cnf, { jkt: await DPoP.calculateThumbprint() })
    assert.deepEqual([told.aud].flat(), [accounts])
    const foreign = await client.tokenIntrospection(resourceServer, tokens.access_token)
    assert.deepEqual(foreign, { active: false }, 'the other token is none of its business')
  })

  test('the nonce is asked for at the token endpoint and at userinfo too', async () => {
    const config = await discover(server, 'bank', { key: server.keys.ES256 })
    const pair = await client.randomDPoPKeyPair('ES256')
    const handle = () => client.getDPoPHandle(config, pair)
    const { answer, checks } = await pushed(config, handle())
    const asked = watched(config)
    // Every handle is new, and knows no nonce.
    const narrow = { resource: server.issuer }
    const tokens = await client.authorizationCodeGrant(config, answer, checks, narrow, { DPoP: handle() })
    const { sub } = checkClaims(server, tokens, { clientId: 'bank', nonce: checks.expectedNonce, type: 'dpop' })
    assert.equal((await client.fetchUserInfo(config, tokens.access_token, sub, { DPoP: handle() })).sub, sub)
    assert.deepEqual(asked.paths, ['/token', '/userinfo'])
  })

  test('without a push, without the key or with another one there is nothing', async () => {
    const { url, checks } = await request(bank, { redirect_uri: `${server.party.origin}/bank` })
    const page = await new Browser().open(url)
    await answersWith(bank, page.left, checks, 'invalid_request')

    const DPoP = client.getDPoPHandle(bank, await client.randomDPoPKeyPair('ES256'))
    const first = await pushed(bank, DPoP)
    await rejectsWith(client.authorizationCodeGrant(bank, first.answer, first.checks), 'invalid_dpop_proof')
    const other = client.getDPoPHandle(bank, await client.randomDPoPKeyPair('ES256'))
    const swapped = client.authorizationCodeGrant(bank, first.answer, first.checks, undefined, { DPoP: other })
    await rejectsWith(swapped, 'invalid_grant')

    // A request that was pushed is used once.
    const again = await new Browser().open(first.url)
    assert.equal(again.left, undefined)
    assert.equal(again.status, 400)
  })

  test('EdDSA: assertions, a signed request, ID token and userinfo', async () => {
    const key = server.keys.EdDSA
    const metadata = { userinfo_signed_response_alg: 'EdDSA' }
    const config = await discover(server, 'edwards', { key, alg: 'EdDSA', metadata })
    const { asked, checks } = await question({ redirect_uri: `${server.party.origin}/edwards` })
    const plain = await new Browser().open(client.buildAuthorizationUrl(config, asked))
    await answersWith(config, plain.left, checks, 'invalid_request')

    const url = await client.buildAuthorizationUrlWithJAR(config, asked, key.privateKey)
    assert.deepEqual([...url.searchParams.keys()].sort(), ['client_id', 'request'])
    const tokens = await client.authorizationCodeGrant(config, await new Browser().signIn(url, server.person), checks)
    const { sub } = checkClaims(server, tokens, { clientId: 'edwards', nonce: checks.expectedNonce })
    assert.equal(decodeProtectedHeader(tokens.id_token).alg, 'EdDSA')
    assert.equal((await client.fetchUserInfo(config, tokens.access_token, sub)).name, 'Alice Example')

    // Signed and pushed at once.
    const next = await question({ redirect_uri: `${server.party.origin}/edwards` })
    const signed = await client.buildAuthorizationUrlWithJAR(config, next.asked, key.privateKey)
    const both = await client.buildAuthorizationUrlWithPAR(config, signed.searchParams)
    const answer = await new Browser().signIn(both, server.person)
    checkClaims(server, await client.authorizationCodeGrant(config, answer, next.checks), {
      clientId: 'edwards',
      nonce: next.checks.expectedNonce,
    })

    // The keys of others sign nothing.
    const foreign = await client.buildAuthorizationUrlWithJAR(config, next.asked, server.keys.ES256.privateKey)
    const refused = await new Browser().open(foreign)
    assert.ok(!refused.has('sign-in'), String(refused))
  })

  test('hybrid: code and ID token by fragment and by form', async () => {
    const execute = [client.useCodeIdTokenResponseType]
    const config = await discover(server, 'hybrid', { secret: server.secret, execute })
    const redirect_uri = `${server.party.origin}/hybrid`
    for (const response_mode of ['fragment', 'form_post']) {
      const { url, checks } = await request(config, { redirect_uri, response_mode })
      assert.equal(url.searchParams.get('response_type'), 'code id_token')
      const browser = new Browser()
      let answer
      if (response_mode === 'fragment') {
        answer = await browser.signIn(url, server.person)
        assert.equal(answer.search, '')
        assert.ok(answer.hash.includes('id_token='))
      } else {
        let page = await browser.open(url)
        page = await browser.press(page, 'sign-in', server.person)
        if (page.has('allow')) page = await browser.press(page, 'allow')
        await browser.press(page, 'continue')
        answer = (await server.party.until('/hybrid', 1))[0]
      }
      const tokens = await client.authorizationCodeGrant(config, answer, checks)
      checkClaims(server, tokens, { clientId: 'hybrid', nonce: checks.expectedNonce })
    }
  })

  test('device grant: the key of the start is the key of the tokens', async () => {
    const config = await discover(server, 'tv')
    const phone = await Phone.signIn(server)
    const DPoP = client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256'))
    const { verifier, challenge } = await pkce()
    const nonce = client.randomNonce()
    const dpop_jkt = await DPoP.calculateThumbprint()
    const device = await client.initiateDeviceAuthorization(config, { scope: 'openid', nonce, dpop_jkt, ...challenge })
    const scan = await phone.scan(device.verification_uri_complete)
    await phone.decide(scan, 'approve', device.user_code)

    const thief = client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256'))
    // The library waits before each poll, and again for one that lacked the nonce. What is approved is not too early.
    const soon = { ...device, interval: 1 }
    const poll = (handle) =>
      client.pollDeviceAuthorizationGrant(config, soon, { code_verifier: verifier }, { DPoP: handle })
    await rejectsWith(poll(thief), 'invalid_grant')
    const tokens = await poll(DPoP)
    const { sub } = checkClaims(server, tokens, { clientId: 'tv', nonce, type: 'dpop' })
    assert.equal((await client.fetchUserInfo(config, tokens.access_token, sub, { DPoP })).sub, sub)
    await assert.rejects(client.fetchUserInfo(config, tokens.access_token, sub, { DPoP: thief }))
    await assert.rejects(client.fetchUserInfo(config, tokens.access_token, sub))
  })

  test('QR grant by genericGrantRequest with DPoP: bound JWT access token, refresh', async () => {
    const config = await discover(server, 'desktop')
    const DPoP = client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256'))
    const { verifier, challenge } = await pkce()
    const nonce = client.randomNonce()
    const opened = await client.initiateDeviceAuthorization(config, {
      scope: 'openid profile offline_access',
      nonce,
      dpop_jkt: await DPoP.calculateThumbprint(),
      ...challenge,
    })
    config[client.customFetch] = prefer(10)
    const poll = (seq) =>
      client.genericGrantRequest(
        config,
        qrCode,
        {
          device_code: opened.device_code,
          code_verifier: verifier,
          ...(seq === undefined ? {} : { qr_seq: String(seq) }),
        },
        { DPoP },
      )
    const tokens = await scannedByPhone(await Phone.signIn(server), opened, poll, (err) => {
      if (!(err instanceof client.ResponseBodyError)) throw err
      return err.cause
    })
    const { sub, amr } = checkClaims(server, tokens, { clientId: 'desktop', nonce, type: 'dpop' })
    assert.ok(amr.includes('mca'))
    const payload = await accessToken(config, tokens.access_token, server.issuer, DPoP)
    assert.ok(payload.exp - payload.iat <= 300, 'nobody can take it back from a resource server')
    assert.equal((await client.fetchUserInfo(config, tokens.access_token, sub, { DPoP })).sub, sub)
    await assert.rejects(client.refreshTokenGrant(config, tokens.refresh_token), (err) => err.status === 400)
    const next = await client.refreshTokenGrant(config, tokens.refresh_token, undefined, { DPoP })
    await accessToken(config, next.access_token, server.issuer, DPoP)
  })

  describe('registration', () => {
    const execute = [client.allowInsecureRequests, client.enableNonRepudiationChecks]

    function register(metadata, authentication, initialAccessToken = server.initialToken) {
      const redirect_uris = [`${server.party.origin}/registered`]
      const said = { client_name: 'A new one', redirect_uris, scope: 'openid profile', ...metadata }
      const options = { execute, initialAccessToken }
      return client.dynamicClientRegistration(new URL(server.issuer), said, authentication, options)
    }

    async function signIn(config) {
      const { url, checks } = await request(config, { redirect_uri: `${server.party.origin}/registered` })
      const tokens = await client.authorizationCodeGrant(config, await new Browser().signIn(url, server.person), checks)
      const { client_id } = config.clientMetadata()
      return checkClaims(server, tokens, { clientId: client_id, nonce: checks.expectedNonce })
    }

    // manage sends a request to the client's own address (RFC 7592), which the library does not know.
    function manage(config, method, body) {
      const { registration_client_uri, registration_access_token } = config.clientMetadata()
      return fetch(registration_client_uri, {
        method,
        headers: {
          authorization: `Bearer ${registration_access_token}`,
          ...(body ? { 'content-type': 'application/json' } : {}),
        },
        body: body && JSON.stringify(body),
      })
    }

    test('with a secret: registered, signed in, changed, removed', async () => {
      const config = await register({ token_endpoint_auth_method: 'client_secret_post' })
      const registered = config.clientMetadata()
      assert.equal(registered.client_secret_expires_at, 0)
      await signIn(config)

      const read = await (await manage(config, 'GET')).json()
      assert.equal(read.client_name, 'A new one')
      assert.equal(read.client_id, registered.client_id)
      const { registration_client_uri, registration_access_token, client_id_issued_at, ...kept } = read
      const changed = await manage(config, 'PUT', { ...kept, client_name: 'Another name' })
      assert.equal(changed.status, 200)
      assert.equal((await changed.json()).client_name, 'Another name')
      await signIn(config)

      assert.equal((await manage(config, 'DELETE')).status, 204)
      assert.equal((await manage(config, 'GET')).status, 401)
      const gone = await new Browser().open((await request(config, { redirect_uri: registered.redirect_uris[0] })).url)
      assert.equal(gone.status, 400, String(gone))
    })

    for (const alg of ['ES256', 'EdDSA']) {
      test(`with a key for ${alg}`, async () => {
        const key = server.keys[alg]
        const metadata = {
          token_endpoint_auth_method: 'private_key_jwt',
          token_endpoint_auth_signing_alg: alg,
          id_token_signed_response_alg: alg,
          jwks: key.jwks,
        }
        const config = await register(metadata, client.PrivateKeyJwt(key.privateKey))
        assert.equal(config.clientMetadata().client_secret, undefined)
        await signIn(config)
      })
    }

    test('without the initial access token, and for what is not theirs to have: refused', async () => {
      const unknown = register({}, undefined, 'another-token')
      await assert.rejects(unknown, (err) => err.cause[0]?.parameters.error === 'invalid_token')
      const fragment = { redirect_uris: ['https://web.example/#x'] }
      for (const metadata of [{ grant_types: [qrCode] }, { scope: 'openid qr:approve' }, fragment]) {
        await assert.rejects(register(metadata), (err) => err.status === 400 && /^invalid_/.test(err.error))
      }
    })
  })
})
