// openid-client, unmodified, as a web application: the code flow and what hangs on it.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { decodeProtectedHeader } from 'jose'
import * as client from 'openid-client'
import { Browser } from './browser.mjs'
import { answersWith, challenges, checkClaims, discover, rejectsWith, request } from './client.mjs'
import { Server } from './server.mjs'

// One after another: they are one person's, who takes back at one client's page what was allowed at another's.
describe('openid-client: code flow', { concurrency: false, timeout: 120_000 }, () => {
  let server
  let config
  let redirect_uri

  before(async () => {
    server = await Server.start()
    redirect_uri = `${server.party.origin}/callback`
    config = await discover(server, 'web', { secret: server.secret })
  })
  after(() => server?.stop())

  // signIn runs the whole flow in a browser that nobody is signed in to.
  async function signIn(browser, parameters) {
    const { url, checks } = await request(config, { redirect_uri, ...parameters })
    const tokens = await client.authorizationCodeGrant(config, await browser.signIn(url, server.person), checks)
    return { tokens, claims: checkClaims(server, tokens, { clientId: 'web', nonce: checks.expectedNonce }) }
  }

  // silently asks again in the same browser, which must answer without a page.
  async function silently(browser, parameters) {
    const { url, checks } = await request(config, { redirect_uri, prompt: 'none', ...parameters })
    const page = await browser.open(url)
    assert.ok(page.left, String(page))
    return { answer: page.left, checks }
  }

  test('authorization code with PKCE, refresh, introspection and revocation', async () => {
    const offline = { scope: 'openid profile offline_access', prompt: 'consent' }
    const { tokens: first, claims } = await signIn(new Browser(), offline)
    assert.ok(!(claims.amr ?? []).includes('mca'), 'a password sign-in is not a QR approval')

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

  test('a code without its verifier, and a code used twice, are invalid_grant', async () => {
    const { url, checks } = await request(config, { redirect_uri })
    const browser = new Browser()
    const answer = await browser.signIn(url, server.person)
    const other = { ...checks, pkceCodeVerifier: client.randomPKCECodeVerifier() }
    await rejectsWith(client.authorizationCodeGrant(config, answer, other), 'invalid_grant')

    const again = await silently(browser)
    const tokens = await client.authorizationCodeGrant(config, again.answer, again.checks)
    await rejectsWith(client.authorizationCodeGrant(config, again.answer, again.checks), 'invalid_grant')
    // Whoever sends it twice may have stolen it, so what came of it ends.
    await challenges(client.fetchUserInfo(config, tokens.access_token, tokens.claims().sub), 'invalid_token')
  })

  test('form_post: the answer and an error reach the client in the body of a POST', async () => {
    const browser = new Browser()
    for (const [index, choice] of ['cancel', 'allow'].entries()) {
      const { url, checks } = await request(config, { redirect_uri, response_mode: 'form_post', prompt: 'consent' })
      let page = await browser.open(url)
      if (page.has('sign-in')) page = await browser.press(page, 'sign-in', server.person)
      page = await browser.press(page, choice)
      assert.ok(page.has('continue'), String(page))
      page = await browser.press(page, 'continue')
      assert.equal(page.html, 'taken')
      const posted = (await server.party.until('/callback', index + 1))[index]
      assert.equal(posted.method, 'POST')
      assert.equal(new URL(posted.url).search, '', 'nothing in the query')
      if (choice === 'cancel') {
        await answersWith(config, posted, checks, 'access_denied')
        continue
      }
      const tokens = await client.authorizationCodeGrant(config, posted, checks)
      checkClaims(server, tokens, { clientId: 'web', nonce: checks.expectedNonce })
    }
  })

  test('the person cancels at the consent page: access_denied', async () => {
    const { url, checks } = await request(config, { redirect_uri, prompt: 'consent' })
    const answer = await new Browser().signIn(url, server.person, 'cancel')
    assert.equal(answer.searchParams.get('code'), null)
    await answersWith(config, answer, checks, 'access_denied')
  })

  test('prompt=none: login_required without a sign-in, a silent code with one', async () => {
    const browser = new Browser()
    const before = await silently(browser)
    await answersWith(config, before.answer, before.checks, 'login_required')

    const { claims } = await signIn(browser)
    const after = await silently(browser)
    const tokens = await client.authorizationCodeGrant(config, after.answer, after.checks)
    const again = checkClaims(server, tokens, { clientId: 'web', nonce: after.checks.expectedNonce })
    assert.equal(again.sid, claims.sid)
    assert.equal(again.auth_time, claims.auth_time)
  })

  test('prompt=none before the person was asked: consent_required', async () => {
    const browser = new Browser()
    await signIn(browser)
    const { answer, checks } = await silently(browser, { scope: 'openid phone' })
    await answersWith(config, answer, checks, 'consent_required')
  })

  for (const parameters of [{ prompt: 'login' }, { max_age: '0' }]) {
    const [[name, value]] = Object.entries(parameters)
    test(`${name}=${value} demands a new sign-in`, async () => {
      const browser = new Browser()
      const { claims } = await signIn(browser)
      if (name === 'max_age') {
        const silent = await silently(browser, parameters)
        await answersWith(config, silent.answer, silent.checks, 'login_required')
      }
      const { url, checks } = await request(config, { redirect_uri, ...parameters })
      const page = await browser.open(url)
      assert.ok(page.has('sign-in'), String(page))
      const answer = (await browser.press(page, 'sign-in', server.person)).left
      const maxAge = name === 'max_age' ? { maxAge: 0 } : {}
      const tokens = await client.authorizationCodeGrant(config, answer, { ...checks, ...maxAge })
      const again = checkClaims(server, tokens, { clientId: 'web', nonce: checks.expectedNonce })
      assert.notEqual(again.sid, claims.sid, 'a sign-in of its own')
      assert.ok(again.auth_time >= claims.auth_time)
    })
  }

  test('userinfo answers for the subject of the ID token and for no other', async () => {
    const { tokens, claims } = await signIn(new Browser())
    const info = await client.fetchUserInfo(config, tokens.access_token, claims.sub)
    assert.deepEqual(info, { sub: claims.sub, name: 'Alice Example' })
    const ofAnother = client.fetchUserInfo(config, tokens.access_token, 'alice-2')
    await assert.rejects(ofAnother, { code: 'OAUTH_JSON_ATTRIBUTE_COMPARISON_FAILED' })
    await challenges(client.fetchUserInfo(config, tokens.access_token.slice(0, -1), claims.sub), 'invalid_token')
  })

  test('the claims parameter asks for single claims of either place', async () => {
    const { tokens, claims } = await signIn(new Browser(), {
      scope: 'openid',
      claims: JSON.stringify({ userinfo: { email: { essential: true }, nickname: null }, id_token: { name: null } }),
    })
    assert.equal(claims.name, 'Alice Example')
    assert.equal(claims.email, undefined)
    const info = await client.fetchUserInfo(config, tokens.access_token, claims.sub)
    assert.deepEqual(info, { sub: claims.sub, email: 'alice@example.org' })
  })

  test('a client that registered RS256 gets RS256', async () => {
    const old = await discover(server, 'rsa', { secret: server.secret, alg: 'RS256' })
    const { url, checks } = await request(old, { redirect_uri: `${server.party.origin}/rsa` })
    const browser = new Browser()
    const tokens = await client.authorizationCodeGrant(old, await browser.signIn(url, server.person), checks)
    checkClaims(server, tokens, { clientId: 'rsa', nonce: checks.expectedNonce })
    assert.equal(decodeProtectedHeader(tokens.id_token).alg, 'RS256')
    // A client that expects another algorithm says so.
    const wrong = await discover(server, 'rsa', { secret: server.secret, alg: 'ES256' })
    const next = await request(wrong, { redirect_uri: `${server.party.origin}/rsa`, prompt: 'none' })
    const { left } = await browser.open(next.url)
    const refused = client.authorizationCodeGrant(wrong, left, next.checks)
    await assert.rejects(refused, ({ cause }) => /unexpected JWT "alg"/.test(cause.message))
  })
})
