package provider_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

const pendingAnswer = "authorization_pending"

func authStyles() []oauth2.AuthStyle {
	return []oauth2.AuthStyle{oauth2.AuthStyleAutoDetect, oauth2.AuthStyleInHeader, oauth2.AuthStyleInParams}
}

// openDevice starts a device login the way x/oauth2 does. DeviceAuth sends no credentials of
// its own, so a confidential client has to add its secret.
func openDevice(b *bubble, config *oauth2.Config, options ...oauth2.AuthCodeOption) *oauth2.DeviceAuthResponse {
	b.t.Helper()
	if config.ClientSecret != "" {
		options = append(options, oauth2.SetAuthURLParam("client_secret", config.ClientSecret))
	}
	options = append(options, oauth2.SetAuthURLParam("nonce", "a-nonce"))
	device, err := config.DeviceAuth(b.context(), options...)
	if err != nil {
		b.t.Fatal(err)
	}
	return device
}

// refusalOf returns the error code that x/oauth2 hands to its caller.
func refusalOf(t *testing.T, err error) string {
	t.Helper()
	var refusal *oauth2.RetrieveError
	if !errors.As(err, &refusal) {
		t.Fatalf("the library returned %v", err)
	}
	return refusal.ErrorCode
}

// With an unset AuthStyle the library sends every poll twice until it succeeds. Neither that
// nor two minutes of waiting may widen the gaps between the polls or lose the login.
func TestXOAuth2DeviceFlowApprovedAfterTwoMinutes(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"tv", "tv-confidential"} {
		for _, style := range authStyles() {
			for pkce, withPKCE := range map[string]bool{"with PKCE": true, "without PKCE": false} {
				t.Run(client+" "+styleName(style)+" "+pkce, func(t *testing.T) {
					inBubble(t, func(b *bubble) {
						var challenge, verifier []oauth2.AuthCodeOption
						if withPKCE {
							secret := oauth2.GenerateVerifier()
							challenge = append(challenge, oauth2.S256ChallengeOption(secret))
							verifier = append(verifier, oauth2.VerifierOption(secret))
						}
						phone := b.phone()
						config := b.config(client, style, "profile", "email", "offline_access")
						device := openDevice(b, config, challenge...)
						if device.Interval != 5 || time.Until(device.Expiry) != 10*time.Minute {
							b.t.Errorf("interval %d, expires in %v", device.Interval, time.Until(device.Expiry))
						}
						phone.answer(100*time.Second, 122*time.Second, device.VerificationURIComplete, "", "approve")
						token, err := config.DeviceAccessToken(b.context(), device, verifier...)
						if err != nil {
							b.t.Fatal(err)
						}
						var want []poll
						for at := 5 * time.Second; at <= 120*time.Second; at += 5 * time.Second {
							want = append(want, pollsOf(style, at, 0, pendingAnswer)...)
						}
						want = append(want, pollsOf(style, 125*time.Second, 0, "tokens")...)
						if diff := cmp.Diff(want, b.polled()); diff != "" {
							b.t.Error(diff)
						}
						if token.Type() != "Bearer" || token.RefreshToken == "" || time.Until(token.Expiry) != 10*time.Minute {
							b.t.Errorf("type %q, refresh token %t, expires in %v", token.Type(), token.RefreshToken != "", time.Until(token.Expiry))
						}
						b.verified(token, client, "ES256", "a-nonce")
					})
				})
			}
		}
	}
}

// A confidential device whose person types the user code of the screen on the phone.
func TestXOAuth2DeviceFlowWithTypedUserCode(t *testing.T) {
	inBubble(t, func(b *bubble) {
		phone := b.phone()
		config := b.config("kiosk", oauth2.AuthStyleAutoDetect, "profile")
		device := openDevice(b, config)
		phone.answer(6*time.Second, 7*time.Second, device.VerificationURIComplete, device.UserCode, "approve")
		token, err := config.DeviceAccessToken(b.context(), device)
		if err != nil {
			b.t.Fatal(err)
		}
		b.verified(token, "kiosk", "ES256", "a-nonce")
	})
}

