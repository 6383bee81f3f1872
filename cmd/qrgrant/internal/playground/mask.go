package playground

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// longest is how much of a public value is shown, in characters.
const longest = 160

// public reports whether the value of a form field, a parameter or a member of a JSON object may
// be shown. Everything else is masked, so that what is added to the protocol stays hidden until
// somebody has thought about it.
func public(key, value string) bool {
	if strings.HasSuffix(key, "_endpoint") || strings.HasSuffix(key, "_uri") {
		return true
	}
	switch key {
	case "client_id", "grant_type", "scope", "scope_text", "response_type", "response_mode", "code_challenge_method", "qr_image", "device_name",
		"binding_message", "acr_values", "prompt", "max_age", "ui_locales", "qr_seq", "iss", "lang", "reason",
		"error", "error_description", "detail", "title", "type", "qr_status", "payload", "payload_prefix", "verification_uri_complete",
		"user_code", "check_code", "token_type", "entry", "decision", "sid", "sub", "name", "given_name", "family_name",
		"preferred_username", "email", "acr", "amr", "aud", "id", "verified", "door", "issuer", "origin", "description", "name_untrusted",
		"known", "city", "distance", "address", "text", "resources", "consequence", "warnings", "device", "width", "height":
		return true
	case "state":
		// Of a decision; the state of an authorization request is the client's own secret.
		return value == "approved" || value == "denied"
	case "code":
		return false
	}
	return false
}

// show returns a value as it may be shown.
func show(key, value string) string {
	switch {
	case value == "":
		return ""
	case key == "image" && strings.HasPrefix(value, "data:image/"):
		kind, _, _ := strings.Cut(strings.TrimPrefix(value, "data:"), ";")
		return fmt.Sprintf("(a picture, %s, %d bytes)", printable(kind), len(value))
	case !public(key, value):
		return fmt.Sprintf("•••• (%d characters)", utf8.RuneCountInString(value))
	case strings.Contains(value, "://"):
		return maskAddress(value)
	}
	return shorten(printable(value))
}

func shorten(text string) string {
	if runes := []rune(text); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return text
}

// printable keeps a value on one line.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '·'
		}
		return r
	}, text)
}

// maskAddress shows an address with its parameters masked. A fragment stays only where it is a QR code.
func maskAddress(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "(an address that cannot be read)"
	}
	shown := u.EscapedPath()
	if u.Host != "" {
		shown = u.Scheme + "://" + u.Host + shown
	}
	if u.RawQuery != "" {
		query, err := url.ParseQuery(u.RawQuery)
		if err != nil {
			return shorten(shown) + "?••••"
		}
		shown += "?" + formText(query, "&")
	}
	if u.Fragment != "" {
		if !strings.HasSuffix(u.Path, "/Q") || !isFrame(u.Fragment) {
			return shorten(shown) + "#••••"
		}
		shown += "#" + u.Fragment
	}
	if runes := []rune(shown); len(runes) > 4*longest {
		return string(runes[:4*longest]) + "…"
	}
	return printable(shown)
}

// isFrame reports whether a fragment looks like that of a QR code: the version and base32.
func isFrame(fragment string) bool {
	rest, ok := strings.CutPrefix(fragment, "1")
	return ok && strings.Trim(rest, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// formText lists parameters in the order of their names.
func formText(form url.Values, between string) string {
	var all []string
	for name, values := range form {
		for _, value := range values {
			if value == "" && len(values) == 1 && len(form) == 1 {
				name = "(a text)" // a body without a name is read as a name without a value
			}
			all = append(all, publicWord(name)+"="+show(name, value))
		}
	}
	slices.Sort(all)
	return strings.Join(all, between)
}

// publicWord shows a name that a client may have made up.
func publicWord(name string) string {
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-' && r != '.' {
			return "(a name)"
		}
	}
	if len(name) > 40 {
		return "(a long name)"
	}
	return name
}

