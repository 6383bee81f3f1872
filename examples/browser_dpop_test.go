package examples_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

// kept is the record of that name in the application's database, or a part of it.
func kept(name, part string) string {
	return fmt.Sprintf(`new Promise((done, failed) => {
		const opening = indexedDB.open('approver');
		opening.onerror = () => failed(opening.error);
		opening.onsuccess = () => {
			const asked = opening.result.transaction('kept').objectStore('kept').get(%q);
			asked.onsuccess = () => { opening.result.close(); done(asked.result); };
		};
	}).then(kept => kept%s)`, name, part)
}

// lose deletes what the application keeps under that name.
func lose(p *chromium.Page, name string) {
	chromium.Eval[bool](p, fmt.Sprintf(`new Promise((done, failed) => {
		const opening = indexedDB.open('approver');
		opening.onerror = () => failed(opening.error);
		opening.onsuccess = () => {
			const change = opening.result.transaction('kept', 'readwrite');
			change.objectStore('kept').delete(%q);
			change.oncomplete = () => { opening.result.close(); done(true); };
		};
	})`, name))
}

// overhear keeps what the page sends from now on, as script that somebody smuggled in could.
func overhear(p *chromium.Page) {
	chromium.Eval[bool](p, `(real => {
		window.heard = [];
		window.fetch = (address, options) => {
			heard.push({ address, dpop: options?.headers?.dpop ?? '', authorization: options?.headers?.authorization ?? '' });
			return real(address, options);
		};
		return true;
	})(fetch)`)
}

// heard is what was sent to a path of the provider since overhear.
func (k *pocket) heard(p *chromium.Page, path string) []sent {
	k.t.Helper()
	all := chromium.Eval[[]sent](p, "heard")
	return slices.DeleteFunc(all, func(s sent) bool { return s.Address != k.URL(path) })
}

type sent struct{ Address, DPoP, Authorization string }

// signInAgain signs in where the provider still knows the person.
func (k *pocket) signInAgain(p *chromium.Page) {
	k.t.Helper()
	p.Click("#sign_in")
	p.WaitURL(k.Issuer + "/authorize?")
	p.Click("#allow")
	p.WaitURL(k.app + "/")
	p.WaitVisible("#person")
}

// TestBrowserMobileKey: script can neither read the key nor use what it finds elsewhere.
func TestBrowserMobileKey(t *testing.T) {
	t.Parallel()
	k := openPocket(t, providertest.Options{})
	p := k.signIn(browsers.Page(t, aPhone()))
	for _, format := range []string{"jwk", "pkcs8"} {
		told := chromium.Eval[string](p, kept("key", fmt.Sprintf(".privateKey).then(key => crypto.subtle.exportKey(%q, key)).then(() => 'exported', fault => fault.name", format)))
		if told != "InvalidAccessError" {
			t.Errorf("the private key as %s: %s", format, told)
		}
	}
	if uses := chromium.Eval[string](p, kept("key", ".privateKey.usages.join()")); uses != "sign" {
		t.Errorf("the private key is for %s", uses)
	}
	if members := chromium.Eval[string](p, kept("key", ".jwk).then(jwk => Object.keys(jwk).join()")); members != "crv,kty,x,y" {
		t.Errorf("beside it there is a key with %s", members)
	}

	overhear(p)
	typed(p, k.open("cli").userCode)
	p.WaitVisible("#deny")
	scans := k.heard(p, "/qr/scan")
	if len(scans) != 1 || len(scans[0].Authorization) < 20 || scans[0].Authorization[:5] != "DPoP " {
		t.Fatalf("to the scan went %+v", scans)
	}
	token := scans[0].Authorization[5:]
	p.Expect("status of 401")
	for _, row := range []struct{ what, path, method, scheme, proof string }{
		{"a bearer token at userinfo", "/userinfo", "GET", "Bearer", ""},
		{"a bearer token at the scan", "/qr/scan", "POST", "Bearer", ""},
		{"a bearer token at the sign-ins", "/sessions", "GET", "Bearer", ""},
		{"the token without a proof", "/userinfo", "GET", "DPoP", ""},
		{"the token with a used proof", "/qr/scan", "POST", "DPoP", scans[0].DPoP},
	} {
		status := chromium.Eval[int](p, fmt.Sprintf(`fetch(%q, { method: %q, headers: { authorization: %q, ...(%q && { dpop: %[4]q }) } }).then(reply => reply.status)`,
			k.URL(row.path), row.method, row.scheme+" "+token, row.proof))
		if status != http.StatusUnauthorized {
			t.Errorf("%s: %d", row.what, status)
		}
	}

	// The refresh token, in other hands: without a key, and with another one.
	form := url.Values{"client_id": {"mobile"}, "grant_type": {"refresh_token"}, "refresh_token": {chromium.Eval[string](p, kept("person", ".refresh"))}}
	if reply := k.Post(t.Context(), k.Client(), "/token", form); reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_dpop_proof" {
		t.Errorf("the refresh token alone: %d %s", reply.Status, reply.Body)
	}
	thief, err := dpop.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if reply := k.Post(t.Context(), &http.Client{Transport: &dpop.Transport{Key: thief}}, "/token", form); reply.Text("error") != "invalid_grant" {
		t.Errorf("the refresh token with another key: %d %s", reply.Status, reply.Body)
	}
	// None of it has signed the owner out.
	p.Reload()
	p.WaitVisible("#deny")
}

