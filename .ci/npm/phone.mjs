// The authorization device: signs in by authorization code and PKCE, then scans and decides with its bearer
// token. It knows of a QR session only what the other screen shows.

import { createHash, randomBytes } from 'node:crypto'
import { Browser } from './browser.mjs'

async function json(response) {
  const body = await response.json()
  if (!response.ok) throw Object.assign(new Error(`${response.status} ${body.error}`), { status: response.status, body })
  return body
}

export class Phone {
  // signIn signs the server's person in to the app.
  static async signIn({ issuer, person }) {
    const redirectUri = 'com.example.phone:/callback'
    const get = async (path) => json(await fetch(issuer + path))
    const [server, qr] = await Promise.all([
      get('/.well-known/openid-configuration'),
      get('/.well-known/qr-configuration'),
    ])
    const verifier = randomBytes(32).toString('base64url')
    const start = new URL(server.authorization_endpoint)
    start.search = new URLSearchParams({
      response_type: 'code',
      client_id: 'phone',
      redirect_uri: redirectUri,
      scope: 'openid qr:approve',
      state: randomBytes(16).toString('base64url'),
      nonce: randomBytes(16).toString('base64url'),
      code_challenge: createHash('sha256').update(verifier).digest('base64url'),
      code_challenge_method: 'S256',
    })
    const back = await new Browser().signIn(start, person)
    if (!back.href.startsWith(redirectUri)) throw new Error(`phone sign-in led to ${back.origin}`)
    if (!back.searchParams.has('code')) throw new Error(`phone sign-in failed: ${back.search}`)
    const tokens = await json(
      await fetch(server.token_endpoint, {
        method: 'POST',
        body: new URLSearchParams({
          grant_type: 'authorization_code',
          client_id: 'phone',
          code: back.searchParams.get('code'),
          redirect_uri: redirectUri,
          code_verifier: verifier,
        }),
      }),
    )
    return new Phone(qr, tokens.access_token)
  }

  constructor(endpoints, token) {
    this.endpoints = endpoints
    this.token = token
  }

  async #post(url, body) {
    return json(
      await fetch(url, {
        method: 'POST',
        headers: { authorization: `Bearer ${this.token}`, 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(20_000),
      }),
    )
  }

  scan(payload, entry = 'scanner') {
    return this.#post(this.endpoints.scan_endpoint, { payload, entry })
  }

  // decide answers a scan; code is what the other screen shows.
  decide(scan, decision, code) {
    const answer = { confirm_handle: scan.confirm_handle, decision, context_digest: scan.context_digest }
    if (decision === 'approve' && scan.check_code_required) answer.check_code = code
    if (decision === 'approve' && scan.user_code_required) answer.user_code = code
    return this.#post(this.endpoints.decision_endpoint, answer)
  }
}
