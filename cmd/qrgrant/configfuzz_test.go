package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	qrgrant "github.com/qrgrant/qrgrant/cmd/qrgrant"
)

// FuzzConfig reads any file as a configuration: it is taken or refused with the line that is
// wrong, and what is taken is refused with one more key that nobody knows.
func FuzzConfig(f *testing.F) {
	for _, source := range []string{
		"", "---\n", "clients: []", "clients: [", "- a\n- b", "issuer: https://id.example\naddr: 127.0.0.1:0\n", "x: &a [*a]", "clients: 1\nclients: 2", "\t", "a: b: c", "0:", "clients: [{1: x, idd: tv}]",
		"clients:\n  - id: tv\n    grant_types: [device_code]\n    scopes: [openid]\n    qr: {enabled: true, allowed_scopes: [openid], lifetime: 240s}\n",
		"clients:\n  - id: web\n    secret_env: WEB_SECRET\n    redirect_uris: [https://app.example/callback]\n    scopes: [openid]\n",
		"users:\n  - login: alice\n    password_env: PASSWORD\n    claims: {name: Alice, address: {country: x}, updated_at: 1}\n", "users: [{login: a, claims: {email: [1]}}]",
		"clients:\n  - {id: k, auth_method: private_key_jwt, jwks: {keys: [{kty: OKP, crv: Ed25519, x: aj7x4WZT3jFzwGvpH6Xqr6ZuWNTpFfbtl_VjZxVj2To}]}, redirect_uris: [https://app.example/callback], default_max_age: 10m}\n",
		"implicit: true\nclients:\n  - {id: s, redirect_uris: [https://app.example/callback], scopes: [openid], grant_types: [implicit], response_types: [token id_token]}\n",
		"registration: {open: true, max_clients: 5}\ndpop_nonce: optional\nrequest_uris: true\n", "clients: [{id: x, jwks: {keys: .nan}}]", "registration: {}", "clients: !x 00", "clients: [{default_max_age: }]",
		"lifetimes: {session: -1s}\nkeys: {rotation: 1h}\nlimits: {scans: 99999999999999999999}\n", "tls: {cert: x}\ntrusted_proxies: [10.0.0.0/99]\n", "clients: []\n---\nusers: []\n",
	} {
		f.Add([]byte(source))
	}
	getenv := func(name string) string {
		if name == "WEB_SECRET" || name == "PASSWORD" {
			return strings.Repeat("s", 32)
		}
		return ""
	}
	at := regexp.MustCompile(`x\.yaml:(\d+): .`)
	f.Fuzz(func(t *testing.T, source []byte) {
		name := filepath.Join(t.TempDir(), "x.yaml")
		read := func(source []byte) error {
			if err := os.WriteFile(name, source, 0o600); err != nil {
				t.Fatal(err)
			}
			return qrgrant.ReadConfig(name, getenv)
		}
		err := read(source)
		if err != nil {
			found := at.FindStringSubmatch(err.Error())
			if found == nil {
				t.Fatalf("no line in %q", err)
			}
			// A file may end in the middle of what its last line begins.
			if line, convErr := strconv.Atoi(found[1]); convErr != nil || line < 1 || line > strings.Count(string(source), "\n")+strings.Count(string(source), "\r")+2 {
				t.Fatalf("line %s in %q", found[1], err)
			}
			return
		}
		if err := read(append([]byte("no_such_key: 1\n"), source...)); err == nil {
			t.Fatal("a key that nobody knows is taken")
		}
	})
}
