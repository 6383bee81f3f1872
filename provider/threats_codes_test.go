package provider_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// TestThreatT15BotsMoveNothing: a mail scanner, a preview and a camera open every address that a
// code or a screen shows, and every endpoint with the codes in its query.
func TestThreatT15BotsMoveNothing(t *testing.T) {
	t.Parallel()
	logged := &logbook{}
	s := providertest.NewServer(t, providertest.Options{Logger: logged.logger(), Change: roomy})
	cli, tv := openQR(t, s, "cli", nil), openQR(t, s, "tv", nil)
	p := newPhone(t, s)
	claimed := openQR(t, s, "cli", nil)
	scan, code := claimed.claim(p)
	sessions := []*consumption{cli, tv, claimed}
	var was []*storage.QRSession
	for _, c := range sessions {
		was = append(was, c.record())
	}
	frame := payload(cli.opened)
	body := "?" + url.Values{
		"payload": {frame}, "entry": {"link"}, "user_code": {tv.userCode()}, "device_code": {cli.deviceCode()}, "client_id": {"cli"},
		"grant_type": {qr.GrantType}, "code_verifier": {cli.verifier}, "confirm_handle": {scan.Text("confirm_handle")}, "decision": {"approve"},
		"check_code": {code}, "context_digest": {scan.Text("context_digest")}, "access_token": {p.token}, "step": {"claim"},
	}.Encode()
	addresses := []string{
		frame, strings.Replace(frame, "#", "?", 1), "/Q" + body, "/device" + body, "/device?user_code=" + tv.userCode(),
		tv.opened.Text("verification_uri_complete"), tv.opened.Text("verification_uri"), cli.opened.Text("verification_uri"),
		"/qr/scan" + body, "/qr/decision" + body, "/qr/cancel" + body, "/token" + body, "/device_authorization" + body, "/logout" + body, "/login" + body, "/consent" + body,
	}
	signedIn := s.Browser()
	s.SignedIn(t.Context(), signedIn, "web", "openid")
	for _, visitor := range []*http.Client{s.Client(), signedIn} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete, "QUERY"} {
			for _, address := range addresses {
				req, err := http.NewRequestWithContext(t.Context(), method, s.URL(address), nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("User-Agent", "Mozilla/5.0 (compatible; LinkPreview/1.0)")
				req.Header.Set("Authorization", "Bearer "+p.token)
				reply := s.Do(visitor, req)
				if reply.Status >= http.StatusInternalServerError {
					t.Errorf("%s %s: %d", method, address, reply.Status)
				}
				if reply.Status == http.StatusMethodNotAllowed && reply.Header.Get("Allow") == "" {
					t.Errorf("%s %s: 405 without Allow", method, address)
				}
			}
		}
	}
	for i, c := range sessions {
		wantUnmoved(t, c, was[i])
	}
	for what, secret := range map[string]string{
		"device_code": cli.deviceCode(), "user_code": tv.userCode(), "verifier": cli.verifier, "handle": scan.Text("confirm_handle"),
		"digest": scan.Text("context_digest"), "token": p.token, "frame": frame[strings.Index(frame, "#"):],
	} {
		logged.wantWithout(t, what, secret)
	}
}

