package provider_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/provider/qr"
)

// pendingBody is what the QR grant adds to a pending answer, as far as these tests look.
type pendingBody struct {
	Status    string `json:"qr_status"`
	CheckCode string `json:"check_code"`
	QR        struct {
		Payload string `json:"payload"`
	} `json:"qr"`
}

// exchangeQR polls for a grant type x/oauth2 has never heard of, with its Exchange.
func exchangeQR(b *bubble, config *oauth2.Config, deviceCode, verifier string) (*oauth2.Token, error) {
	return config.Exchange(b.context(), "",
		oauth2.SetAuthURLParam("grant_type", qr.GrantType),
		oauth2.SetAuthURLParam("device_code", deviceCode),
		oauth2.VerifierOption(verifier))
}

// pendingQR polls and expects to wait; what it learns comes with the library's error.
func pendingQR(b *bubble, config *oauth2.Config, deviceCode, verifier string) pendingBody {
	b.t.Helper()
	_, err := exchangeQR(b, config, deviceCode, verifier)
	var refusal *oauth2.RetrieveError
	if !errors.As(err, &refusal) || refusal.ErrorCode != pendingAnswer {
		b.t.Fatalf("the library returned %v", err)
	}
	var body pendingBody
	if err := json.Unmarshal(refusal.Body, &body); err != nil {
		b.t.Fatal(err)
	}
	return body
}

// scannedByAlice runs a whole QR login: open, draw, scan, check code, approve, tokens.
func scannedByAlice(b *bubble, config *oauth2.Config) *oauth2.Token {
	b.t.Helper()
	phone := b.phone()
	verifier := oauth2.GenerateVerifier()
	device := openDevice(b, config, oauth2.S256ChallengeOption(verifier))

	drawn := pendingQR(b, config, device.DeviceCode, verifier)
	if drawn.Status != "pending" || drawn.CheckCode != "" {
		b.t.Errorf("before the scan: %+v", drawn)
	}
	phone.scan(drawn.QR.Payload)
	time.Sleep(5 * time.Second)
	scanned := pendingQR(b, config, device.DeviceCode, verifier)
	if scanned.Status != "scanned" || scanned.CheckCode == "" || scanned.QR.Payload != "" {
		b.t.Errorf("after the scan: %+v", scanned)
	}
	phone.decide("approve", scanned.CheckCode)
	time.Sleep(5 * time.Second)
	token, err := exchangeQR(b, config, device.DeviceCode, verifier)
	if err != nil {
		b.t.Fatal(err)
	}
	return token
}

func TestXOAuth2ExchangeOfTheQRGrant(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"cli", "cli-confidential"} {
		for _, style := range authStyles() {
			t.Run(client+" "+styleName(style), func(t *testing.T) {
				inBubble(t, func(b *bubble) {
					config := b.config(client, style, "profile", "offline_access")
					token := scannedByAlice(b, config)
					b.verified(token, client, "ES256", "a-nonce")
					var want []poll
					want = append(want, pollsOf(style, 0, 0, pendingAnswer)...)
					want = append(want, pollsOf(style, 5*time.Second, 0, pendingAnswer)...)
					want = append(want, pollsOf(style, 10*time.Second, 0, "tokens")...)
					if diff := cmp.Diff(want, b.polled()); diff != "" {
						b.t.Error(diff)
					}
					refreshesByItself(b, config, token)
				})
			})
		}
	}
}

// A denial and a wrong verifier reach the caller as error codes.
func TestXOAuth2ExchangeOfTheQRGrantThatFails(t *testing.T) {
	t.Parallel()
	for _, style := range authStyles() {
		t.Run(styleName(style), func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				phone, config := b.phone(), b.config("cli", style)
				verifier := oauth2.GenerateVerifier()
				device := openDevice(b, config, oauth2.S256ChallengeOption(verifier))
				_, err := exchangeQR(b, config, device.DeviceCode, oauth2.GenerateVerifier())
				if code := refusalOf(b.t, err); code != "invalid_grant" {
					b.t.Errorf("with a wrong verifier the library returned %q", code)
				}
				// One wrong verifier is not the end of the login.
				phone.scan(pendingQR(b, config, device.DeviceCode, verifier).QR.Payload)
				phone.decide("deny", "")
				time.Sleep(5 * time.Second)
				_, err = exchangeQR(b, config, device.DeviceCode, verifier)
				if code := refusalOf(b.t, err); code != "access_denied" {
					b.t.Errorf("after a denial the library returned %q", code)
				}
			})
		})
	}
}
