// oauth4webapi, unmodified: the same as bound.test.mjs with a library that does one step at a time.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import * as oauth from 'oauth4webapi'
import { Browser } from './browser.mjs'
import { prefer, qrCode, scannedByPhone } from './client.mjs'
import { Phone } from './phone.mjs'
import { Server } from './server.mjs'

const accounts = 'https://api.example/accounts'
const insecure = { [oauth.allowInsecureRequests]: true }

describe('oauth4webapi', { concurrency: false, timeout: 120_000 }, () => {
  let server
  let as

  before(async () => {
    server = await Server.start()
    const issuer = new URL(server.issuer)
    as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, insecure))
  })
  after(() => server?.stop())

  // keyed is a client with a key and how it authenticates.
  function keyed(client_id, key, metadata) {
    return { client: { client_id, ...metadata }, authentication: oauth.PrivateKeyJwt(key.privateKey) }
  }

  async function proving(client) {
    return oauth.DPoP(client, await oauth.generateKeyPair('ES256'))
  }

  // step sends a request and reads its answer, once more when the server asks for its nonce. nonces counts those.
  const nonces = { asked: 0 }
  async function step(send, read) {
    try {
      return await read(await send())
    } catch (err) {
      if (!oauth.isDPoPNonceError(err)) throw err
      nonces.asked++
      return read(await send())
    }
  }

  function failsWith(promise, code) {
    return assert.rejects(promise, (err) => {
      assert.ok(err instanceof oauth.ResponseBodyError, String(err.cause ?? err))
      return err.status === 400 && err.error === code
    })
  }

  // question makes the parameters of an authorization request.
  async function question(client, parameters) {
    const verifier = oauth.generateRandomCodeVerifier()
    const state = oauth.generateRandomState()
    const nonce = oauth.generateRandomNonce()
    const asked = new URLSearchParams({
      client_id: client.client_id,
      response_type: 'code',
      scope: 'openid profile',
      state,
      nonce,
      code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
      ...parameters,
    })
    return { asked, verifier, state, nonce, redirect: parameters.redirect_uri }
  }

  function authorization(parameters) {
    const url = new URL(as.authorization_endpoint)
    url.search = new URLSearchParams(parameters)
    return url
  }

  // redeem takes the answer in the redirect to the tokens.
  async function redeem({ client, authentication, DPoP }, back, { verifier, state, nonce, redirect }, more) {
    const answer = oauth.validateAuthResponse(as, client, back, state)
    const options = { ...insecure, DPoP, additionalParameters: more }
    const tokens = await step(
      () => oauth.authorizationCodeGrantRequest(as, client, authentication, answer, redirect, verifier, options),
      async (response) => {
        const read = { expectedNonce: nonce, requireIdToken: true }
        const result = await oauth.processAuthorizationCodeResponse(as, client, response, read)
        await oauth.validateApplicationLevelSignature(as, response, insecure)
        return result
      },
    )
    return { tokens, claims: oauth.getValidatedIdTokenClaims(tokens) }
  }

  function userinfo({ client, DPoP }, token, sub) {
    return step(
      () => oauth.userInfoRequest(as, client, token, { ...insecure, DPoP }),
      (response) => oauth.processUserInfoResponse(as, client, sub, response),
    )
  }

  // asResourceServer has the library judge a request that a client would send to a resource server.
  async function asResourceServer(token, audience, DPoP) {
    let arrived
    const url = new URL(audience)
    await oauth.protectedResourceRequest(token, 'GET', url, undefined, undefined, {
      DPoP,
      [oauth.allowInsecureRequests]: true,
      [oauth.customFetch](to, options) {
        arrived = new Request(to, options)
        return new Response('{}')
      },
    })
    return oauth.validateJwtAccessToken(as, arrived, audience, { ...insecure, requireDPoP: true })
  }

  test('private_key_jwt, pushed request, DPoP with the nonce of the server, refresh, JWT access token', async () => {
    const bank = keyed('bank', server.keys.ES256)
    bank.DPoP = await proving(bank.client)
    const before = nonces.asked
    const redirect_uri = `${server.party.origin}/bank`
    const offline = { scope: 'openid profile offline_access', prompt: 'consent' }
    const request = await question(bank.client, { redirect_uri, ...offline })
    request.asked.append('resource', server.issuer)
    request.asked.append('resource', accounts)
    const options = { ...insecure, DPoP: bank.DPoP }
    const pushed = await step(
      () => oauth.pushedAuthorizationRequest(as, bank.client, bank.authentication, request.asked, options),
      (response) => oauth.processPushedAuthorizationResponse(as, bank.client, response),
    )
    assert.equal(nonces.asked, before + 1)
    assert.match(pushed.request_uri, /^urn:ietf:params:oauth:request_uri:/)
    const link = authorization({ client_id: 'bank', request_uri: pushed.request_uri })
    const back = await new Browser().signIn(link, server.person)
    const { tokens, claims } = await redeem(bank, back, request, { resource: accounts })
    assert.equal(tokens.token_type, 'dpop')

    const judged = await asResourceServer(tokens.access_token, accounts, bank.DPoP)
    assert.equal(judged.sub, claims.sub)
    assert.deepEqual([judged.aud].flat(), [accounts])
    const keys = createRemoteJWKSet(new URL(as.jwks_uri))
    const { payload } = await jwtVerify(tokens.access_token, keys, {
      issuer: server.issuer,
      audience: accounts,
      typ: 'at+jwt',
    })
    assert.deepEqual(payload.cnf, { jkt: await bank.DPoP.calculateThumbprint() })
    await assert.rejects(asResourceServer(tokens.access_token, `${accounts}/other`, bank.DPoP))
    await assert.rejects(asResourceServer(tokens.access_token, accounts, await proving(bank.client)))

    const refresh = (DPoP) =>
      step(
        () =>
          oauth.refreshTokenGrantRequest(as, bank.client, bank.authentication, tokens.refresh_token, {
            ...insecure,
            DPoP,
            additionalParameters: { resource: server.issuer },
          }),
        (response) => oauth.processRefreshTokenResponse(as, bank.client, response),
      )
    await failsWith(refresh(undefined), 'invalid_dpop_proof')
    const next = await refresh(bank.DPoP)
    assert.equal(next.token_type, 'dpop')
    assert.equal((await userinfo(bank, next.access_token, claims.sub)).name, 'Alice Example')
    // One is for another audience, the other comes without its key.
    const unbound = { client: bank.client }
    await assert.rejects(userinfo(bank, tokens.access_token, claims.sub), oauth.WWWAuthenticateChallengeError)
    await assert.rejects(userinfo(unbound, next.access_token, claims.sub), oauth.WWWAuthenticateChallengeError)

    const resourceServer = { client_id: 'accounts' }
    const secret = oauth.ClientSecretBasic(server.secret)
    const answer = await oauth.introspectionRequest(as, resourceServer, secret, tokens.access_token, insecure)
    const told = await oauth.processIntrospectionResponse(as, resourceServer, answer)
    assert.equal(told.active, true)
    assert.deepEqual(told.cnf, payload.cnf)
  })

  test('EdDSA: assertion, a signed request, ID token, signed userinfo', async () => {
    const key = server.keys.EdDSA
    const signs = { id_token_signed_response_alg: 'EdDSA', userinfo_signed_response_alg: 'EdDSA' }
    const edwards = keyed('edwards', key, signs)
    const request = await question(edwards.client, { redirect_uri: `${server.party.origin}/edwards` })
    const object = await oauth.issueRequestObject(as, edwards.client, request.asked, key.privateKey)
    const link = authorization({ client_id: 'edwards', request: object })
    const { tokens, claims } = await redeem(edwards, await new Browser().signIn(link, server.person), request)
    const response = await oauth.userInfoRequest(as, edwards.client, tokens.access_token, insecure)
    assert.equal(response.headers.get('content-type'), 'application/jwt')
    const info = await oauth.processUserInfoResponse(as, edwards.client, claims.sub, response)
    await oauth.validateApplicationLevelSignature(as, response, insecure)
    assert.equal(info.name, 'Alice Example')

    // An object whose claims were changed is no object of the client's.
    const [header, payload, signature] = object.split('.')
    const claimsOf = JSON.parse(Buffer.from(payload, 'base64url').toString())
    const forged = Buffer.from(JSON.stringify({ ...claimsOf, scope: 'openid' })).toString('base64url')
    const tampered = authorization({ client_id: 'edwards', request: [header, forged, signature].join('.') })
    const page = await new Browser().open(tampered)
    assert.ok(!page.has('sign-in'), String(page))
  })

  test('hybrid: code and ID token in the fragment', async () => {
    const hybrid = { client: { client_id: 'hybrid' }, authentication: oauth.ClientSecretBasic(server.secret) }
    const redirect_uri = `${server.party.origin}/hybrid`
    const request = await question(hybrid.client, { redirect_uri, response_type: 'code id_token' })
    const back = await new Browser().signIn(authorization(request.asked), server.person)
    const validate = (nonce) =>
      oauth.validateCodeIdTokenResponse(as, hybrid.client, back, nonce, request.state, undefined, insecure)
    const answer = await validate(request.nonce)
    const response = await oauth.authorizationCodeGrantRequest(
      as,
      hybrid.client,
      hybrid.authentication,
      answer,
      request.redirect,
      request.verifier,
      insecure,
    )
    const tokens = await oauth.processAuthorizationCodeResponse(as, hybrid.client, response, {
      expectedNonce: request.nonce,
      requireIdToken: true,
    })
    assert.equal(oauth.getValidatedIdTokenClaims(tokens).sub, 'alice-1')
    await assert.rejects(validate('another-nonce'))
  })

  // opened starts a session at the direct door that is bound to the key.
  async function opened(device, scope) {
    const verifier = oauth.generateRandomCodeVerifier()
    const nonce = oauth.generateRandomNonce()
    const parameters = {
      scope,
      nonce,
      dpop_jkt: await device.DPoP.calculateThumbprint(),
      code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    }
    const response = await oauth.deviceAuthorizationRequest(as, device.client, oauth.None(), parameters, insecure)
    return { verifier, nonce, session: await oauth.processDeviceAuthorizationResponse(as, device.client, response) }
  }

  test('device grant with DPoP', async () => {
    const tv = { client: { client_id: 'tv' } }
    tv.DPoP = await proving(tv.client)
    const { verifier, nonce, session } = await opened(tv, 'openid profile')
    const phone = await Phone.signIn(server)
    const poll = (DPoP) =>
      step(
        () =>
          oauth.deviceCodeGrantRequest(as, tv.client, oauth.None(), session.device_code, {
            ...insecure,
            DPoP,
            additionalParameters: { code_verifier: verifier },
          }),
        (response) => oauth.processDeviceCodeResponse(as, tv.client, response),
      )
    await failsWith(poll(tv.DPoP), 'authorization_pending')
    await phone.decide(await phone.scan(session.verification_uri_complete), 'approve', session.user_code)
    await failsWith(poll(await proving(tv.client)), 'invalid_grant')
    await failsWith(poll(undefined), 'invalid_grant')
    await sleep(session.interval * 1000)
    const tokens = await poll(tv.DPoP)
    const claims = oauth.getValidatedIdTokenClaims(tokens)
    assert.equal(tokens.token_type, 'dpop')
    assert.equal(claims.nonce, nonce)
    assert.equal((await userinfo(tv, tokens.access_token, claims.sub)).sub, 'alice-1')
  })

  test('QR grant by genericTokenEndpointRequest with DPoP', async () => {
    const desktop = { client: { client_id: 'desktop' } }
    desktop.DPoP = await proving(desktop.client)
    const { verifier, nonce, session } = await opened(desktop, 'openid profile')
    const held = { ...insecure, DPoP: desktop.DPoP, [oauth.customFetch]: prefer(10) }
    const poll = (seq) => {
      const parameters = { device_code: session.device_code, code_verifier: verifier }
      if (seq !== undefined) parameters.qr_seq = String(seq)
      return step(
        () => oauth.genericTokenEndpointRequest(as, desktop.client, oauth.None(), qrCode, parameters, held),
        (response) => oauth.processGenericTokenEndpointResponse(as, desktop.client, response),
      )
    }
    const tokens = await scannedByPhone(await Phone.signIn(server), session, poll, (err) => {
      if (!(err instanceof oauth.ResponseBodyError)) throw err
      return err.cause
    })
    const claims = oauth.getValidatedIdTokenClaims(tokens)
    assert.equal(tokens.token_type, 'dpop')
    assert.equal(claims.nonce, nonce)
    assert.ok(claims.amr.includes('mca'))
    assert.equal((await asResourceServer(tokens.access_token, server.issuer, desktop.DPoP)).client_id, 'desktop')
    assert.equal((await userinfo(desktop, tokens.access_token, claims.sub)).name, 'Alice Example')
    await failsWith(poll(), 'invalid_grant')
  })

  test('registration with an initial access token, and management', async () => {
    const redirect_uri = `${server.party.origin}/registered`
    const metadata = {
      redirect_uris: [redirect_uri],
      token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: 'ES256',
      id_token_signed_response_alg: 'ES256',
      jwks: server.keys.ES256.jwks,
    }
    const register = async (initialAccessToken) => {
      const response = await oauth.dynamicClientRegistrationRequest(as, metadata, { ...insecure, initialAccessToken })
      return oauth.processDynamicClientRegistrationResponse(response)
    }
    await assert.rejects(register(undefined), oauth.WWWAuthenticateChallengeError)
    const registered = await register(server.initialToken)
    const { client, authentication } = keyed(registered.client_id, server.keys.ES256, registered)
    const request = await question(client, { redirect_uri, scope: 'openid' })
    const back = await new Browser().signIn(authorization(request.asked), server.person)
    const { claims } = await redeem({ client, authentication }, back, request)
    assert.equal(claims.sub, 'alice-1')

    const manage = (method) =>
      oauth.protectedResourceRequest(
        registered.registration_access_token,
        method,
        new URL(registered.registration_client_uri),
        undefined,
        undefined,
        insecure,
      )
    assert.equal((await (await manage('GET')).json()).client_id, registered.client_id)
    assert.equal((await manage('DELETE')).status, 204)
    await assert.rejects(manage('GET'), oauth.WWWAuthenticateChallengeError)
  })
})
