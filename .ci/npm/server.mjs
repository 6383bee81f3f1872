// A running `qrgrant serve`, and the server of its clients in the process of the tests.
//
// QRGRANT_BINARY is the program. QRGRANT_LOGS, when set, is a directory that its logs are left in.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { exportJWK, generateKeyPair } from 'jose'

// RelyingParty takes what browsers and the provider send to the clients.
class RelyingParty extends EventEmitter {
  #received = []
  #server = http.createServer(async (req, res) => {
    let body = ''
    for await (const chunk of req) body += chunk
    const { method, headers } = req
    this.#received.push(new Request(new URL(req.url, this.origin), { method, headers, body: body || undefined }))
    res.writeHead(200, { 'content-type': 'text/plain' }).end('taken')
    this.emit('received')
  })

  async listen() {
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    this.origin = `http://127.0.0.1:${this.#server.address().port}`
    return this
  }

  // at lists the requests that came to a path.
  at(path) {
    return this.#received.filter((request) => new URL(request.url).pathname === path)
  }

  // until waits for a moment when there are as many requests at a path, and returns them.
  async until(path, count) {
    const signal = AbortSignal.timeout(20_000)
    while (this.at(path).length < count) await once(this, 'received', { signal })
    return this.at(path)
  }

  close() {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}

// makeKey makes the key of clients that have one in place of a secret: what they sign with, and the set that is
// registered for them.
async function makeKey(alg) {
  const { privateKey, publicKey } = await generateKeyPair(alg)
  const kid = randomUUID()
  const jwks = { keys: [{ ...(await exportJWK(publicKey)), alg, kid, use: 'sig' }] }
  return { privateKey: { key: privateKey, kid }, jwks }
}

export class Server {
  end = () => this.process?.kill('SIGTERM')

  static async start() {
    const server = new Server()
    try {
      await server.#start()
    } catch (err) {
      await server.stop().catch(() => {})
      throw err
    }
    return server
  }

  async #start() {
    this.party = await new RelyingParty().listen()
    // Made here and now: nothing that looks like a secret stands in the repository.
    this.person = { login: 'alice', password: randomUUID() }
    this.secret = randomBytes(32).toString('base64url')
    this.initialToken = randomBytes(32).toString('base64url')
    this.keys = { ES256: await makeKey('ES256'), EdDSA: await makeKey('EdDSA') }
    this.directory = mkdtempSync(join(tmpdir(), 'qrgrant-'))
    const config = join(this.directory, 'server.yaml')
    const template = readFileSync(new URL('server.yaml', import.meta.url), 'utf8')
    const values = {
      'http://127.0.0.1:0': this.party.origin,
      INITIAL_TOKEN_SHA256: createHash('sha256').update(this.initialToken).digest('hex'),
      ES256_KEYS: JSON.stringify(this.keys.ES256.jwks),
      EDDSA_KEYS: JSON.stringify(this.keys.EdDSA.jwks),
    }
    const filled = Object.entries(values).reduce((text, [name, value]) => text.replaceAll(name, value), template)
    writeFileSync(config, filled)
    this.log = join(process.env.QRGRANT_LOGS ?? this.directory, `serve-${process.pid}.log`)
    const log = openSync(this.log, 'a')
    const flags = ['--addr', '127.0.0.1:0', '--db', join(this.directory, 'qrgrant.db'), '--config', config]
    this.process = spawn(process.env.QRGRANT_BINARY, ['serve', ...flags, '--backchannel-network', '127.0.0.0/8'], {
      env: { ...process.env, QRGRANT_PASSWORD: this.person.password, QRGRANT_CLIENT_SECRET: this.secret },
      stdio: ['ignore', 'pipe', log],
    })
    closeSync(log)
    this.exit = once(this.process, 'exit')
    // Whatever ends the tests ends the server with them.
    process.once('exit', this.end)
    process.once('SIGTERM', () => process.exit(143))
    const lines = createInterface({ input: this.process.stdout })
    const [line] = await Promise.race([once(lines, 'line'), this.exit])
    this.issuer = /^qrgrant serves (\S+) on /.exec(line)?.[1]
    assert.ok(this.issuer, `qrgrant serve did not start:\n${readFileSync(this.log, 'utf8')}`)
    const ready = await fetch(`${this.issuer}/readyz`)
    assert.equal(ready.status, 200, 'readyz')
  }

  // stop asks the server to end, which it must do by itself and in order.
  async stop() {
    process.removeListener('exit', this.end)
    this.party?.close()
    this.end()
    try {
      const [code, signal] = await this.exit
      const log = readFileSync(this.log, 'utf8')
      assert.deepEqual({ code, signal }, { code: 0, signal: null }, `qrgrant serve on SIGTERM:\n${log}`)
    } finally {
      rmSync(this.directory, { recursive: true, force: true })
    }
  }
}
