package examples_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// TestBrowserMobileVerdicts are the ways through the card, with a typed code.
func TestBrowserMobileVerdicts(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		client string
		decide func(t *testing.T, p *chromium.Page, pc *screen)
		want   string
	}{
		"deny": {"cli", func(_ *testing.T, p *chromium.Page, _ *screen) {
			p.Click("#deny")
			p.WaitVisible("#result.denied")
		}, "access_denied"},
		"report": {"cli", func(t *testing.T, p *chromium.Page, _ *screen) {
			t.Helper()
			p.Click("#report")
			p.WaitVisible("#result.reported")
			look(t, p, "reported")
		}, "access_denied"},
		"one try": {"cli", func(_ *testing.T, p *chromium.Page, pc *screen) {
			p.Expect("status of 422")
			wrong(p, other(pc.code(), 0))
			p.WaitText("wrong too often")
		}, "access_denied"},
		"compare": {"tv", func(t *testing.T, p *chromium.Page, pc *screen) {
			t.Helper()
			look(t, p, "compare")
			if got := p.Text("#fact-their_code"); got != pc.userCode {
				t.Errorf("the card shows %q, the television %q", got, pc.userCode)
			}
			if !chromium.Eval[bool](p, "document.getElementById('approve').disabled") {
				t.Error("approving is possible without comparing")
			}
			p.Click("#same_code")
			p.Click("#approve")
			p.WaitVisible("#result.approved")
		}, ""},
		"type": {"kiosk", func(t *testing.T, p *chromium.Page, pc *screen) {
			t.Helper()
			look(t, p, "type")
			p.Type("#user_code", strings.ToLower(pc.userCode))
			p.Click("#approve")
			p.WaitVisible("#result.approved")
		}, ""},
		"fewer scopes": {"cli", func(t *testing.T, p *chromium.Page, pc *screen) {
			t.Helper()
			p.Click("input[value=profile]")
			approve(p, pc)
			if reply := pc.poll(); reply.Text("scope") != "openid" {
				t.Errorf("the scope is %q: %s", reply.Text("scope"), reply.Body)
			}
		}, "invalid_grant"},
		"reload": {"cli", func(_ *testing.T, p *chromium.Page, pc *screen) {
			code := pc.code()
			p.Reload()
			p.Type("#check_code", code)
			p.Click("#approve")
			p.WaitVisible("#result.approved")
		}, ""},
		"run out": {"cli", func(t *testing.T, p *chromium.Page, pc *screen) {
			t.Helper()
			p.Expect("status of 410")
			pc.k.refusesFirst(p, "/qr/decision")
			code := pc.code()
			pc.k.Clock.Advance(4 * time.Minute)
			p.Type("#check_code", code)
			p.Click("#approve")
			p.WaitText("has ended or expired")
			look(t, p, "gone")
		}, "expired_token"},
		"expired token": {"cli", func(_ *testing.T, p *chromium.Page, pc *screen) {
			p.Expect("status of 401")
			p.Click("#deny")
			p.WaitVisible("#result.denied")
			p.Click("#home")
			pc.k.Clock.Advance(11 * time.Minute)
			*pc = *pc.k.open("cli")
			typed(p, pc.userCode)
			approve(p, pc)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := openPocket(t, providertest.Options{})
			o := aPhone()
			o.Dark = name == "compare" || name == "run out"
			p := k.signIn(browsers.Page(t, o))
			pc := k.open(row.client)
			typed(p, pc.userCode)
			p.WaitVisible("#deny")
			row.decide(t, p, pc)
			if row.want == "" {
				pc.wantTokens()
			} else {
				pc.wantError(row.want)
			}
		})
	}
}