// TestThreatT16TheVerifierIsChecked: without the verifier of the opening nothing is issued, and
// the fifth failure ends the session.
func TestThreatT16TheVerifierIsChecked(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	for name, wrong := range map[string]func(verifier string) string{
		"another": func(string) string { v, _ := providertest.Verifier(); return v },
		"absent":  func(string) string { return "" },
		"plain": func(v string) string {
			sum := sha256.Sum256([]byte(v))
			return base64.RawURLEncoding.EncodeToString(sum[:])
		},
		"cut":               func(v string) string { return v[:len(v)-1] },
		"longer":            func(v string) string { return v + "A" },
		"with a space":      func(v string) string { return v + " " },
		"with a line":       func(v string) string { return v + "\n" },
		"in another case":   swapCase,
		"of 60 KB":          func(v string) string { return strings.Repeat(v, 60<<10/len(v)) },
		"in another script": func(v string) string { return "А" + v[1:] },
	} {
		c := openQR(t, s, "cli", nil)
		form := c.tokenForm()
		form.Set("code_verifier", wrong(c.verifier))
		if form.Get("code_verifier") == "" {
			form.Del("code_verifier")
		}
		reply := c.post(t.Context(), "/token", form, nil)
		unknown := c.tokenForm()
		unknown.Set("device_code", randomSecret(nil))
		wantSame(t, name, reply, c.post(t.Context(), "/token", unknown, nil))
		if got := c.record(); got.BindingFailures != 1 || got.State != storage.QRPending {
			t.Errorf("%s: %d failures, %s", name, got.BindingFailures, got.State)
		}
		wantError(t, c.poll(t.Context()), http.StatusBadRequest, "authorization_pending")
	}
	// Four failures are forgiven, before and after the approval.
	c := openQR(t, s, "cli", nil)
	failVerifier(t, c, 2)
	c.approve(p)
	failVerifier(t, c, 2)
	tokensOf(t, c.poll(t.Context()))
}

func failVerifier(t *testing.T, c *consumption, times int) {
	t.Helper()
	for range times {
		form := c.tokenForm()
		form.Set("code_verifier", "wrong-"+strings.Repeat("x", 43))
		wantError(t, c.post(context.WithoutCancel(t.Context()), "/token", form, nil), http.StatusBadRequest, "invalid_grant")
	}
}

