package provider

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// maxBody bounds every request body. fosite alone would take 10 MB and write temporary files.
const maxBody = 64 << 10

// parseForm reads a form body once and strictly: urlencoded only, no repeated parameter but
// resource, valid UTF-8 without NUL, values without content left out (RFC 6749 §3.1). It
// replaces r.PostForm and r.Form, so that fosite sees exactly this and never the query.
func parseForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" {
		return nil, invalidRequest("The body must be a urlencoded form.")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			return nil, &oauthError{status: http.StatusRequestEntityTooLarge, code: "invalid_request", description: "The body is too large."}
		}
		return nil, invalidRequest("The body could not be read.")
	}
	form, err := parseValues(string(body))
	if err != nil {
		return nil, err
	}
	r.PostForm, r.Form = form, form
	return form, nil
}

// parseValues parses a form or a query.
func parseValues(raw string) (url.Values, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, invalidRequest("The parameters are malformed.")
	}
	for name, all := range values {
		if len(all) > 1 && name != "resource" {
			return nil, invalidRequest("A parameter was sent more than once.")
		}
		for _, v := range all {
			if !cleanText(name) || !cleanText(v) {
				return nil, invalidRequest("A parameter holds invalid characters.")
			}
		}
		if len(all) == 1 && all[0] == "" {
			delete(values, name)
		}
	}
	return values, nil
}

func cleanText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