// TestBrowserMobileRefusals are texts that lead to no card, and what the person is told.
func TestBrowserMobileRefusals(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		text   func(k *pocket) string
		says   string
		status string
	}{
		"unknown code":    {func(*pocket) string { return "BBBB-BBBB" }, "not known or no longer valid", "404"},
		"vowels":          {func(*pocket) string { return "AEIOU" }, "none of the vowels", ""},
		"foreign address": {func(*pocket) string { return "https://elsewhere.example/Q#1AAAA" }, "This is not a code of", ""},
		"wrong tag": {func(k *pocket) string {
			payload := k.open("cli").payload
			return payload[:len(payload)-16] + strings.Repeat("A", 16)
		}, "Scan the one on the screen again", "404"},
		"old frame": {func(k *pocket) string {
			payload := k.open("cli").payload
			k.Clock.Advance(25 * time.Second)
			return payload
		}, "has changed. Scan again.", "409"},
		"other account": {func(k *pocket) string { return k.open("cli", "login_hint", "nobody").payload }, "for another account", "403"},
		"other phone": {func(k *pocket) string {
			payload := k.open("cli").payload
			if reply := k.try(k.ApproverToken(k.t.Context()), "/qr/scan", `{"payload": "`+payload+`", "entry": "scanner"}`); reply.Status != http.StatusOK {
				k.t.Errorf("%d %s", reply.Status, reply.Body)
			}
			return payload
		}, "Another phone has taken this sign-in", "409"},
		"cancelled": {func(k *pocket) string {
			pc := k.open("cli")
			k.Post(k.t.Context(), k.Client(), "/qr/cancel", url.Values{"client_id": {"cli"}, "device_code": {pc.deviceCode}})
			return pc.payload
		}, "has ended or expired", "410"},
		"too often": {func(k *pocket) string {
			token := k.ApproverToken(k.t.Context())
			for range 10 {
				k.try(token, "/qr/scan", `{"user_code": "BBBB-BBBB"}`)
			}
			return "CCCC-CCCC"
		}, "Too many attempts. Try again in ", "429"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := openPocket(t, providertest.Options{})
			p := k.signIn(browsers.Page(t, aPhone()))
			if row.status != "" {
				p.Expect("status of " + row.status)
			}
			typed(p, row.text(k))
			p.WaitText(row.says)
			look(t, p, "refused")
			if row.status != "" {
				p.Click("#home")
				p.WaitVisible("#person")
				// What was refused is not asked again.
				p.Reload()
				p.WaitVisible("#person")
			}
		})
	}
}

// TestThreatT26HostileTexts: texts that a hostile code may say, each close to what this provider's
// say. Nothing is opened, and nobody is asked about them, not even the provider. What the camera
// sees takes the same way; TestBrowserMobileScan shows it one.
func TestThreatT26HostileTexts(t *testing.T) {
	t.Parallel()
	k := openPocket(t, providertest.Options{})
	p := k.signIn(browsers.Page(t, aPhone()))
	code := strings.TrimPrefix(k.open("cli").payload, k.Issuer)
	for what, text := range map[string]string{
		"another host":            "https://elsewhere.example" + code,
		"a longer host":           k.Issuer + ".elsewhere.example" + code,
		"the issuer as user name": k.Issuer + "@elsewhere.example" + code,
		"the issuer in the path":  "https://elsewhere.example/" + k.Issuer + code,
		"another scheme":          strings.Replace(k.Issuer, "http:", "ftp:", 1) + code,
		"a redirect of our own":   k.Issuer + "/logout?post_logout_redirect_uri=https://elsewhere.example/",
		"a script":                "javascript://elsewhere.example/%0aalert(1)",
	} {
		p.Reload()
		p.WaitVisible("#person")
		typed(p, text)
		p.WaitText("This is not a code of " + k.Issuer)
		if at := p.URL(); at != k.app+"/" {
			t.Errorf("%s leads to %s", what, at)
		}
		for _, asked := range chromium.Eval[[]string](p, "performance.getEntriesByType('resource').map(entry => entry.name)") {
			own := strings.HasPrefix(asked, k.app+"/") || strings.HasPrefix(asked, k.Issuer+"/.well-known/")
			if !own {
				t.Errorf("%s: the application asks for %s", what, asked)
			}
		}
	}
}

