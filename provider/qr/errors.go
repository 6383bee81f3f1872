package qr

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/reply"
)

// Problem is an error of the phone endpoints, written as application/problem+json with the
// stable member "error". Its text is fixed: nothing of the request or of an inner error.
type Problem struct {
	Status int
	Code   string
	// Detail is the fixed sentence for people who read answers.
	Detail string
	// TriesLeft goes with check_code_mismatch.
	TriesLeft *int
	// RetryAfter goes with rate_limited; it is rounded up to seconds.
	RetryAfter time.Duration
	// MaxAge goes with insufficient_user_authentication, in seconds (RFC 9470 §3).
	MaxAge *int64
	// ACRValues goes with it too: any of them would do.
	ACRValues []string
	// bare asks for a challenge without an error, as a request without a token gets.
	bare bool
	// bound is for a token under the scheme DPoP, or one that should be; offered adds a challenge
	// of that scheme beside the one of Bearer.
	bound, offered bool
	// cause is for the log only.
	cause error
}

func (p *Problem) Error() string { return "qr: " + p.Code }

func (p *Problem) Unwrap() error { return p.cause }

func problem(status int, code, detail string) *Problem {
	return &Problem{Status: status, Code: code, Detail: detail}
}

func problemNotFound() *Problem {
	return problem(http.StatusNotFound, "not_found", "There is no such sign-in. Scan the QR code on the screen again.")
}

func problemUnknownCode() *Problem {
	return problem(http.StatusNotFound, "unknown_code", "This code is not known or no longer valid.")
}

func problemGone() *Problem {
	return problem(http.StatusGone, "gone", "This sign-in has ended.")
}

func problemInvalid(detail string) *Problem {
	return problem(http.StatusBadRequest, "invalid_request", detail)
}

func problemLimited(retryAfter time.Duration) *Problem {
	p := problem(http.StatusTooManyRequests, "rate_limited", "Too many attempts. Wait before trying again.")
	p.RetryAfter = retryAfter
	return p
}

// problemReported keeps an asker away from the person who has just reported it.
func problemReported(retryAfter time.Duration) *Problem {
	p := problem(http.StatusTooManyRequests, "reported", "You reported this device. It cannot ask you again yet.")
	p.RetryAfter = retryAfter
	return p
}

func problemServer(cause error) *Problem {
	p := problem(http.StatusInternalServerError, "server_error", "The server could not answer. Try again.")
	p.cause = cause
	return p
}

// write sends the problem; RFC 6750 and RFC 9470 want the challenge beside a 401 or 403.
func (p *Problem) write(w http.ResponseWriter) {
	body := map[string]any{"title": p.Detail, "status": p.Status, "error": p.Code}
	if p.TriesLeft != nil {
		body["tries_left"] = *p.TriesLeft
	}
	if p.MaxAge != nil {
		body["max_age"] = *p.MaxAge
	}
	if len(p.ACRValues) > 0 {
		body["acr_values"] = strings.Join(p.ACRValues, " ")
	}
	reply.SetRetryAfter(w, p.RetryAfter)
	for _, challenge := range p.challenges() {
		w.Header().Add("WWW-Authenticate", challenge)
	}
	reply.JSON(w, p.Status, reply.MediaProblem, body)
}

// challenges asks for what the request lacks. A fault of a bound token names its scheme and no
// other: clients look for their nonce in an answer with one challenge.
func (p *Problem) challenges() []string {
	said := make([]string, 0, 8)
	switch {
	case p.bare:
	case p.Status == http.StatusUnauthorized:
		said = append(said, "error", p.Code, "acr_values", strings.Join(p.ACRValues, " "))
		if p.MaxAge != nil {
			said = append(said, "max_age", strconv.FormatInt(*p.MaxAge, 10))
		}
	case p.Code == "insufficient_scope":
		said = append(said, "error", p.Code, "scope", ApproveScope)
	default:
		return nil
	}
	algorithms := strings.Join(dpop.Algorithms(), " ")
	if p.bound {
		return []string{reply.Challenge(dpop.Scheme, append(said, "algs", algorithms)...)}
	}
	challenges := []string{reply.Challenge("Bearer", said...)}
	if p.offered {
		challenges = append(challenges, reply.Challenge(dpop.Scheme, "algs", algorithms))
	}
	return challenges
}

