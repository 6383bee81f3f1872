package player

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds what is read of an answer: no page or token response of ours is near it.
const maxAnswer = 1 << 20

// ErrDenied and ErrExpired are the two ordinary ends without tokens.
var (
	// ErrDenied: the person, or the server on the person's behalf, said no.
	ErrDenied = errors.New("the sign-in was denied")
	// ErrExpired: nobody approved in time.
	ErrExpired = errors.New("the sign-in expired")
)

// UnreachableError reports that no answer came: connection refused, time-out, broken off.
type UnreachableError struct {
	// Origin is the scheme and host that were tried.
	Origin string
	Err    error
}

func (e *UnreachableError) Error() string { return "could not reach " + e.Origin }

// Unwrap returns the transport's error.
func (e *UnreachableError) Unwrap() error { return e.Err }

// RefusalError is an answer that says no: an OAuth error or a problem document.
type RefusalError struct {
	Status int
	// Code is the stable `error` member; empty when the body had none.
	Code        string
	Description string
	// TriesLeft stands beside check_code_mismatch; nil elsewhere.
	TriesLeft *int
	// RetryAfter is the Retry-After header in seconds; zero when absent.
	RetryAfter time.Duration
}

func (e *RefusalError) Error() string {
	switch {
	case e.Code == "" && e.Description != "":
		return "the server says: " + e.Description
	case e.Code == "":
		return "the server answered " + strconv.Itoa(e.Status)
	case e.Description == "":
		return "the server answered " + e.Code
	default:
		return "the server answered " + e.Code + ": " + e.Description
	}
}

// as gives a refusal that was a page, not JSON, its code.
func (e *RefusalError) as(code string) *RefusalError {
	e.Code = code
	return e
}

// RefusedWith reports whether err is a refusal with this code.
func RefusedWith(err error, code string) bool {
	var refusal *RefusalError
	return errors.As(err, &refusal) && refusal.Code == code
}

// Exchange is one request on the wire and its answer, without any content.
type Exchange struct {
	Method string
	Path   string
	// Status is the answer's; zero while there is none.
	Status int
}

// Recorder is an http.RoundTripper that tells what goes over the wire.
type Recorder struct {
	// Next sends; nil means http.DefaultTransport.
	Next http.RoundTripper
	// Sent is called before a request goes out, Answered with its answer. Nil skips.
	Sent, Answered func(Exchange)
}

// RoundTrip implements http.RoundTripper.
func (r *Recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	seen := Exchange{Method: req.Method, Path: req.URL.Path}
	if r.Sent != nil {
		r.Sent(seen)
	}
	next := r.Next
	if next == nil {
		next = http.DefaultTransport
	}
	res, err := next.RoundTrip(req)
	if err == nil && r.Answered != nil {
		seen.Status = res.StatusCode
		r.Answered(seen)
	}
	return res, err
}

// answer is a response read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
	url    *url.URL
}

// send performs a request and reads the whole answer. Only transport failures are errors.
func send(client *http.Client, req *http.Request) (*answer, error) {
	res, err := client.Do(req)
	if err != nil {
		return nil, unreachable(req, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, unreachable(req, err)
	}
	return &answer{status: res.StatusCode, header: res.Header, body: body, url: res.Request.URL}, nil
}

func unreachable(req *http.Request, err error) error {
	// A cancelled context is the caller's own doing, not the network's.
	if ctxErr := req.Context().Err(); ctxErr != nil {
		return ctxErr
	}
	return &UnreachableError{Origin: req.URL.Scheme + "://" + req.URL.Host, Err: err}
}

// postForm sends a form; the caller sets further headers through prepare, which may be nil.
func postForm(ctx context.Context, client *http.Client, to string, form url.Values, prepare func(*http.Request)) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("read the address %q: %w", to, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent())
	if prepare != nil {
		prepare(req)
	}
	return send(client, req)
}

// userAgent says what this program is; the server puts it into words for the phone.
func userAgent() string {
	system := map[string]string{"linux": "Linux", "darwin": "Macintosh", "windows": "Windows"}[runtime.GOOS]
	return "qrgrant/1 (" + system + ")"
}

// postJSON sends in as JSON with an access token and reads a 200 answer into out. authorization is
// the scheme and the token.
func postJSON(ctx context.Context, client *http.Client, to, authorization string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("read the address %q: %w", to, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", authorization)
	got, err := send(client, req)
	if err != nil {
		return err
	}
	return got.decode(out)
}

// getJSON reads a 200 answer into out.
func getJSON(ctx context.Context, client *http.Client, from string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return fmt.Errorf("read the address %q: %w", from, err)
	}
	got, err := send(client, req)
	if err != nil {
		return err
	}
	return got.decode(out)
}

// decode reads a 200 answer into out and turns every other one into a RefusalError.
func (a *answer) decode(out any) error {
	if a.status != http.StatusOK {
		return a.refusal()
	}
	if err := json.Unmarshal(a.body, out); err != nil {
		return fmt.Errorf("%s did not answer with JSON; is it really a qrgrant server: %w", a.url.Path, err)
	}
	return nil
}

// refusal reads the two shapes of an error body: OAuth's and problem+json with `error`.
func (a *answer) refusal() *RefusalError {
	var body struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Detail      string `json:"detail"`
		TriesLeft   *int   `json:"tries_left"`
	}
	// A body that is no JSON leaves the code empty, and the status speaks.
	_ = json.Unmarshal(a.body, &body)
	refusal := &RefusalError{Status: a.status, Code: body.Error, Description: body.Description, TriesLeft: body.TriesLeft}
	if refusal.Description == "" {
		refusal.Description = body.Detail
	}
	if seconds, err := strconv.Atoi(a.header.Get("Retry-After")); err == nil && seconds > 0 {
		refusal.RetryAfter = time.Duration(seconds) * time.Second
	}
	return refusal
}

// backOff is the pause before try n (from 1) after a failure: 1, 2, 4 … at most 30 s
// (RFC 8628 §3.5 asks for an exponential back-off on time-outs).
func backOff(n int) time.Duration {
	return min(time.Second<<min(n-1, 5), 30*time.Second)
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