// TestBrowserMobileNonce: a nonce that has run out costs one request, and no more than one.
func TestBrowserMobileNonce(t *testing.T) {
	t.Parallel()
	k := openPocket(t, providertest.Options{})
	p := k.signIn(browsers.Page(t, aPhone()))
	k.refusesFirst(p, "/qr/scan")
	overhear(p)
	// Both clocks go on; the access token is still good.
	k.Clock.Advance(8 * time.Minute)
	chromium.Eval[bool](p, `(now => { Date.now = () => now() + 480_000; return true; })(Date.now.bind(Date))`)
	pc := k.open("cli")
	typed(p, pc.userCode)
	approve(p, pc)
	pc.wantTokens()
	if scans, decisions := k.heard(p, "/qr/scan"), k.heard(p, "/qr/decision"); len(scans) != 2 || len(decisions) != 1 || scans[0].DPoP == scans[1].DPoP {
		t.Errorf("%d scans and %d decisions were sent", len(scans), len(decisions))
	}

	// A provider that is never content is asked twice.
	p.Click("#home")
	p.WaitVisible("#person")
	chromium.Eval[bool](p, `(real => {
		window.asked = 0;
		window.fetch = (address, options) => {
			if (!address.endsWith('/qr/scan')) return real(address, options);
			asked++;
			return Promise.resolve(new Response('{"error":"use_dpop_nonce"}', { status: 401, headers: { 'dpop-nonce': 'nonce-' + asked } }));
		};
		return true;
	})(fetch)`)
	typed(p, k.open("cli").userCode)
	p.WaitText("The server could not answer.")
	look(t, p, "never-content")
	if asked := chromium.Eval[int](p, "asked"); asked != 2 {
		t.Errorf("it was asked %d times", asked)
	}
}

// TestBrowserMobileClock: the clock of the phone is wrong by hours, either way.
func TestBrowserMobileClock(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]time.Duration{"slow": 3 * time.Hour, "fast": -3 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := openPocket(t, providertest.Options{})
			k.Clock.Advance(wrong)
			p := k.signIn(browsers.Page(t, aPhone()))
			pc := k.open("cli")
			typed(p, pc.userCode)
			approve(p, pc)
			pc.wantTokens()
			p.Click("#home")
			p.Click("#devices")
			p.WaitText("Command Line")
		})
	}
}

// TestBrowserMobileKeyLost: browsers forget what is kept for pages. The person signs in again.
func TestBrowserMobileKeyLost(t *testing.T) {
	t.Parallel()
	const says = "This phone has lost the key to its sign-in. Sign in again."
	k := openPocket(t, providertest.Options{})
	p := k.signIn(browsers.Page(t, aPhone()))
	before := chromium.Eval[string](p, kept("key", ".jwk.x"))

	// While the application is open.
	lose(p, "key")
	typed(p, k.open("cli").userCode)
	p.WaitText(says)
	look(t, p, "lost")
	if left := chromium.Eval[bool](p, kept("person", " === undefined")); !left {
		t.Error("what is worth nothing is kept")
	}
	k.signInAgain(p)
	if after := chromium.Eval[string](p, kept("key", ".jwk.x")); after == before {
		t.Error("the new sign-in has the key of the old one")
	}

	// Before it starts, on either page.
	for _, path := range []string{"/", "/devices"} {
		lose(p, "key")
		p.Navigate(k.app + path)
		p.WaitText(says)
		k.signInAgain(p)
	}

	// All of it: then nobody is known to have been signed in.
	chromium.Eval[bool](p, `new Promise((done, failed) => {
		const gone = indexedDB.deleteDatabase('approver');
		gone.onsuccess = () => done(true);
		gone.onblocked = gone.onerror = failed;
	})`)
	p.Reload()
	p.WaitText("Sign in to approve")
	k.signInAgain(p)
	pc := k.open("cli")
	typed(p, pc.userCode)
	approve(p, pc)
	pc.wantTokens()
}

// TestBrowserMobileTabs: the pages of one browser share the key, as they share the refresh token.
func TestBrowserMobileTabs(t *testing.T) {
	t.Parallel()
	k := openPocket(t, providertest.Options{})
	p := k.signIn(browsers.Page(t, aPhone()))
	// Pages open others only for people.
	chromium.Eval[bool](p, `(document.querySelector('h1').addEventListener('click', () => { window.other = open('/'); }), true)`)
	p.Click("h1")
	p.WaitFor(`other.document.querySelector('#code') !== null`)
	pc := k.open("cli")
	chromium.Eval[bool](p, fmt.Sprintf(`(page => {
		page.querySelector('#code').value = %q;
		page.querySelector('#continue').click();
		return true;
	})(other.document)`, pc.userCode))
	p.WaitFor(`other.document.querySelector('#deny') !== null`)
	chromium.Eval[bool](p, `(other.document.querySelector('#deny').click(), true)`)
	p.WaitFor(`other.document.querySelector('#result.denied') !== null`)
	pc.wantError("access_denied")

	// The first page goes on with the same key, and with the refresh token that the other has left.
	chromium.Eval[bool](p, `(other.close(), true)`)
	pc = k.open("cli")
	typed(p, pc.userCode)
	approve(p, pc)
	pc.wantTokens()
}

// TestBrowserMobileUnbound: a provider without DPoP answers with tokens for whoever finds them.
func TestBrowserMobileUnbound(t *testing.T) {
	t.Parallel()
	k := openPocket(t, providertest.Options{})
	client, err := k.Store.Client(t.Context(), "mobile")
	if err != nil {
		t.Fatal(err)
	}
	client.RequireDPoP = false
	if err := k.Store.PutClient(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	k.unaware.Store(true)
	p := browsers.Page(t, aPhone())
	p.Navigate(k.app + "/")
	p.Click("#sign_in")
	k.password(p)
	p.WaitText("The sign-in failed.")
	if kept := chromium.Eval[bool](p, kept("person", " !== undefined")); kept {
		t.Error("its tokens are kept")
	}
}