func shownRequestHeaders() []string {
	return []string{"Origin", "Authorization", "DPoP", "Prefer", "Accept", "Cookie", "Content-Type"}
}

func shownAnswerHeaders() []string {
	return []string{"Location", "Content-Type", "Preference-Applied", "Retry-After", "WWW-Authenticate", "DPoP-Nonce", "Set-Cookie"}
}

// headerLines shows headers, with what proves something masked.
func headerLines(h http.Header, names []string) []string {
	var lines []string
	for _, name := range names {
		for _, value := range h.Values(name) {
			lines = append(lines, name+": "+headerValue(name, value))
		}
	}
	return lines
}

func headerValue(name, value string) string {
	switch name {
	case "Authorization":
		scheme, secret, found := strings.Cut(value, " ")
		if !found {
			return fmt.Sprintf("•••• (%d characters)", len(value))
		}
		return fmt.Sprintf("%s •••• (%d characters)", publicWord(scheme), len(secret))
	case "DPoP":
		return fmt.Sprintf("•••• (%d characters)", len(value))
	case "Cookie":
		var names []string
		for pair := range strings.SplitSeq(value, ";") {
			cookie, secret, named := strings.Cut(strings.TrimSpace(pair), "=")
			if !named {
				cookie, secret = "(no name)", cookie
			}
			names = append(names, fmt.Sprintf("%s=•••• (%d characters)", publicWord(cookie), len(secret)))
		}
		return strings.Join(names, "; ")
	case "Set-Cookie":
		pair, attributes, _ := strings.Cut(value, ";")
		cookie, secret, named := strings.Cut(pair, "=")
		if !named {
			cookie, secret = "(no name)", cookie
		}
		return fmt.Sprintf("%s=•••• (%d characters);%s", publicWord(cookie), len(secret), printable(attributes))
	case "Location":
		return maskAddress(value)
	}
	return shorten(printable(value))
}

func requestLines(req *http.Request, body []byte) []string {
	lines := headerLines(req.Header, shownRequestHeaders())
	return append(lines, bodyLines(req.Header.Get("Content-Type"), body, len(body))...)
}

// bodyLines shows a form or a JSON document member by member, and of anything else its size.
func bodyLines(contentType string, body []byte, size int) []string {
	if size == 0 {
		return nil
	}
	kind, _, _ := mime.ParseMediaType(contentType)
	whole := len(body) == size && size <= maxBody
	switch {
	case whole && kind == "application/x-www-form-urlencoded":
		if form, err := url.ParseQuery(string(body)); err == nil {
			return append([]string{""}, strings.Split(formText(form, "\n"), "\n")...)
		}
	case whole && (kind == "application/json" || strings.HasSuffix(kind, "+json")):
		if text, ok := maskJSON(body); ok {
			return append([]string{""}, strings.Split(text, "\n")...)
		}
	}
	return []string{"", fmt.Sprintf("(%d bytes of %s)", size, publicKind(kind))}
}

func publicKind(kind string) string {
	if kind == "" {
		return "something"
	}
	return shorten(printable(kind))
}

// maskJSON shows a document with its strings masked where they are not public.
func maskJSON(document []byte) (string, bool) {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return "", false
	}
	if _, err := decoder.Token(); err != io.EOF {
		return "", false
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if encoder.Encode(maskValue("", value)) != nil {
		return "", false
	}
	return strings.TrimRight(out.String(), "\n"), true
}

func maskValue(key string, value any) any {
	switch v := value.(type) {
	case string:
		return show(key, v)
	case json.Number:
		// Of a number of the protocol nothing is secret; one with so many digits is none of them.
		if len(v) > 20 {
			return show("", v.String())
		}
		return v
	case []any:
		masked := make([]any, len(v))
		for i := range v {
			masked[i] = maskValue(key, v[i])
		}
		return masked
	case map[string]any:
		masked := make(map[string]any, len(v))
		for name, member := range v {
			masked[publicWord(name)] = maskValue(name, member)
		}
		return masked
	default:
		return value
	}
}
