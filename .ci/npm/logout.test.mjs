// openid-client, unmodified, ending sign-ins: RP-Initiated Logout, and what the other end hears of it by
// Back-Channel Logout.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import * as client from 'openid-client'
import { Browser } from './browser.mjs'
import { answersWith, challenges, checkClaims, discover, rejectsWith, request } from './client.mjs'
import { Server } from './server.mjs'

// One after another: they count the logout tokens that arrive.
describe('openid-client: logout', { concurrency: false, timeout: 120_000 }, () => {
  let server
  let clients

  before(async () => {
    server = await Server.start()
    const { secret } = server
    const web = await discover(server, 'web', { secret })
    const rsa = await discover(server, 'rsa', { secret, alg: 'RS256' })
    clients = {
      web: { config: web, path: '/callback', receiver: '/backchannel-logout' },
      rsa: { config: rsa, path: '/rsa', receiver: '/rsa/backchannel-logout' },
    }
  })
  after(() => server?.stop())

  const redirectUri = (id) => server.party.origin + clients[id].path

  async function signIn(browser, id, parameters) {
    const { config } = clients[id]
    const { url, checks } = await request(config, { redirect_uri: redirectUri(id), ...parameters })
    let page = await browser.open(url)
    if (page.has('sign-in')) page = await browser.press(page, 'sign-in', server.person)
    if (page.has('allow')) page = await browser.press(page, 'allow')
    const tokens = await client.authorizationCodeGrant(config, page.left, checks)
    return { ...tokens, claims: checkClaims(server, tokens, { clientId: id, nonce: checks.expectedNonce }) }
  }

  async function silently(browser, id) {
    const { url, checks } = await request(clients[id].config, { redirect_uri: redirectUri(id), prompt: 'none' })
    return { answer: (await browser.open(url)).left, checks }
  }

  // endSession returns the page of a client's link that asks whether to sign out.
  async function endSession(browser, tokens, parameters) {
    const link = client.buildEndSessionUrl(clients.web.config, { id_token_hint: tokens.id_token, ...parameters })
    const page = await browser.open(link)
    assert.ok(page.has('sign-out'), String(page))
    return page
  }

  async function logoutToken(id, posted) {
    assert.equal(posted.method, 'POST')
    assert.equal(posted.headers.get('content-type'), 'application/x-www-form-urlencoded')
    const form = new URLSearchParams(await posted.text())
    assert.deepEqual([...form.keys()], ['logout_token'])
    const metadata = clients[id].config.serverMetadata()
    const keys = createRemoteJWKSet(new URL(metadata.jwks_uri))
    const { payload } = await jwtVerify(form.get('logout_token'), keys, {
      issuer: server.issuer,
      audience: id,
      typ: 'logout+jwt',
      algorithms: [id === 'rsa' ? 'RS256' : 'ES256'],
      requiredClaims: ['iat', 'exp', 'jti', 'sub', 'sid', 'events'],
    })
    assert.ok(payload.exp - payload.iat <= 120)
    assert.deepEqual(payload.events, { 'http://schemas.openid.net/event/backchannel-logout': {} })
    assert.ok(!('nonce' in payload), 'a logout token has no nonce')
    return payload
  }

  test('the person signs out: back with the state, everything of the sign-in is dead, each client is told', async () => {
    const { config } = clients.web
    const metadata = config.serverMetadata()
    assert.equal(metadata.backchannel_logout_supported, true)
    assert.equal(metadata.backchannel_logout_session_supported, true)
    const browser = new Browser()
    const tokens = await signIn(browser, 'web', { scope: 'openid profile offline_access', prompt: 'consent' })
    const beside = await signIn(browser, 'rsa')
    assert.equal(beside.claims.sid, tokens.claims.sid, 'one sign-in, two clients')
    const elsewhere = await signIn(new Browser(), 'web')
    assert.notEqual(elsewhere.claims.sid, tokens.claims.sid)

    const state = client.randomState()
    const back = `${server.party.origin}/signed-out`
    const asked = await endSession(browser, tokens, { post_logout_redirect_uri: back, state })
    // The link alone ends nothing.
    assert.equal((await client.fetchUserInfo(config, tokens.access_token, tokens.claims.sub)).sub, tokens.claims.sub)
    assert.equal(server.party.at('/backchannel-logout').length, 0)

    const done = await browser.press(asked, 'sign-out')
    assert.equal(done.left?.href, `${back}?${new URLSearchParams({ state })}`, String(done))

    const { answer, checks } = await silently(browser, 'web')
    await answersWith(config, answer, checks, 'login_required')
    await rejectsWith(client.refreshTokenGrant(config, tokens.refresh_token), 'invalid_grant')
    await challenges(client.fetchUserInfo(config, tokens.access_token, tokens.claims.sub), 'invalid_token')
    await challenges(client.fetchUserInfo(clients.rsa.config, beside.access_token, beside.claims.sub), 'invalid_token')
    assert.deepEqual(await client.tokenIntrospection(config, tokens.access_token), { active: false })

    const seen = new Set()
    for (const id of ['web', 'rsa']) {
      const arrived = await server.party.until(clients[id].receiver, 1)
      const payload = await logoutToken(id, arrived[0])
      assert.equal(payload.sub, tokens.claims.sub)
      assert.equal(payload.sid, tokens.claims.sid)
      seen.add(payload.jti)
    }
    assert.equal(seen.size, 2, 'a jti of its own')

    // The same person's sign-in in another browser is another sign-in.
    const info = await client.fetchUserInfo(config, elsewhere.access_token, elsewhere.claims.sub)
    assert.equal(info.sub, elsewhere.claims.sub)
    assert.equal(server.party.at('/backchannel-logout').length, 1, 'nobody was told of the other')
  })

  test('an address nobody registered is not led to, and staying ends nothing', async () => {
    const { config } = clients.web
    const browser = new Browser()
    const tokens = await signIn(browser, 'web')
    const told = server.party.at('/backchannel-logout').length
    const unknown = { post_logout_redirect_uri: `${server.party.origin}/elsewhere`, state: client.randomState() }

    const stayed = await browser.press(await endSession(browser, tokens, unknown), 'stay')
    assert.equal(stayed.left, undefined, String(stayed))
    assert.equal((await client.fetchUserInfo(config, tokens.access_token, tokens.claims.sub)).sub, tokens.claims.sub)

    const done = await browser.press(await endSession(browser, tokens, unknown), 'sign-out')
    assert.equal(done.left, undefined, String(done))
    assert.equal(done.status, 200)
    await challenges(client.fetchUserInfo(config, tokens.access_token, tokens.claims.sub), 'invalid_token')
    const arrived = await server.party.until('/backchannel-logout', told + 1)
    assert.equal((await logoutToken('web', arrived.at(-1))).sid, tokens.claims.sid)
  })
})
