package player

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/provider/dpop"
)

const (
	// longPollSeconds is what the PC asks for with Prefer: wait; the server's own maximum.
	longPollSeconds = 25
	// redemptionWindow is how long an approval can outlive expires_in (protocol §3).
	redemptionWindow = 125 * time.Second
	// defaultInterval is the polling interval when the server names none (RFC 8628 §3.2).
	defaultInterval = 5 * time.Second
	slowDownStep    = 5 * time.Second
)

// ConsumptionDevice is the PC or TV that wants to sign in. Issuer, ClientID, Grant and HTTP
// are required. HTTP must allow a request of more than 25 s, the length of a long poll.
type ConsumptionDevice struct {
	Issuer   string
	ClientID string
	// ClientSecret is empty for a public client.
	ClientSecret string
	// Grant is GrantQR or GrantDevice.
	Grant  string
	Scopes []string
	// Image asks for a picture of the QR code: "svg", "png" or empty.
	Image string
	// DeviceName is shown to the person as what the device says of itself.
	DeviceName string
	HTTP       *http.Client
	// Key binds the tokens where the server can (RFC 9449); nil asks for bearer tokens.
	Key *dpop.Key
}

// Attempt is one opened sign-in. It is not for concurrent use.
type Attempt struct {
	// UserCode and VerificationURI are for a person without a scanner.
	UserCode                string
	VerificationURI         string
	VerificationURIComplete string
	// Payload is what the QR code says at the start, Image its picture as a data: URI.
	Payload string
	Image   string
	// Lifetime is how long the attempt can be claimed, from expires_in.
	Lifetime time.Duration

	device   *ConsumptionDevice
	provider *oidc.Provider
	// proved sends what proves the key, if the tokens will be bound to it.
	proved *http.Client
	bound  bool
	// revokeAt is empty when the server does not say.
	revokeAt   string
	cancelAt   string
	deviceCode string
	verifier   string
	nonce      string
	interval   time.Duration
	seq        uint64
}

// Update is a change of what the PC shows while it waits.
type Update struct {
	// Payload is the new frame and Image its picture; empty when the code must not be shown.
	Payload string
	Image   string
	// CheckCode is the number to show large once the phone has scanned.
	CheckCode string
	// Trouble is a failure that is being retried after RetryIn; nil when all is well.
	Trouble error
	RetryIn time.Duration
}

