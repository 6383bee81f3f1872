package qr

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// maxBody bounds every request body.
const maxBody = 64 << 10

var (
	errMediaType = errors.New("qr: wrong content type")
	errTooLarge  = errors.New("qr: body too large")
	errMalformed = errors.New("qr: malformed body")
	errRepeated  = errors.New("qr: repeated parameter")
)

// readBody reads at most maxBody bytes of the wanted media type.
func readBody(w http.ResponseWriter, r *http.Request, want string) ([]byte, error) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != want {
		return nil, errMediaType
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case err != nil || !clean(string(body)):
		return nil, errMalformed
	}
	return body, nil
}

// clean reports whether text is valid UTF-8 without NUL.
func clean(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsRune(text, 0)
}

// readForm parses a form body strictly: the query does not count, and a parameter stands
// once, but for resource (RFC 6749 §3.2, RFC 8707).
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	body, err := readBody(w, r, "application/x-www-form-urlencoded")
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errMalformed
	}
	for name, values := range form {
		if len(values) > 1 && name != "resource" {
			return nil, errRepeated
		}
		for _, value := range values {
			if !clean(name) || !clean(value) {
				return nil, errMalformed
			}
		}
	}
	// fosite looks for client credentials in the request's own form.
	r.PostForm, r.Form = form, form
	return form, nil
}

// readObject parses a JSON object of strings strictly: one object, no member twice, and each
// member that the caller knows a string. Unknown members are ignored.
func readObject(w http.ResponseWriter, r *http.Request, known ...string) (map[string]string, error) {
	body, err := readBody(w, r, "application/json")
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errMalformed
	}
	members := make(map[string]json.RawMessage)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, errMalformed
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errMalformed
		}
		if _, twice := members[name.(string)]; twice {
			return nil, errRepeated
		}
		members[name.(string)] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, errMalformed
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errMalformed
	}
	return stringMembers(members, known)
}

func stringMembers(members map[string]json.RawMessage, known []string) (map[string]string, error) {
	object := make(map[string]string, len(known))
	for _, name := range known {
		raw, present := members[name]
		if !present {
			continue
		}
		var value *string
		if err := json.Unmarshal(raw, &value); err != nil || value == nil || !clean(*value) {
			return nil, errMalformed
		}
		object[name] = *value
	}
	return object, nil
}

// bodyFault is the status and the fixed sentence for an error of readForm or readObject.
func bodyFault(err error) (int, string) {
	switch {
	case errors.Is(err, errMediaType):
		return http.StatusUnsupportedMediaType, "The content type is not the one this endpoint takes."
	case errors.Is(err, errTooLarge):
		return http.StatusRequestEntityTooLarge, "The request body is too large."
	case errors.Is(err, errRepeated):
		return http.StatusBadRequest, "A parameter is repeated."
	}
	return http.StatusBadRequest, "The request body is malformed."
}