// TokenError is an error of the form endpoints (RFC 6749 §5.2), with the extra members that a
// waiting consumption device is shown. It unwraps to a *fosite.RFC6749Error, so a fosite
// server that knows nothing of it still writes the right error.
type TokenError struct {
	Status      int
	Code        string
	Description string
	// RetryAfter is sent as a header when it is not zero.
	RetryAfter time.Duration
	// Waiting is what a waiting consumption device is shown; nil adds nothing.
	Waiting *Waiting
	// Held says that the poll was held as it asked (RFC 7240 Preference-Applied).
	Held bool
	// wait is the preference that was applied, in seconds.
	wait  int
	cause error
}

func (e *TokenError) Error() string { return "qr: " + e.Code }

// Unwrap returns the same error in fosite's form and what caused it.
func (e *TokenError) Unwrap() []error {
	rfc := &fosite.RFC6749Error{ErrorField: e.Code, DescriptionField: e.Description, CodeField: e.Status}
	if e.cause == nil {
		return []error{rfc}
	}
	return []error{rfc, e.cause}
}

// Waiting is what the answer to a pending poll of the QR grant says beside its error code
// (protocol §4).
type Waiting struct {
	// Status is pending or scanned, Seq the record's version.
	Status string `json:"qr_status"`
	Seq    uint64 `json:"qr_seq"`
	// Frame is the QR code to show; nil once the session is scanned.
	Frame *Frame `json:"qr,omitempty"`
	// CheckCode is to be shown once the session is scanned.
	CheckCode string `json:"check_code,omitempty"`
}

func tokenError(status int, code, description string) *TokenError {
	return &TokenError{Status: status, Code: code, Description: description}
}

func invalidRequest(description string) *TokenError {
	return tokenError(http.StatusBadRequest, "invalid_request", description)
}

// invalidGrant is one and the same answer for unknown, foreign, malformed and used codes.
func invalidGrant() *TokenError {
	return tokenError(http.StatusBadRequest, "invalid_grant", "The device code is not valid for this client.")
}

func serverError(cause error) *TokenError {
	e := tokenError(http.StatusInternalServerError, "server_error", "The server could not answer. Try again.")
	e.cause = cause
	return e
}

func limited(retryAfter time.Duration) *TokenError {
	e := tokenError(http.StatusTooManyRequests, "temporarily_unavailable", "Too many requests. Wait before trying again.")
	e.RetryAfter = retryAfter
	return e
}

func (e *TokenError) write(w http.ResponseWriter) {
	if e.Held {
		w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(e.wait))
	}
	reply.Fail(w, reply.Failure{Status: e.Status, RetryAfter: e.RetryAfter, Body: struct {
		Code        string `json:"error"`
		Description string `json:"error_description"`
		*Waiting
	}{e.Code, e.Description, e.Waiting}})
}

// unproved is the answer of a form endpoint to a proof that was refused (RFC 9449 §5, §8).
func unproved(refused *dpop.Error) *TokenError {
	e := tokenError(http.StatusBadRequest, refused.Code, refused.Sentence)
	e.cause = refused
	return e
}

// asTokenError turns any error of client authentication or of fosite into one to send. What
// is not an OAuth error is a fault of ours, and says nothing about itself.
func asTokenError(err error) *TokenError {
	var own *TokenError
	if errors.As(err, &own) {
		return own
	}
	var body *form.Fault
	if errors.As(err, &body) {
		return tokenError(body.Status, "invalid_request", body.Sentence)
	}
	var proof *dpop.Error
	if errors.As(err, &proof) {
		return unproved(proof)
	}
	var rfc *fosite.RFC6749Error
	if !errors.As(err, &rfc) || rfc.CodeField >= http.StatusInternalServerError {
		return serverError(err)
	}
	e := tokenError(rfc.CodeField, rfc.ErrorField, tokenSentence(rfc.ErrorField))
	e.cause = err
	return e
}

func tokenSentence(code string) string {
	switch code {
	case "invalid_client":
		return "The client could not be authenticated."
	case "unauthorized_client":
		return "The client may not use this grant."
	case "invalid_scope":
		return "The client may not ask for this scope."
	case "invalid_grant":
		return "The grant is not valid."
	}
	return "The request is not valid."
}

// methodNotAllowed answers a wrong method (RFC 9110 §15.5.6).
func methodNotAllowed(w http.ResponseWriter, allow string) {
	w.Header().Set("Allow", allow)
	tokenError(http.StatusMethodNotAllowed, "invalid_request", "This endpoint answers "+allow+" only.").write(w)
}
