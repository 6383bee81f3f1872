package playground

import (
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/qrgrant/qrgrant/provider/qr"
)

// facts are what a request says about its place among the fourteen steps (protocol §11).
type facts struct {
	method, path, grant, client string
}

// read takes the facts out of a request. The issuer of a playground has no path of its own.
func read(req *http.Request, body []byte) facts {
	f := facts{method: req.Method, path: req.URL.Path}
	form := req.URL.Query()
	if kind, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		if posted, err := url.ParseQuery(string(body)); err == nil {
			form = posted
		}
	}
	f.grant, f.client = form.Get("grant_type"), form.Get("client_id")
	if id, _, ok := req.BasicAuth(); ok {
		f.client = id
	}
	return f
}

// actor says who asked.
func (r *Recorder) actor(req *http.Request, f *facts) string {
	agent, origin := req.UserAgent(), req.Header.Get("Origin")
	switch {
	case r.Agent != "" && agent == r.Agent, origin != "" && origin == r.Phone, slices.Contains(r.PhoneClients, f.client),
		f.path == "/qr/scan", f.path == "/qr/decision", f.path == "/sessions", strings.HasPrefix(f.path, "/sessions/"):
		return "phone"
	case origin != "" && origin == r.PC, f.path == "/device_authorization", strings.HasPrefix(f.path, "/qr/"),
		f.grant == qr.GrantType, f.grant == qr.DeviceGrantType:
		return "pc"
	case slices.Contains(r.AppClients, f.client) && f.method == http.MethodPost, f.path == "/userinfo" && strings.HasPrefix(agent, "Go-http-client"):
		return "app"
	case strings.HasPrefix(agent, "Mozilla/"):
		return "browser"
	}
	return "other"
}

// minor reports whether a request is not about anybody's sign-in.
func minor(req *http.Request) bool {
	path := req.URL.Path
	return req.Method == http.MethodOptions || strings.HasPrefix(path, "/.well-known/") || strings.HasPrefix(path, "/static/") ||
		path == "/jwks" || path == "/favicon.ico" || path == "/healthz" || path == "/readyz"
}

// waits reports whether a request is one of the four ways to wait.
func (f *facts) waits() bool {
	switch f.path {
	case "/token":
		return f.grant == qr.GrantType || f.grant == qr.DeviceGrantType
	case "/qr/events", "/qr/ws", "/login/qr/state", "/login/qr/events":
		return true
	}
	return false
}

// begun are the steps that a request is as long as it has no answer.
func (f *facts) begun() []int {
	if f.method != http.MethodOptions && f.waits() {
		return []int{5}
	}
	return nil
}

// ended are the steps that an exchange is. held says that it waited for its answer.
func (f *facts) ended(actor string, status int, held bool, body []byte) []int {
	ok := status == http.StatusOK
	switch {
	case f.method == http.MethodOptions:
		return nil
	case f.waits():
		return f.waited(status, held, body)
	case f.path == "/device_authorization" && ok, f.path == "/login/qr.svg" && ok, f.path == "/login/qr.png" && ok:
		return []int{1, 2, 3, 4}
	case f.path == "/qr/scan" && ok:
		return []int{6, 7, 8}
	case f.path == "/qr/decision" && ok:
		return []int{11, 12}
	case f.path == "/login/qr/continue" && status < http.StatusBadRequest:
		return []int{13}
	case f.path == "/userinfo" && ok && actor != "phone":
		return []int{14}
	}
	return nil
}

// waited are the steps that an answered wait is.
func (f *facts) waited(status int, held bool, body []byte) []int {
	var answer struct {
		Error  string `json:"error"`
		Status string `json:"qr_status"`
	}
	// An answer that is no JSON says nothing about a step.
	_ = json.Unmarshal(body, &answer)
	switch {
	case f.path == "/token" && status == http.StatusOK:
		return []int{13}
	case answer.Status == "scanned" && held:
		return []int{5, 9, 10}
	case answer.Status == "scanned":
		return []int{9, 10}
	case answer.Status == "pending", answer.Error == "authorization_pending":
		return []int{5}
	}
	return nil
}

// stepsOfMessage are the steps that a message of a stream is.
func stepsOfMessage(event string) []int {
	switch event {
	case "qr":
		return []int{5}
	case "scanned":
		return []int{9, 10}
	}
	return nil
}