// The second poll of a pair comes a round trip after the first was answered, and the approval
// may come between the two.
func TestXOAuth2DeviceFlowOnASlowNetwork(t *testing.T) {
	t.Parallel()
	rows := map[string]struct {
		roundTrip, approved time.Duration
		// last is what the polls of the last tick are answered.
		last []string
	}{
		"300 ms":                              {300 * time.Millisecond, 39 * time.Second, []string{"tokens"}},
		"1 s":                                 {time.Second, 39 * time.Second, []string{"tokens"}},
		"1.9 s":                               {1900 * time.Millisecond, 39 * time.Second, []string{"tokens"}},
		"1.9 s and an approval within a pair": {1900 * time.Millisecond, 42 * time.Second, []string{pendingAnswer, "tokens"}},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				phone := b.phone()
				config := b.config("tv", oauth2.AuthStyleAutoDetect)
				b.http.Transport = slowNetwork{b.http.Transport, row.roundTrip}
				device := openDevice(b, config)
				phone.answer(20*time.Second, row.approved, device.VerificationURIComplete, "", "approve")
				if _, err := config.DeviceAccessToken(b.context(), device); err != nil {
					b.t.Fatal(err)
				}
				var want []poll
				for at := 5 * time.Second; at < 40*time.Second; at += 5 * time.Second {
					want = append(want, pollsOf(oauth2.AuthStyleAutoDetect, at+row.roundTrip, row.roundTrip, pendingAnswer)...)
				}
				for i, answer := range row.last {
					at := 40*time.Second + time.Duration(i+1)*row.roundTrip
					want = append(want, poll{at, []string{"header", "form"}[i], answer})
				}
				if diff := cmp.Diff(want, b.polled()); diff != "" {
					b.t.Error(diff)
				}
			})
		})
	}
}

// A round trip longer than the two seconds of the free repeat makes the second poll of every
// pair too early. The gaps then grow, but the login arrives.
func TestXOAuth2DeviceFlowOnASatelliteLink(t *testing.T) {
	inBubble(t, func(b *bubble) {
		phone := b.phone()
		config := b.config("tv", oauth2.AuthStyleAutoDetect)
		b.http.Transport = slowNetwork{b.http.Transport, 2100 * time.Millisecond}
		device := openDevice(b, config)
		phone.answer(100*time.Second, 122*time.Second, device.VerificationURIComplete, "", "approve")
		token, err := config.DeviceAccessToken(b.context(), device)
		if err != nil {
			b.t.Fatal(err)
		}
		polls := b.polled()
		if last := polls[len(polls)-1]; last.Answer != "tokens" || last.At > 3*time.Minute {
			b.t.Errorf("last poll %+v", last)
		}
		b.verified(token, "tv", "ES256", "a-nonce")
	})
}

// A client that begins faster than it was told is slowed down, adds five seconds each time as
// RFC 8628 §3.5 says, and finds a pace that is accepted.
func TestXOAuth2DeviceFlowTooFast(t *testing.T) {
	t.Parallel()
	for _, style := range authStyles() {
		t.Run(styleName(style), func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				phone := b.phone()
				config := b.config("tv", style)
				device := openDevice(b, config)
				device.Interval = 3
				phone.answer(100*time.Second, 122*time.Second, device.VerificationURIComplete, "", "approve")
				if _, err := config.DeviceAccessToken(b.context(), device); err != nil {
					b.t.Fatal(err)
				}
				var want []poll
				for _, p := range []poll{
					{At: 3, Answer: pendingAnswer},
					// 3 s after a poll at 5 s: 10 s from now on, the client waits 8.
					{At: 6, Answer: "slow_down"},
					{At: 14, Answer: pendingAnswer},
					{At: 22, Answer: "slow_down"},
					{At: 35, Answer: pendingAnswer},
					{At: 48, Answer: "slow_down"},
					// 20 s, and the client waits 18: a tenth early is in time.
					{At: 66, Answer: pendingAnswer},
					{At: 84, Answer: pendingAnswer},
					{At: 102, Answer: pendingAnswer},
					{At: 120, Answer: pendingAnswer},
					{At: 138, Answer: "tokens"},
				} {
					want = append(want, pollsOf(style, p.At*time.Second, 0, p.Answer)...)
				}
				if diff := cmp.Diff(want, b.polled()); diff != "" {
					b.t.Error(diff)
				}
			})
		})
	}
}

