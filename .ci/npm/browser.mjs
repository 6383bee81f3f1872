// A person's browser without a screen: cookies, redirects and plain HTML forms, nothing else. It runs no script,
// so every button is pressed on purpose.

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

// readForms returns the forms of a page with the fields a browser would send untouched, and their buttons by id.
function readForms(html, base) {
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
    const action = attribute(open, 'action') || base
    const buttons = new Map()
    for (const [tag] of body.matchAll(/<button\b[^>]*>/gi)) {
      buttons.set(attribute(tag, 'id'), {
        name: attribute(tag, 'name'),
        value: attribute(tag, 'value') ?? '',
        action: new URL(attribute(tag, 'formaction') || action, base),
      })
    }
    return { names, fields, buttons }
  })
}

// Page is where the browser stands: a page it was shown, or an address of another site it was sent to. That
// address is not asked for: a client takes the answer out of it.
class Page {
  constructor({ url, status, html = '', left }) {
    Object.assign(this, { url, status, html, left })
    this.forms = readForms(html, url)
  }

  has(button) {
    return this.forms.some((form) => form.buttons.has(button))
  }

  // attribute reads an attribute of the element with the given id.
  attribute(id, name) {
    const tag = [...this.html.matchAll(/<\w+\b[^>]*>/g)].map(([tag]) => tag).find((tag) => attribute(tag, 'id') === id)
    return tag ? attribute(tag, name) : null
  }

  toString() {
    return this.left ? `sent to ${this.left}` : `${this.status} at ${this.url.pathname}: ${this.html.slice(0, 800)}`
  }
}

export class Browser {
  // By origin: a cookie of ours is no business of a client's server.
  #cookies = new Map()

  // fetch makes one request as a page of ours would, by script or for a picture.
  async fetch(url, init = {}) {
    const target = new URL(url)
    const jar = this.#cookies.get(target.origin) ?? new Map()
    this.#cookies.set(target.origin, jar)
    const headers = { 'accept-language': 'en', 'sec-fetch-site': 'same-origin', ...init.headers }
    if (jar.size) headers.cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
    // A long poll is held for 25 seconds at most.
    const response = await fetch(target, { ...init, headers, redirect: 'manual', signal: AbortSignal.timeout(40_000) })
    for (const line of response.headers.getSetCookie()) {
      const [pair, ...attributes] = line.split(';')
      const [name, value] = [pair.slice(0, pair.indexOf('=')).trim(), pair.slice(pair.indexOf('=') + 1)]
      if (attributes.some((a) => /^\s*max-age\s*=\s*(0|-)/i.test(a))) jar.delete(name)
      else jar.set(name, value)
    }
    return response
  }

  // #walk follows redirects within the site, with the method a browser goes on with after 302 and 303.
  async #walk(url, init) {
    let target = new URL(url)
    let response = await this.fetch(target, { ...init, headers: { accept: 'text/html', ...init.headers } })
    for (let hop = 0; response.status >= 300 && response.status < 400; hop++) {
      if (hop === 10) throw new Error(`no end of redirects at ${target.pathname}`)
      await response.arrayBuffer()
      const location = new URL(response.headers.get('location'), target)
      if (location.origin !== target.origin) return new Page({ url: target, left: location })
      target = location
      const site = init.headers['sec-fetch-site']
      response = await this.fetch(target, { headers: { accept: 'text/html', 'sec-fetch-site': site } })
    }
    return new Page({ url: target, status: response.status, html: await response.text() })
  }

  // open goes to an address that a client links to.
  open(url) {
    return this.#walk(url, { headers: { 'sec-fetch-site': 'cross-site' } })
  }

  // press fills in the form of a page and presses one of its buttons.
  press(page, button, values = {}) {
    const form = page.forms.find((form) => form.buttons.has(button))
    if (!form) throw new Error(`no button ${button}: ${page}`)
    const { name, value, action } = form.buttons.get(button)
    const body = new URLSearchParams(form.fields)
    for (const [field, text] of Object.entries(values)) {
      if (!form.names.has(field)) throw new Error(`no field ${field}: ${page}`)
      body.set(field, text)
    }
    if (name) body.set(name, value)
    const site = action.origin === page.url.origin ? 'same-origin' : 'cross-site'
    return this.#walk(action, { method: 'POST', headers: { origin: page.url.origin, 'sec-fetch-site': site }, body })
  }

  // signIn walks from an authorization request through password and consent to the answer, and returns the
  // address the browser was sent to. choice is the button of the consent page, if there is one.
  async signIn(start, { login, password }, choice = 'allow') {
    let page = await this.open(start)
    if (!page.has('sign-in')) throw new Error(`no sign-in page: ${page}`)
    page = await this.press(page, 'sign-in', { login, password })
    if (page.has(choice)) page = await this.press(page, choice)
    if (!page.left) throw new Error(`no answer for the client: ${page}`)
    return page.left
  }
}