// TestBrowserMobileStepUp signs in again because the asker wants a recent sign-in, and comes
// back to the same card.
func TestBrowserMobileStepUp(t *testing.T) {
	t.Parallel()
	k := openPocket(t, providertest.Options{})
	p := k.signIn(browsers.Page(t, aPhone()))
	p.Expect("status of 401")
	k.Clock.Advance(3 * time.Minute)
	pc := k.open("cli", "max_age", "60")
	typed(p, pc.payload)
	p.WaitText("sign in again on this phone first")
	look(t, p, "step-up")
	p.Click("#sign_in_again")
	k.password(p)
	p.WaitText("did not come through the camera")
	look(t, p, "card")
	approve(p, pc)
	pc.wantTokens()
}

// TestBrowserMobileSignIn is about the sign-in itself: answers nobody asked for, sign-out, and an
// end at the provider.
func TestBrowserMobileSignIn(t *testing.T) {
	t.Parallel()
	k := openPocket(t, providertest.Options{})
	p := browsers.Page(t, aPhone())
	p.Navigate(k.app + "/?state=of-somebody-else&code=code&iss=" + url.QueryEscape(k.Issuer))
	p.WaitText("was not asked for here")
	look(t, p, "not-asked")
	if p.URL() != k.app+"/" {
		t.Errorf("the answer stays in the address: %s", p.URL())
	}
	for _, foreign := range []bool{true, false} {
		p.Click("#sign_in")
		p.WaitURL(k.Issuer + "/authorize?")
		if query := chromium.Eval[string](p, "location.search"); !strings.Contains(query, "code_challenge_method=S256") || !strings.Contains(query, "nonce=") || !strings.Contains(query, "dpop_jkt=") {
			t.Errorf("the request is %s", query)
		}
		// An answer of another provider to this request, and one of this provider to another.
		state, iss := chromium.Eval[string](p, "new URLSearchParams(location.search).get('state')"), "https://elsewhere.example"
		if !foreign {
			state, iss = "of-somebody-else", k.Issuer
		}
		p.Navigate(k.app + "/?" + url.Values{"code": {"code"}, "state": {state}, "iss": {iss}}.Encode())
		p.WaitText("was not asked for here")
	}

	k.signIn(p)
	stored := chromium.Eval[string](p, "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])")
	if strings.Contains(stored, "_token") || strings.Contains(stored, "ory_") || strings.Contains(stored, "ey") {
		t.Errorf("beside the database there is %s", stored)
	}
	p.Reload()
	p.WaitVisible("#person")
	p.WaitText("Alice Arden")
	p.Click("#sign_out")
	p.WaitURL(k.app + "/")
	p.WaitVisible("#sign_in")
	p.Reload()
	p.WaitVisible("#sign_in")
	// The provider's own sign-in is over too.
	p.Click("#sign_in")
	p.WaitURL(k.Issuer + "/authorize?")
	p.WaitVisible("#password")

	k.signIn(p)
	p.Expect("status of 40")
	tokens, err := k.Store.RevokeTokens(t.Context(), storage.TokenFilter{Subject: providertest.AliceSubject}, k.Clock.Now())
	if err != nil || tokens == 0 {
		t.Fatalf("revoked %d: %v", tokens, err)
	}
	typed(p, "BBBB-BBBB")
	p.WaitText("You have been signed out")
	look(t, p, "signed-out")
}

