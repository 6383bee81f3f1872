package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider/dpop"
)

// requestTimeout bounds one request of the terminal clients; it must outlast a 25 s long poll.
const requestTimeout = 40 * time.Second

const loginDetail = `    The terminal PC. It opens a sign-in, draws the QR code (a new one every ten seconds), shows
    the number to type once a phone has scanned, and prints the claims of the verified ID token.
    The tokens are neither stored nor printed, and a server that can (RFC 9449) binds them to a
    key that is made for this run. Ctrl-C cancels the sign-in at the server.
    With --json, standard output gets one object at the end and everything else goes to
    standard error.`

// loginFlags is the command line of `qrgrant login`.
type loginFlags struct {
	issuer, clientID, secretFile, scope, grant, deviceName string
	json                                                   bool
}

func loginVerb() verb {
	return verb{
		name:    "login",
		summary: "the terminal PC: shows a QR code and waits for a phone to approve",
		detail:  loginDetail,
		prepare: func(flags *flag.FlagSet) action {
			var f loginFlags
			flags.StringVar(&f.issuer, "issuer", "", "`URL` of the server, spelt as it spells itself (required)")
			flags.StringVar(&f.clientID, "client-id", "", "`ID` of the client to sign in to (required)")
			flags.StringVar(&f.secretFile, "client-secret-file", "", "`FILE` with the client's secret, if it has one")
			flags.StringVar(&f.scope, "scope", "openid profile", "`SCOPES` to ask for, separated by spaces")
			flags.StringVar(&f.grant, "grant", "qr", "`GRANT` of the client: qr, or device for a client of RFC 8628")
			flags.StringVar(&f.deviceName, "device-name", "", "`NAME` this device gives itself on the phone")
			flags.BoolVar(&f.json, "json", false, "print one JSON object on standard output")
			return f.run
		},
	}
}

func (f *loginFlags) run(ctx context.Context, e env) error {
	device, err := f.device()
	if err != nil {
		return err
	}
	out := e.Stdout
	if f.json {
		out = e.Stderr
	}
	display := newScreen(out)
	attempt, err := device.Open(ctx)
	if err != nil {
		return err
	}
	display.open(device, attempt)
	tokens, err := attempt.Await(ctx, display.update)
	if err != nil && ctx.Err() != nil {
		// Whatever the last poll came back with, it is this person who ended the sign-in. The
		// phone must not go on asking about a PC that has left.
		err = errGivenUp
		last, stop := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer stop()
		if attempt.Cancel(last) == nil {
			err = errCancelled
		}
	}
	if err != nil {
		return err
	}
	claims, err := attempt.Verify(ctx, tokens)
	if err != nil {
		return err
	}
	display.signedIn(claims, tokens)
	if !f.json {
		return f.offerNotMe(ctx, e, attempt, tokens)
	}
	return printJSON(e.Stdout, loginResult{
		Claims: claims, TokenType: tokens.TokenType,
		GrantType: device.Grant, Scope: tokens.Scope, ExpiresIn: tokens.ExpiresIn,
	})
}

// offerNotMe lets a person at a terminal refuse the account before anything uses the tokens:
// somebody else may have approved what this screen showed.
func (f *loginFlags) offerNotMe(ctx context.Context, e env, attempt *player.Attempt, tokens *player.Tokens) error {
	if !isTerminal(e.Stdin) || !isTerminal(e.Stdout) {
		return nil
	}
	p := &person{in: bufio.NewReader(e.Stdin), out: e.Stdout}
	said, err := p.ask(ctx, "\nIs this not you? Type n and Enter to end the sign-in; Enter alone keeps it: ")
	if err != nil || !strings.HasPrefix(strings.ToLower(said), "n") {
		// The sign-in is done; leaving the question open changes nothing.
		return nil
	}
	if err := attempt.Revoke(ctx, tokens); err != nil {
		return err
	}
	return errNotMe
}

// loginResult is what `login --json` prints.
type loginResult struct {
	Claims    map[string]any `json:"id_token_claims"`
	TokenType string         `json:"token_type"`
	GrantType string         `json:"grant_type"`
	Scope     string         `json:"scope,omitempty"`
	ExpiresIn int64          `json:"expires_in"`
}

// device reads the flags into the PC to play.
func (f *loginFlags) device() (*player.ConsumptionDevice, error) {
	if f.issuer == "" || f.clientID == "" {
		return nil, usagef("--issuer and --client-id are required; see qrgrant help login")
	}
	issuer := strings.TrimSuffix(f.issuer, "/")
	if err := checkIssuer(issuer); err != nil {
		return nil, err
	}
	grants := map[string]string{"qr": player.GrantQR, "device": player.GrantDevice}
	grant, known := grants[f.grant]
	if !known {
		return nil, usagef("--grant is %q; it must be qr or device", f.grant)
	}
	secret, err := readSecret("--client-secret-file", f.secretFile)
	if err != nil {
		return nil, err
	}
	key, err := dpop.NewKey()
	if err != nil {
		return nil, err
	}
	return &player.ConsumptionDevice{
		Issuer: issuer, ClientID: f.clientID, ClientSecret: secret,
		Grant: grant, Scopes: strings.Fields(f.scope), DeviceName: f.deviceName,
		HTTP: &http.Client{Timeout: requestTimeout}, Key: key,
	}, nil
}

// readSecret reads a one-line secret from a file, never from the command line, which every
// process of the machine can see. An empty name is no secret.
func readSecret(flagName, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", usagef("%s: %v", flagName, err)
	}
	secret := strings.TrimRight(string(raw), "\r\n")
	if secret == "" {
		return "", usagef("%s: %s is empty", flagName, file)
	}
	return secret, nil
}

func printJSON(out interface{ Write([]byte) (int, error) }, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}
