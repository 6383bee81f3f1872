// Checks the object that `qrgrant demo --json` prints; its file is the one argument.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'

const demo = JSON.parse(readFileSync(process.argv[2], 'utf8'))

assert.ok(Array.isArray(demo.steps), 'steps is a list')
assert.equal(demo.steps.length, 14, 'the fourteen steps')
assert.ok(demo.steps.every((step) => step && (typeof step === 'string' || typeof step === 'object')))
assert.equal(demo.grant_type, 'urn:qrgrant:params:oauth:grant-type:qr_code')
assert.equal(demo.token_type, 'DPoP')
assert.ok(Number.isInteger(demo.elapsed_ms) && demo.elapsed_ms > 0, `elapsed_ms is ${demo.elapsed_ms}`)

const claims = demo.id_token_claims
for (const name of ['iss', 'sub', 'aud', 'exp', 'iat', 'auth_time', 'sid', 'amr']) {
  assert.ok(name in claims, `the ID token has ${name}`)
}
assert.match(claims.iss, /^https?:\/\//)
assert.ok(claims.sub.length > 0)
assert.ok([claims.aud].flat().length > 0)
assert.ok(claims.auth_time <= claims.iat && claims.iat < claims.exp)
assert.ok(claims.amr.includes('mca'), `amr is ${claims.amr}`)

console.log(`${demo.steps.length} steps in ${demo.elapsed_ms} ms, signed in as ${claims.sub}`)
