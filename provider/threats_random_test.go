package provider_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// TestThreatT03CodesAreRandom opens many sessions and looks at their bytes. Each bound is seven
// standard deviations away: it fails once in a thousand million runs of a fair source.
func TestThreatT03CodesAreRandom(t *testing.T) {
	t.Parallel()
	const opens = 2500
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	form := url.Values{"client_id": {"tv"}, "scope": {"openid"}}.Encode()
	var references, secrets, letters [256]int
	var ones [48 * 8]int
	seen := make(map[string]bool)
	for range opens {
		raw, userCode := openDirectly(t, s, form)
		for _, part := range []string{string(raw[:16]), string(raw[16:]), userCode} {
			if seen[part] {
				t.Fatalf("%q came twice", part)
			}
			seen[part] = true
		}
		for i, b := range raw {
			if i < 16 {
				references[b]++
			} else {
				secrets[b]++
			}
			for bit := range 8 {
				ones[i*8+bit] += int(b>>bit) & 1
			}
		}
		for _, letter := range strings.ReplaceAll(userCode, "-", "") {
			letters[letter&0xff]++
		}
	}
	// 255 degrees of freedom: mean 255, deviation 22.6. 19: mean 19, deviation 6.2.
	for what, bound := range map[string]struct {
		counts         []int
		cells          int
		total, maximum float64
	}{
		"references": {references[:], 256, opens * 16, 255 + 7*22.6},
		"secrets":    {secrets[:], 256, opens * 32, 255 + 7*22.6},
		"user codes": {letters[:], 20, opens * 8, 19 + 8*6.2},
	} {
		if got := chiSquare(bound.counts, bound.total/float64(bound.cells), bound.cells); got > bound.maximum {
			t.Errorf("%s: chi-square %.0f over %.0f", what, got, bound.maximum)
		}
	}
	// Every one of the 384 bits is as often set as not.
	for i, n := range ones {
		if n < opens/2-200 || n > opens/2+200 { // 8 deviations of 25
			t.Errorf("bit %d of the device_code was set %d times of %d", i, n, opens)
		}
	}
}

