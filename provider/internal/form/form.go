// Package form reads request bodies strictly, once for every endpoint: bounded, of one media
// type, valid UTF-8 without NUL, no parameter twice. It never looks at the query.
package form

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxBody bounds every request body in bytes. fosite alone would take 10 MB and write
// temporary files.
const MaxBody = 64 << 10

// Fault says what is wrong with a body. Its Sentence is fixed: nothing of the request.
type Fault struct {
	// Status is the HTTP status that fits; OAuth form endpoints answer 400 for a wrong media
	// type too (RFC 6749 §5.2).
	Status   int
	Sentence string
}

func (f *Fault) Error() string { return "form: " + f.Sentence }

func fault(status int, sentence string) *Fault { return &Fault{Status: status, Sentence: sentence} }

// Read parses a urlencoded form body and puts it into r.PostForm and r.Form, so that fosite
// sees exactly this. A parameter without a value counts as left out, and only resource may be
// repeated (RFC 6749 §3.1, RFC 8707 §2). Its error is a *Fault.
func Read(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	body, err := read(w, r, "application/x-www-form-urlencoded", http.StatusBadRequest)
	if err != nil {
		return nil, err
	}
	values, err := Parse(string(body))
	if err != nil {
		return nil, err
	}
	r.PostForm, r.Form = values, values
	return values, nil
}

// Fields reads a urlencoded form body as it is: what is sent twice stands there twice. It is for
// forms that go on as a query, which Parse judges. Its error is a *Fault.
func Fields(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	body, err := read(w, r, "application/x-www-form-urlencoded", http.StatusBadRequest)
	if err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, fault(http.StatusBadRequest, "The parameters are malformed.")
	}
	return values, nil
}

// Parse parses a form or a query under the rules of Read. Its error is a *Fault.
func Parse(raw string) (url.Values, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, fault(http.StatusBadRequest, "The parameters are malformed.")
	}
	for name, all := range values {
		if len(all) > 1 && name != "resource" {
			return nil, fault(http.StatusBadRequest, "A parameter was sent more than once.")
		}
		for _, value := range all {
			if !Clean(name) || !Clean(value) {
				return nil, fault(http.StatusBadRequest, "A parameter holds invalid characters.")
			}
		}
		all = slices.DeleteFunc(all, func(value string) bool { return value == "" })
		if values[name] = all; len(all) == 0 {
			delete(values, name)
		}
	}
	return values, nil
}

// Clean reports whether text is valid UTF-8 without NUL.
func Clean(text string) bool { return utf8.ValidString(text) && strings.IndexByte(text, 0) < 0 }

// ReadObject parses a JSON object: one object, no member twice, and each member that the
// caller knows a string. Unknown members are ignored. Its error is a *Fault.
func ReadObject(w http.ResponseWriter, r *http.Request, known ...string) (map[string]string, error) {
	body, err := read(w, r, "application/json", http.StatusUnsupportedMediaType)
	if err != nil {
		return nil, err
	}
	members, err := object(body)
	if err != nil {
		return nil, err
	}
	texts := make(map[string]string, len(known))
	for _, name := range known {
		raw, present := members[name]
		if !present {
			continue
		}
		var text *string
		if err := json.Unmarshal(raw, &text); err != nil || text == nil || !Clean(*text) {
			return nil, fault(http.StatusBadRequest, "A member is not a clean string.")
		}
		texts[name] = *text
	}
	return texts, nil
}

// object splits a JSON object into its members. encoding/json alone would silently take the
// last of two members of one name.
func object(body []byte) (map[string]json.RawMessage, error) {
	malformed := fault(http.StatusBadRequest, "The body is not a JSON object.")
	d := json.NewDecoder(bytes.NewReader(body))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, malformed
	}
	members := make(map[string]json.RawMessage)
	for d.More() {
		name, err := d.Token()
		text, ok := name.(string)
		if err != nil || !ok {
			return nil, malformed
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, malformed
		}
		if _, twice := members[text]; twice {
			return nil, fault(http.StatusBadRequest, "A member was sent more than once.")
		}
		members[text] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, malformed
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed
	}
	return members, nil
}

func read(w http.ResponseWriter, r *http.Request, want string, wrongMedia int) ([]byte, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != want {
		return nil, fault(wrongMedia, "The content type must be "+want+".")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, fault(http.StatusRequestEntityTooLarge, "The body is too large.")
	case err != nil:
		return nil, fault(http.StatusBadRequest, "The body could not be read.")
	case !Clean(string(body)):
		return nil, fault(http.StatusBadRequest, "The body holds invalid characters.")
	}
	return body, nil
}