func TestXOAuth2DeviceFlowThatFails(t *testing.T) {
	t.Parallel()
	rows := map[string]struct {
		answer func(phone *alicesPhone, payload string)
		at     time.Duration
		code   string
	}{
		"a denial is access_denied": {
			answer: func(phone *alicesPhone, payload string) {
				phone.answer(12*time.Second, 22*time.Second, payload, "", "deny")
			},
			at: 25 * time.Second, code: "access_denied",
		},
		"a code nobody scanned is expired_token when it cannot be claimed any more": {
			answer: func(*alicesPhone, string) {}, at: 540 * time.Second, code: "expired_token",
		},
		"a scan nobody decided is expired_token two minutes later": {
			answer: func(phone *alicesPhone, payload string) {
				time.AfterFunc(100*time.Second, func() { phone.scan(payload) })
			},
			at: 220 * time.Second, code: "expired_token",
		},
	}
	for name, row := range rows {
		for _, style := range authStyles() {
			t.Run(name+" "+styleName(style), func(t *testing.T) {
				inBubble(t, func(b *bubble) {
					phone := b.phone()
					config := b.config("tv", style)
					device := openDevice(b, config)
					row.answer(phone, device.VerificationURIComplete)
					_, err := config.DeviceAccessToken(b.context(), device)
					if code := refusalOf(b.t, err); code != row.code {
						b.t.Errorf("the library returned %q, want %q", code, row.code)
					}
					var want []poll
					for at := 5 * time.Second; at < row.at; at += 5 * time.Second {
						want = append(want, pollsOf(style, at, 0, pendingAnswer)...)
					}
					want = append(want, pollsOf(style, row.at, 0, row.code)...)
					if diff := cmp.Diff(want, b.polled()); diff != "" {
						b.t.Error(diff)
					}
				})
			})
		}
	}
}

// A pending answer that is lost ends a call of the library or, with an unset style, is made up
// for by the second poll of the pair. The application that polls on is not slowed down.
func TestXOAuth2DeviceFlowSurvivesALostPendingAnswer(t *testing.T) {
	t.Parallel()
	for _, style := range authStyles() {
		t.Run(styleName(style), func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				phone := b.phone()
				config := b.config("tv", style)
				b.http.Transport = &lossyNetwork{RoundTripper: b.http.Transport, lose: func(req *http.Request, _ *http.Response) bool {
					return req.URL.Path == "/token"
				}}
				device := openDevice(b, config)
				phone.answer(12*time.Second, 22*time.Second, device.VerificationURIComplete, "", "approve")
				token, err := config.DeviceAccessToken(b.context(), device)
				if lost := style != oauth2.AuthStyleAutoDetect; lost {
					if err == nil {
						b.t.Fatal("no answer was lost")
					}
					token, err = config.DeviceAccessToken(b.context(), device)
				}
				if err != nil {
					b.t.Fatal(err)
				}
				var want []poll
				for at := 5 * time.Second; at <= 20*time.Second; at += 5 * time.Second {
					want = append(want, pollsOf(style, at, 0, pendingAnswer)...)
				}
				want = append(want, pollsOf(style, 25*time.Second, 0, "tokens")...)
				if diff := cmp.Diff(want, b.polled()); diff != "" {
					b.t.Error(diff)
				}
				b.verified(token, "tv", "ES256", "a-nonce")
			})
		})
	}
}