// openDirectly opens a session without a connection and returns the bytes of its device_code.
func openDirectly(t *testing.T, s *providertest.Server, form string) (raw []byte, userCode string) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("/device_authorization"), strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	s.Provider.ServeHTTP(w, r)
	var answer struct {
		DeviceCode string `json:"device_code"`
		UserCode   string `json:"user_code"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(answer.DeviceCode)
	if err != nil || len(raw) != 48 {
		t.Fatalf("device_code of %d bytes: %v", len(raw), err)
	}
	return raw, answer.UserCode
}

// chiSquare sums over the cells that were hit; the others are all alike.
func chiSquare(counts []int, expected float64, cells int) float64 {
	sum, hit := 0.0, 0
	for _, n := range counts {
		if n == 0 {
			continue
		}
		hit++
		sum += (float64(n) - expected) * (float64(n) - expected) / expected
	}
	return sum + float64(cells-hit)*expected
}

// TestThreatT03RefusalsAreUniform: a guesser must not learn which guesses came near.
func TestThreatT03RefusalsAreUniform(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p, bob := newPhone(t, s), newPhoneOf(t, s, "bob")

	pending, claimed, ended := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
	scan, _ := claimed.claim(bob)
	ended.cancel(t.Context())
	tv := openQR(t, s, "tv", nil)

	deviceCodes := map[string]string{
		"unknown": randomSecret(nil), "right session, wrong secret": randomSecret(pending.id[:]),
		"another client's": tv.deviceCode(), "too short": pending.deviceCode()[:63], "too long": pending.deviceCode() + "A",
		"not base64": strings.Repeat("*", 64), "padded": pending.deviceCode() + "==", "another case": swapCase(pending.deviceCode()),
	}
	first := pending.post(t.Context(), "/qr/cancel", url.Values{"device_code": {randomSecret(nil)}}, nil)
	wantError(t, first, http.StatusBadRequest, "invalid_grant")
	for what, code := range deviceCodes {
		form := pending.tokenForm()
		form.Set("device_code", code)
		wantSame(t, "/token "+what, pending.post(t.Context(), "/token", form, nil), first)
		wantSame(t, "/qr/cancel "+what, pending.post(t.Context(), "/qr/cancel", url.Values{"device_code": {code}}, nil), first)
	}
	var id storage.QRID
	frame := payload(pending.opened)
	at := len(frame) - 44
	first = p.scan(s.Issuer+"/Q#1"+id.String()+frame[at+26:], "scanner")
	wantError(t, first, http.StatusNotFound, "not_found")
	for what, text := range map[string]string{
		"a wrong tag": frame[:len(frame)-1] + flip(frame[len(frame)-1]), "another count": frame[:at+27] + flip(frame[at+27]) + frame[at+28:],
		"the tag of another session": frame[:len(frame)-16] + payload(claimed.opened)[at+28:], "a wrong tag of a claimed one": payload(claimed.opened)[:len(frame)-1] + flip(payload(claimed.opened)[len(frame)-1]),
		"a wrong tag of an ended one": payload(ended.opened)[:len(frame)-1] + flip(payload(ended.opened)[len(frame)-1]),
		"lower case":                  strings.ToLower(frame), "another version": strings.Replace(frame, "#1", "#2", 1), "more at the end": frame + "A",
		"the issuer in capitals": strings.Replace(frame, s.Issuer, strings.ToUpper(s.Issuer), 1), "another issuer": strings.Replace(frame, s.Issuer, "https://evil.example", 1),
		"a user in front": strings.Replace(frame, "https://", "https://evil@", 1), "a longer host": strings.Replace(frame, s.Issuer, s.Issuer+".evil.example", 1),
		"a query instead": strings.Replace(frame, "#", "?", 1), "a space in front": " " + frame, "a static link of this grant, malformed": s.Issuer + "/device?user_code=AEIOU",
	} {
		wantSame(t, "/qr/scan "+what, p.scan(text, "scanner"), first)
	}
	first = p.scanCode("ZZZZ-ZZZZ")
	wantError(t, first, http.StatusNotFound, "unknown_code")
	for what, code := range map[string]string{
		"claimed by another": claimed.userCode(), "ended": ended.userCode(), "too short": "BCDF", "vowels": "AEIO-UAEI", "another script": "ΒСDF-GНJΚ",
	} {
		wantSame(t, "/qr/scan by code, "+what, p.scanCode(code), first)
	}
	wantSame(t, "a static link of this grant", p.scan(s.Issuer+"/device?user_code="+pending.userCode(), "link"), first)

	handle := scan.Text("confirm_handle")
	first = p.post(t.Context(), "/qr/decision", map[string]string{"confirm_handle": randomSecret(nil), "decision": "deny"})
	wantError(t, first, http.StatusNotFound, "not_found")
	for what, text := range map[string]string{
		"another person's": handle, "right session, wrong secret": randomSecret(claimed.id[:]), "unclaimed session": randomSecret(pending.id[:]),
		"ended session": randomSecret(ended.id[:]), "malformed": "x", "cut": handle[:60], "a device_code": claimed.deviceCode(),
	} {
		wantSame(t, "/qr/decision "+what, p.post(t.Context(), "/qr/decision", map[string]string{"confirm_handle": text, "decision": "deny"}), first)
	}
	wantSame(t, "the claimer with a device_code", bob.post(t.Context(), "/qr/decision", map[string]string{"confirm_handle": claimed.deviceCode(), "decision": "deny"}), first)
	for _, c := range []*consumption{pending, claimed} {
		if got := c.record().State; got == storage.QRDenied || got == storage.QRCancelled {
			t.Errorf("a guess moved a session to %s", got)
		}
	}
}

func flip(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

func swapCase(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 32
		case r >= 'A' && r <= 'Z':
			return r + 32
		}
		return r
	}, text)
}