func TestThreatT16TheFifthFailureAborts(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	for _, client := range []string{"cli", "tv"} { // tv sent no challenge: any verifier is one too many
		pending := openQR(t, s, client, nil)
		failVerifier(t, pending, 5)
		claimed := openQR(t, s, client, nil)
		scan, code := claimed.claim(p)
		failVerifier(t, claimed, 5)
		approved := openQR(t, s, client, nil)
		_, _ = approved.approve(p)
		failVerifier(t, approved, 5)
		for state, c := range map[string]*consumption{"pending": pending, "claimed": claimed, "approved": approved} {
			if got := c.record().State; got != storage.QRAborted {
				t.Errorf("%s, %s: %s after five failures", client, state, got)
			}
			wantError(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
			// Failures on an end are not counted and say no more than before.
			failVerifier(t, c, 3)
			if reply := c.cancel(t.Context()); reply.Status != http.StatusOK {
				t.Errorf("%s, %s: cancel: %d %s", client, state, reply.Status, reply.Body)
			}
		}
		wantError(t, p.decide(scan, "approve", code), http.StatusGone, "gone")
		if frame := payload(pending.opened); frame != "" {
			wantError(t, p.scan(frame, "scanner"), http.StatusGone, "gone")
		}
		wantError(t, p.scanCode(pending.userCode()), http.StatusNotFound, "unknown_code")
	}
}

// TestThreatT29NoDowngrade: the server decides that the QR grant needs a challenge.
func TestThreatT29NoDowngrade(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	for name, extra := range map[string]url.Values{
		"no challenge":              {"code_challenge": {""}, "code_challenge_method": {""}},
		"a method only":             {"code_challenge": {""}, "code_challenge_method": {"S256"}},
		"a challenge only":          {"code_challenge": {challenge}, "code_challenge_method": {""}},
		"plain":                     {"code_challenge_method": {"plain"}},
		"s256":                      {"code_challenge_method": {"s256"}},
		"S512":                      {"code_challenge_method": {"S512"}},
		"a short challenge":         {"code_challenge": {challenge[:42]}},
		"a long challenge":          {"code_challenge": {challenge + "A"}},
		"a padded challenge":        {"code_challenge": {challenge[:42] + "="}},
		"a challenge in two values": {"code_challenge": {challenge, challenge}},
		"the challenge of nothing":  {"code_challenge": {""}, "code_challenge_method": {"none"}},
		"the policy in the request": {"code_challenge": {""}, "code_challenge_method": {""}, "pkce": {"optional"}, "pkce_required": {"false"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantError(t, tryOpenQR(t, s, "cli", extra).opened, http.StatusBadRequest, "invalid_request")
			other := tryOpenQR(t, s, "tv", extra).opened
			if extra.Get("code_challenge") != "" || extra.Get("code_challenge_method") != "" {
				wantError(t, other, http.StatusBadRequest, "invalid_request")
			} else if other.Status != http.StatusOK {
				t.Errorf("the other grant may go without: %d %s", other.Status, other.Body)
			}
		})
	}
	// A challenge that the other grant does send is enforced.
	verifier, sent := providertest.Verifier()
	tv := openQR(t, s, "tv", url.Values{"code_challenge": {sent}, "code_challenge_method": {"S256"}})
	tv.approve(newPhone(t, s))
	wantError(t, tv.poll(t.Context()), http.StatusBadRequest, "invalid_grant")
	tv.verifier = verifier
	tokensOf(t, tv.poll(t.Context()))
}

// TestUserCodesAreReadOneWay: what looks like a letter of the alphabet is none.
func TestUserCodesAreReadOneWay(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	for name, spell := range map[string]func(string) string{
		"full width":                 func(c string) string { return fullWidth(c) },
		"a letter of another script": func(c string) string { return lookAlike(c) },
		"a combining mark":           func(c string) string { return c[:7] + "\u0301" },
		"seven letters":              func(c string) string { return c[:len(c)-1] },
		"nine letters":               func(c string) string { return c + "B" },
		"the code twice":             func(c string) string { return c + c },
		"very long":                  func(c string) string { return c + strings.Repeat("-", 80) },
	} {
		c := openQR(t, s, "tv", nil)
		if reply := p.scanCode(spell(c.userCode())); reply.Status != http.StatusNotFound || reply.Text("error") != "unknown_code" {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
	for name, spell := range map[string]func(string) string{
		"lower case":    strings.ToLower,
		"no dash":       func(c string) string { return strings.ReplaceAll(c, "-", "") },
		"spaces":        func(c string) string { return " " + strings.ReplaceAll(c, "-", " \t ") + " " },
		"a long dash":   func(c string) string { return strings.ReplaceAll(c, "-", "\u2014") },
		"dots between":  func(c string) string { return strings.Join(strings.Split(c, ""), ".") },
		"a hidden mark": func(c string) string { return "\u200e" + c + "\u200f" },
	} {
		c := openQR(t, s, "tv", nil)
		if reply := p.scanCode(spell(c.userCode())); reply.Status != http.StatusOK {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
}

func fullWidth(code string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r - 'A' + '\uff21'
		}
		return r
	}, code)
}

// lookAlike replaces the first letter by one of another script that looks or folds like it.
func lookAlike(code string) string {
	likes := map[byte]string{
		'B': "\u0412", 'C': "\u0421", 'D': "\u216e", 'F': "\u03dc", 'G': "\u050c", 'H': "\u041d", 'J': "\u0408", 'K': "\u212a", 'L': "\u216c", 'M': "\u041c",
		'N': "\u039d", 'P': "\u0420", 'Q': "\u051a", 'R': "\u01a6", 'S': "\u017f", 'T': "\u0422", 'V': "\u2164", 'W': "\u051c", 'X': "\u0425", 'Z': "\u0396",
	}
	return likes[code[0]] + code[1:]
}

// TestOpeningsWithHugeNumbers: no number of a request overflows into another meaning.
func TestOpeningsWithHugeNumbers(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: lasting})
	p := newPhone(t, s)
	for _, age := range []string{"-1", "2147483648", "9223372036854775807", "9223372036854775808", "18446744073709551615", "1e3", "0x10", "1.5", " 5", "60 ", "٣", "NaN"} {
		for _, client := range []string{"cli", "tv"} {
			wantError(t, tryOpenQR(t, s, client, url.Values{"max_age": {age}}).opened, http.StatusBadRequest, "invalid_request")
		}
	}
	s.Clock.Advance(time.Hour)
	wide := openQR(t, s, "cli", url.Values{"max_age": {"2147483647"}})
	if reply := p.scan(payload(wide.opened), "scanner"); reply.Status != http.StatusOK {
		t.Errorf("68 years: %d %s", reply.Status, reply.Body)
	}
	for _, age := range []string{"0", "1", "3599"} {
		c := openQR(t, s, "cli", url.Values{"max_age": {age}})
		reply := p.scan(payload(c.opened), "scanner")
		wantError(t, reply, http.StatusUnauthorized, "insufficient_user_authentication")
		if want := `Bearer error="insufficient_user_authentication", max_age="` + age + `"`; reply.Header.Get("WWW-Authenticate") != want {
			t.Errorf("max_age %s: WWW-Authenticate %q", age, reply.Header.Get("WWW-Authenticate"))
		}
		if reply.Text("confirm_handle") != "" || c.record().State != storage.QRPending {
			t.Errorf("max_age %s: %s, %s", age, reply.Body, c.record().State)
		}
	}
	c := openQR(t, s, "cli", nil)
	for _, wait := range []string{"wait=-5", "wait=0x19", "wait=4", "wait", "wait=;wait=25", "respond-async"} {
		s.Clock.Advance(storage.PollInterval)
		reply := c.post(t.Context(), "/token", c.tokenForm(), http.Header{"Prefer": {wait}})
		if reply.Text("error") != "authorization_pending" || reply.Header.Get("Preference-Applied") != "" {
			t.Errorf("Prefer: %s: %s %q", wait, reply.Body, reply.Header.Get("Preference-Applied"))
		}
	}
	for _, seq := range []string{"-1", "0", "18446744073709551616", "1e0", "01", "+1", "x"} {
		s.Clock.Advance(storage.PollInterval)
		form := c.tokenForm()
		form.Set("qr_seq", seq)
		if reply := c.post(t.Context(), "/token", form, http.Header{"Prefer": {"wait=25"}}); reply.Text("error") != "authorization_pending" {
			t.Errorf("qr_seq %s: %d %s", seq, reply.Status, reply.Body)
		}
	}
}