// Tokens whose answer is lost are lost: the library, which repeats at once with an unset style,
// gets invalid_grant. Whoever proves the verifier so soon is no thief, so with PKCE the tokens
// stay good; without, the repeat ends them. Either way the next login works.
func TestXOAuth2DeviceFlowLosesTheTokens(t *testing.T) {
	t.Parallel()
	for name, withPKCE := range map[string]bool{"with PKCE": true, "without PKCE": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				phone := b.phone()
				config := b.config("tv", oauth2.AuthStyleAutoDetect)
				network := &lossyNetwork{RoundTripper: b.http.Transport, lose: func(req *http.Request, resp *http.Response) bool {
					return req.URL.Path == "/token" && resp.StatusCode == http.StatusOK
				}}
				b.http.Transport = network
				login := func() (*oauth2.Token, error) {
					var challenge, verifier []oauth2.AuthCodeOption
					if withPKCE {
						secret := oauth2.GenerateVerifier()
						challenge = append(challenge, oauth2.S256ChallengeOption(secret))
						verifier = append(verifier, oauth2.VerifierOption(secret))
					}
					device := openDevice(b, config, challenge...)
					phone.answer(time.Second, 2*time.Second, device.VerificationURIComplete, "", "approve")
					return config.DeviceAccessToken(b.context(), device, verifier...)
				}
				_, err := login()
				if code := refusalOf(b.t, err); code != "invalid_grant" {
					b.t.Errorf("the library returned %q", code)
				}
				want := []poll{{5 * time.Second, "header", "tokens"}, {5 * time.Second, "form", "invalid_grant"}}
				if diff := cmp.Diff(want, b.polled()); diff != "" {
					b.t.Error(diff)
				}
				var lost oauth2.Token
				if err := json.Unmarshal(network.lost, &lost); err != nil || lost.AccessToken == "" {
					b.t.Fatalf("lost %q: %v", network.lost, err)
				}
				if _, err = b.discover().UserInfo(b.context(), oauth2.StaticTokenSource(&lost)); (err == nil) != withPKCE {
					b.t.Errorf("userinfo with the lost token: %v", err)
				}
				token, err := login()
				if err != nil {
					b.t.Fatal(err)
				}
				b.verified(token, "tv", "ES256", "a-nonce")
			})
		})
	}
}

func TestXOAuth2DeviceAuthIsRefused(t *testing.T) {
	t.Parallel()
	rows := map[string]struct {
		client  string
		options []oauth2.AuthCodeOption
		code    string
	}{
		"a confidential client without its secret": {"tv-confidential", nil, "invalid_client"},
		"a client without a device grant":          {"web", []oauth2.AuthCodeOption{oauth2.SetAuthURLParam("client_secret", providertest.ClientSecret)}, "unauthorized_client"},
		"the QR grant without PKCE":                {"cli", nil, "invalid_request"},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				_, err := b.config(row.client, oauth2.AuthStyleAutoDetect).DeviceAuth(b.context(), row.options...)
				if code := refusalOf(b.t, err); code != row.code {
					b.t.Errorf("the library returned %q, want %q", code, row.code)
				}
			})
		})
	}
}

// The code flow with PKCE and a TokenSource that refreshes by itself, twice.
func TestXOAuth2CodeFlowAndRefresh(t *testing.T) {
	t.Parallel()
	for _, style := range authStyles() {
		t.Run(styleName(style), func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				config := b.config("web", style, "profile", "offline_access")
				first := b.signIn(config, oauth2.SetAuthURLParam("nonce", "a-nonce"))
				b.verified(first, "web", "ES256", "a-nonce")
				refreshesByItself(b, config, first)
			})
		})
	}
}

// What a device login brought is refreshed in the same way.
func TestXOAuth2DeviceFlowRefresh(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"tv", "tv-confidential"} {
		for _, style := range authStyles() {
			t.Run(client+" "+styleName(style), func(t *testing.T) {
				inBubble(t, func(b *bubble) {
					phone := b.phone()
					config := b.config(client, style, "profile", "offline_access")
					device := openDevice(b, config)
					phone.answer(time.Second, 2*time.Second, device.VerificationURIComplete, "", "approve")
					first, err := config.DeviceAccessToken(b.context(), device)
					if err != nil {
						b.t.Fatal(err)
					}
					refreshesByItself(b, config, first)
				})
			})
		}
	}
}

// refreshesByItself waits for the access token to expire, twice, and expects a new one each time.
func refreshesByItself(b *bubble, config *oauth2.Config, token *oauth2.Token) {
	b.t.Helper()
	source := config.TokenSource(b.context(), token)
	for range 2 {
		same, err := source.Token()
		if err != nil || same.AccessToken != token.AccessToken {
			b.t.Fatalf("a living token was not used: %v", err)
		}
		time.Sleep(11 * time.Minute)
		fresh, err := source.Token()
		if err != nil {
			b.t.Fatal(err)
		}
		if fresh.AccessToken == token.AccessToken || fresh.RefreshToken == token.RefreshToken || fresh.RefreshToken == "" {
			b.t.Error("the tokens were not rotated")
		}
		if info, err := b.discover().UserInfo(b.context(), oauth2.StaticTokenSource(fresh)); err != nil || info.Subject != providertest.AliceSubject {
			b.t.Errorf("userinfo after the refresh: %v", err)
		}
		token = fresh
	}
}