// Tokens is what a finished attempt received.
type Tokens struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`
	Scope        string `json:"scope"`
}

// frame is the `qr` member of an answer.
type frame struct {
	Payload string `json:"payload"`
	Image   string `json:"image"`
}

// GrantMismatchError reports that the client is registered for the other of the two grants.
type GrantMismatchError struct{ ClientID string }

func (e *GrantMismatchError) Error() string {
	return fmt.Sprintf("the client %q is registered for the other grant", e.ClientID)
}

// Open asks the server for a new sign-in attempt. PKCE and a nonce are always sent.
func (d *ConsumptionDevice) Open(ctx context.Context) (*Attempt, error) {
	provider, err := discoverOIDC(ctx, d.HTTP, d.Issuer)
	if err != nil {
		return nil, err
	}
	qr, err := discoverQR(ctx, d.HTTP, d.Issuer)
	if err != nil {
		return nil, err
	}
	var metadata struct {
		RevocationEndpoint string `json:"revocation_endpoint"`
	}
	if err := provider.Claims(&metadata); err != nil {
		return nil, fmt.Errorf("read the OpenID metadata of %s: %w", d.Issuer, err)
	}
	a := &Attempt{
		device: d, provider: provider, cancelAt: qr.CancelEndpoint, revokeAt: metadata.RevocationEndpoint,
		verifier: oauth2.GenerateVerifier(), nonce: oauth2.GenerateVerifier(),
	}
	if a.proved, a.bound, err = proving(d.HTTP, d.Key, provider); err != nil {
		return nil, err
	}
	if err := a.open(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// open sends the request and takes over the answer.
func (a *Attempt) open(ctx context.Context) error {
	d := a.device
	got, err := d.post(ctx, a.proved, a.provider.Endpoint().DeviceAuthURL, d.openForm(a), nil)
	if err != nil {
		return err
	}
	var opened struct {
		DeviceCode              string `json:"device_code"`
		UserCode                string `json:"user_code"`
		VerificationURI         string `json:"verification_uri"`
		VerificationURIComplete string `json:"verification_uri_complete"`
		ExpiresIn               int64  `json:"expires_in"`
		Interval                int64  `json:"interval"`
		QR                      frame  `json:"qr"`
	}
	if err := got.decode(&opened); err != nil {
		return err
	}
	a.deviceCode, a.UserCode = opened.DeviceCode, opened.UserCode
	a.VerificationURI, a.VerificationURIComplete = opened.VerificationURI, opened.VerificationURIComplete
	a.Payload, a.Image = opened.QR.Payload, opened.QR.Image
	a.Lifetime = time.Duration(opened.ExpiresIn) * time.Second
	// A record starts at version 1: saying so makes the server answer a first poll that comes
	// after the scan at once, instead of holding back the check code.
	a.seq = 1
	a.interval = defaultInterval
	if opened.Interval > 0 {
		a.interval = time.Duration(opened.Interval) * time.Second
	}
	if (a.Payload == "") == (d.Grant == GrantQR) {
		// The server knows the client's grant; only a poll would tell, and then too late.
		return &GrantMismatchError{ClientID: d.ClientID}
	}
	if a.Payload == "" {
		// A strict RFC 8628 answer has no rotating frame; the QR code is the link with the code.
		a.Payload = a.VerificationURIComplete
	}
	return nil
}

func (d *ConsumptionDevice) openForm(a *Attempt) url.Values {
	form := url.Values{
		"scope":                 {strings.Join(d.Scopes, " ")},
		"nonce":                 {a.nonce},
		"code_challenge":        {oauth2.S256ChallengeFromVerifier(a.verifier)},
		"code_challenge_method": {"S256"},
	}
	if d.Image != "" {
		form.Set("qr_image", d.Image)
	}
	if d.DeviceName != "" {
		form.Set("device_name", d.DeviceName)
	}
	return form
}

// post sends a form as this client: HTTP Basic when it has a secret, client_id otherwise.
func (d *ConsumptionDevice) post(ctx context.Context, client *http.Client, to string, form url.Values, prepare func(*http.Request)) (*answer, error) {
	if d.ClientSecret == "" {
		form.Set("client_id", d.ClientID)
	}
	return postForm(ctx, client, to, form, func(req *http.Request) {
		if d.ClientSecret != "" {
			// RFC 6749 §2.3.1: both halves are form-encoded before Basic encodes them.
			req.SetBasicAuth(url.QueryEscape(d.ClientID), url.QueryEscape(d.ClientSecret))
		}
		if prepare != nil {
			prepare(req)
		}
	})
}

// Await polls until the attempt ends and tells show about every change. It returns the
// tokens, ErrDenied, ErrExpired, a *RefusalError that polling cannot mend, or ctx's error.
// Lost connections and busy servers are retried with growing pauses until the attempt is
// over by the PC's own clock.
func (a *Attempt) Await(ctx context.Context, show func(Update)) (*Tokens, error) {
	over := time.Now().Add(a.Lifetime + redemptionWindow)
	wait, troubles := time.Duration(0), 0
	if a.device.Grant == GrantDevice {
		wait = a.interval
	}
	for {
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
		tokens, next, err := a.poll(ctx, show)
		switch {
		case tokens != nil:
			return tokens, nil
		case err == nil:
			wait, troubles = next, 0
		case passing(err):
			troubles++
			wait = backOff(troubles)
			var refusal *RefusalError
			if errors.As(err, &refusal) {
				wait = max(wait, refusal.RetryAfter)
			}
			if time.Now().Add(wait).After(over) {
				return nil, err
			}
			show(Update{Trouble: err, RetryIn: wait})
		default:
			return nil, err
		}
	}
}

// passing reports whether the same poll may succeed later: no answer, or a busy server.
func passing(err error) bool {
	var lost *UnreachableError
	var refusal *RefusalError
	return errors.As(err, &lost) ||
		errors.As(err, &refusal) && (refusal.Status >= 500 || refusal.Status == http.StatusTooManyRequests)
}

// poll asks once. It returns the tokens, or how long to wait before the next poll.
func (a *Attempt) poll(ctx context.Context, show func(Update)) (*Tokens, time.Duration, error) {
	form := url.Values{"grant_type": {a.device.Grant}, "device_code": {a.deviceCode}, "code_verifier": {a.verifier}}
	if a.device.Grant == GrantQR {
		form.Set("qr_seq", strconv.FormatUint(a.seq, 10))
	}
	got, err := a.device.post(ctx, a.proved, a.provider.Endpoint().TokenURL, form, func(req *http.Request) {
		if a.device.Grant == GrantQR {
			req.Header.Set("Prefer", "wait="+strconv.Itoa(longPollSeconds))
		}
	})
	if err != nil {
		return nil, 0, err
	}
	if got.status == http.StatusOK {
		var tokens Tokens
		if err := got.decode(&tokens); err != nil {
			return nil, 0, err
		}
		if err := checkBound(a.bound, tokens.TokenType); err != nil {
			return nil, 0, err
		}
		return &tokens, 0, nil
	}
	refusal := got.refusal()
	switch refusal.Code {
	case "authorization_pending":
		return nil, a.pending(got, show), nil
	case "slow_down":
		a.interval += slowDownStep
		return nil, a.interval, nil
	case "access_denied":
		return nil, 0, ErrDenied
	case "expired_token":
		return nil, 0, ErrExpired
	default:
		return nil, 0, refusal
	}
}

// pending reads the extra members of a pending answer and shows what changed.
func (a *Attempt) pending(got *answer, show func(Update)) time.Duration {
	var body struct {
		Seq       uint64 `json:"qr_seq"`
		QR        frame  `json:"qr"`
		CheckCode string `json:"check_code"`
	}
	if err := json.Unmarshal(got.body, &body); err == nil {
		a.seq = body.Seq
		if body.QR.Payload != "" || body.CheckCode != "" {
			show(Update{Payload: body.QR.Payload, Image: body.QR.Image, CheckCode: body.CheckCode})
		}
	}
	// Only a held answer frees the next poll from the interval (protocol §4).
	if got.header.Get("Preference-Applied") != "" {
		return 0
	}
	return a.interval
}

// Cancel tells the server that the PC gave up.
func (a *Attempt) Cancel(ctx context.Context) error {
	got, err := a.device.post(ctx, a.proved, a.cancelAt, url.Values{"device_code": {a.deviceCode}}, nil)
	if err != nil {
		return err
	}
	return got.decode(&struct{}{})
}

// Revoke ends the sign-in at the server: its session and every token of it. A person who finds
// somebody else's account on the PC says "not me", and nothing of it may stay usable.
func (a *Attempt) Revoke(ctx context.Context, tokens *Tokens) error {
	if a.revokeAt == "" {
		return errors.New("the server does not say where to end a sign-in")
	}
	got, err := a.device.post(ctx, a.device.HTTP, a.revokeAt, url.Values{"token": {tokens.AccessToken}}, nil)
	if err != nil {
		return err
	}
	if got.status != http.StatusOK {
		return got.refusal()
	}
	return nil
}

// Verify checks the ID token against the issuer's keys, this client and this attempt's
// nonce, and returns its claims. No token may be used before it succeeded.
func (a *Attempt) Verify(ctx context.Context, tokens *Tokens) (map[string]any, error) {
	if tokens.IDToken == "" {
		return nil, errors.New("the answer has no ID token; ask for the scope openid")
	}
	ctx = oidc.ClientContext(ctx, a.device.HTTP)
	verified, err := a.provider.VerifierContext(ctx, &oidc.Config{ClientID: a.device.ClientID}).Verify(ctx, tokens.IDToken)
	if err != nil {
		return nil, fmt.Errorf("verify the ID token: %w", err)
	}
	if verified.Nonce != a.nonce {
		return nil, errors.New("verify the ID token: its nonce is not the one this attempt sent")
	}
	if verified.AccessTokenHash != "" {
		if err := verified.VerifyAccessToken(tokens.AccessToken); err != nil {
			return nil, fmt.Errorf("verify the ID token: %w", err)
		}
	}
	claims := map[string]any{}
	if err := verified.Claims(&claims); err != nil {
		return nil, fmt.Errorf("read the claims of the ID token: %w", err)
	}
	return claims, nil
}