// TestThreatT07AMailedOrPrintedCode: an attacker opens a session and mails, or prints, all that
// its screen shows: the picture and the user code.
func TestThreatT07AMailedOrPrintedCode(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	c, victim := openQR(t, s, "cli", nil), newPhone(t, s)
	lure, was := payload(c.opened), c.record()
	if before := c.poll(t.Context()); strings.Contains(c.opened.Body+before.Body, "check_code") || was.Claim != nil {
		t.Errorf("there is a number before the scan: %s %s %v", c.opened.Body, before.Body, was.Claim)
	}
	// The post takes longer than a frame lives, whichever way the picture comes in.
	s.Clock.Advance(20 * time.Second)
	for _, entry := range []string{"scanner", "link"} {
		wantError(t, victim.scan(lure, entry), http.StatusConflict, "stale_frame")
	}
	wantUnmoved(t, c, was)

	// The user code lives longer, but the number that approves is born with the scan, on the
	// attacker's screen, and what was mailed cannot say it.
	scan := victim.scanCode(c.userCode())
	mustAnswer(t, scan, http.StatusOK)
	claimed := c.record()
	wantError(t, victim.decide(scan, "approve", ""), http.StatusBadRequest, "invalid_request")
	for _, told := range []string{c.userCode(), lure, scan.Text("confirm_handle"), scan.Text("context_digest")} {
		wantError(t, victim.decide(scan, "approve", told), http.StatusBadRequest, "invalid_request")
	}
	wantUnmoved(t, c, claimed)
	s.Clock.Advance(storage.PollInterval)
	number := c.poll(t.Context()).Text("check_code")
	if number == "" || strings.Contains(scan.Body, `"check_code"`) {
		t.Fatalf("the number %q, the phone was told %s", number, scan.Body)
	}
	// A number printed in advance is a guess, and after a typed code there is one.
	guess := victim.decide(scan, "approve", wrongCode(number))
	wantError(t, guess, http.StatusUnprocessableEntity, "check_code_mismatch")
	if guess.JSON()["tries_left"] != 0.0 {
		t.Errorf("%s, want no tries left", guess.Body)
	}
	wantError(t, victim.decide(scan, "approve", number), http.StatusGone, "gone")
	s.Clock.Advance(storage.PollInterval)
	wantError(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
}