// TestBrowserMobileInstalls checks what a browser wants of an application to install, and that
// it starts without its server.
func TestBrowserMobileInstalls(t *testing.T) {
	t.Parallel()
	k := openPocket(t, providertest.Options{})
	p := browsers.Page(t, aPhone())
	k.signIn(p)
	p.WaitFor("navigator.serviceWorker.controller !== null && navigator.serviceWorker.controller.state === 'activated'")
	var manifest struct {
		ID, Name, Scope, Display string
		Start                    string `json:"start_url"`
		Icons                    []struct{ Src, Sizes, Purpose string }
	}
	address := chromium.Eval[string](p, "document.querySelector('link[rel=manifest]').href")
	if err := json.Unmarshal([]byte(k.Get(t.Context(), http.DefaultClient, address).Body), &manifest); err != nil {
		t.Fatal(err)
	}
	if manifest.ID != "/" || manifest.Start != "/" || manifest.Scope != "/" || manifest.Display != "standalone" || manifest.Name == "" {
		t.Errorf("manifest %+v", manifest)
	}
	for _, icon := range manifest.Icons {
		size := chromium.Eval[string](p, fmt.Sprintf(`new Promise((done, failed) => {
			const image = new Image();
			image.onload = () => done(image.naturalWidth + 'x' + image.naturalHeight);
			image.onerror = () => failed(new Error('no picture'));
			image.src = new URL(%q, document.querySelector('link[rel=manifest]').href);
		})`, icon.Src))
		if icon.Sizes != "any" && size != icon.Sizes {
			t.Errorf("%s is %s, not %s", icon.Src, size, icon.Sizes)
		}
	}

	// Something of the provider has been asked by now; none of it is kept.
	typed(p, k.open("cli").userCode)
	p.WaitVisible("#deny")
	p.Click("#deny")
	p.WaitVisible("#result.denied")
	for _, kept := range chromium.Eval[[]string](p, `(async () => {
		const all = [];
		for (const name of await caches.keys()) for (const request of await (await caches.open(name)).keys()) all.push(request.url);
		return all;
	})()`) {
		if path, own := strings.CutPrefix(kept, k.app); !own || path != "/" && path != "/devices" && !strings.HasPrefix(path, "/static/") || strings.Contains(kept, "?") {
			t.Errorf("the worker keeps %s", kept)
		}
	}

	k.stop()
	p.Reload()
	p.WaitVisible("#person")
	p.Expect("ERR_")
	p.Click("#scan")
	p.WaitText("has no camera")
	// Without the provider too, a code leads to a sentence and can be tried again.
	k.HTTP.CloseClientConnections()
	if err := k.HTTP.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	p.Reload()
	p.WaitVisible("#person")
	typed(p, "BBBB-BBBB")
	p.WaitText("no connection to the server")
	look(t, p, "offline")
}

// TestBrowserMobileDevices lists what was approved and ends it, where the provider has such a list.
func TestBrowserMobileDevices(t *testing.T) {
	t.Parallel()
	k := openPocket(t, providertest.Options{})
	o := aPhone()
	o.Dark = true
	p := k.signIn(browsers.Page(t, o))
	pc := k.open("cli", "scope", "openid profile offline_access")
	typed(p, pc.userCode)
	approve(p, pc)
	reply := pc.poll()
	if reply.Status != http.StatusOK {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	access := reply.Text("access_token")
	p.Click("#home")
	p.Click("#devices")
	p.WaitURL(k.app + "/devices")
	if k.Get(t.Context(), k.Client(), "/.well-known/qr-configuration").Text("sessions_endpoint") == "" {
		p.WaitText("does not tell which devices are linked")
		look(t, p, "none")
		p.Click("#back")
		p.WaitVisible("#person")
		return
	}
	p.WaitVisible(".devices")
	p.WaitText("Command Line")
	look(t, p, "list")
	p.Click(".devices li:not(:has(.current)) .revoke")
	look(t, p, "asked")
	p.Click(".revoke-yes")
	p.WaitText("Command Line is signed out.")
	look(t, p, "revoked")
	if got := k.Bearer(t.Context(), "/userinfo", access); got.Status != http.StatusUnauthorized {
		t.Errorf("userinfo answers %d after the revocation", got.Status)
	}
	p.Click(".lost_phone")
	p.Click(".lost_phone-yes")
	p.WaitText("Everything is signed out.")
	p.WaitVisible("h1")
	look(t, p, "lost")
	// This phone is signed out too, and says so without asking with what has died.
	p.Click("#back")
	p.WaitVisible("#sign_in")
	p.Reload()
	p.WaitVisible("#sign_in")
	if text := p.Text("main"); strings.Contains(text, "You have been signed out") {
		t.Errorf("the first screen says %q", text)
	}
}

// TestMobileServes runs the program and asks it to stop.
func TestMobileServes(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(build(t, "./mobile"), "mobile"), "--addr", addr, "--issuer", "https://id.example", "--url", "http://"+addr)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := time.After(20 * time.Second)
	for {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if policy := resp.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "connect-src 'self' https://id.example;") {
				t.Errorf("%d %s", resp.StatusCode, policy)
			}
			break
		}
		select {
		case <-over:
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("mobile: %v", err)
	}
}
