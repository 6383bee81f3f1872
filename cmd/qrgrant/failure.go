package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
)

// The exit codes, documented in the help text.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitDenied      = 3
	exitExpired     = 4
	exitUnreachable = 5
	exitInterrupted = 130
)

// usageError is a command line or a configuration that cannot be carried out.
type usageError struct{ line string }

func (e *usageError) Error() string { return e.line }

// The ways in which a person at the PC ends a sign-in.
var (
	errCancelled = errors.New("cancelled; nobody is signed in")
	errGivenUp   = errors.New("cancelled, but the server could not be told; a phone may still ask about this sign-in for a few minutes")
	errNotMe     = errors.New("the sign-in is ended at the server; its tokens are worth nothing now")
)

// usagef makes a usageError. Errors among args are put in plain words.
func usagef(format string, args ...any) error {
	for i, arg := range args {
		if err, ok := arg.(error); ok {
			args[i] = plain(err)
		}
	}
	return &usageError{line: fmt.Sprintf(format, args...)}
}

// checkIssuer refuses early what can be no issuer, in the words of the command line.
func checkIssuer(issuer string) error {
	parsed, err := url.Parse(issuer)
	switch {
	case err != nil || parsed.Host == "" || parsed.Scheme != "https" && parsed.Scheme != "http":
		return usagef("--issuer is %q; it must be a URL like https://id.example", issuer)
	case parsed.RawQuery != "" || parsed.Fragment != "" || strings.HasSuffix(issuer, "/") || strings.ContainsAny(issuer, "?#"):
		return usagef("--issuer is %q; it must have no query, no fragment and no slash at the end", issuer)
	case parsed.Scheme == "http" && !isLoopback(net.JoinHostPort(parsed.Hostname(), "0")):
		return usagef("--issuer is %q; plain http is for loopback addresses only, use https", issuer)
	}
	return nil
}

// complain prints err, if any, as one plain line and returns the exit code for it.
func complain(e env, name string, err error) int {
	if err == nil {
		return exitOK
	}
	var faulty *configFaults
	if errors.As(err, &faulty) {
		for _, line := range faulty.lines {
			fmt.Fprintf(e.Stderr, "qrgrant %s: %s\n", name, oneLine(line))
		}
		return exitUsage
	}
	line, code := explain(err)
	fmt.Fprintf(e.Stderr, "qrgrant %s: %s\n", name, oneLine(line))
	return code
}

// explain says what happened and what to do, and chooses the exit code.
func explain(err error) (line string, code int) {
	var usage *usageError
	var lost *player.UnreachableError
	var mismatch *player.GrantMismatchError
	switch {
	case errors.As(err, &usage):
		return usage.line, exitUsage
	case errors.Is(err, errCancelled), errors.Is(err, errGivenUp):
		return err.Error(), exitInterrupted
	case errors.Is(err, context.Canceled):
		return "interrupted", exitInterrupted
	case errors.As(err, &mismatch):
		return mismatch.Error() + "; give --grant device for RFC 8628, --grant qr for the QR grant", exitUsage
	case errors.Is(err, errNotMe):
		return err.Error(), exitDenied
	case errors.Is(err, player.ErrDenied):
		return "the sign-in was denied; nobody is signed in", exitDenied
	case errors.Is(err, player.ErrExpired):
		return "nobody approved in time; run the command again for a new code", exitExpired
	case errors.Is(err, player.ErrCredentials):
		return "user name or password is wrong; check --user and --password-file", exitDenied
	case errors.As(err, &lost):
		return fmt.Sprintf("could not reach %s; is the server running, and is the issuer right?", lost.Origin), exitUnreachable
	}
	return explainRefusal(err)
}

// explainRefusal words the answers of the server that a person can do something about.
func explainRefusal(err error) (line string, code int) {
	var refusal *player.RefusalError
	if !errors.As(err, &refusal) {
		return plain(err), exitFailure
	}
	switch refusal.Code {
	case "invalid_client", "unauthorized_client":
		return "the server does not let this client do that; check --client-id, its secret and its grant type", exitFailure
	case "invalid_scope":
		return "this client may not ask for one of these scopes; choose others with --scope", exitFailure
	case "invalid_grant":
		return "the server no longer accepts this sign-in; run the command again for a new code", exitFailure
	case "not_found", "unknown_code":
		return "the server does not know this code; it may be mistyped, taken or too old: ask for a new one on the other device", exitFailure
	case "stale_frame":
		return "this QR code is no longer on the screen; take the current one", exitExpired
	case "gone":
		return "this sign-in is over; ask for a new code on the other device", exitExpired
	case "already_claimed":
		return "another phone, or an earlier run of this command, has this code; if that was not you, cancel on the other device", exitDenied
	case "already_decided":
		return "this sign-in is decided already", exitFailure
	case "check_code_mismatch":
		return "that is not what the other screen shows; cancel there, ask for a new code and start again", exitDenied
	case "context_changed":
		return "what you were shown has changed; scan again", exitFailure
	case "reported":
		return "you reported this device a short while ago; it may ask you again in " + orMinute(refusal), exitDenied
	case "rate_limited", "temporarily_unavailable":
		return "too many tries; wait " + orMinute(refusal) + " and try again", exitFailure
	case "wrong_account":
		return "the other device asked for another person; sign in as that one", exitDenied
	case "approver_not_allowed", "insufficient_scope":
		return "this client may not approve sign-ins; use the phone app's client with --client-id", exitDenied
	case "insufficient_user_authentication":
		return "the other device asks for a fresh sign-in; run the command again", exitDenied
	}
	if refusal.Code == "" && strings.HasPrefix(refusal.Description, "The redirect_uri ") {
		return strings.TrimSuffix(refusal.Error(), ".") + "; check --redirect-uri", exitFailure
	}
	return refusal.Error(), exitFailure
}

func orMinute(refusal *player.RefusalError) string {
	if refusal.RetryAfter > 0 {
		return refusal.RetryAfter.String()
	}
	return "a minute"
}

// oneLine keeps a message on one line and free of what a terminal would obey: parts of it can
// come from the server or from a file.
func oneLine(text string) string {
	return strings.TrimRight(printable(strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")), " ;")
}

// printable replaces control and direction-changing characters, so that text of a stranger
// cannot move the cursor or reorder the words around it.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < ' ', r >= 0x7f && r < 0xa0, r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0xfeff:
			return '\uFFFD'
		}
		return r
	}, text)
}
