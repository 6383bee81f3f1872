// Package reply writes what the endpoints for programs say: JSON, and the errors of RFC 6749 and
// RFC 6750 with their headers. Every endpoint answers through it, so that an error reads the same
// wherever it is met.
package reply

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The media types of the endpoints.
const (
	MediaJSON    = "application/json"
	MediaProblem = "application/problem+json"
)

// JSON answers with body; what an OAuth endpoint says is never stored (RFC 6749 §5.1).
func JSON(w http.ResponseWriter, status int, media string, body any) {
	encoded, err := json.Marshal(body)
	if err != nil {
		status, encoded = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	Encoded(w, status, media, encoded)
}

// Encoded is JSON for a body that is encoded already.
func Encoded(w http.ResponseWriter, status int, media string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", media)
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // A caller that is gone is not an error of ours.
}

// Failure is an error answer. Its texts are fixed sentences of this server, in the characters of
// RFC 6749 §5.2: neither a double quote nor a backslash.
type Failure struct {
	Status int
	// Code is the member error; empty leaves it out, as for a request without a token
	// (RFC 6750 §3.1).
	Code        string
	Description string
	// RetryAfter is sent rounded up to seconds; zero sends nothing.
	RetryAfter time.Duration
	// Challenges are the values of WWW-Authenticate. A 401 without any gets that of client
	// authentication (RFC 6749 §5.2).
	Challenges []string
	// Body is sent in place of an object of error and error_description; it holds both itself.
	Body any
}

// Fail answers with an error.
func Fail(w http.ResponseWriter, f Failure) {
	SetRetryAfter(w, f.RetryAfter)
	challenges := f.Challenges
	if f.Status == http.StatusUnauthorized && len(challenges) == 0 {
		challenges = []string{Challenge("Basic", "realm", "qrgrant")}
	}
	for _, c := range challenges {
		w.Header().Add("WWW-Authenticate", c)
	}
	if f.Body == nil {
		f.Body = struct {
			Code        string `json:"error,omitempty"`
			Description string `json:"error_description,omitempty"`
		}{f.Code, f.Description}
	}
	JSON(w, f.Status, MediaJSON, f.Body)
}

// Challenge spells a challenge of WWW-Authenticate (RFC 9110 §11.6.1): a scheme and pairs of
// names and values, of which those with an empty value are left out.
func Challenge(scheme string, pairs ...string) string {
	var b strings.Builder
	b.WriteString(scheme)
	separator := " "
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		b.WriteString(separator + pairs[i] + `="` + pairs[i+1] + `"`)
		separator = ", "
	}
	return b.String()
}

// SetRetryAfter sends how long to wait, in whole seconds, rounded up, at least one; zero sends
// nothing.
func SetRetryAfter(w http.ResponseWriter, d time.Duration) {
	if d > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(max(1, int64((d+time.Second-1)/time.Second)), 10))
	}
}
