// openid-client, unmodified, where the person signs in with the phone: the sign-in page shows a QR code, the
// phone approves, and the client gets an ordinary code.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import * as client from 'openid-client'
import { Browser } from './browser.mjs'
import { answersWith, checkClaims, discover, request } from './client.mjs'
import { Phone } from './phone.mjs'
import { Server } from './server.mjs'

describe('openid-client: hosted door', { concurrency: true, timeout: 120_000 }, () => {
  let server
  let phone
  let config
  let redirect_uri

  before(async () => {
    server = await Server.start()
    redirect_uri = `${server.party.origin}/shop`
    ;[phone, config] = await Promise.all([Phone.signIn(server), discover(server, 'shop', { secret: server.secret })])
  })
  after(() => server?.stop())

  // state asks as the page's script does; with seq it waits until there is something newer.
  async function state(browser, page, seq) {
    const url = new URL(page.attribute('qr', 'data-state'), page.url)
    if (seq !== undefined) url.searchParams.set('qr_seq', String(seq))
    const response = await browser.fetch(url, { headers: seq === undefined ? {} : { prefer: 'wait=25' } })
    return { status: response.status, body: await response.json() }
  }

  test('scanned, compared, approved, continued: a code for the client', async () => {
    const { url, checks } = await request(config, { redirect_uri })
    const browser = new Browser()
    let page = await browser.open(url)
    assert.ok(page.has('sign-in'), 'the password stays possible')
    const picture = await browser.fetch(new URL(page.attribute('qr-image', 'src'), page.url))
    assert.equal(picture.status, 200)
    assert.equal(picture.headers.get('content-type'), 'image/png')
    assert.equal(Buffer.from(await picture.arrayBuffer()).toString('latin1', 0, 8), '\x89PNG\r\n\x1a\n')
    // The page's address is worth nothing in another browser.
    assert.equal((await state(new Browser(), page)).status, 404)

    const shown = await state(browser, page)
    assert.equal(shown.body.qr_status, 'pending')
    assert.match(shown.body.qr.payload, /\/Q#1[A-Z2-7]{44}$/)
    const waiting = state(browser, page, shown.body.qr_seq)
    const scan = await phone.scan(shown.body.qr.payload)
    assert.equal(scan.context.door, 'hosted')
    assert.equal(scan.context.relying_party.origin, server.party.origin)
    const scanned = await waiting
    assert.equal(scanned.body.qr_status, 'scanned')
    assert.match(scanned.body.check_code, /^[1-9][0-9]$/)
    assert.equal(scanned.body.name, undefined, 'nobody is named before the approval')

    const decided = await phone.decide(scan, 'approve', scanned.body.check_code)
    assert.equal(decided.state, 'approved')
    const approved = await state(browser, page)
    assert.equal(approved.body.qr_status, 'approved')
    assert.equal(approved.body.name, 'Alice Example')
    // An approval signs nobody in: the person at the browser does.
    const silent = await request(config, { redirect_uri, prompt: 'none' })
    await answersWith(config, (await browser.open(silent.url)).left, silent.checks, 'login_required')

    page = await browser.press(page, 'qr-continue')
    assert.ok(page.left, String(page))
    assert.equal(config.serverMetadata().authorization_response_iss_parameter_supported, true)
    assert.equal(page.left.searchParams.get('iss'), server.issuer)
    for (const iss of ['https://elsewhere.example', undefined]) {
      const mixedUp = new URL(page.left)
      if (iss) mixedUp.searchParams.set('iss', iss)
      else mixedUp.searchParams.delete('iss')
      const refused = client.authorizationCodeGrant(config, mixedUp, checks)
      await assert.rejects(refused, ({ cause }) => /"iss" \(issuer\)/.test(cause.message))
    }
    const tokens = await client.authorizationCodeGrant(config, page.left, checks)
    const claims = checkClaims(server, tokens, { clientId: 'shop', nonce: checks.expectedNonce })
    assert.ok(claims.amr.includes('mca'), `amr is ${claims.amr}`)
    assert.equal(claims.sid, decided.sid, 'the sign-in that the phone knows')
    assert.equal((await client.fetchUserInfo(config, tokens.access_token, claims.sub)).name, 'Alice Example')

    // The browser is signed in now, for this client.
    const again = await request(config, { redirect_uri, prompt: 'none' })
    const second = await client.authorizationCodeGrant(config, (await browser.open(again.url)).left, again.checks)
    assert.equal(second.claims().sid, claims.sid)
    assert.ok(second.claims().amr.includes('mca'))
  })

  test('a sign-in born of an approval makes no phone that approves', async () => {
    const { url } = await request(config, { redirect_uri })
    const browser = new Browser()
    const page = await browser.open(url)
    const scan = await phone.scan((await state(browser, page)).body.qr.payload)
    await phone.decide(scan, 'approve', (await state(browser, page)).body.check_code)
    assert.ok((await browser.press(page, 'qr-continue')).left.searchParams.has('code'))

    const app = await discover(server, 'phone')
    const redirect = { redirect_uri: 'com.example.phone:/callback', scope: 'openid qr:approve' }
    const silent = await request(app, { ...redirect, prompt: 'none' })
    await answersWith(app, (await browser.open(silent.url)).left, silent.checks, 'login_required')
    assert.ok((await browser.open((await request(app, redirect)).url)).has('sign-in'), 'the password is asked for')
  })

  test('denied on the phone: the page says so and continues to nothing', async () => {
    const { url } = await request(config, { redirect_uri })
    const browser = new Browser()
    const page = await browser.open(url)
    const scan = await phone.scan((await state(browser, page)).body.qr.payload)
    assert.equal((await phone.decide(scan, 'deny')).state, 'denied')
    assert.equal((await state(browser, page)).body.qr_status, 'denied')
    const after = await browser.press(page, 'qr-continue')
    assert.equal(after.left, undefined, String(after))
    assert.equal(after.attribute('qr', 'data-status'), 'denied')
  })

  test('the password beside the QR code signs in without it', async () => {
    const { url, checks } = await request(config, { redirect_uri })
    const tokens = await client.authorizationCodeGrant(config, await new Browser().signIn(url, server.person), checks)
    const claims = checkClaims(server, tokens, { clientId: 'shop', nonce: checks.expectedNonce })
    assert.ok(!(claims.amr ?? []).includes('mca'), `amr is ${claims.amr}`)
  })
})
