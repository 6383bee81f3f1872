// A person's browser without a screen: cookies, redirects and plain HTML forms, nothing else.

const entities = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" }

function unescape(text) {
  return text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (all, hex, dec, name) => {
    if (hex) return String.fromCodePoint(parseInt(hex, 16))
    if (dec) return String.fromCodePoint(Number(dec))
    return entities[name] ?? all
  })
}

function attribute(tag, name) {
  const found = new RegExp(`\\s${name}(?:\\s*=\\s*(?:"([^"]*)"|'([^']*)'|([^\\s>]*)))?(?=[\\s/>]|$)`, 'i').exec(tag)
  return found && unescape(found[1] ?? found[2] ?? found[3] ?? '')
}

// forms returns the forms of a page with the fields a browser would send untouched, and their buttons.
function forms(html, base) {
  return [...html.matchAll(/(<form\b[^>]*>)([\s\S]*?)<\/form>/gi)].map(([, open, body]) => {
    const fields = new URLSearchParams()
    const names = new Set()
    for (const [tag] of body.matchAll(/<input\b[^>]*>/gi)) {
      const name = attribute(tag, 'name')
      const type = (attribute(tag, 'type') ?? 'text').toLowerCase()
      if (!name || type === 'submit') continue
      names.add(name)
      if (['checkbox', 'radio'].includes(type) && attribute(tag, 'checked') === null) continue
      fields.append(name, attribute(tag, 'value') ?? (type === 'checkbox' ? 'on' : ''))
    }
    const buttons = [...body.matchAll(/(<button\b[^>]*>)([\s\S]*?)<\/button>/gi)].map(([, tag, text]) => ({
      name: attribute(tag, 'name'),
      value: attribute(tag, 'value') ?? '',
      text: unescape(text.replace(/<[^>]*>/g, '')).trim(),
    }))
    return { action: new URL(attribute(open, 'action') || base, base), names, fields, buttons }
  })
}

export class Browser {
  #cookies = new Map()

  async #request(url, init = {}) {
    const headers = { accept: 'text/html', 'accept-language': 'en', ...init.headers }
    if (this.#cookies.size) headers.cookie = [...this.#cookies].map(([k, v]) => `${k}=${v}`).join('; ')
    const response = await fetch(url, { ...init, headers, redirect: 'manual', signal: AbortSignal.timeout(20_000) })
    for (const line of response.headers.getSetCookie()) {
      const [pair, ...attributes] = line.split(';')
      const [name, value] = [pair.slice(0, pair.indexOf('=')).trim(), pair.slice(pair.indexOf('=') + 1)]
      if (attributes.some((a) => /^\s*max-age\s*=\s*(0|-)/i.test(a))) this.#cookies.delete(name)
      else this.#cookies.set(name, value)
    }
    return response
  }

  #submit(form, values, button) {
    const body = new URLSearchParams(form.fields)
    for (const [name, value] of Object.entries(values)) body.set(name, value)
    if (button?.name) body.set(button.name, button.value)
    return this.#request(form.action, {
      method: 'POST',
      headers: { origin: form.action.origin, 'sec-fetch-site': 'same-origin' },
      body,
    })
  }

  // authorize walks from an authorization request through sign-in and consent to the redirect URI.
  async authorize(start, redirectUri, { login, password }) {
    let url = new URL(start)
    let signedIn = false
    let response = await this.#request(url)
    for (let hop = 0; hop < 12; hop++) {
      if (response.status >= 300 && response.status < 400) {
        const location = response.headers.get('location')
        await response.arrayBuffer()
        if (location.startsWith(redirectUri)) return new URL(location)
        url = new URL(location, url)
        response = await this.#request(url)
        continue
      }
      const html = await response.text()
      if (response.status !== 200) throw new Error(`${response.status} at ${url.pathname}: ${html.slice(0, 500)}`)
      const found = forms(html, url)
      const signIn = found.find((f) => f.names.has('password'))
      if (signIn && signedIn) throw new Error(`${login} was not signed in at ${url.pathname}`)
      if (signIn) {
        signedIn = true
        response = await this.#submit(signIn, { login, password })
        url = signIn.action
        continue
      }
      const consent = found.find((f) => f.buttons.length > 0)
      if (!consent) throw new Error(`no form at ${url.pathname}: ${html.slice(0, 500)}`)
      const allow = consent.buttons.find((b) => /allow|approve|accept|agree|continue|yes/i.test(`${b.value} ${b.text}`))
      if (!allow) throw new Error(`no button to allow at ${url.pathname}: ${JSON.stringify(consent.buttons)}`)
      response = await this.#submit(consent, {}, allow)
      url = consent.action
    }
    throw new Error(`no end of pages at ${url.pathname}`)
  }
}
